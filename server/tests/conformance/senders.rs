//! Webhooks of other senders: status, type, delivery id, deduplication, path and method.

use std::time::{SystemTime, UNIX_EPOCH};

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use wwproxy_protocol::{
    Secret,
    scheme::{Scheme, Unsigned},
};

use crate::common::{App, Server, empty, problem, raw, sign};

/// Unix seconds, this long ago.
pub(crate) fn seconds(age: u64) -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() - age
}

pub(crate) fn stripe(app: &App, secret: &str, time: u64, body: &str) -> RequestBuilder {
    let signature = format!("t={time},v1={}", sign(secret, format!("{time}.{body}")));
    app.source_hook(Method::POST, "stripe").header("Stripe-Signature", signature).body(body.to_owned())
}

pub(crate) fn slack(app: &App, secret: &str, time: u64, body: &str) -> RequestBuilder {
    let signature = format!("v0={}", sign(secret, format!("v0:{time}:{body}")));
    let post = app.source_hook(Method::POST, "slack").header("X-Slack-Request-Timestamp", time);
    post.header("X-Slack-Signature", signature).body(body.to_owned())
}

/// A webhook to the source with the scheme's name, which the protocol crate signs as the sender does, now.
pub(crate) fn signed(
    app: &App,
    scheme: &str,
    secret: &str,
    url: Option<&str>,
    body: &[u8],
) -> RequestBuilder {
    signed_to(app, scheme, scheme, secret, url, body)
}

/// As [`signed`], to a path after the app's hook: a source's name, tail and query.
pub(crate) fn signed_to(
    app: &App,
    path: &str,
    scheme: &str,
    secret: &str,
    url: Option<&str>,
    body: &[u8],
) -> RequestBuilder {
    let is_form = ["gitea-form", "twilio"].contains(&scheme);
    let kind = if is_form { "application/x-www-form-urlencoded" } else { "application/json" };
    let headers = [("Content-Type", kind)];
    let unsigned = Unsigned {
        method: "POST",
        url,
        headers: &headers,
        body,
        delivery_id: "d-1",
        event_type: Some("a.b"),
        time: SystemTime::now(),
    };
    let signed = Scheme::preset(scheme).unwrap().sign(&Secret::new(secret), &unsigned);
    let signed = signed.unwrap_or_else(|error| panic!("{scheme}: {error}"));
    let mut post = app.source_hook(Method::POST, path);
    for (name, value) in &signed.headers {
        post = post.header(name, value);
    }
    if signed.headers.iter().all(|(name, _)| !name.eq_ignore_ascii_case("content-type")) {
        post = post.header("Content-Type", kind);
    }
    post.body(signed.body.unwrap_or_else(|| body.to_vec()))
}

/// Leases all events, and returns (`source`, `eventType`, `deliveryId`) of each.
pub(crate) async fn labels(app: &App) -> Vec<[Value; 3]> {
    let answer: Value = app.lease_response(json!({})).await.json().await.unwrap();
    let events = answer["events"].as_array().unwrap();
    events
        .iter()
        .map(|event| ["source", "eventType", "deliveryId"].map(|member| event[member].clone()))
        .collect()
}

#[tokio::test]
async fn type_and_delivery_id_are_the_senders() {
    let server = Server::start(&[]);
    let app = server.new_app("bot").await;
    for scheme in ["github", "stripe", "slack", "gitlab-token"] {
        app.new_source(scheme, json!({"scheme": scheme, "secrets": ["s"]})).await;
    }
    let github = |body: &'static str| {
        app.github("github", "s", body).header("X-GitHub-Event", "issues").header("X-GitHub-Delivery", "72d3")
    };
    empty(github(r#"{"action":"opened"}"#).send().await.unwrap(), 201).await;
    empty(github("{}").send().await.unwrap(), 201).await;
    empty(app.github("github", "s", "{}").send().await.unwrap(), 201).await;
    let body = r#"{"id":"evt_1","type":"invoice.paid"}"#;
    empty(stripe(&app, "s", seconds(0), body).send().await.unwrap(), 201).await;
    let body = r#"{"event_id":"Ev1","type":"event_callback","event":{"type":"message"}}"#;
    empty(slack(&app, "s", seconds(0), body).send().await.unwrap(), 201).await;
    let long = "x".repeat(257);
    let gitlab = app.source_hook(Method::POST, "gitlab-token").header("X-Gitlab-Token", "s");
    let gitlab = gitlab.header("X-Gitlab-Event", "Push Hook").header("Idempotency-Key", long);
    empty(gitlab.body("{}").send().await.unwrap(), 201).await;
    let expected = json!([
        ["github", "issues.opened", "72d3"],
        ["github", "issues", "72d3"],
        ["github", null, null],
        ["stripe", "invoice.paid", "evt_1"],
        ["slack", "message", "Ev1"],
        ["gitlab-token", "Push Hook", null],
    ]);
    assert_eq!(json!(labels(&app).await), expected);
}

#[tokio::test]
async fn the_verification_says_which_secret_matched_and_what_it_covers() {
    let server = Server::start(&[]);
    let app = server.new_app("bot").await;
    app.new_source("repo", json!({"scheme": "github", "secrets": ["old", "new"]})).await;
    app.new_source("gitlab", json!({"scheme": "gitlab-token", "secrets": ["t"]})).await;
    empty(app.github("repo", "new", "{}").send().await.unwrap(), 201).await;
    let post = app.source_hook(Method::POST, "gitlab").header("X-Gitlab-Token", "t").body("{}");
    empty(post.send().await.unwrap(), 201).await;
    let answer: Value = app.lease_response(json!({})).await.json().await.unwrap();
    let verification = |n: usize| answer["events"][n]["verification"].clone();
    let signed = verification(0)["signed"].as_str().unwrap().to_owned();
    assert!(signed.contains("body"), "{signed}");
    assert_eq!(verification(0), json!({"scheme": "github", "secret": 2, "signed": signed, "covers": "body"}));
    assert_eq!(verification(1)["covers"], "nothing");
    let (mut socket, _) = app.listen_v2("?tap=1").await;
    empty(app.github("repo", "old", "[]").send().await.unwrap(), 201).await;
    let event: Value = serde_json::from_str(&socket.next().await).unwrap();
    assert_eq!((&event["source"], &event["verification"]["secret"]), (&json!("repo"), &json!(1)));
}

/// A secret that signs for this scheme, and the secret to register.
fn secrets(scheme: &str) -> (String, String) {
    // 32 bytes in hexadecimal and base64: a key of 256 bits, or the seed of an Ed25519 key.
    let (hex, base64) = ("9d61b19deffd5a60".repeat(4), "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
    let secret = match scheme {
        "discord" | "adyen-platform" | "adyen-payments" => hex,
        "standard-webhooks" | "svix" | "gitlab" => format!("whsec_{base64}"),
        "teams-outgoing" => base64.to_owned(),
        // A PKCS#8 key.
        "sendgrid" => P256_KEY.to_owned(),
        _ => "secret-k3n9v0-of-a-sender".to_owned(),
    };
    let is_public_key = ["discord", "sendgrid"].contains(&scheme);
    let public = || Scheme::preset(scheme).unwrap().public_key(&Secret::new(&*secret)).unwrap();
    (secret.clone(), if is_public_key { public() } else { secret })
}

/// Made with `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256` for this test only.
const P256_KEY: &str = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgXazMOntfKOA8C7Nh2YbAsi0YW54QUgau1KbxtkT9RxuhRANCAASQI2ZeSxcSxCmnQ/wgY2SoCP051NCzTu9XVO5SH4TCpk1JgUSxrCHRgjpLsvwwk7fh12dJPfDrPHXPy2rhYqmM";

/// The body of a webhook, with the members that the schemes look for.
fn body(scheme: &str) -> String {
    let now = seconds(0);
    match scheme {
        "gitea-form" | "twilio" => return "payload=%7B%22action%22%3A%22opened%22%7D".into(),
        "mailgun" => json!({"signature": {"timestamp": now.to_string(), "token": "t", "signature": ""},
            "event-data": {"id": "1", "event": "opened"}}),
        "adyen-payments" => json!({"notificationItems": [{"NotificationRequestItem": {
            "pspReference": "1", "merchantAccountCode": "m", "merchantReference": "r", "eventCode": "AUTHORISATION",
            "amount": {"value": 1, "currency": "EUR"}, "success": "true", "additionalData": {"hmacSignature": ""}}}]}),
        "linear" => json!({"webhookTimestamp": now * 1000, "action": "create"}),
        "msgraph" => json!({"value": [{"clientState": "", "id": "1"}]}),
        "hubspot-v3" | "sendgrid" => json!([{"eventId": 1, "subscriptionType": "contact.creation", "event": "open"}]),
        _ => json!({"id": "1", "type": "a.b", "n": 1.5}),
    }
    .to_string()
}

#[tokio::test]
async fn a_stored_event_of_each_scheme_is_answered_with_the_status_that_its_sender_expects() {
    let server = Server::start(&[]);
    let (first, second) = (server.new_app("first").await, server.new_app("second").await);
    let url = "https://proxy.example/hook";
    let mut statuses = std::collections::BTreeMap::<u16, Vec<&str>>::new();
    for (n, preset) in wwproxy_protocol::scheme::presets().enumerate() {
        let (scheme, name) = (&preset.scheme, preset.scheme.name());
        // An app has at most 32 sources.
        let app = if n < 25 { &first } else { &second };
        let (signing, registered) = secrets(name);
        let url = scheme.needs_url().then_some(url);
        let mut settings = json!({"scheme": name, "secrets": [registered]});
        if let Some(url) = url {
            settings["url"] = url.into();
        }
        app.new_source(name, settings).await;
        let body = body(name);
        let post = signed(app, name, &signing, url, body.as_bytes());
        let response = post.try_clone().unwrap().send().await.unwrap();
        let status = response.status().as_u16();
        assert_eq!((name, response.text().await.unwrap().as_str()), (name, ""));
        assert_eq!((name, status), (name, scheme.success()));
        statuses.entry(status).or_default().push(name);
        let events = app.lease(json!({})).await;
        assert_eq!((name, events.len()), (name, 1));
        assert_eq!(events[0].details.origin.source.as_str(), name);
        let unsigned = app.source_hook(Method::POST, name).body(body).send().await.unwrap();
        assert_eq!((name, unsigned.status().as_u16()), (name, 401));
    }
    assert!(statuses[&201].contains(&"github") && statuses[&201].contains(&"watsonwork"), "{statuses:?}");
    assert!(statuses[&200].contains(&"linear"), "{statuses:?}");
    assert!(statuses[&204].contains(&"discord"), "{statuses:?}");
    assert_eq!(statuses.len(), 3, "{statuses:?}");
}

/// The path after the source, and the query, are part of what some senders are given to call.
#[tokio::test]
async fn tail_and_query_are_kept_and_delivered_as_they_are() {
    let server = Server::start(&[]);
    let app = server.new_app("bot").await;
    app.new_source("repo", json!({"scheme": "github", "secrets": ["s"]})).await;
    app.new_source("default", json!({"scheme": "github", "secrets": ["s"]})).await;
    let paths = [
        ("/hook/bot/repo/a/b?x=1&x=2", json!("/a/b"), json!("x=1&x=2")),
        ("/hook/bot/repo/a%2Fb%20c/?%3Cscript%3E", json!("/a%2Fb%20c/"), json!("%3Cscript%3E")),
        ("/hook/bot/repo//a", json!("//a"), json!(null)),
        ("/hook/bot/repo/../x", json!("/../x"), json!(null)),
        ("/hook/bot/repo/?q", json!(null), json!("q")),
        ("/hook/bot/repo", json!(null), json!(null)),
        ("/hook/bot/default/t", json!("/t"), json!(null)),
        ("/hook/bot?q=1", json!(null), json!("q=1")),
    ];
    for (path, ..) in &paths {
        let signature = sign("s", "{}");
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nx-hub-signature-256: sha256={signature}\r\ncontent-length: 2\r\n\r\n{{}}"
        );
        assert_eq!(raw(&server.address, request).await.status, 201, "{path}");
    }
    let answer: Value = app.lease_response(json!({})).await.json().await.unwrap();
    let (mut socket, _) = app.listen_v2("?tap=1").await;
    for (n, (path, tail, query)) in paths.iter().enumerate() {
        let event = &answer["events"][n];
        assert_eq!((&event["tail"], &event["query"]), (tail, query), "{path}");
    }
    empty(app.github("repo/t?q", "s", "{}").send().await.unwrap(), 201).await;
    let event: Value = serde_json::from_str(&socket.next().await).unwrap();
    assert_eq!((&event["tail"], &event["query"]), (&json!("/t"), &json!("q")));
}

#[tokio::test]
async fn a_method_that_the_scheme_does_not_use_is_405_with_allow() {
    let server = Server::start(&["--max-body", "1KiB"]);
    let app = server.new_app("bot").await;
    for scheme in ["github", "meta", "trello"] {
        let mut settings = json!({"scheme": scheme, "secrets": ["s"]});
        if scheme == "trello" {
            settings["url"] = "https://proxy.example/hook".into();
        }
        app.new_source(scheme, settings).await;
    }
    for (scheme, allowed) in [("github", "POST"), ("meta", "POST, GET"), ("trello", "POST, HEAD")] {
        for method in ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"] {
            if allowed.contains(method) {
                continue;
            }
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let response = app.source_hook(method.clone(), scheme).body("{}").send().await.unwrap();
            assert_eq!(
                (response.status().as_u16(), &response.headers()["allow"]),
                (405, &allowed.parse().unwrap())
            );
        }
    }
    // Before the size and the signature are checked, after the source.
    let huge = app.source_hook(Method::PUT, "github").body(vec![b' '; 1 << 20]);
    problem(huge.send().await.unwrap(), 405).await;
    problem(app.source_hook(Method::PUT, "none").send().await.unwrap(), 404).await;
}
