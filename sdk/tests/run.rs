//! Handlers that are called for each event, against a fake proxy.

mod common;

use std::{
    collections::HashMap,
    fmt::Display,
    future::pending,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{Answer, Fake, Socket, platform};
use futures_util::{FutureExt, SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    join,
    sync::{Semaphore, SemaphorePermit, mpsc, oneshot},
};
use tokio_tungstenite::tungstenite::Message;
use wwproxy_sdk::{Client, Error, ErrorKind, EventMessage, ListenOptions};

/// A proxy that answers each websocket handshake so, and a client of it.
async fn proxy(answer: Answer) -> (Fake, Client) {
    let fake =
        Fake::start(move |request, own| platform(request, own, 3600, || 1).unwrap_or_else(|| answer.clone()))
            .await;
    let client = Client::builder(&fake.url).app_id("bot").app_secret("s").build().unwrap();
    (fake, client)
}

async fn open() -> (Fake, Client) {
    proxy(Answer::Upgrade(Some("wwproxy.v2"))).await
}

async fn send(socket: &mut Socket, id: &str, attempt: u32) {
    let text = json!({"type": "event", "id": id, "attempt": attempt, "data": {"n": 1},
        "receivedAt": "2026-01-02T03:04:05.678Z", "headers": []});
    socket.send(Message::text(text.to_string())).await.unwrap();
}

/// The next thing that the client said, or `None` once it has left.
async fn heard(socket: &mut Socket) -> Option<Value> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => return Some(serde_json::from_str(&text).unwrap()),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            _ => return None,
        }
    }
}

fn ack(id: &str) -> Value {
    json!({"type": "event_ack", "id": id})
}

fn nack(id: &str, delay_ms: u64) -> Value {
    json!({"type": "event_nack", "id": id, "delay_ms": delay_ms})
}

fn fails(words: &str) -> Result<(), impl Display + use<>> {
    Err(words.to_owned())
}

#[tokio::test]
async fn what_a_handler_makes_of_an_event_settles_it() {
    let (mut fake, client) = open().await;
    let (stop, stopped) = oneshot::channel::<()>();
    let handled = Mutex::new(Vec::new());
    let run = client
        .run(|event: EventMessage| {
            handled.lock().unwrap().push(event.id.to_string());
            async move {
                match event.id.as_str() {
                    "fails" => fails("no luck"),
                    "panics" => panic!("a bug of the app"),
                    _ => Ok(()),
                }
            }
        })
        .retry_delay(Duration::from_millis(300))
        .stop_on(stopped);
    let script = async {
        let mut socket = fake.socket().await;
        send(&mut socket, "good", 1).await;
        assert_eq!(heard(&mut socket).await, Some(ack("good")));
        send(&mut socket, "fails", 1).await;
        assert_eq!(heard(&mut socket).await, Some(nack("fails", 300)));
        send(&mut socket, "fails", 3).await;
        assert_eq!(heard(&mut socket).await, Some(nack("fails", 1200)));
        send(&mut socket, "panics", 2).await;
        assert_eq!(heard(&mut socket).await, Some(nack("panics", 600)));
        send(&mut socket, "after", 1).await;
        assert_eq!(heard(&mut socket).await, Some(ack("after")));
        stop.send(()).unwrap();
        assert_eq!(heard(&mut socket).await, None);
    };
    let (ended, ()) = join!(run.into_future(), script);
    ended.unwrap();
    assert_eq!(*handled.lock().unwrap(), ["good", "fails", "fails", "panics", "after"]);
    assert_eq!(fake.count("GET /webhooks/bot?window=1"), 1);
}

#[tokio::test]
async fn a_handler_that_panics_before_its_first_step_hands_the_event_back() {
    let (mut fake, client) = open().await;
    let run = client.run(|event: EventMessage| {
        assert_ne!(event.id.as_str(), "panics", "a bug of the app");
        async { Ok::<(), Error>(()) }
    });
    let script = async {
        let mut socket = fake.socket().await;
        send(&mut socket, "panics", 1).await;
        assert_eq!(heard(&mut socket).await, Some(nack("panics", 1000)));
        send(&mut socket, "after", 1).await;
        assert_eq!(heard(&mut socket).await, Some(ack("after")));
    };
    tokio::select! {
        ended = run.into_future() => panic!("{ended:?}"),
        () = script => {}
    }
}

/// How many handlers were at work at once, of five events that come together.
async fn most_at_once(concurrency: usize) -> (usize, Vec<String>) {
    let (mut fake, client) = open().await;
    let (begun, mut beginnings) = mpsc::unbounded_channel();
    let (gate, at_work, most) = (Semaphore::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let (gate, at_work, most) = (&gate, &at_work, &most);
    let run = client
        .run(|event: EventMessage| {
            let begun = begun.clone();
            async move {
                most.fetch_max(at_work.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                begun.send(event.id.to_string()).unwrap();
                gate.acquire().await.unwrap().forget();
                at_work.fetch_sub(1, Ordering::SeqCst);
                Ok::<(), Error>(())
            }
        })
        .options(ListenOptions::new().window(64))
        .concurrency(concurrency);
    let script = async {
        let mut socket = fake.socket().await;
        for id in ["a", "b", "c", "d", "e"] {
            send(&mut socket, id, 1).await;
        }
        socket.send(Message::Ping("all".into())).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::Pong("all".into()));
        let mut order = Vec::new();
        // The client has read all events, and all handlers that may begin have begun before the first may end.
        for _ in 0..concurrency {
            order.push(beginnings.recv().await.unwrap());
        }
        gate.add_permits(5);
        while order.len() < 5 {
            order.push(beginnings.recv().await.unwrap());
        }
        order
    };
    let order = tokio::select! {
        ended = run.into_future() => panic!("{ended:?}"),
        order = script => order,
    };
    (most.load(Ordering::SeqCst), order)
}

#[tokio::test]
async fn as_many_handlers_as_asked_for_are_at_work_at_once() {
    let order = ["a", "b", "c", "d", "e"].map(String::from).to_vec();
    assert_eq!(most_at_once(1).await, (1, order.clone()));
    assert_eq!(most_at_once(3).await, (3, order));
}

#[tokio::test]
async fn a_stop_waits_for_handlers_in_progress_and_takes_no_more_events() {
    let (mut fake, client) = open().await;
    let (begun, mut beginnings) = mpsc::unbounded_channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let (seen, stopping) = oneshot::channel();
    let gate = &Semaphore::new(0);
    let run = client
        .run(|event: EventMessage| {
            begun.send(event.id.to_string()).unwrap();
            gate.acquire().map(|permit| permit.map(drop))
        })
        .concurrency(2)
        .stop_on(async {
            stopped.await.unwrap();
            seen.send(()).unwrap();
        });
    let script = async {
        let mut socket = fake.socket().await;
        send(&mut socket, "a", 1).await;
        assert_eq!(beginnings.recv().await.unwrap(), "a");
        stop.send(()).unwrap();
        stopping.await.unwrap();
        send(&mut socket, "b", 1).await;
        gate.add_permits(2);
        assert_eq!(heard(&mut socket).await, Some(ack("a")));
        assert_eq!(heard(&mut socket).await, None);
    };
    let (ended, ()) = join!(run.into_future(), script);
    ended.unwrap();
    assert!(beginnings.try_recv().is_err(), "an event was taken after the stop");
}

#[tokio::test]
async fn a_handler_that_outlasts_the_grace_is_dropped_and_its_event_not_acked() {
    let (mut fake, client) = open().await;
    let (begun, mut beginnings) = mpsc::unbounded_channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let run = client
        .run(|_: EventMessage| {
            begun.send(()).unwrap();
            pending::<Result<(), Error>>()
        })
        .stop_on(stopped)
        .grace(Duration::ZERO);
    let script = async {
        let mut socket = fake.socket().await;
        send(&mut socket, "a", 1).await;
        beginnings.recv().await.unwrap();
        stop.send(()).unwrap();
        assert_eq!(heard(&mut socket).await, None);
    };
    let (ended, ()) = join!(run.into_future(), script);
    ended.unwrap();
}

#[tokio::test]
async fn an_ack_over_a_lost_connection_ends_nothing() {
    let (mut fake, client) = open().await;
    let (begun, mut beginnings) = mpsc::unbounded_channel();
    let gate = &Semaphore::new(0);
    let run = client.run(|event: EventMessage| {
        begun.send(event.id.to_string()).unwrap();
        gate.acquire().map(|permit| permit.map(SemaphorePermit::forget))
    });
    let script = async {
        let mut first = fake.socket().await;
        send(&mut first, "a", 1).await;
        beginnings.recv().await.unwrap();
        drop(first);
        let mut second = fake.socket().await;
        gate.add_permits(2);
        send(&mut second, "a", 2).await;
        assert_eq!(heard(&mut second).await, Some(ack("a")));
    };
    tokio::select! {
        ended = run.into_future() => panic!("{ended:?}"),
        () = script => {}
    }
}

#[tokio::test]
async fn what_no_retry_mends_ends_it_with_an_error() {
    let cases = HashMap::from([(403, ErrorKind::Refused), (404, ErrorKind::NotRegistered)]);
    for (status, kind) in cases {
        let (_fake, client) = proxy(Answer::status(status)).await;
        let ended = client.run(async |_: EventMessage| Ok::<(), Error>(())).await;
        assert_eq!(ended.unwrap_err().kind(), kind);
    }
}
