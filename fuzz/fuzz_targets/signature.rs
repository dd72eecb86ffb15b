//! Signature verification: of all signature headers only the HMAC of the body is accepted.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wwproxy_protocol::{sign_watson_work, verify_watson_work, Secret};

fuzz_target!(|input: (String, Vec<u8>, Vec<u8>)| {
    let (secret, body, signature) = input;
    let secret = Secret::new(secret);
    let expected = sign_watson_work(&secret, &body);
    assert_eq!(verify_watson_work(&secret, &body, &signature), signature == expected.as_bytes());
    assert!(verify_watson_work(&secret, &body, expected.as_bytes()));
});
