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
            ClientMessage::Nack { id: "a".into(), delay: Duration::from_millis(1500), reason: None },
        ),
        (
            r#"{"type":"event_nack","id":"a","delayMs":1500}"#,
            ClientMessage::Nack { id: "a".into(), delay: Duration::from_millis(1500), reason: None },
        ),
        (
            r#"{"type":"event_nack","id":"a","reason":"busy"}"#,
            ClientMessage::Nack { id: "a".into(), delay: Duration::ZERO, reason: Some("busy".into()) },
        ),
        (
            r#"{"type":"event_reject","id":7,"reason":"no user"}"#,
            ClientMessage::Reject { id: "7".into(), reason: Some("no user".into()) },
        ),
        (
            r#"{"type":"event_reject","id":"a","reason":{"a":1}}"#,
            ClientMessage::Reject { id: "a".into(), reason: None },
        ),
        (r#"{"type":"event_progress","id":"a"}"#, ClientMessage::Progress { id: "a".into() }),
        (r#"{"type":"event_nack"}"#, ClientMessage::Ignored),
        (r#"{"type":"event_reject","reason":"?"}"#, ClientMessage::Ignored),
        (r#"{"type":"event_progress"}"#, ClientMessage::Ignored),
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
    let nack = ClientMessage::nack(&a, delay, None);
    assert_eq!(nack, r#"{"type":"event_nack","id":"a","delay_ms":2000}"#);
    let parsed = |text: &str| ClientMessage::parse(text).unwrap();
    assert_eq!(parsed(&nack), ClientMessage::Nack { id: "a".into(), delay, reason: None });
    let reason = Some("busy".to_owned());
    let nack = ClientMessage::nack(&a, delay, reason.as_deref());
    assert_eq!(parsed(&nack), ClientMessage::Nack { id: "a".into(), delay, reason: reason.clone() });
    let reject = ClientMessage::reject(&a, reason.as_deref());
    assert_eq!(parsed(&reject), ClientMessage::Reject { id: "a".into(), reason });
    assert_eq!(parsed(&ClientMessage::progress(&a)), ClientMessage::Progress { id: "a".into() });
}

#[test]
fn a_long_reason_is_cut_between_characters_by_both_sides() {
    let (long, cut) = (format!("x{}", "é".repeat(1000)), format!("x{}", "é".repeat(511)));
    let sent = ClientMessage::reject(&"a".parse().unwrap(), Some(&long));
    assert_eq!(sent, format!(r#"{{"type":"event_reject","id":"a","reason":"{cut}"}}"#));
    let text = format!(r#"{{"type":"event_nack","id":"a","reason":"{long}"}}"#);
    let ClientMessage::Nack { reason, .. } = ClientMessage::parse(&text).unwrap() else { panic!() };
    assert_eq!(reason, Some(cut));
}

#[test]
fn a_hello_round_trips() {
    let second = Duration::from_secs(1);
    let hello = Hello::new("my.bot".parse().unwrap(), 64, second * 60, second * 20, second * 60);
    let text = hello.encode();
    assert!(!text.contains("tap") && !text.contains("consumer") && !text.contains("missed"), "{text}");
    let named = hello.clone().consumer("audit".parse().unwrap());
    for hello in [hello.clone(), hello.clone().tap(), named, hello.missed(7)] {
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
