//! Tests of a connection over an in-memory pipe to a fake server, in paused time.

use std::pin::pin;

use futures_util::{FutureExt, SinkExt, StreamExt, future::join_all};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    task::JoinHandle,
    time::sleep,
};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, frame::coding::CloseCode};

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
    let handler = |commands| Handler::new(commands, Cursor::Default);
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
async fn concurrent_acks_are_batched() {
    let Setup { mut server, mut deliveries, client: _client } = connect(true, 8, 4096).await;
    for id in ["a", "b", "c"] {
        send_event(&mut server, id).await;
    }
    let events = take(&mut deliveries, 3).await;
    assert_eq!(events[0].body().as_ref(), br#"{"n":1}"#);
    let (acked, message) = tokio::join!(join_all(events.iter().map(Delivery::ack)), receive(&mut server));
    assert!(acked.iter().all(Result::is_ok));
    assert_eq!(ids(&message), ["a", "b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn a_legacy_server_gets_single_acks_and_no_nacks() {
    let Setup { mut server, mut deliveries, client: _client } = connect(false, 8, 4096).await;
    for id in ["a", "b", "c"] {
        send_event(&mut server, id).await;
    }
    let events = take(&mut deliveries, 3).await;
    events[1].nack(Duration::ZERO).await.unwrap();
    let acks = async { tokio::try_join!(events[0].ack(), events[2].ack()).unwrap() };
    let messages = async { [receive(&mut server).await, receive(&mut server).await] };
    let (_, [first, second]) = tokio::join!(acks, messages);
    assert_eq!((ids(&first), ids(&second)), (vec!["a".into()], vec!["c".into()]));
}

#[tokio::test(start_paused = true)]
async fn an_event_that_cannot_be_decoded_is_left_on_the_server() {
    for v2 in [true, false] {
        let Setup { mut server, mut deliveries, client: _client } = connect(v2, 1, 4096).await;
        let unknown = r#"{"type":"event","id":"a","encoding":"cbor","data":"?"}"#;
        server.send(Message::text(unknown)).await.unwrap();
        send_event(&mut server, "b").await;
        let event = next(&mut deliveries).await;
        assert_eq!(event.id().as_str(), "b");
        if v2 {
            let nack = ClientMessage::parse(receive(&mut server).await.to_text().unwrap()).unwrap();
            assert_eq!(nack, ClientMessage::Nack { id: "a".into(), delay: UNDECODABLE_DELAY, reason: None });
        }
        let (acked, message) = tokio::join!(event.ack(), receive(&mut server));
        acked.unwrap();
        assert_eq!(ids(&message), ["b"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_nack_carries_its_delay() {
    let Setup { mut server, mut deliveries, client: _client } = connect(true, 8, 4096).await;
    send_event(&mut server, "a").await;
    let events = take(&mut deliveries, 1).await;
    let delay = Duration::from_millis(1500);
    let (done, message) = tokio::join!(events[0].nack(delay), receive(&mut server));
    done.unwrap();
    let message = ClientMessage::parse(message.to_text().unwrap()).unwrap();
    assert_eq!(message, ClientMessage::Nack { id: "a".into(), delay, reason: None });
}

#[tokio::test(start_paused = true)]
async fn releases_rejections_and_extensions_are_sent_with_their_reasons() {
    let Setup { mut server, mut deliveries, client: _client } = connect(true, 8, 4096).await;
    send_event(&mut server, "a").await;
    let event = next(&mut deliveries).await;
    let (delay, reason) = (Duration::from_secs(2), Some("busy".to_owned()));
    let settle = async {
        event.extend().await.unwrap();
        event.release(delay, reason.as_deref()).await.unwrap();
        event.reject("").await.unwrap();
        event.reject("no such user").await.unwrap();
    };
    let receive = async {
        let mut messages = Vec::new();
        for _ in 0..4 {
            let message = receive(&mut server).await;
            messages.push(ClientMessage::parse(message.to_text().unwrap()).unwrap());
        }
        messages
    };
    let ((), messages) = tokio::join!(settle, receive);
    let id = || "a".to_owned();
    assert_eq!(
        messages,
        [
            ClientMessage::Progress { id: id() },
            ClientMessage::Nack { id: id(), delay, reason },
            ClientMessage::Reject { id: id(), reason: None },
            ClientMessage::Reject { id: id(), reason: Some("no such user".into()) },
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_legacy_server_gets_no_rejections_and_extensions() {
    let Setup { mut server, mut deliveries, client: _client } = connect(false, 8, 4096).await;
    send_event(&mut server, "a").await;
    let event = next(&mut deliveries).await;
    event.extend().await.unwrap();
    event.reject("no such user").await.unwrap();
    let (acked, message) = tokio::join!(event.ack(), receive(&mut server));
    acked.unwrap();
    assert_eq!(ids(&message), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn the_leases_of_events_in_flight_are_extended_twice_in_a_lease_time() {
    let Setup { mut server, mut deliveries, client: _client } = connect(true, 8, 4096).await;
    let second = Duration::from_secs(1);
    let (lease, ping) = (second * 6, second * 60);
    let hello = wwproxy_protocol::message::Hello::new("bot".parse().unwrap(), 8, lease, ping, ping);
    server.send(Message::text(hello.encode())).await.unwrap();
    send_event(&mut server, "a").await;
    send_event(&mut server, "b").await;
    let start = Instant::now();
    let a = next(&mut deliveries).await;
    let extended = |message: Message| match ClientMessage::parse(message.to_text().unwrap()).unwrap() {
        ClientMessage::Progress { id } => id,
        other => panic!("{other:?}"),
    };
    // One of them waits in the channel.
    let mut both = [extended(receive(&mut server).await), extended(receive(&mut server).await)];
    both.sort();
    assert_eq!((both, start.elapsed().as_secs()), (["a".to_owned(), "b".to_owned()], 3));
    drop(a);
    assert_eq!(extended(receive(&mut server).await), "b");
    assert_eq!(start.elapsed().as_secs(), 6);
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
async fn reading_pauses_at_the_prefetch_window_while_pings_and_acks_are_sent() {
    let Setup { mut server, mut deliveries, client } = connect(true, 2, 256).await;
    let mut sent = 0;
    let flood = async {
        loop {
            send_event(&mut server, &format!("e{sent}")).await;
            sent += 1;
        }
    };
    // Paused time advances only if all tasks are idle, so the pipe is full then.
    assert!(timeout(Duration::from_secs(300), flood).await.is_err());
    assert!(sent < 12, "{sent} events were read ahead of a window of 2 and a pipe of 256 bytes");
    assert!(!client.is_finished(), "a slow consumer does not end the connection");
    assert!(matches!(receive(&mut server).await, Message::Ping(_)));

    // Acks are sent while the server's output is blocked.
    let all = async {
        for n in 0..sent {
            let event = next(&mut deliveries).await;
            assert_eq!(event.id().as_str(), format!("e{n}"));
            event.ack().await.unwrap();
        }
    };
    let receive_acks = async {
        let mut acked = 0;
        while acked < sent {
            let message = receive(&mut server).await;
            if message.is_text() {
                acked += ids(&message).len();
            }
        }
    };
    tokio::join!(all, receive_acks);
}

#[tokio::test(start_paused = true)]
async fn a_window_of_large_events_is_acknowledged_by_a_consumer_slower_than_the_idle_timeout() {
    const EVENTS: usize = 8;
    let Setup { mut server, mut deliveries, client } = connect(true, EVENTS, 4096).await;
    let body = "x".repeat(3 << 20);
    let send_all = async {
        for n in 0..EVENTS {
            let text = format!(r#"{{"type":"event","id":"e{n}","data":["{body}"]}}"#);
            server.send(Message::text(text)).await.unwrap();
        }
    };
    // A server closes a connection that is not read for 30 s.
    timeout(Duration::from_secs(30), send_all)
        .await
        .expect("a window of events is read before the first is taken");
    let handle_all = async {
        for _ in 0..EVENTS {
            let event = next(&mut deliveries).await;
            sleep(Duration::from_secs(70)).await;
            event.ack().await.unwrap();
        }
    };
    let receive_acks = async {
        let mut acked = Vec::new();
        while acked.len() < EVENTS {
            let message = receive(&mut server).await;
            if message.is_text() {
                acked.extend(ids(&message));
            }
        }
        acked
    };
    let ((), acked) = tokio::join!(handle_all, receive_acks);
    assert_eq!(acked, (0..EVENTS).map(|n| format!("e{n}")).collect::<Vec<_>>());
    assert!(!client.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_read_is_closed_after_the_write_timeout() {
    let Setup { mut server, mut deliveries, client } = connect(true, 64, 64).await;
    let events = async {
        let mut events = Vec::new();
        for n in 0..20 {
            send_event(&mut server, &format!("e{n}")).await;
            events.push(next(&mut deliveries).await);
        }
        events
    };
    let events = events.await;
    // Acks of 20 ids exceed the pipe of 64 bytes. The server sends, but does not read.
    let acks = join_all(events.iter().map(Delivery::ack));
    let chatter = async {
        loop {
            if server.get_mut().write_all(&[0x89, 0]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
    };
    let (acked, ()) = tokio::join!(acks, chatter);
    assert!(acked.iter().all(|acked| acked.as_ref().is_err_and(|e| e.kind() == ErrorKind::Disconnected)));
    lost_with(client).await;
}

#[tokio::test(start_paused = true)]
async fn reading_pauses_while_pongs_are_unflushed() {
    let opened = Instant::now();
    let Setup { mut server, deliveries: _deliveries, client } = connect(true, 8, 4096).await;
    let ping = [&[0x89, 125][..], &[7; 125]].concat();
    let mut sent = 0;
    let flood = async {
        while sent < 1 << 20 && server.get_mut().write_all(&ping).await.is_ok() {
            sent += ping.len();
        }
    };
    let (outcome, ()) = tokio::join!(lost_with(client), flood);
    assert!(outcome.0.to_string().contains("dead"), "{}", outcome.0);
    // Both directions of the pipe, the read buffer, the pong limit and one ping above it.
    assert!(sent < 64 * 1024, "{sent} bytes of pings were read");
    assert_eq!(opened.elapsed().as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn acks_are_sent_during_a_flood_of_pings() {
    let Setup { mut server, mut deliveries, client } = connect(true, 8, 256).await;
    send_event(&mut server, "a").await;
    let event = take(&mut deliveries, 1).await.remove(0);
    let (reader, mut writer) = tokio::io::split(server.into_inner());
    let flood = tokio::spawn(async move { while writer.write_all(&[0x89, 1, 7]).await.is_ok() {} });
    let mut server =
        WebSocketStream::from_raw_socket(tokio::io::join(reader, tokio::io::sink()), Role::Server, None)
            .await;
    let acked = async {
        loop {
            if let Some(Ok(message)) = server.next().await
                && message.is_text()
            {
                return ids(&message);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let (sent, ids) = tokio::join!(event.ack(), acked);
    sent.unwrap();
    assert_eq!(ids, ["a"]);
    assert!(!client.is_finished());
    flood.abort();
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
