//! Polling: `GET /webhooks/{appId}`.

use std::time::Duration;

use reqwest::Method;
use tokio::{io::AsyncReadExt, time::sleep};

use crate::common::{App, Raw, Server, empty, eventually, number, problem, sign};

#[tokio::test]
async fn polling_an_empty_queue_returns_an_empty_object() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    assert_eq!(app.poll_text("").await, "{}");
    let unregistered = server.new_app("other").await;
    assert_eq!(unregistered.poll_text("").await, "{}");
}

#[tokio::test]
async fn a_poll_returns_events_in_order_of_arrival_and_deletes_them() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post_numbers(0..20).await;
    assert_eq!(app.poll_bodies().await, (0..20).map(number).collect::<Vec<_>>());
    assert_eq!(app.poll_text("").await, "{}");
    eventually("the events are deleted", async || app.gauge("stored").await == 0).await;
}

#[tokio::test]
async fn a_poll_returns_one_object_of_ids_and_bodies() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post(" {\"a\" : 1}\n").await;
    app.post("[]").await;
    let ids: Vec<_> =
        app.lease(serde_json::json!({"lease_ms": 1})).await.into_iter().map(|e| e.event.id).collect();
    eventually("the lease ends", async || app.gauge("leased").await == 0).await;
    let expected = format!("{{\"{}\": {{\"a\" : 1}}\n,\"{}\":[]}}", ids[0], ids[1]);
    assert_eq!(app.poll_text("").await, expected);
}

#[tokio::test]
async fn event_ids_are_unique_and_ordered_by_arrival() {
    let server = Server::start(&[]);
    let (app, other) = (server.app("bot").await, server.app("other").await);
    let mut ids = Vec::new();
    for round in 0..3 {
        app.post_numbers(round * 100..round * 100 + 100).await;
        other.post("{}").await;
        ids.extend(app.poll("").await.into_iter().map(|(id, _)| id));
    }
    assert_eq!(ids.len(), 300);
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "{ids:?}");
    assert!(other.poll("").await.iter().all(|(id, _)| !ids.contains(id)));
}

#[tokio::test]
async fn head_deletes_no_event() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post("{}").await;
    for _ in 0..3 {
        empty(app.request(Method::HEAD, "").send().await.unwrap(), 200).await;
    }
    assert_eq!(app.anonymous(Method::HEAD, "").send().await.unwrap().status(), 401);
    assert_eq!(app.poll_bodies().await, ["{}"]);
}

#[tokio::test]
async fn poll_responses_forbid_caching_and_proxy_buffering() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    for method in [Method::GET, Method::HEAD] {
        let answer = app.request(method, "").send().await.unwrap();
        assert_eq!(answer.headers()["cache-control"], "no-store");
        assert_eq!(answer.headers()["x-accel-buffering"], "no");
    }
}

#[tokio::test]
async fn max_limits_the_events_of_a_poll() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post_numbers(0..5).await;
    let taken = |events: Vec<(String, String)>| events.into_iter().map(|(_, body)| body).collect::<Vec<_>>();
    assert_eq!(taken(app.poll("?max=2").await), [number(0), number(1)]);
    assert_eq!(taken(app.poll("?other=7&max=1&x").await), [number(2)]);
    for bad in ["0", "-1", "+1", "01", "x", "", "1.5", "%2B1", "99999999999999999999", "1&max=1", "1&max"] {
        problem(app.request(Method::GET, &format!("?max={bad}")).send().await.unwrap(), 400).await;
    }
    assert_eq!(taken(app.poll("?max=4294967295").await), [number(3), number(4)]);
}

#[tokio::test]
async fn query_parameters_are_percent_decoded() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post_numbers(0..12).await;
    assert_eq!(app.poll("?max=1%30").await.len(), 10);
    assert_eq!(app.poll("?m%61x=%31").await.len(), 1);
    for bad in ["max=1%200", "max=%2D1", "max=1%", "m%61x=0", "%74ap=1"] {
        problem(app.request(Method::GET, &format!("?{bad}")).send().await.unwrap(), 400).await;
    }
    assert_eq!(app.poll("").await.len(), 1);
}

#[tokio::test]
async fn one_poll_returns_a_limited_number_of_bytes() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let large = format!("[\"{}\"]", "x".repeat((7 << 20) - 4));
    for _ in 0..4 {
        app.post(large.as_str()).await;
    }
    let mut pieces = Vec::new();
    while pieces.iter().sum::<usize>() < 4 {
        let events = app.poll("").await;
        assert!(events.iter().all(|(_, body)| *body == large));
        pieces.push(events.len());
    }
    assert!(pieces.len() > 1 && pieces.iter().all(|&count| count > 0), "{pieces:?}");
}

#[tokio::test]
async fn one_poll_returns_a_limited_number_of_events() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    post_many(&app, 2500).await;
    let mut bodies = app.poll_bodies().await;
    assert!(bodies.len() < 2500, "the default of max applies");
    while bodies.len() < 2500 {
        let piece = app.poll_bodies().await;
        assert!(!piece.is_empty());
        bodies.extend(piece);
    }
    assert_eq!(bodies, (0..2500).map(number).collect::<Vec<_>>());
}

/// Posts the bodies `number(0)` to `number(count - 1)`, pipelined on one connection.
pub(crate) async fn post_many(app: &App, count: usize) {
    post_all(app, &(0..count).map(number).collect::<Vec<_>>()).await;
}

/// Posts these bodies, pipelined on one connection.
async fn post_all(app: &App, bodies: &[String]) {
    let mut connection = app.raw().await;
    for bodies in bodies.chunks(100) {
        let requests: Vec<_> = bodies.iter().map(|body| signed_post(app, body)).collect();
        connection.send(requests.concat()).await;
        for _ in bodies {
            assert_eq!(connection.response().await.status, 201);
        }
    }
}

fn signed_post(app: &App, body: &str) -> String {
    let (path, signature, length) = (app.hook_path(), sign(&app.secret, body), body.len());
    let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\nx-outbound-token: {signature}\r\n");
    format!("{head}content-length: {length}\r\n\r\n{body}")
}

async fn begin_poll(app: &App, query: &str) -> Raw {
    let mut connection = app.raw().await;
    let (path, token) = (app.path(query), &app.token);
    connection.send(format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n")).await;
    connection
}

/// The response is larger than the socket buffers; the client reads a part and disconnects.
#[tokio::test]
async fn events_of_a_partly_read_poll_are_redelivered() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let large = |n: usize| format!("[{n},\"{}\"]", "x".repeat(1 << 20));
    for n in 0..14 {
        app.post(large(n)).await;
    }
    for _ in 0..3 {
        let mut connection = begin_poll(&app, "").await;
        let mut some = [0; 10_000];
        connection.0.read_exact(&mut some).await.unwrap();
        assert!(some.starts_with(b"HTTP/1.1 200 "));
        assert_eq!(app.gauge("stored").await, 14);
        drop(connection);
        eventually("the leases are released", async || app.gauge("leased").await == 0).await;
        assert_eq!(app.gauge("stored").await, 14);
    }
    let bodies = app.poll_bodies().await;
    assert!(bodies == (0..14).map(large).collect::<Vec<_>>(), "all events, in order");
}

/// Disconnects at different times, while the server reads the events and while it builds the response.
#[tokio::test]
async fn events_are_redelivered_if_the_client_disconnects_before_the_response() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    // Together larger than the socket buffers.
    let large = |n: usize| format!("[{n},\"{}\"]", "x".repeat(2 << 10));
    let events: Vec<_> = (0..6000).map(large).collect();
    post_all(&app, &events).await;
    for delay in (0..60).map(Duration::from_millis) {
        let connection = begin_poll(&app, "?max=6000").await;
        sleep(delay).await;
        drop(connection);
        eventually("the leases are released", async || app.gauge("leased").await == 0).await;
    }
    assert_eq!(app.gauge("stored").await, 6000);
    let bodies = app.poll("?max=6000").await.into_iter().map(|(_, body)| body);
    assert!(bodies.eq(events), "all events, in order");
}

/// Until the whole response is written its events stay leased and stored.
#[tokio::test]
async fn a_poll_leases_its_events_until_the_response_is_written() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let large = format!("[\"{}\"]", "x".repeat(7 << 20));
    app.post(large.as_str()).await;
    app.post(large.as_str()).await;
    let mut connection = begin_poll(&app, "").await;
    let mut some = [0; 1000];
    connection.0.read_exact(&mut some).await.unwrap();
    assert_eq!(app.gauge("leased").await, 2);
    assert_eq!(app.poll_text("").await, "{}");
    let mut rest = vec![0; 2 * large.len()];
    connection.0.read_exact(&mut rest[..2 * large.len() - 1000]).await.unwrap();
    eventually("the events are deleted", async || app.gauge("stored").await == 0).await;
}

#[tokio::test]
async fn pipelined_polls_return_each_event_once() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post_numbers(0..3).await;
    let (path, token) = (app.path("?max=1"), &app.token);
    let one = format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n");
    let mut connection = app.raw().await;
    connection.send(one.repeat(4)).await;
    for expected in [number(0), number(1), number(2)] {
        let answer = connection.response().await;
        assert!(answer.body.ends_with(&format!("\":{expected}}}")), "{answer:?}");
    }
    assert_eq!(connection.response().await.body, "{}");
    eventually("the events are deleted", async || app.gauge("stored").await == 0).await;
}
