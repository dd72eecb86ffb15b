//! What a request that is not signed can cost at most: passes over its body are counted by the pauses between pieces of 16 KiB.

use std::{
    cell::Cell,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};
use wwproxy_protocol::{
    Secret,
    scheme::{Check, MAX_BODY_PASSES, MAX_PUBLIC_KEY_SIGNATURES, MAX_SIGNATURES, Rejection, Request, Scheme},
};

const BODY: usize = 1 << 20;
const PIECES: usize = BODY / (16 << 10);

thread_local! {
    static PAUSES: Cell<usize> = const { Cell::new(0) };
}

/// Verifies a request with this value of `X-Sig`, and returns the number of pauses.
fn pauses(templates: &Value, secrets: &[Secret], signature: &str, body: &[u8]) -> (Rejection, usize) {
    let scheme = Scheme::template(&templates.to_string()).unwrap();
    let headers: [(&str, &[u8]); 1] = [("X-Sig", signature.as_bytes())];
    let pause = || PAUSES.set(PAUSES.get() + 1);
    let request = Request { pause, ..Request::new("POST", &headers, body) };
    PAUSES.set(0);
    let now: SystemTime = UNIX_EPOCH + Duration::from_secs(1_764_363_600);
    (scheme.verify(secrets, &request, now).unwrap_err(), PAUSES.get())
}

fn template(algorithm: &str, content: &str) -> Value {
    json!({"algorithm": algorithm, "signature": "header:X-Sig", "split": ",", "encoding": "hex", "content": content})
}

#[test]
fn shared_secrets_take_a_pass_for_each_alternative_and_secret() {
    let secrets: Vec<_> = (0..4).map(|number| Secret::new(format!("secret {number}"))).collect();
    let mut items = vec!["00".repeat(64); MAX_SIGNATURES].join(",");
    let mut templates = vec![template("hmac-sha512", "{body}"); 4];
    let body = vec![b'x'; BODY];
    let (rejection, pauses) = pauses(&json!(templates), &secrets, &items, &body);
    assert_eq!(rejection.check, Check::Signature);
    assert_eq!(pauses, MAX_BODY_PASSES * PIECES);

    items = "00".repeat(64);
    templates.truncate(1);
    assert_eq!(self::pauses(&json!(templates), &secrets[..1], &items, &body).1, PIECES);
}

#[test]
fn public_keys_take_no_more_passes() {
    let public_key = |seed: u8| {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        let key: Vec<_> = pair.public_key().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Secret::new(key.concat())
    };
    let secrets: Vec<_> = (1..=4).map(public_key).collect();
    let items = vec!["00".repeat(64); MAX_PUBLIC_KEY_SIGNATURES].join(",");
    let mut one = template("ed25519", "{body}");
    one["key"] = "hex".into();
    // A pause precedes each signature.
    let (rejection, pauses) = pauses(&json!([one, one, one, one]), &secrets, &items, &[b'x'; 1024]);
    assert_eq!(pauses, MAX_BODY_PASSES);
    assert!(rejection.detail.contains("does not match"), "{rejection}");
    let other = self::pauses(&json!([one, one, one, one]), &secrets, &"00".repeat(64), &[b'x'; 1024]);
    assert_eq!(other.1, MAX_BODY_PASSES, "4 alternatives, 4 secrets and 1 signature");
}

#[test]
fn a_content_has_each_part_of_the_request_once() {
    for content in [
        "{body}{body}",
        "{body}.{body}",
        "{url}.{url}.{body}",
        "{header:X-A}.{header:X-A?}.{body}",
        "{json:a}.{json:a}",
        "{form:a}.{form:a}",
    ] {
        let error = Scheme::template(&template("hmac-sha256", content).to_string()).expect_err(content);
        assert_eq!(
            error.to_string(),
            "template field \"content\" must have each value once: {id} and {timestamp} stand for their sources",
            "{content}"
        );
    }
    for content in ["{json:a}.{body}", "{form:a}.{body}", "{json:a}.{form:a}"] {
        let error = Scheme::template(&template("hmac-sha256", content).to_string()).expect_err(content);
        assert!(error.reason.contains("beside {body}"), "{content}: {error}");
    }
}

#[test]
fn an_id_and_a_timestamp_are_the_values_that_they_are_read_from() {
    for (content, id, timestamp, reason) in [
        ("{id}.{body}", "json:id", None, "beside {body}"),
        ("{body}.{id}", "json:0", None, "beside {body}"),
        ("{id}.{form:a}", "json:id", None, "beside a value of a JSON body"),
        ("{id}.{json:a}", "json:a", None, "each value once"),
        ("{id}.{json:a}", "json:b", None, ""),
        ("{id}.{header:X-Id}.{body}", "header:X-Id", None, "each value once"),
        ("{header:x-ID}.{id}.{body}", "header:X-Id", None, "each value once"),
        ("{header:X-A}.{header:x-a}.{body}", "header:X-Id", None, "each value once"),
        ("{id}.{timestamp}.{body}", "header:X-Time", Some("header:x-time"), "each value once"),
        ("{timestamp}.{json:t}", "header:X-Id", Some("json:t"), "each value once"),
        ("{id}.{timestamp}.{body}", "header:X-Id", Some("header:X-Time"), ""),
        ("{timestamp}.{body}", "json:id", Some("json:t"), ""),
        ("{body}", "json:id", None, ""),
    ] {
        let mut one = template("hmac-sha256", content);
        one["id"] = id.into();
        if let Some(timestamp) = timestamp {
            one["timestamp"] = timestamp.into();
        }
        one["covers"] = if content.contains("{body}") { "body" } else { "nothing" }.into();
        match Scheme::template(&one.to_string()) {
            Ok(_) => assert_eq!(reason, "", "{content} {id}"),
            Err(error) => {
                assert!(!reason.is_empty() && error.reason.contains(reason), "{content} {id}: {error}");
            }
        }
    }
}

#[test]
fn an_element_has_one_path() {
    for (content, check) in [
        ("{json:a.0}", Check::Signature),
        ("{json:a.00}.{json:a.0}", Check::Content),
        ("{json:a.+0}.{json:a.0}", Check::Content),
    ] {
        let mut one = template("hmac-sha256", content);
        one["covers"] = "nothing".into();
        let rejection = pauses(&one, &[Secret::new("secret")], &"00".repeat(32), br#"{"a":["x"]}"#).0;
        assert_eq!(rejection.check, check, "{content}");
    }
}

type Path = fn(usize) -> String;

/// Templates that read 39 values at these paths.
fn many_paths(path: Path) -> Value {
    let content = |numbers: std::ops::Range<usize>| {
        let parts: Vec<_> = numbers.map(|number| format!("{{json:{}}}", path(number))).collect();
        parts.join(".")
    };
    let template = |algorithm, numbers| {
        let mut one = template(algorithm, &content(numbers));
        one["covers"] = "nothing".into();
        one
    };
    json!([template("hmac-sha1", 0..13), template("hmac-sha256", 13..26), template("hmac-sha512", 26..39)])
}

/// The shortest of three times that it takes to refuse the body.
fn time(templates: &Value, body: &[u8]) -> Duration {
    let verify = |_| {
        let start = Instant::now();
        let items = [20, 32, 64].map(|bytes| "00".repeat(bytes)).join(",");
        let (rejection, _) = pauses(templates, &[Secret::new("secret")], &items, body);
        assert_eq!(rejection.check, Check::Content);
        start.elapsed()
    };
    (0..3).map(verify).min().unwrap()
}

#[test]
fn many_paths_cost_no_more_than_one() {
    let array = format!("[{}0]", "0,".repeat(1 << 19));
    let object = format!(r#"{{{}"a":0}}"#, r#""a":0,"#.repeat(1 << 17));
    let paths: [(_, _, Path); 3] = [
        ("first elements", &array, |number| number.to_string()),
        ("elements that are absent", &array, |number| (9_999_999 + number).to_string()),
        ("a repeated name", &object, |number| format!("a.b{number}")),
    ];
    for (name, body, path) in paths {
        let mut one = template("hmac-sha256", &format!("{{json:{}}}", path(0)));
        one["covers"] = "nothing".into();
        let (one, many) = (time(&one, body.as_bytes()), time(&many_paths(path), body.as_bytes()));
        assert!(many < one * 3, "{name}: {many:?} for 39 paths, {one:?} for one");
    }
}

#[test]
fn a_large_json_body_is_parsed_with_pauses() {
    for (body, count) in [
        (format!("[{}0]", "0,".repeat((1 << 20) - 1)), 1 << 10),
        (format!(r#"{{{}"a":0}}"#, r#""b":0,"#.repeat((1 << 18) - 1)), 1 << 8),
    ] {
        let mut one = template("hmac-sha256", "{json:absent}");
        one["covers"] = "nothing".into();
        let (rejection, pauses) = pauses(&one, &[Secret::new("secret")], &"00".repeat(32), body.as_bytes());
        assert_eq!(rejection.check, Check::Content);
        assert_eq!(pauses, count + 1, "one for each 1024 elements or members, and one at the end");
    }
}

#[test]
fn a_large_value_is_searched_for_its_separator_with_pauses() {
    let mut one = template("hmac-sha256", "{json:a}.{json:b}");
    one["covers"] = "nothing".into();
    let check = |value: &str| {
        let body = json!({"a": value, "b": ""}).to_string();
        pauses(&one, &[Secret::new("secret")], &"00".repeat(32), body.as_bytes())
    };
    let value = "x".repeat(BODY);
    let (rejection, pauses) = check(&value);
    assert_eq!(rejection.check, Check::Signature);
    assert_eq!(pauses, 1 + PIECES + PIECES, "parsed, searched and hashed once");
    // At both sides of the end of a piece.
    for at in [0, (16 << 10) - 1, 16 << 10, BODY - 1] {
        let mut value = value.clone();
        value.replace_range(at..=at, ".");
        assert_eq!(check(&value).0.detail, r#"the JSON member a contains the separator ".""#, "{at}");
    }
}

#[test]
fn a_json_body_is_parsed_once_for_all_templates() {
    let secrets: Vec<_> = (0..4).map(|number| Secret::new(format!("secret {number}"))).collect();
    let mut one = template("hmac-sha256", "{json:a}.{json:b}.{json:c}.{json:d}.{json:e}");
    one["covers"] = "nothing".into();
    one["id"] = "json:id".into();
    let body =
        json!({"a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "id": 6, "rest": "x".repeat(1 << 20)}).to_string();
    let (rejection, pauses) = pauses(&json!([one, one, one]), &secrets, &"00".repeat(32), body.as_bytes());
    assert_eq!(rejection.check, Check::Signature);
    assert_eq!(pauses, 1);
}
