//! Request and response bodies of the REST API.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wwproxy_protocol::{
    ConsumerSettings,
    api::{AckRequest, AckResponse, Consumers, LeaseRequest, Problem, SeekRequest, Status, TokenResponse},
};

fuzz_target!(|body: &[u8]| {
    if let Ok(request) = serde_json::from_slice::<LeaseRequest>(body) {
        let again = serde_json::to_vec(&request).unwrap();
        assert_eq!(serde_json::from_slice::<LeaseRequest>(&again).unwrap(), request);
    }
    if let Ok(request) = serde_json::from_slice::<AckRequest>(body) {
        let again = serde_json::to_vec(&request).unwrap();
        assert_eq!(serde_json::from_slice::<AckRequest>(&again).unwrap(), request);
    }
    if let Ok(Ok(settings)) = std::str::from_utf8(body).map(ConsumerSettings::parse) {
        let again = ConsumerSettings::parse(&settings.encode()).unwrap();
        assert_eq!(again.encode(), settings.encode());
    }
    if let Ok(request) = serde_json::from_slice::<SeekRequest>(body) {
        serde_json::to_vec(&request).unwrap();
    }
    let _ = serde_json::from_slice::<Consumers>(body);
    let _ = serde_json::from_slice::<AckResponse>(body);
    let _ = serde_json::from_slice::<Problem>(body);
    let _ = serde_json::from_slice::<Status>(body);
    let _ = serde_json::from_slice::<TokenResponse>(body);
});
