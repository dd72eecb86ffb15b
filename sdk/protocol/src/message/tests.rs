use proptest::prelude::*;

use super::*;
use crate::{Event, SourceName, Verification, scheme::Covers};

fn event(body: &str) -> Event {
    Event {
        id: "0192e4a0-0000-7000-8000-000000000000".parse().unwrap(),
        received_at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_538_560_000_123),
        headers: vec![("content-type".into(), "application/json".into())],
        query: None,
        origin: Origin::default(),
        encoding: Encoding::of(body.as_bytes()),
        body: Bytes::copy_from_slice(body.as_bytes()),
    }
}

fn github() -> Origin {
    Origin {
        source: "repo".parse::<SourceName>().unwrap(),
        tail: Some("/a%20b".into()),
        event_type: Some("issues.opened".into()),
        delivery_id: Some("7".into()),
        verification: Some(Verification {
            scheme: "github".into(),
            secret: 2,
            signed: "body".into(),
            covers: Covers::Body,
        }),
    }
}

#[test]
fn bodies_that_are_not_json_round_trip() {
    for body in ["", "text\n", "\u{feff}{}"] {
        let sent = Event { body: body.into(), encoding: Encoding::of(body.as_bytes()), ..event("{}") };
        let ServerMessage::Event(got) = ServerMessage::parse(&sent.encode_v2(1)).unwrap() else { panic!() };
        assert_eq!(got.body, sent.body);
    }
    let sent = Event { body: Bytes::from_static(b"\xff"), encoding: Encoding::Base64, ..event("{}") };
    for text in [sent.encode_legacy(), sent.encode_v2(1)] {
        let ServerMessage::Event(got) = ServerMessage::parse(&text).unwrap() else { panic!("{text}") };
        assert_eq!(got.body, sent.body);
    }
    assert!(ServerMessage::parse(r#"{"type":"event","id":"a","encoding":"base64","data":"?"}"#).is_err());
}

#[test]
fn legacy_messages_equal_those_of_the_original_proxy() {
    assert_eq!(
        event(r#"{"n": 1.0}"#).encode_legacy(),
        r#"{"type":"event","id":"0192e4a0-0000-7000-8000-000000000000","data":{"n": 1.0}}"#
    );
}

#[test]
fn v2_messages_have_metadata() {
    assert_eq!(
        event("[]").encode_v2(3),
        concat!(
            r#"{"type":"event","id":"0192e4a0-0000-7000-8000-000000000000","attempt":3,"#,
            r#""receivedAt":"2018-10-03T09:46:40.123Z","source":"default","verification":null,"#,
            r#""headers":[["content-type","application/json"]],"contentType":"application/json","encoding":"json","data":[]}"#
        )
    );
}

#[test]
fn acks_and_nacks_are_parsed_in_all_forms() {
    let ack = |ids: &[&str]| ClientMessage::Ack(ids.iter().map(ToString::to_string).collect());
    for (text, message) in [
        (r#"{"type":"event_ack","id":"a"}"#, ack(&["a"])),
        (r#"{"id":7,"type":"event_ack"}"#, ack(&["7"])),
        (r#"{"type":"event_ack","ids":["a",7,null]}"#, ack(&["a", "7"])),
        (r#"{"type":"event_ack"}"#, ack(&[])),
        (r#"{"type":"event_ack","id":{"a":1}}"#, ack(&[])),
        (
            r#"{"type":"event_nack","id":"a","delay_ms":1500}"#,
            ClientMessage::Nack { id: "a".into(), delay: Duration::from_millis(1500) },
        ),
        (
            r#"{"type":"event_nack","id":"a","delayMs":1500}"#,
            ClientMessage::Nack { id: "a".into(), delay: Duration::from_millis(1500) },
        ),
        (r#"{"type":"event_nack"}"#, ClientMessage::Ignored),
        (r#"{"type":"hi","id":"a"}"#, ClientMessage::Ignored),
        ("null", ClientMessage::Ignored),
        ("[1]", ClientMessage::Ignored),
    ] {
        assert_eq!(ClientMessage::parse(text).unwrap(), message, "{text}");
    }
    for invalid in ["", "ack", "{", r#"{"type":"event_ack","id":"a"}}"#] {
        assert!(ClientMessage::parse(invalid).is_err(), "{invalid}");
    }
}

#[test]
fn client_messages_round_trip() {
    let (a, b): (EventId, EventId) = ("a".parse().unwrap(), "b".parse().unwrap());
    let one = ClientMessage::ack(std::slice::from_ref(&a));
    assert_eq!(one, r#"{"id":"a","type":"event_ack"}"#);
    assert_eq!(ClientMessage::parse(&one).unwrap(), ClientMessage::Ack(vec!["a".into()]));
    let two = ClientMessage::ack(&[a.clone(), b]);
    assert_eq!(ClientMessage::parse(&two).unwrap(), ClientMessage::Ack(vec!["a".into(), "b".into()]));
    let delay = Duration::from_secs(2);
    let nack = ClientMessage::nack(&a, delay);
    assert_eq!(ClientMessage::parse(&nack).unwrap(), ClientMessage::Nack { id: "a".into(), delay });
}

#[test]
fn a_hello_round_trips() {
    let second = Duration::from_secs(1);
    let hello = Hello::new("my.bot".parse().unwrap(), 64, second * 60, second * 20, second * 60);
    assert!(!hello.encode().contains("tap"));
    for hello in [hello.clone(), hello.tap()] {
        assert_eq!(ServerMessage::parse(&hello.encode()).unwrap(), ServerMessage::Hello(hello));
    }
}

#[test]
fn a_gap_round_trips() {
    assert_eq!(ServerMessage::gap(7), r#"{"missed":7,"type":"gap"}"#);
    assert_eq!(ServerMessage::parse(&ServerMessage::gap(7)).unwrap(), ServerMessage::Gap { missed: 7 });
    assert!(ServerMessage::parse(r#"{"type":"gap"}"#).is_err());
}

#[test]
fn unknown_messages_are_ignored_and_invalid_ones_are_errors() {
    assert_eq!(ServerMessage::parse(r#"{"type":"news","id":[]}"#).unwrap(), ServerMessage::Unknown);
    assert!(ServerMessage::parse("null").is_err());
    assert!(ServerMessage::parse(r#"{"type":"event","data":{}}"#).is_err());
}

proptest! {
    #[test]
    fn a_body_round_trips_byte_for_byte(
        before in "[ \t\r\n]{0,3}", after in "[ \t\r\n]{0,3}", key in "\\PC{0,9}", number in any::<f64>(),
        header in "[ -~]{0,20}", query in prop::option::of("[ -~]{0,20}"), attempt in 1..9u32,
    ) {
        let body = format!("{before}{{ {} :{number:e} , \"x\":[ ]}}{after}", serde_json::json!(key));
        let sent = Event { headers: vec![("x".into(), header)], query, origin: github(), ..event(&body) };
        for (text, details) in [(sent.encode_legacy(), false), (sent.encode_v2(attempt), true)] {
            let ServerMessage::Event(got) = ServerMessage::parse(&text).unwrap() else { panic!("{text}") };
            prop_assert_eq!(&got.id, &sent.id);
            prop_assert_eq!(&got.body, &sent.body);
            let expected = if details {
                EventDetails {
                    attempt: Some(attempt), received_at: Some(sent.received_at),
                    headers: sent.headers.clone(), query: sent.query.clone(), origin: sent.origin.clone(),
                }
            } else {
                EventDetails::default()
            };
            prop_assert_eq!(&got.details, &expected);
        }
    }
}
