//! Websocket messages from a client.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wwproxy_protocol::message::ClientMessage;

fuzz_target!(|text: &str| {
    let Ok(message) = ClientMessage::parse(text) else { return };
    assert!(serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok(), "only JSON is a message");
    // Encoding the parsed message and parsing it again gives the same message.
    match message {
        ClientMessage::Ack(ref ids) => {
            let ids: Vec<_> = ids.iter().filter_map(|id| id.parse().ok()).collect();
            let names = ids.iter().map(ToString::to_string).collect();
            assert_eq!(ClientMessage::parse(&ClientMessage::ack(&ids)).unwrap(), ClientMessage::Ack(names));
        }
        ClientMessage::Nack { ref id, delay, ref reason } => {
            let Ok(id) = id.parse() else { return };
            let again = ClientMessage::parse(&ClientMessage::nack(&id, delay, reason.as_deref())).unwrap();
            assert_eq!(again, message);
        }
        ClientMessage::Reject { ref id, ref reason } => {
            let Ok(id) = id.parse() else { return };
            assert_eq!(
                ClientMessage::parse(&ClientMessage::reject(&id, reason.as_deref())).unwrap(),
                message
            );
        }
        ClientMessage::Progress { ref id } => {
            let Ok(id) = id.parse() else { return };
            assert_eq!(ClientMessage::parse(&ClientMessage::progress(&id)).unwrap(), message);
        }
        ClientMessage::Ignored => {}
    }
});
