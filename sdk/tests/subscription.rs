//! Subscriptions over real sockets, against a fake server that fails in many ways.

mod common;

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use common::{FakeServer, Reply, Request, Socket, assert_reads_on, platform};
use futures_util::{SinkExt, StreamExt, future::join_all};
use tokio::{sync::mpsc, time::timeout};
use tokio_tungstenite::tungstenite::Message;
use wwproxy_sdk::{Client, Delivery, ErrorKind, ListenOptions, State, Subscription};

const V2: Option<&str> = Some("wwproxy.v2");

fn listen(fake: &FakeServer, options: ListenOptions) -> Subscription {
    Client::builder(&fake.url).app_id("bot").app_secret("s").build().unwrap().listen(options)
}

/// A server that replies to the n-th websocket handshake, from 0, with the closure.
async fn proxy(reply: impl Fn(usize, &Request) -> Reply + Send + Sync + 'static) -> FakeServer {
    let (tokens, handshakes) = (AtomicUsize::new(0), AtomicUsize::new(0));
    FakeServer::start(move |request, own| {
        platform(request, own, 3600, || tokens.fetch_add(1, Ordering::SeqCst) + 1)
            .unwrap_or_else(|| reply(handshakes.fetch_add(1, Ordering::SeqCst), request))
    })
    .await
}

async fn send(socket: &mut Socket, id: &str) {
    let text = format!(r#"{{"type":"event","id":"{id}","data":{{ "n":"{id}" }}}}"#);
    socket.send(Message::text(text)).await.unwrap();
}

async fn hello(socket: &mut Socket) {
    let text = r#"{"type":"hello","appId":"bot","window":64,"leaseMs":60000,"pingMs":20000,"idleMs":60000}"#;
    socket.send(Message::text(text)).await.unwrap();
}

async fn next_id(events: &mut Subscription) -> String {
    events.next().await.unwrap().unwrap().id().to_string()
}

#[tokio::test]
async fn unacknowledged_events_are_redelivered_after_a_reconnect() {
    let mut fake = proxy(|_, _| Reply::Upgrade(V2)).await;
    let (state_sender, mut states) = mpsc::unbounded_channel();
    let options = ListenOptions::new().window(4).on_state(move |state| {
        let _ = state_sender.send(state.clone());
    });
    let mut events = listen(&fake, options);
    let mut first = fake.socket().await;
    for id in ["a", "b", "c"] {
        send(&mut first, id).await;
    }
    let a = events.next().await.unwrap().unwrap();
    a.ack().await.unwrap();
    let b = events.next().await.unwrap().unwrap();
    drop(first);
    assert!(matches!(states.recv().await, Some(State::Connected { v2: true, .. })));
    assert!(matches!(states.recv().await, Some(State::Reconnecting { error, .. }) if error.is_transient()));
    let mut second = fake.socket().await;
    // Unacknowledged (b) and prefetched (c) events are each redelivered once.
    assert_eq!(b.ack().await.unwrap_err().kind(), ErrorKind::Disconnected);
    for id in ["b", "c", "d"] {
        send(&mut second, id).await;
    }
    for id in ["b", "c", "d"] {
        assert_eq!(next_id(&mut events).await, id);
    }
    let handshake = fake.requests().pop().unwrap();
    assert_eq!(handshake.line, "GET /webhooks/bot?window=4");
    assert_eq!(handshake.header("authorization"), Some("Bearer token-1"));
    assert_eq!(handshake.header("sec-websocket-protocol"), V2);
    events.close().await;
}

#[tokio::test]
async fn prefetched_events_of_a_lost_connection_do_not_delay_the_next_hello() {
    let mut fake = proxy(|_, _| Reply::Upgrade(V2)).await;
    let (state_sender, mut states) = mpsc::unbounded_channel();
    let options = ListenOptions::new().window(1).on_state(move |state| {
        let _ = state_sender.send(matches!(state, State::Connected { .. }));
    });
    let mut events = listen(&fake, options);
    let mut first = fake.socket().await;
    hello(&mut first).await;
    assert_eq!(states.recv().await, Some(true));
    send(&mut first, "a").await;
    assert_reads_on(&mut first).await;
    drop(first);
    assert_eq!(states.recv().await, Some(false));
    let mut second = fake.socket().await;
    hello(&mut second).await;
    let connected = timeout(Duration::from_secs(30), states.recv()).await;
    assert_eq!(connected, Ok(Some(true)), "the hello was not read");
    send(&mut second, "b").await;
    assert_eq!(next_id(&mut events).await, "b");
}

#[tokio::test]
async fn connected_is_reported_once_when_the_server_is_ready() {
    for (subprotocol, sends_hello) in [(V2, true), (None, false)] {
        let mut fake = proxy(move |_, _| Reply::Upgrade(subprotocol)).await;
        let (state_sender, mut states) = mpsc::unbounded_channel();
        let options = ListenOptions::new().on_state(move |state| {
            let _ = state_sender.send(state.clone());
        });
        let _events = listen(&fake, options);
        let mut socket = fake.socket().await;
        // The pong shows that the client has completed the handshake.
        socket.send(Message::Ping("here?".into())).await.unwrap();
        assert!(matches!(socket.next().await, Some(Ok(Message::Pong(_)))));
        if sends_hello {
            assert!(states.try_recv().is_err(), "reported before the hello");
            hello(&mut socket).await;
        }
        assert!(matches!(states.recv().await, Some(State::Connected { v2, .. }) if v2 == sends_hello));
        hello(&mut socket).await;
        socket.send(Message::Ping("still?".into())).await.unwrap();
        assert!(matches!(socket.next().await, Some(Ok(Message::Pong(_)))));
        assert!(states.try_recv().is_err(), "reported twice");
    }
}

#[tokio::test]
async fn the_request_timeout_does_not_end_a_websocket() {
    let mut fake = proxy(|_, _| Reply::Upgrade(V2)).await;
    let mut events = listen(&fake, ListenOptions::new());
    let mut socket = fake.socket().await;
    send(&mut socket, "a").await;
    assert_eq!(next_id(&mut events).await, "a");
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(45)).await;
    tokio::time::resume();
    send(&mut socket, "b").await;
    assert_eq!(next_id(&mut events).await, "b");
    assert_eq!(fake.count("GET /webhooks/bot"), 1);
}

#[tokio::test]
async fn transient_errors_are_retried() {
    let reply = |n| match n {
        0 => Reply::Close,
        1 => Reply::status(502),
        2 => Reply::Http(503, vec![("retry-after", "0".into())], String::new()),
        3 => Reply::status(401), // retried at once with a fresh token
        4 => Reply::status(429),
        _ => Reply::Upgrade(None),
    };
    let mut fake = proxy(move |n, _| reply(n)).await;
    let (state_sender, mut states) = mpsc::unbounded_channel();
    let mut events = listen(
        &fake,
        ListenOptions::new().on_state(move |state| {
            let _ = state_sender.send(match state {
                State::Reconnecting { error, .. } => format!("{:?}", error.kind()),
                _ => "Connected".into(),
            });
        }),
    );
    let mut socket = fake.socket().await;
    send(&mut socket, "a").await;
    assert_eq!(next_id(&mut events).await, "a");
    let mut kinds = Vec::new();
    for _ in 0..5 {
        kinds.push(states.recv().await.unwrap());
    }
    assert_eq!(kinds, ["Unreachable", "Unavailable", "Unavailable", "Unavailable", "Connected"]);
}

#[tokio::test]
async fn a_permanent_error_ends_the_stream() {
    let cases = [
        (Reply::status(401), ErrorKind::Refused, 2),
        (Reply::status(403), ErrorKind::Refused, 1),
        (Reply::status(404), ErrorKind::NotRegistered, 1),
        (Reply::status(400), ErrorKind::InvalidRequest, 1),
        // An intermediary removed the upgrade: a retry would be a poll, which deletes events.
        (Reply::json(200, "{}"), ErrorKind::Protocol, 1),
        (
            Reply::Http(302, vec![("location", "http://127.0.0.1:1/".into())], String::new()),
            ErrorKind::Protocol,
            1,
        ),
        (Reply::Upgrade(Some("chat")), ErrorKind::Protocol, 1),
        (
            Reply::Http(
                101,
                vec![("upgrade", "websocket".into()), ("sec-websocket-accept", "x".into())],
                String::new(),
            ),
            ErrorKind::Protocol,
            1,
        ),
    ];
    for (reply, kind, handshakes) in cases {
        let shown = format!("{reply:?}");
        let fake = proxy(move |_, _| reply.clone()).await;
        let mut events = listen(&fake, ListenOptions::new());
        assert_eq!(events.next().await.unwrap().unwrap_err().kind(), kind, "{shown}");
        assert!(events.next().await.is_none());
        assert_eq!(fake.count("GET /webhooks/bot"), handshakes, "{shown}");
    }
}

#[tokio::test]
async fn refused_credentials_end_the_stream() {
    let fake = FakeServer::start(|request, own| match request.line.as_str() {
        "POST /oauth/token" => {
            Reply::json(401, r#"{"error":"invalid_client","error_description":"no such app"}"#)
        }
        _ => platform(request, own, 1, || 1).unwrap(),
    })
    .await;
    let error = listen(&fake, ListenOptions::new()).next().await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.detail()), (ErrorKind::Refused, Some("no such app")));
    assert_eq!(fake.count("POST /oauth/token"), 1);
}

#[tokio::test]
async fn events_keep_their_order_and_acks_are_batched() {
    const EVENTS: usize = 2000;
    let mut fake = proxy(|_, _| Reply::Upgrade(V2)).await;
    let mut events = listen(&fake, ListenOptions::new());
    let (mut sink, mut stream) = fake.socket().await.split();
    let sender = async {
        for n in 0..EVENTS {
            sink.send(Message::text(format!(r#"{{"type":"event","id":"e{n}","data":[{n}]}}"#)))
                .await
                .unwrap();
        }
    };
    let receiver = async {
        let mut n = 0;
        while n < EVENTS {
            let mut batch = vec![events.next().await.unwrap().unwrap()];
            while batch.len() < 64 && n + batch.len() < EVENTS {
                batch.push(events.next().await.unwrap().unwrap());
            }
            for event in &batch {
                assert_eq!(event.json::<[usize; 1]>().unwrap(), [n]);
                n += 1;
            }
            assert!(join_all(batch.iter().map(Delivery::ack)).await.iter().all(Result::is_ok));
        }
    };
    let acks = async {
        let (mut acked, mut messages) = (0, 0);
        while acked < EVENTS {
            let message = stream.next().await.unwrap().unwrap();
            acked += message.to_text().unwrap().matches("\"e").count() - 1; // "event_ack"
            messages += 1;
        }
        messages
    };
    let ((), (), messages) = tokio::join!(sender, receiver, acks);
    assert!(messages <= EVENTS / 8, "{messages} messages");
}

#[tokio::test]
async fn closing_a_subscription_closes_the_connection_and_interrupts_a_backoff() {
    let mut fake = proxy(|_, _| Reply::Upgrade(V2)).await;
    let (state_sender, mut states) = mpsc::unbounded_channel();
    let options = ListenOptions::new().on_state(move |state| {
        let _ = state_sender.send(state.clone());
    });
    let events = listen(&fake, options);
    let mut socket = fake.socket().await;
    hello(&mut socket).await;
    assert!(matches!(states.recv().await, Some(State::Connected { .. })));
    drop(events);
    assert!(matches!(socket.next().await, Some(Ok(Message::Close(_)))));

    // Closing during a backoff does not wait for its end.
    let fake =
        FakeServer::start(|_, _| Reply::Http(503, vec![("retry-after", "60".into())], String::new())).await;
    let (state_sender, mut states) = mpsc::unbounded_channel();
    let options = ListenOptions::new().on_state(move |state| {
        let _ = state_sender.send(state.clone());
    });
    let events = listen(&fake, options);
    let Some(State::Reconnecting { delay, .. }) = states.recv().await else { panic!("not reconnecting") };
    assert!(delay >= Duration::from_secs(60), "{delay:?}");
    tokio::time::timeout(Duration::from_secs(10), events.close()).await.unwrap();
}
