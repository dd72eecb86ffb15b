//! A websocket client that reads and never answers: the server's pings and its idle timeout, which are
//! 20 s and 60 s.

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
/// A server that has sent nothing by then does not.
const TOO_LATE: Duration = Duration::from_secs(90);

/// The next frame: its first byte and its payload.
async fn frame(connection: &mut Raw) -> (u8, Vec<u8>) {
    let read = async {
        let first = connection.0.read_u8().await.unwrap();
        // Without a mask, as a server must send it, and short, as a control frame must be.
        let mut payload = vec![0; connection.0.read_u8().await.unwrap().into()];
        connection.0.read_exact(&mut payload).await.unwrap();
        (first, payload)
    };
    timeout(TOO_LATE, read).await.expect("a frame comes")
}

#[tokio::test]
async fn a_silent_websocket_is_pinged_and_then_closed_with_1008() {
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
    assert!(began.elapsed() < Duration::from_secs(60), "pings come before the idle timeout");
    let (mut first, mut payload) = frame(&mut silent).await;
    if first == PING {
        (first, payload) = frame(&mut silent).await;
    }
    assert_eq!((first, &payload[..2]), (CLOSE, &1008_u16.to_be_bytes()[..]));
    assert!(began.elapsed() >= Duration::from_secs(60), "{:?}", began.elapsed());
    eventually("it is no client any more", async || app.gauge("clients").await == 0).await;
    post_and_poll(&app).await;
}
