use super::*;

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
