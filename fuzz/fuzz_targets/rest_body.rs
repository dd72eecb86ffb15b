//! Request and response bodies of the REST API.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wwproxy_protocol::api::{AckRequest, AckResponse, LeaseRequest, Problem, Status, TokenResponse};

fuzz_target!(|body: &[u8]| {
    if let Ok(request) = serde_json::from_slice::<LeaseRequest>(body) {
        let again = serde_json::to_vec(&request).unwrap();
        assert_eq!(serde_json::from_slice::<LeaseRequest>(&again).unwrap(), request);
    }
    if let Ok(request) = serde_json::from_slice::<AckRequest>(body) {
        let again = serde_json::to_vec(&request).unwrap();
        assert_eq!(serde_json::from_slice::<AckRequest>(&again).unwrap(), request);
    }
    let _ = serde_json::from_slice::<AckResponse>(body);
    let _ = serde_json::from_slice::<Problem>(body);
    let _ = serde_json::from_slice::<Status>(body);
    let _ = serde_json::from_slice::<TokenResponse>(body);
});
