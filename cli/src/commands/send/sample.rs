//! Sample webhooks of Watson Work, with invented people and spaces.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

/// Builds a sample body of this type.
pub(super) fn body(kind: &str, now: SystemTime) -> String {
    let time = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let time = u64::try_from(time).unwrap_or(u64::MAX);
    let (space, user) = ("5b00000000000000000000a1", "11112222-3333-1034-9cd4-db1000000001");
    let message = &token()[..24];
    let text = json!({"contentType": "text/markdown", "content": "hello"});
    let in_space = json!({"spaceName": "Example Space"});
    let own = match kind {
        "message-created" => {
            [in_space, text, json!({"messageId": message, "userName": "Ada Example", "userId": user})]
        }
        "message-edited" => [text, json!({"messageId": message, "userId": user}), json!({})],
        "message-deleted" => [json!({"messageId": message}), json!({}), json!({})],
        "message-annotation-added" => {
            let payload = json!({"type": "generic", "title": "Example", "text": "hello", "created": time});
            let annotation = json!({
                "messageId": message, "annotationType": "generic", "annotationId": &token()[..24],
                "annotationPayload": payload.to_string(), "userId": user,
            });
            [in_space, annotation, json!({})]
        }
        "message-annotation-removed" => {
            let annotation = json!({"messageId": message, "annotationId": &token()[..24], "userId": user});
            [in_space, annotation, json!({"userName": "Ada Example"})]
        }
        "reaction-added" => [
            json!({"reaction": "👍", "objectId": message, "objectType": "MESSAGE", "userId": user}),
            json!({}),
            json!({}),
        ],
        "space-members-added" | "space-members-removed" => {
            [in_space, json!({"memberIds": [user]}), json!({})]
        }
        "space-updated" => [json!({"title": "Renamed Space", "userId": user}), json!({}), json!({})],
        _ => [json!({"userId": user}), json!({}), json!({})],
    };
    let mut all = Map::new();
    all.insert("spaceId".into(), space.into());
    for part in own {
        if let Value::Object(part) = part {
            all.extend(part);
        }
    }
    all.insert("time".into(), time.into());
    all.insert("type".into(), kind.into());
    Value::Object(all).to_string()
}

/// 32 random hex digits.
pub(super) fn token() -> String {
    let random = || std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
    format!("{:016x}{:016x}", random(), random())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sample_has_its_type_and_new_ids() {
        for kind in crate::selection::WATSON_WORK_TYPES {
            let value: Value = serde_json::from_str(&body(kind, SystemTime::now())).unwrap();
            assert_eq!(value["type"], kind);
            assert!(value["time"].is_u64() && value["spaceId"].is_string());
        }
        let now = SystemTime::now();
        assert_ne!(body("message-created", now), body("message-created", now));
        assert_eq!(token().len(), 32);
    }
}
