//! Signature verification: of all signature headers only the HMAC of the body is accepted.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wwproxy_protocol::{Scheme, Secret};

fuzz_target!(|input: (String, Vec<u8>, Vec<u8>)| {
    let (secret, body, signature) = input;
    let secret = Secret::new(secret);
    let expected = Scheme::WatsonWork.sign(&secret, &body);
    assert_eq!(Scheme::WatsonWork.verify(&secret, &body, &signature), signature == expected.as_bytes());
    assert!(Scheme::WatsonWork.verify(&secret, &body, expected.as_bytes()));
});
