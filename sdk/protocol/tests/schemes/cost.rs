//! What a request that is not signed can cost at most: passes over its body are counted by the pauses between pieces of 16 KiB.

use std::{
    cell::Cell,
    time::{Duration, SystemTime, UNIX_EPOCH},
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
            "template field \"content\" must have each placeholder once",
            "{content}"
        );
    }
    for content in ["{json:a}.{body}", "{form:a}.{body}"] {
        let error = Scheme::template(&template("hmac-sha256", content).to_string()).expect_err(content);
        assert!(error.reason.contains("beside {body}"), "{content}: {error}");
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
