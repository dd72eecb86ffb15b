//! Server output that a client parses: websocket messages, lease and poll responses, saved event files.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wwproxy_protocol::{
    api::{decode_lease, decode_poll},
    message::{EventMessage, ServerMessage},
};

fuzz_target!(|text: &str| {
    if let Ok(event) = EventMessage::parse(text) {
        let (encoding, data) = event.data();
        let saved = format!(r#"{{"id":"1","encoding":"{}","data":{data}}}"#, encoding.name());
        assert_eq!(EventMessage::parse(&saved).unwrap().body, event.body, "the body is passed on byte for byte");
        let _ = (event.event_type(), event.json::<serde_json::Value>(), event.form().count(), event.json_value());
    }
    let _ = (ServerMessage::parse(text), decode_lease(text), decode_poll(text));
});
