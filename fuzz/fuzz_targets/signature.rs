//! Any body with any signature header: only the one signature of the body passes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wwproxy_protocol::{Scheme, Secret};

fuzz_target!(|input: (String, Vec<u8>, Vec<u8>)| {
    let (secret, body, signature) = input;
    let secret = Secret::new(secret);
    let right = Scheme::WatsonWork.sign(&secret, &body);
    assert_eq!(Scheme::WatsonWork.verify(&secret, &body, &signature), signature == right.as_bytes());
    assert!(Scheme::WatsonWork.verify(&secret, &body, right.as_bytes()));
});
