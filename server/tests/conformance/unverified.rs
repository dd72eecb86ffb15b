//! The scheme `none`, which accepts every request, and the headers that keep browsers from running an answer.

use std::sync::Arc;

use reqwest::{Method, Response};
use serde_json::json;

use crate::common::{Home, Server, empty, eventually, problem};

/// Checks that a browser interprets no part of an answer.
pub(crate) fn assert_harmless(response: &Response) {
    let headers = response.headers();
    assert_eq!(headers["x-content-type-options"], "nosniff");
    assert_eq!(headers["content-security-policy"], "sandbox; default-src 'none'");
    if let Some(kind) = headers.get("content-type") {
        let kind = kind.to_str().unwrap().split(';').next().unwrap();
        let kinds = ["application/json", "text/plain", "text/xml", "application/problem+json"];
        assert!(kinds.contains(&kind), "{kind}");
    }
}

#[tokio::test]
async fn the_scheme_none_cannot_be_registered_unless_the_operator_allows_it() {
    let server = Server::start(&[]);
    let app = server.new_app("bot").await;
    let detail = problem(app.put_source("any", json!({"scheme": "none"})).await, 403).await;
    assert!(detail.contains("--allow-unverified"), "{detail}");
    problem(app.source_hook(Method::POST, "any").body("{}").send().await.unwrap(), 404).await;
}

#[tokio::test]
async fn the_scheme_none_stores_every_request_as_unverified() {
    let server = Server::start(&["--allow-unverified"]);
    eventually("it is logged", async || server.log().contains("--allow-unverified")).await;
    let app = server.new_app("bot").await;
    app.new_source("any", json!({"scheme": "none"})).await;
    let source = app.source("any").await;
    assert_eq!((&source["verified"], &source["covers"]), (&json!(false), &json!("nothing")));
    for _ in 0..2 {
        let post = app.source_hook(Method::POST, "any").header("Authorization", "Bearer hush").body("a=1");
        empty(post.send().await.unwrap(), 201).await;
    }
    problem(app.source_hook(Method::GET, "any").send().await.unwrap(), 405).await;
    let answer: serde_json::Value = app.lease_response(json!({})).await.json().await.unwrap();
    let events = answer["events"].as_array().unwrap();
    assert_eq!(events.len(), 2, "there is no delivery id");
    assert_eq!(events[0]["verification"], json!(null));
    assert!(!answer.to_string().contains("hush"), "{answer}");
}

#[tokio::test]
async fn the_hook_of_an_unverified_source_is_503_while_the_server_does_not_allow_it() {
    let home = Arc::new(Home::new());
    let server = Server::start_in(&home, &["--allow-unverified"]);
    let app = server.new_app("bot").await;
    app.new_source("any", json!({"scheme": "none"})).await;
    server.kill();
    let server = Server::start_in(&home, &[]);
    let app = server.known_app("bot", &app.app_secret, &app.token);
    let detail = problem(app.source_hook(Method::POST, "any").body("{}").send().await.unwrap(), 503).await;
    assert!(detail.contains("--allow-unverified"), "{detail}");
    eventually("it is logged", async || server.log().contains("rejected app=bot webhooks=1 source=any"))
        .await;
    assert_eq!(app.gauge("stored").await, 0);
    assert_eq!(app.source("any").await["verified"], false);
    empty(app.request(Method::DELETE, "/sources/any").send().await.unwrap(), 200).await;
}

/// A form on another site can post to any hook, and the browser then shows the answer.
#[tokio::test]
async fn a_browser_runs_no_answer_of_a_hook() {
    let server = Server::start(&["--allow-unverified", "--max-body", "1KiB"]);
    let app = server.app("bot").await;
    app.new_source("any", json!({"scheme": "none"})).await;
    app.new_source("files", json!({"scheme": "dropbox", "secrets": ["x"]})).await;
    let script = "%3Cscript%3Ealert(1)%3C%2Fscript%3E";
    let html = "<script>alert(1)</script>";
    let form = |path: &str| {
        let post = app.source_hook(Method::POST, path).header("Origin", "https://evil.example");
        post.header("Content-Type", "text/html")
    };
    for (status, request) in [
        (201, form("any").body(html)),
        (201, form(&format!("any/{script}?{script}")).body(html)),
        (413, form("any").body(html.repeat(100))),
        (401, form("default").body(html)),
        (404, form(&format!("none/{script}")).body(html)),
        (404, form(script).body(html)),
        (405, app.source_hook(Method::GET, &format!("any?{script}"))),
        (200, app.source_hook(Method::GET, &format!("files?challenge={script}"))),
        (404, app.http.get(server.url(&format!("/hook/{script}")))),
        (404, app.http.get(server.url("/hook"))),
    ] {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status);
        assert_harmless(&response);
        let is_challenge = status == 200;
        assert_eq!(response.text().await.unwrap().contains(html), is_challenge);
    }
}
