//! The section "Shapes": the members of every message, and the defaults and limits of counts.

use serde_json::{Value, json};

use crate::{
    common::{App, Server, sign},
    poll::post_many,
};

/// An app with one stored event that has a query, and headers of every kind.
async fn app_with_event(server: &Server) -> App {
    let app = server.app("my-bot").await;
    let request = format!(
        "POST {}?a=b&c=%20 HTTP/1.1\r\nHost: proxy.example\r\nX-Outbound-Index: 7\r\nX-Latin: caf",
        app.hook_path()
    );
    let signature = sign(&app.secret, "{\"n\":1}");
    let rest = format!("\r\nX-OUTBOUND-TOKEN: {signature}\r\nContent-Length: 7\r\n\r\n{{\"n\":1}}");
    let bytes = [request.as_bytes(), b"\xe9", rest.as_bytes()].concat();
    let mut connection = app.raw().await;
    connection.send(bytes).await;
    assert_eq!(connection.response().await.status, 201);
    app
}

fn members(object: &Value) -> Vec<&str> {
    object.as_object().unwrap().keys().map(String::as_str).collect()
}

fn check_details(event: &Value) {
    assert_eq!(event["query"], "a=b&c=%20");
    let headers = event["headers"].as_array().unwrap();
    for pair in
        [json!(["host", "proxy.example"]), json!(["x-outbound-index", "7"]), json!(["x-latin", "café"])]
    {
        assert!(headers.contains(&pair), "{pair} in {event}");
    }
    let received = event["receivedAt"].as_str().unwrap();
    assert!(received.ends_with('Z') && humantime::parse_rfc3339(received).is_ok(), "{received}");
}

#[tokio::test]
async fn the_members_of_a_leased_event() {
    let server = Server::start(&[]);
    let app = app_with_event(&server).await;
    let answer: Value = app.lease_response(json!({})).await.json().await.unwrap();
    assert_eq!(members(&answer), ["events"]);
    let event = &answer["events"][0];
    let names = [
        "attempt",
        "data",
        "deliveryId",
        "encoding",
        "headers",
        "id",
        "query",
        "receipt",
        "receivedAt",
        "source",
        "verification",
    ];
    assert_eq!(members(event), names);
    check_details(event);
}

#[tokio::test]
async fn the_members_of_a_v2_hello_and_event() {
    let server = Server::start(&[]);
    let app = app_with_event(&server).await;
    let (mut socket, hello) = app.listen_v2("").await;
    assert_eq!(members(&hello), ["appId", "idleMs", "leaseMs", "pingMs", "type", "window"]);
    assert_eq!((&hello["window"], &hello["leaseMs"]), (&json!(64), &json!(60_000)));
    let event: Value = serde_json::from_str(&socket.next().await).unwrap();
    let names = [
        "attempt",
        "data",
        "deliveryId",
        "encoding",
        "headers",
        "id",
        "query",
        "receivedAt",
        "source",
        "type",
        "verification",
    ];
    assert_eq!(members(&event), names);
    check_details(&event);
}

#[tokio::test]
async fn an_event_without_a_query_string_has_no_query_member() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post("{}").await;
    let answer: Value = app.lease_response(json!({})).await.json().await.unwrap();
    assert!(!members(&answer["events"][0]).contains(&"query"), "{answer}");
}

#[tokio::test]
async fn the_members_of_a_status() {
    let server = Server::start(&[]);
    let app = app_with_event(&server).await;
    let status = app.status().await;
    let names = [
        "clients",
        "consumers",
        "dropped",
        "leased",
        "oldestAgeMs",
        "registration",
        "sources",
        "stored",
        "storedBytes",
    ];
    assert_eq!(members(&status), names);
    assert!(status["storedBytes"].as_u64().unwrap() > 7, "{status}");
    app.unregister().await;
    assert_eq!(app.gauge("storedBytes").await, 0);
}

#[tokio::test]
async fn a_lease_returns_64_events_by_default_and_1000_at_most() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    post_many(&app, 1100).await;
    assert_eq!(app.lease(json!({})).await.len(), 64);
    assert_eq!(app.lease(json!({"max": 5000})).await.len(), 1000);
}

#[tokio::test]
async fn a_poll_returns_1000_events_by_default_and_10_000_at_most() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    post_many(&app, 11_100).await;
    assert_eq!(app.poll("").await.len(), 1000);
    assert_eq!(app.poll("?max=50000").await.len(), 10_000);
}

#[tokio::test]
async fn a_prefetch_window_is_1024_events_at_most() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    post_many(&app, 1100).await;
    let (mut socket, hello) = app.listen_v2("?window=5000").await;
    assert_eq!(hello["window"], 1024);
    for _ in 0..1024 {
        socket.next().await;
    }
    assert_eq!(socket.ping().await, [] as [&str; 0]);
    assert_eq!(app.gauge("leased").await, 1024);
}

#[tokio::test]
async fn a_client_message_is_256_kib_at_most() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let mut socket = app.listen("").await;
    let fitting = format!("\"{}\"", "x".repeat((256 << 10) - 2));
    socket.send(fitting.as_str()).await;
    assert_eq!(socket.ping().await, [] as [&str; 0]);
    socket.send(format!("{fitting} ")).await;
    assert_eq!(socket.close_code().await, 1009);
}

#[tokio::test]
async fn the_members_of_an_error() {
    let server = Server::start(&[]);
    let error: Value = server.get("/webhooks/bot").await.json().await.unwrap();
    assert_eq!(members(&error), ["detail", "status", "title", "type"]);
    let facts = [&error["type"], &error["title"], &error["status"]];
    assert_eq!(facts, [&json!("about:blank"), &json!("Unauthorized"), &json!(401)]);
    for (form, status, code) in
        [("grant_type=client_credentials", 401, "invalid_client"), ("", 400, "unsupported_grant_type")]
    {
        let refused = server.http.post(server.url("/oauth/token")).body(form).send().await.unwrap();
        let error: Value = refused.json().await.unwrap();
        assert_eq!((&error["status"], &error["error"]), (&json!(status), &json!(code)));
        assert_eq!(error["error_description"], error["detail"]);
    }
}
