//! Handlers over real sockets, against a fake server.

mod common;

use std::{
    future::pending,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{FakeServer, Reply, Socket, assert_reads_on, platform};
use futures_util::{SinkExt, StreamExt};
use tokio::sync::{Barrier, Notify, Semaphore};
use tokio_tungstenite::tungstenite::Message;
use wwproxy_sdk::{Client, ErrorKind, ListenOptions};

const HELLO: &str =
    r#"{"type":"hello","appId":"bot","window":64,"leaseMs":60000,"pingMs":20000,"idleMs":60000}"#;

async fn proxy() -> FakeServer {
    FakeServer::start(|request, own| {
        platform(request, own, 3600, || 1).unwrap_or(Reply::Upgrade(Some("wwproxy.v2")))
    })
    .await
}

fn client(fake: &FakeServer) -> Client {
    Client::builder(&fake.url).app_id("bot").app_secret("s").build().unwrap()
}

async fn connected(fake: &mut FakeServer, ids: &[&str]) -> Socket {
    let mut socket = fake.socket().await;
    socket.send(Message::text(HELLO)).await.unwrap();
    for id in ids {
        send(&mut socket, id, 1).await;
    }
    socket
}

async fn send(socket: &mut Socket, id: &str, attempt: u32) {
    let text = format!(r#"{{"type":"event","id":"{id}","attempt":{attempt},"headers":[],"data":{{}}}}"#);
    socket.send(Message::text(text)).await.unwrap();
}

/// The next message of the client.
async fn receive(socket: &mut Socket) -> String {
    match socket.next().await.unwrap().unwrap() {
        Message::Text(text) => text.to_string(),
        Message::Close(_) => "close".to_owned(),
        other => panic!("{other:?}"),
    }
}

/// The messages that the server receives until the client closes the connection.
async fn receive_all(socket: &mut Socket) -> Vec<String> {
    let mut messages = Vec::new();
    loop {
        match receive(socket).await {
            close if close == "close" => return messages,
            text => messages.push(text),
        }
    }
}

fn ack(id: &str) -> String {
    format!(r#"{{"id":"{id}","type":"event_ack"}}"#)
}

#[tokio::test]
async fn events_are_handled_one_at_a_time_and_acknowledged() {
    let mut fake = proxy().await;
    let handled = Mutex::new(Vec::new());
    let (running, most, stop) = (AtomicUsize::new(0), AtomicUsize::new(0), Notify::new());
    let run = client(&fake)
        .run(|event| {
            let (handled, running, most) = (&handled, &running, &most);
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                running.fetch_sub(1, Ordering::SeqCst);
                handled.lock().unwrap().push(event.id.to_string());
                Ok(())
            }
        })
        .options(ListenOptions::new().window(8))
        .stop_on(stop.notified());
    let server = async {
        let mut socket = connected(&mut fake, &["a", "b", "c"]).await;
        for id in ["a", "b", "c"] {
            assert_eq!(receive(&mut socket).await, ack(id));
        }
        stop.notify_one();
        assert_eq!(receive(&mut socket).await, "close");
    };
    let (result, ()) = tokio::join!(run.into_future(), server);
    result.unwrap();
    assert_eq!(*handled.lock().unwrap(), ["a", "b", "c"]);
    assert_eq!(most.load(Ordering::SeqCst), 1);
    assert_eq!(fake.count("GET /webhooks/bot?window=8"), 1);
}

#[tokio::test]
async fn failures_and_panics_are_nacked_with_exponential_backoff() {
    let mut fake = proxy().await;
    let stop = Notify::new();
    let run = client(&fake)
        .run(|event| {
            assert_ne!(event.id.as_str(), "panics-at-once");
            async move {
                assert_ne!(event.id.as_str(), "panics-later");
                if event.id.as_str() == "fails" { Err("no".into()) } else { Ok(()) }
            }
        })
        .retry_delay(Duration::from_millis(1500))
        .stop_on(stop.notified());
    let server = async {
        let mut socket = connected(&mut fake, &[]).await;
        let nack = |id: &str, ms: u32| {
            let reason = if id == "fails" { "no" } else { "the handler panicked" };
            format!(r#"{{"type":"event_nack","id":"{id}","delay_ms":{ms},"reason":"{reason}"}}"#)
        };
        for (id, attempt, settlement) in [
            ("fails", 1, nack("fails", 1500)),
            ("panics-at-once", 1, nack("panics-at-once", 1500)),
            ("panics-later", 2, nack("panics-later", 3000)),
            ("fails", 3, nack("fails", 6000)),
            ("fails", 300, nack("fails", 600_000)),
            ("works", 2, ack("works")),
        ] {
            send(&mut socket, id, attempt).await;
            assert_eq!(receive(&mut socket).await, settlement);
        }
        stop.notify_one();
        assert_eq!(receive(&mut socket).await, "close");
    };
    let (result, ()) = tokio::join!(run.into_future(), server);
    result.unwrap();
}

#[tokio::test]
async fn the_concurrency_is_also_the_window() {
    let mut fake = proxy().await;
    let (together, stop) = (Barrier::new(3), Notify::new());
    let run = client(&fake)
        .run(|_| async {
            // Returns only if three handlers wait.
            together.wait().await;
            Ok(())
        })
        .concurrency(3)
        .stop_on(stop.notified());
    let server = async {
        let mut socket = connected(&mut fake, &["a", "b", "c"]).await;
        let mut acked = String::new();
        while ["a", "b", "c"].iter().any(|id| !acked.contains(&format!("\"{id}\""))) {
            acked += &receive(&mut socket).await;
        }
        stop.notify_one();
        assert_eq!(receive(&mut socket).await, "close");
    };
    let (result, ()) = tokio::join!(run.into_future(), server);
    result.unwrap();
    assert_eq!(fake.count("GET /webhooks/bot?window=3"), 1);
}

#[tokio::test]
async fn a_window_of_large_events_is_read_while_the_first_is_handled() {
    const EVENTS: usize = 8;
    let mut fake = proxy().await;
    let (end, stop) = (Semaphore::new(0), Notify::new());
    let run = client(&fake)
        .run(|_| async {
            end.acquire().await.unwrap().forget();
            Ok(())
        })
        .options(ListenOptions::new().window(8))
        .stop_on(stop.notified());
    let server = async {
        let mut socket = connected(&mut fake, &[]).await;
        let body = "x".repeat(3 << 20);
        for n in 0..EVENTS {
            let text = format!(r#"{{"type":"event","id":"{n}","attempt":1,"headers":[],"data":["{body}"]}}"#);
            socket.send(Message::text(text)).await.unwrap();
        }
        assert_reads_on(&mut socket).await;
        end.add_permits(EVENTS);
        for n in 0..EVENTS {
            assert_eq!(receive(&mut socket).await, ack(&n.to_string()));
        }
        stop.notify_one();
        assert_eq!(receive(&mut socket).await, "close");
    };
    let (result, ()) = tokio::join!(run.into_future(), server);
    result.unwrap();
}

#[tokio::test]
async fn a_stop_finishes_running_handlers_and_starts_no_other() {
    let mut fake = proxy().await;
    let (begun, stop, end) = (Notify::new(), Notify::new(), Notify::new());
    let handled = Mutex::new(Vec::new());
    let run = client(&fake)
        .run(|event| {
            let (handled, begun, end) = (&handled, &begun, &end);
            async move {
                handled.lock().unwrap().push(event.id.to_string());
                begun.notify_one();
                end.notified().await;
                Ok(())
            }
        })
        .options(ListenOptions::new().window(8))
        .stop_on(async {
            stop.notified().await;
            // In the same poll in which the run sees the stop, so that nothing happens in between.
            end.notify_one();
        });
    let server = async {
        let mut socket = connected(&mut fake, &["a", "b"]).await;
        begun.notified().await;
        stop.notify_one();
        assert_eq!(receive_all(&mut socket).await, [ack("a")]);
    };
    let (result, ()) = tokio::join!(run.into_future(), server);
    result.unwrap();
    assert_eq!(*handled.lock().unwrap(), ["a"]);
}

/// Counts its drops.
struct DropCounter<'a>(&'a AtomicUsize);

impl Drop for DropCounter<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_handler_is_dropped_after_the_grace_period() {
    let mut fake = proxy().await;
    let (begun, dropped) = (Notify::new(), AtomicUsize::new(0));
    let run = client(&fake)
        .run(|_| async {
            let _counter = DropCounter(&dropped);
            begun.notify_one();
            pending().await
        })
        .grace(Duration::from_millis(1))
        .stop_on(begun.notified());
    let server = async {
        let mut socket = connected(&mut fake, &["a"]).await;
        assert_eq!(receive_all(&mut socket).await, <[String; 0]>::default());
    };
    let (result, ()) = tokio::join!(run.into_future(), server);
    result.unwrap();
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn dropping_a_run_acknowledges_nothing() {
    let mut fake = proxy().await;
    let begun = Notify::new();
    let client = client(&fake);
    let run = client.run(|_| async {
        begun.notify_one();
        pending().await
    });
    let mut socket = tokio::select! {
        result = run.into_future() => panic!("{result:?}"),
        socket = async {
            let socket = connected(&mut fake, &["a"]).await;
            begun.notified().await;
            socket
        } => socket,
    };
    assert_eq!(receive_all(&mut socket).await, <[String; 0]>::default());
}

#[tokio::test]
async fn a_redelivery_of_a_handled_event_is_acknowledged_without_the_handler() {
    let mut fake = proxy().await;
    let (begun, end, stop) = (Notify::new(), Notify::new(), Notify::new());
    let calls = AtomicUsize::new(0);
    let run = client(&fake)
        .run(|_| async {
            calls.fetch_add(1, Ordering::SeqCst);
            begun.notify_one();
            end.notified().await;
            Ok(())
        })
        .stop_on(stop.notified());
    let server = async {
        // Redelivered while the handler runs.
        let first = connected(&mut fake, &["a"]).await;
        begun.notified().await;
        drop(first);
        let mut second = connected(&mut fake, &[]).await;
        send(&mut second, "a", 2).await;
        second.send(Message::Ping("read?".into())).await.unwrap();
        assert!(matches!(second.next().await, Some(Ok(Message::Pong(_)))));
        end.notify_one();
        assert_eq!(receive(&mut second).await, ack("a"));

        // Redelivered after the handler has finished without a connection.
        send(&mut second, "b", 1).await;
        begun.notified().await;
        drop(second);
        let mut third = fake.socket().await;
        end.notify_one();
        tokio::task::yield_now().await;
        third.send(Message::text(HELLO)).await.unwrap();
        send(&mut third, "b", 2).await;
        assert_eq!(receive(&mut third).await, ack("b"));
        stop.notify_one();
        assert_eq!(receive(&mut third).await, "close");
    };
    let (result, ()) = tokio::join!(run.into_future(), server);
    result.unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_permanent_error_ends_a_run() {
    let fake =
        FakeServer::start(|request, own| platform(request, own, 3600, || 1).unwrap_or(Reply::status(404)))
            .await;
    let run = client(&fake).run(|_| async { Ok(()) });
    assert_eq!(run.await.unwrap_err().kind(), ErrorKind::NotRegistered);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_can_be_spawned() {
    let mut fake = proxy().await;
    let run = tokio::spawn(client(&fake).run(|_| async { Ok(()) }).into_future());
    let mut socket = connected(&mut fake, &["a"]).await;
    assert_eq!(receive(&mut socket).await, ack("a"));
    run.abort();
    assert_eq!(receive(&mut socket).await, "close");
}
