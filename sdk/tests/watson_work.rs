//! The platform's events, as recorded in `fixtures/watsonwork`, and what else may come.

use std::{fs, path::Path};

use serde_json::{Value, json};
use wwproxy_sdk::{
    ErrorKind,
    watson_work::{AnnotationAdded, Event},
};

/// The fixtures that are webhooks: name and body.
fn fixtures() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/watsonwork");
    let webhook = |path: &Path| {
        let fixture: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        let name = fixture["fixture"].as_str()?.to_owned();
        Some((name, fixture["request"]["body_raw"].as_str().unwrap().to_owned()))
    };
    fs::read_dir(folder).unwrap().filter_map(|entry| webhook(&entry.unwrap().path())).collect()
}

fn fixture(name: &str) -> Event {
    let (_, body) = fixtures().into_iter().find(|(found, _)| found == name).unwrap();
    Event::parse(body.as_bytes()).unwrap()
}

fn annotation(kind: &str) -> AnnotationAdded {
    match fixture(&format!("message-annotation-added.{kind}")) {
        Event::AnnotationAdded(annotation) => annotation,
        other => panic!("{other:?}"),
    }
}

/// A message with these fields in place of its own; null takes one away.
fn message(changes: Value) -> Event {
    let mut body = json!({"type": "message-created", "spaceId": "s", "messageId": "m", "time": 7,
        "userId": "u", "contentType": "text/markdown", "content": "hello"});
    let Value::Object(changes) = changes else { unreachable!("an object is given") };
    for (name, value) in changes {
        let fields = body.as_object_mut().unwrap();
        if value.is_null() {
            fields.remove(&name)
        } else {
            fields.insert(name, value)
        };
    }
    Event::parse(body.to_string().as_bytes()).unwrap()
}

fn kind(event: &Event) -> &str {
    match event {
        Event::MessageCreated(_) => "message-created",
        Event::MessageEdited(_) => "message-edited",
        Event::MessageDeleted(_) => "message-deleted",
        Event::AnnotationAdded(_) => "message-annotation-added",
        Event::AnnotationRemoved(_) => "message-annotation-removed",
        Event::ReactionAdded(_) => "reaction-added",
        Event::SpaceUpdated(_) => "space-updated",
        Event::SpaceDeleted(_) => "space-deleted",
        Event::SpaceMembersAdded(_) => "space-members-added",
        Event::SpaceMembersRemoved(_) => "space-members-removed",
        Event::Verification(_) => "verification",
        _ => "other",
    }
}

#[test]
fn every_recorded_webhook_has_its_variant() {
    let fixtures = fixtures();
    assert!(fixtures.len() >= 18, "{} fixtures", fixtures.len());
    for (name, body) in fixtures {
        let event = Event::parse(body.as_bytes()).unwrap();
        let told: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(kind(&event), told["type"], "{name}: {event:?}");
    }
}

#[test]
fn fields_are_what_the_platform_wrote() {
    let Event::MessageCreated(message) = fixture("message-created") else { panic!("no message") };
    assert_eq!(message.content, "do you know Zoë? 🎉");
    assert_eq!((message.time, message.user_name.as_deref()), (1_538_560_000_123, Some("Ada Example")));
    assert_eq!(message.conversation_id, None);
    let Event::MessageCreated(message) = fixture("message-created-v1.8") else { panic!("no message") };
    assert_eq!(message.conversation_type.as_deref(), Some("UNVERIFIED"));
    let Event::SpaceUpdated(space) = fixture("space-updated") else { panic!("no space") };
    assert_eq!((space.title.as_deref(), space.description), (Some("Renamed Space"), None));
    let Event::SpaceMembersAdded(members) = fixture("space-members-added") else { panic!("no members") };
    assert_eq!(members.member_ids, ["0c1d2e3f-4a5b-4c6d-8e7f-9a0b1c2d3e4f"]);
    let Event::ReactionAdded(reaction) = fixture("reaction-added") else { panic!("no reaction") };
    assert_eq!((reaction.reaction.as_str(), reaction.object_type.as_str()), ("👍", "MESSAGE"));
}

#[test]
fn a_payload_is_parsed_though_a_key_stands_twice() {
    let action = annotation("actionSelected");
    assert_eq!(action.annotation_payload.matches(r#""type""#).count(), 2);
    assert_eq!(action.payload().unwrap()["actionId"], "/triggers");
    assert_eq!(annotation("message-nlp-concepts").payload().unwrap()["concepts"][0]["text"], "São Francisco");
    assert_eq!(annotation("conversation-moment").user_name, None);
    let mut twice = action;
    twice.annotation_payload = r#"{"type":"first","type":"last"}"#.into();
    assert_eq!(twice.payload().unwrap(), json!({"type": "last"}));
    for bad in [String::new(), "{".into(), "[".repeat(100_000) + &"]".repeat(100_000)] {
        twice.annotation_payload = bad;
        assert_eq!(twice.payload().unwrap_err().kind(), ErrorKind::Protocol);
    }
}

#[test]
fn what_is_not_known_is_kept_whole() {
    for (body, expected) in [
        (r#"{ "type":"space-frozen","spaceId":"s" }"#, Some("space-frozen")),
        (r#"{"hello":"world"}"#, None),
        (r#"{"type":5}"#, None),
        // Known, but not as it should be.
        (r#"{"type":"space-deleted","spaceId":"s"}"#, Some("space-deleted")),
        (r#"{"type":"verification","challenge":["x"]}"#, Some("verification")),
    ] {
        match Event::parse(body.as_bytes()).unwrap() {
            Event::Other { kind, body: kept, .. } => {
                assert_eq!((kind.as_deref(), &kept[..]), (expected, body.as_bytes()));
            }
            event => panic!("{body}: {event:?}"),
        }
    }
    for changes in
        [json!({"messageId": null}), json!({"time": "7"}), json!({"time": -1}), json!({"content": 1})]
    {
        assert!(matches!(message(changes.clone()), Event::Other { .. }), "{changes}");
    }
}

#[test]
fn extra_fields_are_passed_over_and_names_may_be_missing() {
    assert_eq!(message(json!({"color": {"a": [1]}, "userName": null})), message(json!({})));
    assert!(matches!(message(json!({})), Event::MessageCreated(_)));
}

#[test]
fn of_a_field_that_stands_twice_the_last_counts() {
    let body = r#"{"type":"space-updated","type":"space-deleted","spaceId":1,"spaceId":"s","time":1,"time":2,"userId":"u"}"#;
    let Event::SpaceDeleted(space) = Event::parse(body.as_bytes()).unwrap() else { panic!("no deletion") };
    assert_eq!((space.space_id.as_str(), space.time), ("s", 2));
}

#[test]
fn hostile_bodies_do_no_harm() {
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    let rest = r#""spaceId":"s","time":1,"userId":"u""#;
    let extra = format!(r#"{{"type":"space-deleted","x":{deep},"\ud800":1,"n":1e999,{rest}}}"#);
    assert!(matches!(Event::parse(extra.as_bytes()).unwrap(), Event::SpaceDeleted(_)));
    let kind = format!(r#"{{"type":{deep},{rest}}}"#);
    assert!(matches!(Event::parse(kind.as_bytes()).unwrap(), Event::Other { kind: None, .. }));
    let needed = format!(r#"{{"type":"space-deleted",{rest},"spaceId":{deep}}}"#);
    assert!(matches!(Event::parse(needed.as_bytes()).unwrap(), Event::Other { kind: Some(_), .. }));
    for bad in [b"".as_slice(), b"[]", b"{", b"null", b"{}{}", b"\xff", deep.as_bytes()] {
        assert_eq!(Event::parse(bad).unwrap_err().kind(), ErrorKind::Protocol);
    }
}
