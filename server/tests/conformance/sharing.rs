//! "Several connections of one app share its events, each event to one of them."

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::json;

use crate::common::{App, Server, Socket, empty, eventually, number};

const NO_MESSAGES: [&str; 0] = [];

/// Reads and acknowledges events until the server has stored none.
async fn ack_all(app: App, mut socket: Socket, total: usize) -> Vec<String> {
    let mut bodies = Vec::new();
    loop {
        let messages = socket.ping().await;
        for message in &messages {
            let (id, body) = crate::common::parse_legacy_event(message);
            socket.ack(&id).await;
            bodies.push(body);
        }
        if messages.is_empty() && app.gauge("stored").await == 0 {
            return bodies;
        }
        assert!(bodies.len() <= total);
    }
}

#[tokio::test]
async fn each_event_goes_to_one_connection() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post_numbers(0..200).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(tokio::spawn(ack_all(app.clone(), app.listen("?window=2").await, 200)));
    }
    let mut all = BTreeMap::new();
    for client in clients {
        for body in client.await.unwrap() {
            *all.entry(body).or_insert(0) += 1;
        }
    }
    assert_eq!(all, (0..200).map(|n| (number(n), 1)).collect());
}

#[tokio::test]
async fn events_go_to_another_connection_while_a_prefetch_window_is_full() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let mut one = app.listen("?window=1").await;
    app.post("[1]").await;
    assert_eq!(one.event().await.1, "[1]");
    app.post("[2]").await;
    let mut two = app.listen("?window=1").await;
    assert_eq!(two.event().await.1, "[2]");
    assert_eq!(one.ping().await, NO_MESSAGES);
    app.post("[3]").await;
    let mut three = app.listen("").await;
    assert_eq!(three.event().await.1, "[3]");
    app.post("[4]").await;
    assert_eq!(three.event().await.1, "[4]");
}

#[tokio::test]
async fn a_closed_second_connection_does_not_stop_deliveries_to_the_first() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let (mut first, second) = (app.listen("").await, app.listen("").await);
    drop(second);
    eventually("the second websocket is closed", async || app.gauge("clients").await == 1).await;
    for n in 0..5 {
        app.post(number(n)).await;
        assert_eq!(first.event().await.1, number(n));
    }
}

#[tokio::test]
async fn events_of_a_lost_connection_go_to_another_at_once() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post_numbers(0..10).await;
    let mut lost = app.listen("").await;
    lost.bodies(10).await;
    let mut other = app.listen("").await;
    assert_eq!(other.ping().await, NO_MESSAGES);
    drop(lost);
    assert_eq!(other.bodies(10).await, (0..10).map(number).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_ack_with_an_id_of_another_connection_is_ignored() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post_numbers(0..2).await;
    let mut one = app.listen("?window=1").await;
    let (id, _) = one.event().await;
    let mut two = app.listen("?window=1").await;
    assert_eq!(two.event().await.1, number(1));
    two.ack(&id).await;
    assert_eq!(two.ping().await, NO_MESSAGES);
    assert_eq!(app.gauge("stored").await, 2);
    one.ack(&id).await;
    assert_eq!(one.ping().await, NO_MESSAGES);
    assert_eq!(app.gauge("stored").await, 1);
}

#[tokio::test]
async fn apps_do_not_see_each_others_events() {
    let server = Server::start(&[]);
    let (app, other) = (server.app("bot").await, server.app("bot2").await);
    let (mut mine, mut theirs) = (app.listen("").await, other.listen("").await);
    app.post("[1]").await;
    other.post("[2]").await;
    let (mine_id, body) = mine.event().await;
    assert_eq!(body, "[1]");
    assert_eq!(theirs.event().await.1, "[2]");
    theirs.ack(&mine_id).await;
    assert_eq!(theirs.ping().await, NO_MESSAGES);
    assert_eq!(app.gauge("stored").await, 1, "an ack counts for its own app only");
}

/// The client does not read its socket, whose buffers hold less than its prefetch window of events.
#[tokio::test]
async fn a_client_that_never_reads_does_not_block_others() {
    let server = Server::start(&["--lease", "500ms"]);
    let app = server.app("bot").await;
    let other = server.app("other").await;
    let stuck = app.listen("").await;
    let large = |n: usize| format!("[{n},\"{}\"]", "x".repeat(2 << 20));
    for n in 0..12 {
        app.post(large(n)).await;
    }
    let mut unrelated = other.listen("").await;
    other.post("[1]").await;
    assert_eq!(unrelated.event().await.1, "[1]");
    empty(server.get("/healthz").await, 200).await;
    empty(app.request(Method::HEAD, "").send().await.unwrap(), 200).await;

    let mut reader = app.listen("").await;
    let mut got = BTreeMap::new();
    while got.len() < 12 {
        let (id, body) = reader.event().await;
        reader.ack(&id).await;
        got.insert(id, body);
    }
    assert!(got.into_values().eq((0..12).map(large)), "all events, after the leases have expired");
    drop(stuck);
}

#[tokio::test]
async fn polls_leases_and_websockets_share_the_events() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post_numbers(0..4).await;
    let mut socket = app.listen("?window=1").await;
    let (id, body) = socket.event().await;
    assert_eq!(body, number(0));
    let leased = app.lease(json!({"max": 1})).await;
    assert_eq!(leased[0].body, number(1));
    assert_eq!(app.poll_bodies().await, [number(2), number(3)]);
    socket.ack(&id).await;
    assert_eq!(socket.ping().await, NO_MESSAGES);
    app.settle(json!({"release": [leased[0].receipt]})).await;
    assert_eq!(socket.event().await.1, number(1));
}
