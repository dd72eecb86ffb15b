//! Tests of a connection over an in-memory pipe to a fake server, in paused time.

mod pressure;
mod settling;

use std::pin::pin;

use futures_util::{FutureExt, SinkExt, StreamExt, future::join_all};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    task::JoinHandle,
    time::sleep,
};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, frame::coding::CloseCode};

use wwproxy_protocol::ClientMessage;

use super::*;
use crate::{
    Delivery,
    subscription::{Cursor, Handler},
};

type Deliveries = mpsc::Receiver<Result<Delivery, Error>>;

const MAX_MESSAGE_BYTES: usize = 4 << 20;

type Server = WebSocketStream<DuplexStream>;

struct Setup {
    server: Server,
    deliveries: Deliveries,
    client: JoinHandle<ConnectionEnd>,
}

/// Starts a connection with this prefetch window over a pipe of this many bytes.
async fn connect(v2: bool, window: usize, pipe: usize) -> Setup {
    let (here, there) = tokio::io::duplex(pipe);
    let server = WebSocketStream::from_raw_socket(there, Role::Server, None).await;
    let config = handshake::config(MAX_MESSAGE_BYTES);
    let socket = WebSocketStream::from_raw_socket(here, Role::Client, Some(config)).await;
    let (sender, deliveries) = mpsc::channel(window);
    let client = tokio::spawn(async move { subscribe(socket, v2, &sender).extend_leases(true).run().await });
    Setup { server, deliveries, client }
}

fn subscribe(
    socket: WebSocketStream<DuplexStream>,
    v2: bool,
    items: &mpsc::Sender<Result<Delivery, Error>>,
) -> Connection<'_, DuplexStream, Handler> {
    let handler = |commands| Handler::new(commands, Cursor::Default, std::time::SystemTime::now());
    Connection::new(socket, v2, Duration::from_secs(60), items, handler, &|_, _| {}, &|_| {})
}

async fn send_event(server: &mut Server, id: &str) {
    let text = format!(r#"{{"type":"event","id":"{id}","data":{{"n":1}}}}"#);
    server.send(Message::text(text)).await.unwrap();
}

async fn receive(server: &mut Server) -> Message {
    server.next().await.unwrap().unwrap()
}

fn ids(message: &Message) -> Vec<String> {
    match ClientMessage::parse(message.to_text().unwrap()).unwrap() {
        ClientMessage::Ack(ids) => ids,
        other => panic!("{other:?}"),
    }
}

async fn next(deliveries: &mut Deliveries) -> Delivery {
    deliveries.recv().await.unwrap().unwrap()
}

async fn take(deliveries: &mut Deliveries, n: usize) -> Vec<Delivery> {
    let mut taken = Vec::new();
    for _ in 0..n {
        taken.push(next(deliveries).await);
    }
    taken
}

async fn lost_with(client: JoinHandle<ConnectionEnd>) -> (Error, bool) {
    match client.await.unwrap() {
        ConnectionEnd::Lost { error, stable } => (error, stable),
        ConnectionEnd::Unsubscribed => panic!("not lost"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_pinged_and_closed_after_the_idle_timeout() {
    let opened = Instant::now();
    let Setup { mut server, deliveries: _deliveries, client } = connect(true, 8, 4096).await;
    // Bypass the server's codec, which would answer the ping.
    let quiet = server.get_mut();
    let mut frames = [0; 64];
    let n = quiet.read(&mut frames).await.unwrap();
    assert_eq!(frames[0], 0x89, "a ping in {:?}", &frames[..n]);
    assert_eq!(opened.elapsed().as_secs(), 20);
    let (error, stable) = lost_with(client).await;
    assert_eq!(error.kind(), ErrorKind::Disconnected);
    assert_eq!(opened.elapsed().as_secs(), 60);
    assert!(stable);
}

#[tokio::test(start_paused = true)]
async fn a_connection_whose_pings_are_answered_is_kept() {
    let Setup { mut server, deliveries: _deliveries, client } = connect(true, 8, 4096).await;
    for _ in 0..9 {
        // The next read also answers the last ping.
        assert!(matches!(receive(&mut server).await, Message::Ping(_)));
    }
    assert!(!client.is_finished());
}

#[tokio::test(start_paused = true)]
async fn pings_follow_the_idle_timeout_of_the_server() {
    let Setup { mut server, deliveries: _deliveries, client: _client } = connect(true, 8, 4096).await;
    let second = Duration::from_secs(1);
    let hello = wwproxy_protocol::message::Hello::new("bot".parse().unwrap(), 8, second, second, second * 9);
    server.send(Message::text(hello.encode())).await.unwrap();
    let announced = Instant::now();
    assert!(matches!(receive(&mut server).await, Message::Ping(_)));
    assert_eq!(announced.elapsed().as_secs(), 3);
}

#[tokio::test(start_paused = true)]
async fn duplicates_of_an_event_in_flight_are_dropped() {
    let Setup { mut server, mut deliveries, client: _client } = connect(false, 8, 4096).await;
    for id in ["a", "a", "b", "a"] {
        send_event(&mut server, id).await;
    }
    let events = take(&mut deliveries, 2).await;
    assert_eq!(events.iter().map(|event| event.id().as_str()).collect::<Vec<_>>(), ["a", "b"]);
    drop(events);
    send_event(&mut server, "a").await;
    assert_eq!(take(&mut deliveries, 1).await[0].id().as_str(), "a");
}

#[tokio::test(start_paused = true)]
async fn dropping_the_subscription_sends_pending_acks_and_a_close_frame() {
    let Setup { mut server, mut deliveries, client } = connect(true, 8, 4096).await;
    send_event(&mut server, "a").await;
    let event = take(&mut deliveries, 1).await.remove(0);
    let mut ack = pin!(event.ack());
    // Polled once: the command is queued, but not received by the connection.
    assert!(ack.as_mut().now_or_never().is_none());
    drop(deliveries);
    assert_eq!(ids(&receive(&mut server).await), ["a"]);
    assert!(matches!(receive(&mut server).await, Message::Close(_)));
    assert!(matches!(client.await.unwrap(), ConnectionEnd::Unsubscribed));
    ack.await.unwrap();
    assert!(event.is_stale());
}

#[tokio::test(start_paused = true)]
async fn a_close_by_the_server_reports_its_code() {
    let Setup { mut server, deliveries: _deliveries, client } = connect(true, 8, 4096).await;
    let frame = CloseFrame { code: CloseCode::Restart, reason: "".into() };
    server.close(Some(frame)).await.unwrap();
    let (error, stable) = lost_with(client).await;
    assert!(error.is_transient() && error.to_string().contains("1012"), "{error}");
    assert!(!stable, "it delivered nothing and ended at once");
    assert!(matches!(receive(&mut server).await, Message::Close(_)), "the close is answered");
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_message_is_a_transient_error() {
    let Setup { mut server, deliveries: _deliveries, client } = connect(true, 8, 4096).await;
    server.send(Message::text(r#"{"type":"news"}"#)).await.unwrap();
    server.send(Message::text("}")).await.unwrap();
    let (error, _) = lost_with(client).await;
    assert!(error.is_transient(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_message_above_the_limit_is_a_permanent_error() {
    let (here, there) = tokio::io::duplex(64);
    let mut server = WebSocketStream::from_raw_socket(there, Role::Server, None).await;
    let config = tungstenite::protocol::WebSocketConfig::default()
        .max_message_size(Some(100))
        .max_frame_size(Some(100));
    let socket = WebSocketStream::from_raw_socket(here, Role::Client, Some(config)).await;
    let (sender, _deliveries) = mpsc::channel(8);
    let connection = subscribe(socket, true, &sender).run();
    let large = server.send(Message::text("x".repeat(1000)));
    let (ConnectionEnd::Lost { error, .. }, _) =
        tokio::join!(connection, async { timeout(Duration::from_secs(1), large).await })
    else {
        panic!("not lost")
    };
    assert_eq!(error.kind(), ErrorKind::Protocol);
    assert!(error.to_string().contains("max_message_bytes"), "{error}");
}
