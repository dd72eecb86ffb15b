//! Slow peers. Most of the server's timeouts are 30 s, so most of these tests take that long.

use std::time::Duration;

use tokio::{
    io::AsyncReadExt,
    time::{Instant, sleep, timeout},
};

use crate::{
    common::{App, Raw, Server, eventually, sign},
    head, post_and_poll,
};

/// A connection that is closed earlier was closed too early.
const TOO_SOON: Duration = Duration::from_secs(25);
/// A test gives up after this time.
const TOO_LATE: Duration = Duration::from_secs(60);

/// Reads until the server closes the connection, which must be after `too_soon` and before [`TOO_LATE`].
async fn read_until_closed(connection: &mut Raw, began: Instant, too_soon: Duration) -> String {
    let mut answer = Vec::new();
    let read = timeout(TOO_LATE, connection.0.read_to_end(&mut answer))
        .await
        .expect("the connection was not closed in time");
    // A reset closes the connection as well.
    let _ = read;
    let took = began.elapsed();
    assert!(took > too_soon, "closed after {took:?}");
    String::from_utf8(answer).unwrap()
}

/// Writes one byte a second until the connection is closed.
async fn drip(connection: &mut Raw, byte: &str) {
    use tokio::io::AsyncWriteExt;
    while connection.0.write_all(byte.as_bytes()).await.is_ok() {
        sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test]
async fn an_incomplete_head_is_closed_after_10_s() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let (mut silent, mut slow) = (app.raw().await, app.raw().await);
    let began = Instant::now();
    silent.send("POST /hook/bot HTTP/1.1\r\nhost: x\r\nx-").await;
    slow.send("POST /hook/bot HTTP/1.1\r\nhost: x\r\nx-").await;
    post_and_poll(&app).await;
    let dripping = timeout(TOO_LATE, drip(&mut slow, "a"));
    // The timeout of a head is 10 s.
    let (answer, dripped) =
        tokio::join!(read_until_closed(&mut silent, began, Duration::from_secs(8)), dripping);
    dripped.expect("the connection was not closed in time");
    assert!(began.elapsed() < TOO_SOON, "{:?}", began.elapsed());
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_30_s() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let (mut fresh, mut kept) = (app.raw().await, app.raw().await);
    kept.send("GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(kept.response().await.status, 200);
    let began = Instant::now();
    let answers = tokio::join!(
        read_until_closed(&mut fresh, began, TOO_SOON),
        read_until_closed(&mut kept, began, TOO_SOON)
    );
    assert_eq!(answers, (String::new(), String::new()));
}

#[tokio::test]
async fn a_body_below_the_minimum_rate_is_408() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let mut slow = app.raw().await;
    let began = Instant::now();
    slow.send(format!("{}x-outbound-token: 00\r\n\r\n{{", head(&app, 1000))).await;
    post_and_poll(&app).await;
    let mut answer = vec![0; 12];
    for _ in 0..40 {
        // One byte a second until the response arrives.
        if let Ok(read) = timeout(Duration::from_secs(1), slow.0.read_exact(&mut answer)).await {
            read.unwrap();
            break;
        }
        slow.send(" ").await;
    }
    assert_eq!(String::from_utf8(answer).unwrap(), "HTTP/1.1 408");
    let took = began.elapsed();
    assert!(took > Duration::from_secs(4) && took < TOO_SOON, "after the grace period of 5 s: {took:?}");
    assert_eq!(app.gauge("stored").await, 0);
}

#[tokio::test]
async fn a_body_above_the_minimum_rate_may_take_longer_than_the_grace_period() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let body = format!("[\"{}\"]", "x".repeat(1 << 20));
    let mut steady = app.raw().await;
    let began = Instant::now();
    let signature = sign(&app.secret, &body);
    steady.send(format!("{}x-outbound-token: {signature}\r\n\r\n", head(&app, body.len()))).await;
    for piece in body.as_bytes().chunks(body.len() / 15) {
        steady.send(piece).await;
        sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(steady.response().await.status, 201);
    assert!(began.elapsed() > Duration::from_secs(6));
}

/// An app with more stored bytes than the socket buffers hold.
async fn app_with_backlog(server: &Server, id: &str) -> App {
    let app = server.app(id).await;
    for n in 0..12 {
        app.post(format!("[{n},\"{}\"]", "x".repeat(1 << 20))).await;
    }
    app
}

/// Waits until a gauge of the app is 0, which must be after [`TOO_SOON`] and before [`TOO_LATE`].
async fn wait_for_zero(app: &App, gauge: &str, began: Instant) {
    while app.gauge(gauge).await > 0 {
        assert!(began.elapsed() < TOO_LATE, "{gauge}: not 0 in time");
        sleep(Duration::from_millis(200)).await;
    }
    assert!(began.elapsed() > TOO_SOON, "{gauge}: {:?}", began.elapsed());
}

#[tokio::test]
async fn an_unread_response_is_aborted_and_its_events_are_redelivered() {
    let server = Server::start(&[]);
    let (app, other) = (app_with_backlog(&server, "bot").await, server.app("other").await);
    let mut reader = app.raw().await;
    let request =
        format!("GET {} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n", app.path(""), app.token);
    reader.send(request).await;
    eventually("the poll has leased events", async || app.gauge("leased").await > 0).await;
    let began = Instant::now();
    post_and_poll(&other).await;
    wait_for_zero(&app, "leased", began).await;
    let (first, _) = app.poll("?max=1").await.remove(0);
    assert!(!first.is_empty());
    assert_eq!(app.gauge("stored").await, 11, "no event was lost");
}

#[tokio::test]
async fn an_unread_websocket_is_closed_and_its_events_are_redelivered() {
    let server = Server::start(&[]);
    let (app, other) = (app_with_backlog(&server, "bot").await, server.app("other").await);
    let unread = app.listen("").await;
    eventually("the websocket has leased events", async || app.gauge("leased").await > 0).await;
    let began = Instant::now();
    post_and_poll(&other).await;
    wait_for_zero(&app, "clients", began).await;
    let mut listener = app.listen("").await;
    for n in 0..12 {
        let (id, body) = listener.event().await;
        assert!(body.starts_with(&format!("[{n},")), "in order");
        listener.ack(&id).await;
    }
    eventually("all events are deleted", async || app.gauge("stored").await == 0).await;
    drop(unread);
}
