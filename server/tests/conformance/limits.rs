//! A full queue, and events whose time is over.

use reqwest::Method;
use serde_json::json;

use crate::common::{App, Server, empty, eventually, handshake_headers, number, problem};

#[tokio::test]
async fn a_full_queue_is_503_with_retry_after_so_that_the_sender_keeps_it() {
    let server = Server::start(&["--max-queued-events", "3"]);
    let (app, other) = (server.app("bot").await, server.app("other").await);
    app.post_numbers(0..3).await;
    for _ in 0..2 {
        problem(app.hook(number(3)).send().await.unwrap(), 503).await;
    }
    other.post("{}").await;
    let leased = app.lease(json!({"max": 1})).await;
    problem(app.hook(number(3)).send().await.unwrap(), 503).await;
    app.settle(json!({"ack": [leased[0].receipt]})).await;
    app.post(number(3)).await;
    assert_eq!(app.poll_bodies().await, [number(1), number(2), number(3)]);
    assert_eq!(app.gauge("dropped").await, 0);
}

#[tokio::test]
async fn a_queue_full_of_bytes_is_503_too() {
    let server = Server::start(&["--max-queued-bytes", "64KiB"]);
    let app = server.app("bot").await;
    let large = format!("[\"{}\"]", "x".repeat(20 << 10));
    for _ in 0..3 {
        app.post(large.as_str()).await;
    }
    problem(app.hook(large.as_str()).send().await.unwrap(), 503).await;
    app.post("{}").await;
    problem(app.hook(format!("[\"{}\"]", "x".repeat(100 << 10))).send().await.unwrap(), 503).await;
    app.poll("").await;
    eventually("there is room", async || app.gauge("stored").await == 0).await;
    app.post(large.as_str()).await;
}

#[tokio::test]
async fn small_events_cannot_go_round_the_limit_of_bytes() {
    let server = Server::start(&["--max-queued-bytes", "4KiB"]);
    let app = server.app("bot").await;
    let mut stored = 0;
    while app.hook("{}").send().await.unwrap().status() == 201 {
        stored += 1;
        assert!(stored < 100, "headers count as well");
    }
    assert!(stored > 2, "{stored}");
}

#[tokio::test]
async fn a_repetition_of_a_stored_event_is_201_also_when_the_queue_is_full() {
    let server = Server::start(&["--max-queued-events", "1"]);
    let app = server.app("bot").await;
    for _ in 0..2 {
        empty(app.indexed(1, "{}").send().await.unwrap(), 201).await;
    }
    assert_eq!(app.poll_bodies().await, ["{}"]);
}

async fn bodies(app: &App) -> Vec<String> {
    app.poll_bodies().await
}

#[tokio::test]
async fn with_drop_oldest_the_oldest_makes_room_and_is_counted() {
    let server = Server::start(&["--max-queued-events", "3", "--overflow", "drop-oldest"]);
    let (app, other) = (server.app("bot").await, server.app("other").await);
    app.post_numbers(0..5).await;
    assert_eq!(app.gauge("dropped").await, 2);
    assert_eq!(app.gauge("stored").await, 3);
    assert_eq!(other.gauge("dropped").await, 0);
    assert_eq!(bodies(&app).await, [number(2), number(3), number(4)]);
}

#[tokio::test]
async fn drop_oldest_makes_room_for_bytes_as_well() {
    let server = Server::start(&["--max-queued-bytes", "64KiB", "--overflow", "drop-oldest"]);
    let app = server.app("bot").await;
    for _ in 0..20 {
        app.post("{}").await;
    }
    let large = format!("[\"{}\"]", "x".repeat(63 << 10));
    app.post(large.as_str()).await;
    assert!(app.gauge("dropped").await > 0);
    let too_large = format!("[\"{}\"]", "x".repeat(100 << 10));
    problem(app.hook(too_large).send().await.unwrap(), 503).await;
    assert!(bodies(&app).await.contains(&large), "an event that can never fit drops nothing");
}

#[tokio::test]
async fn a_leased_event_is_dropped_last() {
    let server = Server::start(&["--max-queued-events", "2", "--overflow", "drop-oldest"]);
    let app = server.app("bot").await;
    app.post_numbers(0..2).await;
    let leased = app.lease(json!({"max": 1})).await;
    app.post(number(2)).await;
    assert_eq!(bodies(&app).await, [number(2)]);
    let settled = app.settle(json!({"ack": [leased[0].receipt]})).await;
    assert_eq!(settled["acked"], 1);
    eventually("what was polled is deleted", async || app.gauge("stored").await == 0).await;
    app.post_numbers(3..5).await;
    let leased = app.lease(json!({})).await;
    app.post(number(5)).await;
    let receipts: Vec<_> = leased.iter().map(|event| &event.receipt).collect();
    let settled = app.settle(json!({"ack": receipts})).await;
    assert_eq!(
        settled,
        json!({"acked": 1, "rejected": 0, "released": 0, "extended": 0, "stale": [receipts[0]]})
    );
    assert_eq!(bodies(&app).await, [number(5)]);
}

#[tokio::test]
async fn a_websocket_survives_the_drop_of_an_event_that_it_has() {
    let server = Server::start(&["--max-queued-events", "1", "--overflow", "drop-oldest"]);
    let app = server.app("bot").await;
    let mut socket = app.listen("").await;
    for n in 0..5 {
        app.post(number(n)).await;
        assert_eq!(socket.event().await.1, number(n));
    }
    assert_eq!(socket.ping().await, [] as [&str; 0]);
    assert_eq!(app.gauge("dropped").await, 4);
}

#[tokio::test]
async fn events_whose_time_is_over_are_dropped_and_counted() {
    let server = Server::start(&["--retention", "300ms"]);
    let app = server.app("bot").await;
    app.post_numbers(0..2).await;
    eventually("they are too old", async || app.gauge("stored").await == 0).await;
    assert_eq!(app.gauge("dropped").await, 2);
    assert_eq!(app.poll_text("").await, "{}");
}

/// The answer to the upgrade to a websocket.
async fn upgrade(app: &App, query: &str) -> reqwest::Response {
    let mut request = app.request(Method::GET, query);
    for (name, value) in handshake_headers() {
        request = request.header(name, value);
    }
    request.send().await.unwrap()
}

#[tokio::test]
async fn websockets_and_waiting_leases_beyond_the_limit_of_an_app_are_429_with_retry_after() {
    let server = Server::start(&["--max-clients-per-app", "2"]);
    let (app, other) = (server.app("bot").await, server.app("other").await);
    let _socket = app.listen("").await;
    let waiting = {
        let app = app.clone();
        // It is refused while a websocket that looks for it has the place.
        tokio::spawn(async move {
            // The deadline of what waits for the lease ends this as well.
            while app.lease_response(json!({"max": 1, "wait_ms": 20_000})).await.status() == 429 {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        })
    };
    // The lease waits once a second websocket has no place any more.
    eventually("the lease waits", async || upgrade(&app, "").await.status() == 429).await;
    for response in [upgrade(&app, "").await, app.lease_response(json!({"wait_ms": 20_000})).await] {
        let after = response.headers()["retry-after"].to_str().unwrap().parse::<u32>();
        assert!(after.is_ok_and(|seconds| seconds > 0));
        problem(response, 429).await;
    }
    assert_eq!(app.gauge("clients").await, 1, "a lease is no websocket");
    // Taps, polls and leases that do not wait have no part in it, and neither has another app.
    let mut tap = app.listen("?tap=1").await;
    assert_eq!(app.poll_bodies().await, [] as [&str; 0]);
    assert_eq!(app.lease(json!({})).await.len(), 0);
    let (_one, _two) = (other.listen("").await, other.listen("").await);
    // A lease whose client has gone has no place any more.
    waiting.abort();
    eventually("there is a place", async || upgrade(&app, "").await.status() == 101).await;
    app.post(number(0)).await;
    assert_eq!(tap.event().await.1, number(0));
    eventually("the event is leased", async || app.gauge("leased").await == 1).await;
}
