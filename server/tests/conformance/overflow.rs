//! What happens when the consumer `default` is full or switched off, and to consumers that no client uses.

use reqwest::Method;
use serde_json::{Value, json};

use crate::common::{App, Server, empty, eventually, handshake_headers, number, problem};

/// Every way to read `default`.
fn reads(app: &App) -> Vec<reqwest::RequestBuilder> {
    let mut reads = Vec::new();
    for query in ["", "?consumer=default"] {
        reads.push(app.request(Method::GET, query));
        reads.push(
            handshake_headers()
                .into_iter()
                .fold(app.request(Method::GET, query), |request, (name, value)| request.header(name, value)),
        );
    }
    for body in [json!({}), json!({"waitMs": 15_000}), json!({"consumer": "default"})] {
        reads.push(app.request(Method::POST, "/lease").json(&body));
    }
    reads
}

#[tokio::test]
async fn a_default_that_is_switched_off_holds_nothing_and_reads_of_it_name_the_others() {
    let server = Server::start(&["--max-queued-events", "2"]);
    let app = server.app("bot").await;
    app.post("[0]").await;
    let mut socket = app.listen("").await;
    assert_eq!(socket.event().await.1, "[0]");
    let waiting = tokio::spawn({
        let app = app.clone();
        async move { app.lease_response(json!({"waitMs": 15_000})).await }
    });
    app.lease(json!({"waitMs": 100})).await;
    empty(app.put_consumer("default", json!({"overflow": "off"})).await, 200).await;
    let detail = problem(waiting.await.unwrap(), 409).await;
    assert!(detail.contains("none"), "there is no other one: {detail}");
    assert_eq!(socket.close_code().await, 1008);
    app.new_consumer("audit", json!({})).await;
    app.new_consumer("backup", json!({})).await;
    app.post_numbers(0..5).await;
    for read in reads(&app) {
        let detail = problem(read.send().await.unwrap(), 409).await;
        assert!(detail.contains("audit, backup"), "{detail}");
    }
    assert_eq!(app.consumer("default").await["pending"], 0);
    assert_eq!(app.gauge("stored").await, 0);
    for name in ["audit", "backup"] {
        assert_eq!(app.drain(name).await, (0..5).map(number).collect::<Vec<_>>());
    }
    let (mut socket, _) = app.listen_v2("?since=all").await;
    let first: Value = serde_json::from_str(&socket.next().await).unwrap();
    assert_eq!(first["data"], json!([0]), "history can be read");
    empty(app.put_consumer("default", json!({})).await, 200).await;
    app.post("[6]").await;
    assert_eq!(app.poll_bodies().await, ["[6]"], "it holds what is stored from now on");
}

#[tokio::test]
async fn the_setting_of_default_takes_precedence_over_the_server() {
    let server = Server::start(&["--max-queued-events", "2", "--overflow", "off"]);
    let (app, other) = (server.app("bot").await, server.app("other").await);
    for read in reads(&app) {
        problem(read.send().await.unwrap(), 409).await;
    }
    empty(app.put_consumer("default", json!({"overflow": "reject"})).await, 200).await;
    app.post_numbers(0..2).await;
    problem(app.hook("[2]").send().await.unwrap(), 503).await;
    empty(app.put_consumer("default", json!({"overflow": "drop-oldest"})).await, 200).await;
    app.post("[2]").await;
    assert_eq!(app.gauge("dropped").await, 1);
    assert_eq!(app.poll_bodies().await, [number(1), "[2]".into()]);
    other.post_numbers(0..4).await;
    assert_eq!(other.consumer("default").await["pending"], 0);
}

#[tokio::test]
async fn a_consumer_that_no_client_uses_is_removed_and_logged() {
    let server = Server::start(&["--consumer-idle-expiry", "2s", "--lease", "60s"]);
    let app = server.app("bot").await;
    for name in ["idle", "leased", "listened", "kept"] {
        let settings = if name == "kept" { json!({"idleExpiryMs": 60_000}) } else { json!({}) };
        app.new_consumer(name, settings).await;
    }
    app.post_numbers(0..2).await;
    let leased = app.lease(json!({"consumer": "leased", "max": 1})).await.remove(0);
    // The window is full: no lease waits for this websocket.
    let mut socket = app.listen("?consumer=listened&window=1").await;
    assert_eq!(socket.bodies(1).await, [number(0)]);
    let gone = async |name: &str| {
        let response = app.request(Method::GET, &format!("/consumers/{name}")).send().await.unwrap();
        response.status() == 404
    };
    eventually("the consumer is removed", async || gone("idle").await).await;
    let line = "removed a consumer that no client used";
    assert_eq!(server.log().matches(line).count(), 1, "{}", server.log());
    for name in ["leased", "listened", "kept", "default"] {
        assert!(!gone(name).await, "{name}");
    }
    let settled = app.settle(json!({"consumer": "leased", "ack": [leased.receipt]})).await;
    assert_eq!(settled["acked"], 1);
    eventually("the consumer is removed", async || gone("leased").await).await;
    assert!(!gone("listened").await);
    assert_eq!(socket.ping().await, [] as [&str; 0]);
}
