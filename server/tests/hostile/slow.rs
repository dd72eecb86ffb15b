//! Peers that take their time. Most of the server's limits are 30 s each, so most of these take that long.

use std::time::Duration;

use tokio::{
    io::AsyncReadExt,
    time::{Instant, sleep, timeout},
};

use crate::{
    common::{App, Raw, Server, eventually, sign},
    head, post_and_poll,
};

/// What is closed before that is closed too soon.
const TOO_SOON: Duration = Duration::from_secs(25);
/// When a server that has not closed by then does not.
const TOO_LATE: Duration = Duration::from_secs(60);

/// Reads until the server closes, which it must do in time, and not too soon.
async fn closed(connection: &mut Raw, began: Instant, too_soon: Duration) -> String {
    let mut answer = Vec::new();
    let read = timeout(TOO_LATE, connection.0.read_to_end(&mut answer)).await.expect("it is closed");
    // A reset is an end as well.
    let _ = read;
    let took = began.elapsed();
    assert!(took > too_soon, "closed after {took:?}");
    String::from_utf8(answer).unwrap()
}

/// A byte now and then does not buy more time.
async fn drip(connection: &mut Raw, byte: &str) {
    use tokio::io::AsyncWriteExt;
    while connection.0.write_all(byte.as_bytes()).await.is_ok() {
        sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test]
async fn a_head_that_never_ends_is_closed() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let (mut silent, mut slow) = (app.raw().await, app.raw().await);
    let began = Instant::now();
    silent.send("POST /hook/bot HTTP/1.1\r\nhost: x\r\nx-").await;
    slow.send("POST /hook/bot HTTP/1.1\r\nhost: x\r\nx-").await;
    post_and_poll(&app).await;
    let dripping = timeout(TOO_LATE, drip(&mut slow, "a"));
    // A head has 10 s.
    let (answer, dripped) = tokio::join!(closed(&mut silent, began, Duration::from_secs(8)), dripping);
    dripped.expect("it is closed");
    assert!(began.elapsed() < TOO_SOON, "{:?}", began.elapsed());
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[tokio::test]
async fn a_connection_that_asks_for_nothing_is_closed() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let (mut fresh, mut kept) = (app.raw().await, app.raw().await);
    kept.send("GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(kept.response().await.status, 200);
    let began = Instant::now();
    let answers = tokio::join!(closed(&mut fresh, began, TOO_SOON), closed(&mut kept, began, TOO_SOON));
    assert_eq!(answers, (String::new(), String::new()));
}

#[tokio::test]
async fn a_body_that_trickles_is_408() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let mut slow = app.raw().await;
    let began = Instant::now();
    slow.send(format!("{}x-outbound-token: 00\r\n\r\n{{", head(&app, 1000))).await;
    post_and_poll(&app).await;
    let mut answer = vec![0; 12];
    for _ in 0..40 {
        // Until the answer comes, another byte a second.
        if let Ok(read) = timeout(Duration::from_secs(1), slow.0.read_exact(&mut answer)).await {
            read.unwrap();
            break;
        }
        slow.send(" ").await;
    }
    assert_eq!(String::from_utf8(answer).unwrap(), "HTTP/1.1 408");
    let took = began.elapsed();
    assert!(took > Duration::from_secs(4) && took < TOO_SOON, "after the grace of 5 s: {took:?}");
    assert_eq!(app.gauge("stored").await, 0);
}

#[tokio::test]
async fn a_body_that_comes_steadily_may_take_longer_than_the_grace() {
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

/// An app with more than fits into the buffers of a socket.
async fn with_much(server: &Server, id: &str) -> App {
    let app = server.app(id).await;
    for n in 0..12 {
        app.post(format!("[{n},\"{}\"]", "x".repeat(1 << 20))).await;
    }
    app
}

/// Waits until this gauge of the app is 0, which it must be in time, and not too soon.
async fn none(app: &App, gauge: &str, began: Instant) {
    while app.gauge(gauge).await > 0 {
        assert!(began.elapsed() < TOO_LATE, "{gauge}: it is not given up");
        sleep(Duration::from_millis(200)).await;
    }
    assert!(began.elapsed() > TOO_SOON, "{gauge}: {:?}", began.elapsed());
}

#[tokio::test]
async fn an_answer_that_nobody_reads_is_given_up_and_its_events_come_back() {
    let server = Server::start(&[]);
    let (app, other) = (with_much(&server, "bot").await, server.app("other").await);
    let mut reader = app.raw().await;
    let request =
        format!("GET {} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n", app.path(""), app.token);
    reader.send(request).await;
    eventually("it is being answered", async || app.gauge("leased").await > 0).await;
    let began = Instant::now();
    post_and_poll(&other).await;
    none(&app, "leased", began).await;
    let (first, _) = app.poll("?max=1").await.remove(0);
    assert!(!first.is_empty());
    assert_eq!(app.gauge("stored").await, 11, "nothing was lost");
}

#[tokio::test]
async fn a_websocket_that_nobody_reads_is_closed_and_its_events_go_to_another() {
    let server = Server::start(&[]);
    let (app, other) = (with_much(&server, "bot").await, server.app("other").await);
    let deaf = app.listen("").await;
    eventually("it is sent what there is", async || app.gauge("leased").await > 0).await;
    let began = Instant::now();
    post_and_poll(&other).await;
    none(&app, "clients", began).await;
    let mut listener = app.listen("").await;
    for n in 0..12 {
        let (id, body) = listener.event().await;
        assert!(body.starts_with(&format!("[{n},")), "in order");
        listener.ack(&id).await;
    }
    eventually("all is accepted", async || app.gauge("stored").await == 0).await;
    drop(deaf);
}
