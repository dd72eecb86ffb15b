//! The challenges of senders: those of `fixtures/senders/challenges.json`, and hostile ones.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};
use wwproxy_protocol::{
    Secret, Source, SourceSettings, hex,
    scheme::{Answer, Check, Reception, Rejection, Request, Scheme},
};

use super::vectors::{valid, vectors};

const NOW: u64 = 1_764_363_600;
const JSON: &str = "application/json; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

/// A source with this secret and challenge secret.
fn source(scheme: &str, secret: &str) -> Source {
    let known = Scheme::preset(scheme).unwrap();
    Source::new(SourceSettings {
        scheme: scheme.into(),
        secrets: if secret.is_empty() { Vec::new() } else { vec![Secret::new(secret)] },
        url: known.needs_url().then(|| "https://hooks.example.test/hook".into()),
        challenge_secret: known.has_challenge_secret().then(|| Secret::new("verify-token")),
        ..SourceSettings::default()
    })
    .unwrap()
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

type Headers<'a> = &'a [(&'a str, &'a str)];

fn receive(
    source: &Source,
    method: &str,
    query: Option<&str>,
    headers: Headers<'_>,
    body: &[u8],
) -> Result<Reception, Rejection> {
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
    source.verify(&Request { query, ..Request::new(method, &headers, body) }, now())
}

fn get(source: &Source, query: &str) -> Result<Reception, Rejection> {
    receive(source, "GET", Some(query), &[], b"")
}

fn answer(reception: Result<Reception, Rejection>) -> Answer {
    match reception.unwrap() {
        Reception::Answer(answer) => answer,
        other => panic!("{other:?}"),
    }
}

fn check(reception: Result<Reception, Rejection>) -> Check {
    reception.unwrap_err().check
}

/// A key pair, with the public key as Discord shows it.
fn discord_key() -> (Ed25519KeyPair, String) {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    let public = hex(pair.public_key().as_ref());
    (pair, public)
}

/// Sends a body to Discord's source with a valid signature.
fn discord(body: &str) -> Result<Reception, Rejection> {
    let (pair, public) = discord_key();
    let timestamp = NOW.to_string();
    let signature = hex(pair.sign(format!("{timestamp}{body}").as_bytes()).as_ref());
    let headers = [("X-Signature-Ed25519", signature.as_str()), ("X-Signature-Timestamp", &timestamp)];
    receive(&source("discord", &public), "POST", None, &headers, body.as_bytes())
}

#[test]
fn every_challenge_of_the_fixtures_is_answered() {
    let text = include_str!("../../../../fixtures/senders/challenges.json");
    let rows: Vec<Value> = serde_json::from_str(text).unwrap();
    assert_eq!(rows.len(), 16);
    for row in rows {
        let (scheme, name) = (row["scheme"].as_str().unwrap(), row["name"].as_str().unwrap());
        let (request, expected) = (&row["request"], &row["answer"]);
        let secret = match (scheme, row["secret"].as_str()) {
            // The secret of the row is the verify token.
            ("meta", _) => "app secret",
            ("asana" | "notion", _) => "",
            ("msgraph", _) => "client-state",
            (_, secret) => secret.unwrap_or("secret"),
        };
        let body = request["body"].as_str().unwrap();
        let received = if scheme == "discord" {
            discord(body)
        } else {
            let mut settings = source(scheme, secret).settings().clone();
            settings.challenge_secret =
                settings.challenge_secret.and(row["secret"].as_str()).map(Secret::new);
            let headers: Vec<(&str, &str)> = serde_json::from_value(request["headers"].clone())
                .map(|list: Vec<(String, String)>| list)
                .unwrap()
                .leak()
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect();
            let query = request["url"].as_str().unwrap().split_once('?').map(|(_, query)| query);
            let method = request["method"].as_str().unwrap();
            receive(&Source::new(settings).unwrap(), method, query, &headers, body.as_bytes())
        };
        if expected["status"] == json!([403]) {
            assert_eq!(check(received), Check::Challenge, "{scheme}, {name}");
            continue;
        }
        let answer = match received.unwrap_or_else(|error| panic!("{scheme}, {name}: {error:?}")) {
            Reception::Answer(answer) => answer,
            Reception::Secret { answer, secret } => {
                assert!(["asana", "notion"].contains(&scheme));
                assert!(request.to_string().contains(secret.expose()), "{scheme}");
                answer
            }
            Reception::Event(event) => panic!("{scheme}, {name}: {event:?}"),
        };
        assert_expected(&answer, expected, &format!("{scheme}, {name}"));
    }
}

fn assert_expected(answer: &Answer, expected: &Value, name: &str) {
    assert!(expected["status"].as_array().unwrap().contains(&json!(answer.status)), "{name}");
    for header in expected["headers"].as_array().unwrap() {
        let (header, value) = (header[0].as_str().unwrap(), header[1].as_str().unwrap());
        match header {
            "Content-Type" => assert!(answer.content_type.starts_with(value), "{name}"),
            // A server adds it to all answers.
            "X-Content-Type-Options" => {}
            _ => {
                let found = answer.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(header));
                assert_eq!(found.unwrap().1, value, "{name}");
            }
        }
    }
    match (expected["body"].as_str(), expected["compare"].as_str().unwrap()) {
        (Some(body), "json") => {
            let (answered, body): (Value, Value) =
                (serde_json::from_str(&answer.body).unwrap(), serde_json::from_str(body).unwrap());
            assert_eq!(answered, body, "{name}");
        }
        (Some(body), _) => assert_eq!(answer.body, body, "{name}"),
        (None, _) => assert_eq!(answer.body, "", "{name}"),
    }
}

#[test]
fn the_methods_are_those_of_the_challenges() {
    for (scheme, methods) in [
        ("github", &["POST"][..]),
        ("slack", &["POST", "GET"]),
        ("meta", &["POST", "GET"]),
        ("okta", &["POST", "GET"]),
        ("trello", &["POST", "HEAD"]),
        ("intercom", &["POST", "HEAD"]),
        ("msgraph", &["POST"]),
    ] {
        assert_eq!(Scheme::preset(scheme).unwrap().methods(), methods, "{scheme}");
    }
    assert_eq!(Scheme::unverified().methods(), ["POST"]);
}

#[test]
fn only_post_makes_events() {
    for preset in wwproxy_protocol::scheme::presets() {
        let vector = vectors(&preset.name).into_iter().find(super::vectors::Vector::is_valid).unwrap();
        let headers: Vec<_> =
            vector.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
        for method in ["GET", "HEAD", "PUT", "DELETE", "post"] {
            let request = Request::new(method, &headers, &vector.body);
            let mut settings = source(&preset.name, &vector.secret).settings().clone();
            settings.url = settings.url.and(Some(vector.url.clone()));
            let received = Source::new(settings).unwrap().verify(&request, vector.now());
            let is_head_challenge = method == "HEAD" && preset.scheme.methods().contains(&"HEAD");
            match received {
                Ok(Reception::Answer(_)) => assert!(is_head_challenge, "{} {method}", preset.name),
                Err(rejection) => assert_eq!(rejection.check, Check::Challenge, "{} {method}", preset.name),
                other => panic!("{} {method}: {other:?}", preset.name),
            }
        }
    }
    let none = Source::new(SourceSettings { scheme: "none".into(), ..SourceSettings::default() }).unwrap();
    assert_eq!(check(get(&none, "")), Check::Challenge);
    assert!(matches!(receive(&none, "POST", None, &[], b""), Ok(Reception::Event(_))));
}

#[test]
fn meta_needs_its_verify_token() {
    let meta = source("meta", "app secret");
    let right = "hub.mode=subscribe&hub.challenge=1&hub.verify_token=verify-token";
    let answered = answer(get(&meta, right));
    assert_eq!((answered.status, answered.content_type, answered.body.as_str()), (200, TEXT, "1"));
    for query in [
        "",
        "hub.mode=subscribe&hub.challenge=1",
        "hub.mode=subscribe&hub.challenge=1&hub.verify_token=",
        "hub.mode=subscribe&hub.challenge=1&hub.verify_token=verify-toke",
        "hub.mode=subscribe&hub.challenge=1&hub.verify_token=app+secret",
        "hub.mode=subscribe&hub.challenge=1&hub.verify_token=verify-token&hub.verify_token=verify-token",
        "hub.mode=subscribe&hub.challenge=1&hub%2Everify_token=x&hub.verify_token=verify-token",
        "hub.mode=subscribe&hub.mode=subscribe&hub.challenge=1&hub.verify_token=verify-token",
        "hub.mode=subscribe&hub.challenge=1&hub.challenge=2&hub.verify_token=verify-token",
        "hub.mode=subscribe&hub.verify_token=verify-token",
        "hub.mode=unsubscribe&hub.challenge=1&hub.verify_token=verify-token",
        "hub.mode=subscribe&hub.challenge=%0d%0aX:1&hub.verify_token=verify-token",
        "hub.mode=subscribe&hub.challenge=%zz&hub.verify_token=verify-token",
    ] {
        let rejection = get(&meta, query).unwrap_err();
        assert_eq!(rejection.check, Check::Challenge, "{query}");
        assert!(!rejection.detail.contains("verify-token"), "{rejection}");
    }
    let mut settings = meta.settings().clone();
    settings.challenge_secret = None;
    let rejection = get(&Source::new(settings).unwrap(), right).unwrap_err();
    assert_eq!((rejection.check, rejection.detail.contains("register it")), (Check::Challenge, true));
}

#[test]
fn values_are_decoded_once_and_bounded() {
    let dropbox = source("dropbox", "secret");
    assert_eq!(answer(get(&dropbox, "challenge=a%252Bb+c")).body, "a%2Bb c");
    assert_eq!(answer(get(&dropbox, &format!("challenge={}", "x".repeat(4096)))).body.len(), 4096);
    for query in [
        format!("challenge={}", "x".repeat(4097)),
        "challenge=a&challenge=b".into(),
        "challenge=a&%63hallenge=b".into(),
        "challenge=".into(),
        "challenge".into(),
        "challenge=%00".into(),
        "challenge=%ff".into(),
        "challenge=%4".into(),
        "Challenge=a".into(),
        String::new(),
    ] {
        assert_eq!(check(get(&dropbox, &query)), Check::Challenge, "{query:.60}");
    }
    assert_eq!(check(receive(&dropbox, "GET", None, &[], b"")), Check::Challenge);
}

#[test]
fn a_signed_challenge_needs_its_signature() {
    for (scheme, name) in [("slack", "X-Slack-Signature"), ("zoom", "x-zm-signature")] {
        let text = include_str!("../../../../fixtures/senders/challenges.json");
        let rows: Vec<Value> = serde_json::from_str(text).unwrap();
        let row = rows.iter().find(|row| row["scheme"] == scheme).unwrap();
        let headers: Vec<(String, String)> =
            serde_json::from_value(row["request"]["headers"].clone()).unwrap();
        let body = row["request"]["body"].as_str().unwrap();
        let source = source(scheme, row["secret"].as_str().unwrap());
        let send = |value: Option<&str>| {
            let headers: Vec<_> = headers
                .iter()
                .filter_map(|(other, right)| match value {
                    _ if other != name => Some((other.as_str(), right.as_str())),
                    Some(value) => Some((other.as_str(), value)),
                    None => None,
                })
                .collect();
            receive(&source, "POST", None, &headers, body.as_bytes())
        };
        assert_eq!(check(send(None)), Check::Header, "{scheme}");
        assert_eq!(check(send(Some(&format!("v0={}", "0".repeat(64))))), Check::Signature, "{scheme}");
    }
    let (_, public) = discord_key();
    let timestamp = NOW.to_string();
    let headers = [("X-Signature-Ed25519", &*"0".repeat(128)), ("X-Signature-Timestamp", &timestamp)];
    let received = receive(&source("discord", &public), "POST", None, &headers, br#"{"type":1}"#);
    assert_eq!(check(received), Check::Signature);
}

#[test]
fn discord_pings_are_answered_and_other_types_are_events() {
    let ping = answer(discord(r#"{"type":1,"id":"1","application_id":"1","version":1}"#));
    assert_eq!((ping.status, ping.content_type, ping.body.as_str()), (200, JSON, r#"{"type":1}"#));
    let ping = answer(discord(r#"{"version":1,"application_id":"1","type":0}"#));
    assert_eq!((ping.status, ping.content_type, ping.body.as_str()), (204, JSON, ""));
    let event = r#"{"version":1,"application_id":"1","type":1,"event":{"type":"APPLICATION_AUTHORIZED"}}"#;
    for event in [event, r#"{"type":2}"#, r#"{"type":10}"#, "[]"] {
        assert!(matches!(discord(event), Ok(Reception::Event(_))), "{event}");
    }
}

#[test]
fn okta_needs_its_token() {
    let okta = source("okta", "token");
    let send = |headers: Headers<'_>| receive(&okta, "GET", None, headers, b"");
    let challenge = ("X-Okta-Verification-Challenge", "a\"b");
    let answered = answer(send(&[challenge, ("Authorization", "token")]));
    assert_eq!((answered.content_type, answered.body.as_str()), (JSON, r#"{"verification":"a\"b"}"#));
    assert_eq!(check(send(&[challenge])), Check::Header);
    assert_eq!(check(send(&[challenge, ("Authorization", "other")])), Check::Signature);
    assert_eq!(check(send(&[("Authorization", "token")])), Check::Challenge);
    assert_eq!(check(send(&[challenge, challenge, ("Authorization", "token")])), Check::Form);
}

#[test]
fn x_signs_nothing_that_could_be_a_webhook() {
    let x = source("x", "consumer secret");
    assert!(answer(get(&x, "crc_token=MDExYj_-./%3D")).body.starts_with(r#"{"response_token":"sha256="#));
    for query in ["crc_token=%7B%7D", "crc_token=%5B1%5D", "crc_token=a+b", "crc_token=%C3%A9"] {
        assert_eq!(check(get(&x, query)), Check::Challenge, "{query}");
    }
    // The signature of a token is not that of an event: the body must be JSON.
    let body = answer(get(&x, "crc_token=123")).body;
    let answered: Value = serde_json::from_str(&body).unwrap();
    let headers = [("x-twitter-webhooks-signature", answered["response_token"].as_str().unwrap())];
    assert_eq!(check(receive(&x, "POST", None, &headers, b"123")), Check::Form);
}

#[test]
fn msgraph_validates_by_an_empty_post_only() {
    let graph = source("msgraph", "cs-1");
    let send = |query, body: &[u8]| receive(&graph, "POST", query, &[], body);
    let answered = answer(send(Some("validationToken=a%3Cb%3E"), b""));
    assert_eq!((answered.content_type, answered.body.as_str()), (TEXT, "a<b>"));
    let event = br#"{"value":[{"clientState":"cs-1"}]}"#;
    assert!(matches!(send(Some("validationToken=a"), event), Ok(Reception::Event(_))));
    assert_eq!(check(send(Some("validationToken=a"), b"{}")), Check::Header);
    assert_eq!(check(send(Some("validationToken=a&validationToken=a"), b"")), Check::Challenge);
    assert_eq!(check(send(None, b"")), Check::Header);
}

#[test]
fn asana_and_notion_set_the_secret() {
    for (scheme, headers, body) in [
        ("asana", &[("X-Hook-Secret", "new-secret")][..], "{}"),
        ("notion", &[], r#"{"verification_token":"new-secret"}"#),
    ] {
        for old in ["", "old-secret"] {
            let received = receive(&source(scheme, old), "POST", None, headers, body.as_bytes());
            let debug = format!("{received:?}");
            assert!(!debug.contains("new-secret"), "{debug}");
            let Ok(Reception::Secret { secret, .. }) = received else { panic!("{scheme}") };
            assert_eq!(secret.expose(), "new-secret");
        }
        let vector = valid(scheme, "valid");
        let request_headers: Vec<_> =
            vector.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
        let request = Request::new("POST", &request_headers, &vector.body);
        let received = source(scheme, &vector.secret).verify(&request, vector.now());
        assert!(matches!(received, Ok(Reception::Event(_))), "{scheme}: {received:?}");
        let rejection = source(scheme, "").verify(&request, vector.now()).unwrap_err();
        assert_eq!(
            (rejection.check, rejection.detail.as_str()),
            (Check::Secret, "the source has no secret yet")
        );
    }
}

#[test]
fn a_handshake_with_a_doubtful_secret_is_refused() {
    let asana = source("asana", "");
    for value in ["", "a\nb", "a\u{7f}", "é", &"x".repeat(4097)] {
        assert_eq!(
            check(receive(&asana, "POST", None, &[("X-Hook-Secret", value)], b"{}")),
            Check::Challenge
        );
    }
    let twice = [("X-Hook-Secret", "a"), ("x-hook-secret", "b")];
    assert_eq!(check(receive(&asana, "POST", None, &twice, b"{}")), Check::Challenge);
    // With a signature it is an event, which this source cannot verify.
    for (signature, refused) in [("", Check::Header), ("00", Check::Encoding)] {
        let headers = [("X-Hook-Secret", "a"), ("X-Hook-Signature", signature)];
        assert_eq!(check(receive(&source("asana", "s"), "POST", None, &headers, b"{}")), refused);
    }

    let notion = source("notion", "");
    let body = br#"{"verification_token":"new-secret"}"#;
    let signed = |value: &str| receive(&notion, "POST", None, &[("X-Notion-Signature", value)], body);
    assert_eq!(check(signed("")), Check::Header);
    assert_eq!(check(signed(&format!("sha256={}", "0".repeat(64)))), Check::Signature);
    for body in [
        r#"{"verification_token":""}"#,
        r#"{"verification_token":"a\u0000"}"#,
        r#"{"verification_token":"a","verification_token":"b"}"#,
        r#"{"verification_token":["a"]}"#,
        r#"{"verification_token":"a","type":"page.created"}"#,
        "verification_token=a",
        &format!(r#"{{"verification_token":"a","x":"{}"}}"#, "x".repeat(64 << 10)),
    ] {
        let received = receive(&notion, "POST", None, &[], body.as_bytes());
        assert!(received.is_err(), "{body:.80}: {received:?}");
    }
}

#[test]
fn a_challenge_without_its_value_is_refused() {
    let watson_work = source("watsonwork", "secret");
    let body = br#"{"type":"verification"}"#;
    let signature = wwproxy_protocol::sign_watson_work(&Secret::new("secret"), body);
    let received = receive(&watson_work, "POST", None, &[("X-OUTBOUND-TOKEN", &signature)], body);
    assert_eq!(check(received), Check::Form);
    let body = b"not JSON";
    let signature = wwproxy_protocol::sign_watson_work(&Secret::new("secret"), body);
    let received = receive(&watson_work, "POST", None, &[("X-OUTBOUND-TOKEN", &signature)], body);
    assert_eq!(check(received), Check::Form);
}
