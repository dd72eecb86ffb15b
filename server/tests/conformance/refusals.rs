//! The refused webhooks of an app.

use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};

use crate::common::{App, Home, Server, empty, problem, sign};

async fn app(server: &Server, id: &str) -> App {
    let app = server.new_app(id).await;
    app.new_source("repo", json!({"scheme": "github", "secrets": ["s"]})).await;
    app
}

#[tokio::test]
async fn a_refused_webhook_is_listed_with_its_check_and_without_its_values() {
    let server = Server::start(&[]);
    let app = app(&server, "bot").await;
    let post = app.github("repo/hush?hush", "wrong", r#"{"hush":1}"#).header("X-Hush-Name", "hush-value");
    let detail = problem(post.send().await.unwrap(), 401).await;
    let refusals = app.refusals().await;
    let refusal = &refusals[0];
    let members: Vec<_> = refusal.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(members, ["at", "bytes", "check", "count", "detail", "headers", "sha256", "source", "status"]);
    assert!(humantime::parse_rfc3339(refusal["at"].as_str().unwrap()).is_ok());
    let expected = json!({"at": refusal["at"], "bytes": 10, "check": "signature", "count": 1,
        "detail": refusal["detail"], "headers": refusal["headers"], "source": "repo", "status": 401,
        "sha256": "53bc646ac31e1a39e65b141a3cf03ea668f4f1277e98c06f932598d6057cbf22"});
    assert_eq!(*refusal, expected);
    assert!(detail.contains(refusal["detail"].as_str().unwrap()), "{detail}");
    let headers: Vec<_> = refusal["headers"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(headers.contains(&"x-hub-signature-256") && headers.contains(&"x-hush-name"), "{headers:?}");
    let text = refusal.to_string();
    for value in ["hush-value", "hush\\\"", "/hush", &sign("wrong", r#"{"hush":1}"#)] {
        assert!(!text.contains(value), "{value} in {text}");
    }
}

/// The token of these senders is the secret itself: a wrong one may be a right one of another source.
#[tokio::test]
async fn a_refused_token_is_not_shown() {
    let server = Server::start(&["--log-level", "trace"]);
    let app = server.new_app("bot").await;
    let own = json!({"algorithm": "token", "signature": "header:X-Own", "prefix": "Bearer "});
    app.new_source("own", json!({"scheme": "template", "secrets": ["s"], "template": own})).await;
    app.new_source("lab", json!({"scheme": "gitlab-token", "secrets": ["s"]})).await;
    app.new_source("graph", json!({"scheme": "msgraph", "secrets": ["a-client-state"]})).await;
    let graph = r#"{"value":[{"clientState":"hush-3"}]}"#;
    let post = |source| app.source_hook(Method::POST, source).body("{}");
    for request in [
        post("own").header("X-Own", "Bearer hush-1"),
        post("own").header("X-Own", "hush-1"),
        post("lab").header("X-Gitlab-Token", "hush-2"),
        app.source_hook(Method::POST, "graph").body(graph),
    ] {
        let detail = problem(request.send().await.unwrap(), 401).await;
        assert!(!detail.contains("hush"), "{detail}");
    }
    let refusals = json!(app.refusals().await).to_string();
    assert!(refusals.contains("x-own") && !refusals.contains("hush"), "{refusals}");
    assert!(!server.log().contains("hush"), "{}", server.log());
}

#[tokio::test]
async fn each_reason_is_listed_newest_first() {
    let server = Server::start(&["--max-body", "1KiB", "--max-queued-events", "1"]);
    let app = app(&server, "bot").await;
    app.new_source("pay", json!({"scheme": "stripe", "secrets": ["s"]})).await;
    app.new_source("work", json!({"secret": "s"})).await;
    app.new_source("notes", json!({"scheme": "notion"})).await;
    app.new_source("pages", json!({"scheme": "meta", "secrets": ["s"], "challengeSecret": "c"})).await;
    let old = format!("t=1700000000,v1={}", sign("s", "1700000000.{}"));
    let meta = "pages?hub.mode=subscribe&hub.challenge=1&hub.verify_token=wrong";
    empty(app.github("repo", "s", "{}").send().await.unwrap(), 201).await;
    for (check, status, request) in [
        ("header", 401, app.source_hook(Method::POST, "repo").body("{}")),
        (
            "encoding",
            401,
            app.source_hook(Method::POST, "repo").header("X-Hub-Signature-256", "md5=").body("{}"),
        ),
        ("signature", 401, app.github("repo", "wrong", "{}")),
        ("timestamp", 401, app.source_hook(Method::POST, "pay").header("Stripe-Signature", old).body("{}")),
        (
            "form",
            400,
            app.source_hook(Method::POST, "work").header("X-Outbound-Token", sign("s", "x")).body("x"),
        ),
        ("challenge", 403, app.source_hook(Method::GET, meta)),
        (
            "handshake",
            401,
            app.source_hook(Method::POST, "notes").body(r#"{"verification_token":"secret_x"}"#),
        ),
        ("size", 413, app.github("repo", "s", "x".repeat(2000))),
        ("queue", 503, app.github("repo", "s", "[1]")),
    ] {
        problem(request.send().await.unwrap(), status).await;
        let newest = app.refusals().await.remove(0);
        assert_eq!(
            (newest["check"].as_str(), newest["status"].as_u64()),
            (Some(check), Some(status.into())),
            "{newest}"
        );
        assert_eq!(newest.get("sha256").is_none(), check == "size", "{newest}");
    }
    assert_eq!(app.refusals().await.len(), 9);
}

#[tokio::test]
async fn a_webhook_that_is_refused_again_is_counted() {
    let server = Server::start(&[]);
    let app = app(&server, "bot").await;
    app.new_source("pay", json!({"scheme": "stripe", "secrets": ["s"]})).await;
    for _ in 0..3 {
        problem(app.github("repo", "wrong", "[1]").send().await.unwrap(), 401).await;
        problem(app.github("repo", "wrong", "[2]").send().await.unwrap(), 401).await;
        // Its age differs.
        let old = format!("t=1700000000,v1={}", sign("s", "1700000000.{}"));
        let post = app.source_hook(Method::POST, "pay").header("Stripe-Signature", old).body("{}");
        problem(post.send().await.unwrap(), 401).await;
    }
    let counts: Vec<_> = app
        .refusals()
        .await
        .iter()
        .map(|refusal| (refusal["source"].clone(), refusal["count"].clone()))
        .collect();
    assert_eq!(counts, [(json!("pay"), json!(3)), (json!("repo"), json!(3)), (json!("repo"), json!(3))]);
}

#[tokio::test]
async fn at_most_100_refusals_of_an_app_are_kept_and_no_other_app_sees_them() {
    let server = Server::start(&[]);
    let (one, other) = (app(&server, "bot").await, app(&server, "other").await);
    problem(other.github("repo", "wrong", "[0]").send().await.unwrap(), 401).await;
    for n in 0..120 {
        problem(one.github("repo", "wrong", format!("[{n}]")).send().await.unwrap(), 401).await;
    }
    let refusals = one.refusals().await;
    assert_eq!(refusals.len(), 100);
    assert_eq!(other.refusals().await.len(), 1);
    let many = (0..90).fold(one.github("repo", "wrong", "{}"), |post, n| post.header(format!("x-{n}"), "v"));
    problem(many.send().await.unwrap(), 401).await;
    assert_eq!(one.refusals().await[0]["headers"].as_array().unwrap().len(), 32);
}

/// Anyone who knows the app id can post to invented sources, and to sources whose name is known.
#[tokio::test]
async fn a_flood_of_refusals_keeps_those_of_other_sources() {
    let server = Server::start(&[]);
    let app = app(&server, "bot").await;
    app.new_source("pay", json!({"scheme": "stripe", "secrets": ["s"]})).await;
    for n in 0..3 {
        problem(app.github("repo", "wrong", format!("[{n}]")).send().await.unwrap(), 401).await;
    }
    for n in 0..110 {
        problem(app.github(&format!("invented-{n}"), "s", "{}").send().await.unwrap(), 404).await;
    }
    let count = |refusals: &[Value], name: &str| {
        refusals.iter().filter(|refusal| refusal["source"].as_str().unwrap().starts_with(name)).count()
    };
    let refusals = app.refusals().await;
    assert_eq!((count(&refusals, "repo"), count(&refusals, "invented")), (3, 10));
    assert_eq!(refusals[0]["source"], "invented-109");
    for n in 0..110 {
        let post = app.source_hook(Method::POST, "pay").body(format!("[{n}]"));
        problem(post.send().await.unwrap(), 401).await;
    }
    let refusals = app.refusals().await;
    assert_eq!((refusals.len(), count(&refusals, "repo"), count(&refusals, "invented")), (100, 3, 10));
}

#[tokio::test]
async fn the_body_of_a_large_webhook_has_no_hash() {
    let server = Server::start(&[]);
    let app = app(&server, "bot").await;
    for (bytes, has_hash) in [(64 << 10, true), ((64 << 10) + 1, false)] {
        problem(app.github("repo", "wrong", vec![b'x'; bytes]).send().await.unwrap(), 401).await;
        let newest = app.refusals().await.remove(0);
        assert_eq!((newest["bytes"].as_u64(), newest["sha256"].is_string()), (Some(bytes as u64), has_hash));
    }
}

#[tokio::test]
async fn a_webhook_for_an_invalid_source_name_is_listed_as_one_for_an_unknown_source() {
    let server = Server::start(&[]);
    let app = app(&server, "bot").await;
    // Its sanitized form is the name of a source, which must receive nothing.
    app.new_source("a-20b", json!({"scheme": "github", "secrets": ["s"]})).await;
    for (name, shown) in [("a%20b", "a-20b"), ("a%20b/tail", "a-20b"), (&"x".repeat(500), &"x".repeat(64))] {
        problem(app.github(name, "s", "{}").send().await.unwrap(), 404).await;
        let newest = app.refusals().await.remove(0);
        assert_eq!((&newest["source"], &newest["check"]), (&json!(shown), &json!("source")), "{newest}");
    }
    assert_eq!(app.source("a-20b").await["lastRefused"], Value::Null);
    assert_eq!(app.gauge("stored").await, 0);
}

/// The owner finds a wrong URL at the sender, and a source that is not served.
#[tokio::test]
async fn a_webhook_that_reaches_no_source_is_listed() {
    let home = Arc::new(Home::new());
    let server = Server::start_in(&home, &["--allow-unverified"]);
    let app = app(&server, "bot").await;
    app.new_source("any", json!({"scheme": "none"})).await;
    server.kill();
    let server = Server::start_in(&home, &[]);
    let app = server.known_app("bot", &app.app_secret, &app.token);
    problem(app.github("rep?hush", "s", "{}").header("X-Name", "hush").send().await.unwrap(), 404).await;
    assert_eq!(app.source("repo").await["lastRefused"], Value::Null);
    for request in [
        app.source_hook(Method::PUT, "repo").body("hush"),
        app.source_hook(Method::POST, "any").body("hush"),
        app.github("rep", "s", "{}").header("X-Name", "hush"),
    ] {
        request.send().await.unwrap();
    }
    let refusals = app.refusals().await;
    let shown: Vec<_> = refusals
        .iter()
        .map(|refusal| json!([refusal["source"], refusal["check"], refusal["status"], refusal["count"]]))
        .collect();
    let expected = [
        json!(["rep", "source", 404, 2]),
        json!(["any", "scheme", 503, 1]),
        json!(["repo", "method", 405, 1]),
    ];
    assert_eq!(shown, expected);
    assert!(refusals[2]["detail"].as_str().unwrap().contains("POST only"), "{refusals:?}");
    assert!(!json!(refusals).to_string().contains("hush"), "{refusals:?}");
    assert!(app.source("repo").await["lastRefused"].is_string());
    assert_eq!(app.request(Method::POST, "/refusals").send().await.unwrap().status(), 405);
}

#[tokio::test]
async fn a_webhook_of_an_app_that_is_not_registered_is_not_listed() {
    let server = Server::start(&[]);
    let app = server.new_app("bot").await;
    problem(app.github("repo", "s", "{}").send().await.unwrap(), 404).await;
    app.new_source("repo", json!({"scheme": "github", "secrets": ["s"]})).await;
    assert_eq!(app.refusals().await, [] as [Value; 0]);
}
