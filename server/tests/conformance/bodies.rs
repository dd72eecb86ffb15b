//! "Byte for byte the body that the sender signed", by poll, lease and both kinds of websocket.

use serde_json::json;

use crate::common::{App, Server, eventually};

/// Posts one body and reads it back by poll, lease, legacy websocket and `wwproxy.v2`.
pub(crate) async fn assert_round_trip(app: &App, post: reqwest::RequestBuilder, body: &str) {
    let name: String = body.chars().take(60).collect();
    assert_eq!(post.send().await.unwrap().status(), 201, "{name}");

    let leased = app.lease(json!({"lease_ms": 60_000})).await;
    assert_eq!(leased.len(), 1, "{name}");
    let id = leased[0].id.to_string();
    assert!(leased[0].body == body, "lease: {name}");
    app.settle(json!({"release": [leased[0].receipt]})).await;

    let mut legacy = app.listen("").await;
    let event = legacy.event().await;
    assert!(event == (id.clone(), body.to_owned()), "websocket: {name}");
    drop(legacy);

    let (mut v2, _) = app.listen_v2("").await;
    let message = v2.next().await;
    assert!(message.ends_with(&format!(",\"data\":{body}}}")), "wwproxy.v2: {name}");
    drop(v2);

    eventually("the lease is released", async || app.gauge("leased").await == 0).await;
    assert!(app.poll_text("").await == format!("{{\"{id}\":{body}}}"), "poll: {name}");
}

#[tokio::test]
async fn numbers_key_order_and_white_space_are_preserved() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    for body in [
        "{}",
        "[]",
        " {\"b\" : 1.50 ,\t\"a\":1E3}\r\n",
        "\n\n[\n1 ,\n2\n]\n\n",
        "[1e400,-1e400,1e-400,123456789012345678901234567890,-0,-0.0,0.10000000000000000000001]",
        "{\"a\":1,\"a\":2,\"\":3,\"\":4,\"id\":\"x\",\"data\":{},\"type\":\"event\"}",
        "{\"x\":\"\\u00e9\\/\\\"\\u0000\u{7f}\u{2028}é🎉\"}",
        "{\"\\ud800\":\"\\udfff\\ud83d\"}",
        "{\"__proto__\":{\"a\":1},\"receipt\":\"r\",\"}\":\"{\"}",
    ] {
        assert_round_trip(&app, app.hook(body), body).await;
    }
}

#[tokio::test]
async fn a_body_may_be_nested_to_any_depth() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("[{\"type\":", "}]")] {
        let body = format!("{}[]{}", open.repeat(100_000), close.repeat(100_000));
        assert_eq!(app.hook(body.as_str()).send().await.unwrap().status(), 201);
        let mut socket = app.listen("").await;
        let (id, got) = socket.event().await;
        assert!(got == body, "websocket");
        socket.ack(&id).await;
        drop(socket);
        eventually("the websocket is closed", async || app.gauge("clients").await == 0).await;
        assert_eq!(app.gauge("stored").await, 0);
        app.post(body.as_str()).await;
        let polled = app.poll_text("").await;
        assert!(polled.split_once(':').is_some_and(|(_, rest)| rest == format!("{body}}}")), "poll");
    }
}

#[tokio::test]
async fn a_body_of_the_maximum_size_is_preserved() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let body = format!("[\"{}\"]", "é".repeat((4 << 20) - 2));
    assert_eq!(body.len(), 8 << 20);
    assert_round_trip(&app, app.hook(body.as_str()), &body).await;
}
