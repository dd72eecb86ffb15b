//! Server output that a client parses: websocket messages, lease and poll responses, saved event files.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wwproxy_protocol::{
    api::{decode_lease, decode_poll},
    message::{EventMessage, ServerMessage},
};

fuzz_target!(|text: &str| {
    let is_part = |body: &[u8]| text.as_bytes().windows(body.len().max(1)).any(|part| part == body);
    if let Ok(event) = EventMessage::parse(text) {
        assert!(is_part(&event.body), "the body is passed on byte for byte");
        let _ = (event.event_type(), event.json::<serde_json::Value>());
    }
    let _ = ServerMessage::parse(text);
    for event in decode_lease(text).unwrap_or_default() {
        assert!(is_part(&event.body));
    }
    for (_, body) in decode_poll(text).unwrap_or_default() {
        assert!(is_part(&body));
    }
});
