//! Parses every Watson Work fixture of the repository.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use serde_json::json;

use super::*;

const SPACE: &str = "5b00000000000000000000a1";
const ADA: &str = "11112222-3333-1034-9cd4-db1000000001";
const APP: &str = "0c1d2e3f-4a5b-4c6d-8e7f-9a0b1c2d3e4f";

/// The bodies of the webhook fixtures, by fixture name.
fn fixtures() -> BTreeMap<String, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/watsonwork");
    let fixture = |entry: std::io::Result<fs::DirEntry>| {
        let fixture: Value = serde_json::from_slice(&fs::read(entry.unwrap().path()).unwrap()).unwrap();
        let name = fixture["fixture"].as_str()?.to_owned();
        Some((name, fixture["request"]["body_raw"].as_str().unwrap().to_owned()))
    };
    fs::read_dir(folder).unwrap().filter_map(fixture).collect()
}

fn parse(name: &str) -> Event {
    Event::parse(&fixtures()[name]).unwrap()
}

#[test]
fn every_fixture_parses_into_its_type_with_all_members() {
    let fixtures = fixtures();
    assert!(fixtures.len() > 15, "{:?}", fixtures.keys());
    for (name, body) in fixtures {
        let event = Event::parse(&body).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        if name == "verification" {
            assert!(matches!(event, Event::Other(_)), "the proxy answers challenges itself");
            continue;
        }
        let kind = format!("{event:?}");
        let pascal = |word: &str| word[..1].to_uppercase() + &word[1..];
        let expected: String =
            name.split('.').next().unwrap().trim_end_matches("-v1").split('-').map(pascal).collect();
        assert!(kind.starts_with(&format!("{expected}(")), "{name} was parsed as {kind}");
        assert_eq!(event.space_id(), Some(SPACE), "{name}");
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_538_560_000_123);
        assert_eq!(event.time(), Some(time), "{name}");
        // Every string member is in some field.
        let value: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(event.user_id(), value["userId"].as_str(), "{name}");
        for (member, text) in value.as_object().unwrap() {
            if text.is_string() && member != "type" {
                let mut changed = value.clone();
                changed[member] = json!("changed");
                let changed = Event::parse(changed.to_string()).unwrap();
                assert_ne!(changed, event, "{name}: {member} is missing");
            }
        }
    }
}

#[test]
fn members_that_may_be_absent_are_optional() {
    let Event::MessageCreated(old) = parse("message-created") else { panic!() };
    assert_eq!((old.conversation_id, old.conversation_type), (None, None));
    assert_eq!(
        (old.user_name.as_deref(), old.content.as_str()),
        (Some("Ada Example"), "do you know Zoë? 🎉")
    );
    let Event::MessageCreated(new) = parse("message-created-v1.8") else { panic!() };
    assert_eq!(new.conversation_id.as_deref(), Some(SPACE));
    let Event::MessageAnnotationAdded(card) = parse("message-annotation-added.generic") else { panic!() };
    assert_eq!((card.user_id.as_str(), card.user_name), (APP, None));
    let Event::SpaceMembersAdded(joined) = parse("space-members-added") else { panic!() };
    assert_eq!(joined.member_ids, [APP]);
    let Event::SpaceUpdated(space) = parse("space-updated") else { panic!() };
    assert_eq!(
        (space.title.as_deref(), space.description, space.allow_guests),
        (Some("Renamed Space"), None, None)
    );
}

#[test]
fn the_last_duplicate_member_wins_in_a_body_and_in_a_payload() {
    let Event::MessageAnnotationAdded(pressed) = parse("message-annotation-added.actionSelected") else {
        panic!()
    };
    let payload = pressed.payload().unwrap();
    assert_eq!((&payload["type"], &payload["actionId"]), (&json!("actionSelected"), &json!("/triggers")));
    assert_eq!(payload["createdBy"], ADA);

    let twice = r#"{"type":"reaction-added","userId":"first","spaceId":"s","reaction":"+","objectId":"o",
        "objectType":"MESSAGE","time":1,"userId":"last","news":[{}],"type":"reaction-removed"}"#;
    let Event::ReactionRemoved(reaction) = Event::parse(twice).unwrap() else { panic!() };
    assert_eq!((reaction.user_id.as_str(), reaction.reaction.as_str()), ("last", "+"));

    let broken = MessageAnnotationAdded { annotation_payload: "{".into(), ..pressed };
    assert_eq!(broken.payload().unwrap_err().kind(), ErrorKind::Protocol);
}

#[test]
fn an_unknown_type_is_kept_and_an_invalid_body_is_an_error() {
    for (body, kind) in
        [(r#"{"type":"news" , "a":1.0}"#, Some("news")), (r#"{"type":7}"#, None), ("{}", None)]
    {
        let Event::Other(other) = Event::parse(body).unwrap() else { panic!("{body}") };
        assert_eq!((other.kind.as_deref(), other.body.as_ref()), (kind, body.as_bytes()));
    }
    for invalid in
        ["", "null", "[]", "{", r#"{"type":"message-created"}"#, r#"{"type":"space-deleted","spaceId":7}"#]
    {
        assert_eq!(Event::parse(invalid).unwrap_err().kind(), ErrorKind::Protocol, "{invalid}");
    }
}

#[test]
fn debug_redacts_the_texts_of_every_type() {
    let all = json!({
        "time": 1, "spaceId": SPACE, "messageId": "m", "annotationId": "a", "annotationType": "generic", "objectId": "o",
        "objectType": "MESSAGE", "userId": ADA, "memberIds": [APP], "contentType": "text/plain",
        "content": "hunter2", "spaceName": "hunter2", "userName": "hunter2", "annotationPayload": "hunter2",
        "reaction": "hunter2", "title": "hunter2", "description": "hunter2", "statusValue": "hunter2",
        "spaceProperties": {"a": "hunter2"},
    });
    let types = fixtures().into_values().filter_map(|body| {
        let body: Value = serde_json::from_str(&body).ok()?;
        Some(body["type"].clone())
    });
    for kind in types.chain([json!("news")]) {
        let mut body = all.clone();
        body["type"] = kind.clone();
        let event = Event::parse(body.to_string()).unwrap();
        let shown = format!("{event:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
        let id = if matches!(event, Event::Other(_)) { kind.as_str().unwrap() } else { SPACE };
        assert!(shown.contains(id), "{shown}");
    }
}
