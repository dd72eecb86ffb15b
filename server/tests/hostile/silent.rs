//! A websocket client that answers no ping: the server's ping interval of 20 s and its idle timeout of 60 s.

use std::time::Duration;

use tokio::{
    io::AsyncReadExt,
    time::{Instant, timeout},
};

use crate::{
    common::{Raw, Server, eventually, handshake_text},
    post_and_poll,
};

/// The first bytes of unfragmented frames (RFC 6455, section 5.2).
const PING: u8 = 0x89;
const CLOSE: u8 = 0x88;
/// A test gives up on the next frame after this time.
const TOO_LATE: Duration = Duration::from_secs(90);

/// The next frame: its first byte and its payload.
async fn frame(connection: &mut Raw) -> (u8, Vec<u8>) {
    let read = async {
        let first = connection.0.read_u8().await.unwrap();
        // A server's frame has no mask, and a control frame a length of one byte.
        let mut payload = vec![0; connection.0.read_u8().await.unwrap().into()];
        connection.0.read_exact(&mut payload).await.unwrap();
        (first, payload)
    };
    timeout(TOO_LATE, read).await.expect("no frame arrived in time")
}

#[tokio::test]
async fn a_websocket_that_answers_no_ping_is_closed_with_1008() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let mut silent = app.raw().await;
    let began = Instant::now();
    let (path, token, upgrade) = (app.path(""), &app.token, handshake_text());
    silent
        .send(format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n{upgrade}\r\n"))
        .await;
    assert_eq!(silent.response().await.status, 101);
    for nth in 1..=2 {
        assert_eq!(frame(&mut silent).await, (PING, vec![]));
        assert!(began.elapsed() >= Duration::from_secs(20 * nth), "{nth}: {:?}", began.elapsed());
    }
    assert!(began.elapsed() < Duration::from_secs(60), "two pings are sent before the idle timeout");
    let (mut first, mut payload) = frame(&mut silent).await;
    if first == PING {
        (first, payload) = frame(&mut silent).await;
    }
    assert_eq!((first, &payload[..2]), (CLOSE, &1008_u16.to_be_bytes()[..]));
    assert!(began.elapsed() >= Duration::from_secs(60), "{:?}", began.elapsed());
    eventually("the websocket is closed", async || app.gauge("clients").await == 0).await;
    post_and_poll(&app).await;
}
