//! Handlers over real sockets, against a fake proxy.

mod common;

use std::{
    future::pending,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{Answer, Fake, Socket, assert_reading_is_paused, assert_reading_resumed, platform};
use futures_util::{SinkExt, StreamExt};
use tokio::sync::{Barrier, Notify};
use tokio_tungstenite::tungstenite::Message;
use wwproxy_sdk::{Client, ErrorKind, ListenOptions};

const HELLO: &str =
    r#"{"type":"hello","appId":"bot","window":64,"leaseMs":60000,"pingMs":20000,"idleMs":60000}"#;

async fn proxy() -> Fake {
    Fake::start(|request, own| {
        platform(request, own, 3600, || 1).unwrap_or(Answer::Upgrade(Some("wwproxy.v2")))
    })
    .await
}

fn client(fake: &Fake) -> Client {
    Client::builder(&fake.url).app_id("bot").app_secret("s").build().unwrap()
}

async fn connected(fake: &mut Fake, ids: &[&str]) -> Socket {
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
async fn heard(socket: &mut Socket) -> String {
    match socket.next().await.unwrap().unwrap() {
        Message::Text(text) => text.to_string(),
        Message::Close(_) => "close".to_owned(),
        other => panic!("{other:?}"),
    }
}

/// What a server hears until the connection is closed.
async fn until_closed(socket: &mut Socket) -> Vec<String> {
    let mut messages = Vec::new();
    loop {
        match heard(socket).await {
            close if close == "close" => return messages,
            text => messages.push(text),
        }
    }
}

fn ack(id: &str) -> String {
    format!(r#"{{"id":"{id}","type":"event_ack"}}"#)
}

#[tokio::test]
async fn events_are_handled_one_after_the_other_and_acknowledged() {
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
            assert_eq!(heard(&mut socket).await, ack(id));
        }
        stop.notify_one();
        assert_eq!(heard(&mut socket).await, "close");
    };
    let (result, ()) = tokio::join!(run.into_future(), server);
    result.unwrap();
    assert_eq!(*handled.lock().unwrap(), ["a", "b", "c"]);
    assert_eq!(most.load(Ordering::SeqCst), 1);
    assert_eq!(fake.count("GET /webhooks/bot?window=8"), 1);
}

#[tokio::test]
async fn a_failed_event_is_handed_back_for_longer_each_time_and_a_panic_is_a_failure() {
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
        let nack = |id: &str, ms: u32| format!(r#"{{"delay_ms":{ms},"id":"{id}","type":"event_nack"}}"#);
        for (id, attempt, answer) in [
            ("fails", 1, nack("fails", 1500)),
            ("panics-at-once", 1, nack("panics-at-once", 1500)),
            ("panics-later", 2, nack("panics-later", 3000)),
            ("fails", 3, nack("fails", 6000)),
            ("fails", 300, nack("fails", 600_000)),
            ("works", 2, ack("works")),
        ] {
            send(&mut socket, id, attempt).await;
            assert_eq!(heard(&mut socket).await, answer);
        }
        stop.notify_one();
        assert_eq!(heard(&mut socket).await, "close");
    };
    let (result, ()) = tokio::join!(run.into_future(), server);
    result.unwrap();
}

#[tokio::test]
async fn so_many_are_handled_at_once_and_no_more_are_leased() {
    let mut fake = proxy().await;
    let (together, stop) = (Barrier::new(3), Notify::new());
    let run = client(&fake)
        .run(|_| async {
            // Passes only with three in progress.
            together.wait().await;
            Ok(())
        })
        .concurrency(3)
        .stop_on(stop.notified());
    let server = async {
        let mut socket = connected(&mut fake, &["a", "b", "c"]).await;
        let mut acked = String::new();
        while ["a", "b", "c"].iter().any(|id| !acked.contains(&format!("\"{id}\""))) {
            acked += &heard(&mut socket).await;
        }
        stop.notify_one();
        assert_eq!(heard(&mut socket).await, "close");
    };
    let (result, ()) = tokio::join!(run.into_future(), server);
    result.unwrap();
    assert_eq!(fake.count("GET /webhooks/bot?window=3"), 1);
}

#[tokio::test]
async fn events_that_wait_for_a_handler_count_as_prefetched() {
    let mut fake = proxy().await;
    let (begun, end, stop) = (Notify::new(), Notify::new(), Notify::new());
    let run = client(&fake)
        .run(|_| async {
            begun.notify_one();
            end.notified().await;
            Ok(())
        })
        .options(ListenOptions::new().window(8).max_prefetch_bytes(64 * 1024))
        .stop_on(stop.notified());
    let server = async {
        let mut socket = connected(&mut fake, &["a"]).await;
        begun.notified().await;
        let body = "x".repeat(64 * 1024);
        let text = format!(r#"{{"type":"event","id":"b","attempt":1,"headers":[],"data":["{body}"]}}"#);
        socket.send(Message::text(text)).await.unwrap();
        assert_reading_is_paused(&mut socket).await;
        end.notify_one();
        assert_eq!(heard(&mut socket).await, ack("a"));
        assert_reading_resumed(&mut socket).await;
        end.notify_one();
        assert_eq!(heard(&mut socket).await, ack("b"));
        stop.notify_one();
        assert_eq!(heard(&mut socket).await, "close");
    };
    let (result, ()) = tokio::join!(run.into_future(), server);
    result.unwrap();
}

#[tokio::test]
async fn a_stop_lets_handlers_end_and_hands_the_rest_back() {
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
            // In the same poll as the run sees the stop, so that nothing can come between.
            end.notify_one();
        });
    let server = async {
        let mut socket = connected(&mut fake, &["a", "b"]).await;
        begun.notified().await;
        stop.notify_one();
        assert_eq!(until_closed(&mut socket).await, [ack("a")]);
    };
    let (result, ()) = tokio::join!(run.into_future(), server);
    result.unwrap();
    assert_eq!(*handled.lock().unwrap(), ["a"]);
}

/// Counts how often it was dropped.
struct Counts<'a>(&'a AtomicUsize);

impl Drop for Counts<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_handler_that_does_not_end_is_dropped_after_the_grace() {
    let mut fake = proxy().await;
    let (begun, dropped) = (Notify::new(), AtomicUsize::new(0));
    let run = client(&fake)
        .run(|_| async {
            let _counts = Counts(&dropped);
            begun.notify_one();
            pending().await
        })
        .grace(Duration::from_millis(1))
        .stop_on(begun.notified());
    let server = async {
        let mut socket = connected(&mut fake, &["a"]).await;
        assert_eq!(until_closed(&mut socket).await, <[String; 0]>::default());
    };
    let (result, ()) = tokio::join!(run.into_future(), server);
    result.unwrap();
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn dropping_a_run_ends_it_and_acknowledges_nothing() {
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
    assert_eq!(until_closed(&mut socket).await, <[String; 0]>::default());
}

#[tokio::test]
async fn work_done_while_the_connection_was_away_is_not_done_again() {
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
        // Still being handled when it comes again.
        let first = connected(&mut fake, &["a"]).await;
        begun.notified().await;
        drop(first);
        let mut second = connected(&mut fake, &[]).await;
        send(&mut second, "a", 2).await;
        second.send(Message::Ping("taken?".into())).await.unwrap();
        assert!(matches!(second.next().await, Some(Ok(Message::Pong(_)))));
        end.notify_one();
        assert_eq!(heard(&mut second).await, ack("a"));

        // Handled before it comes again: the stop that ends the handler is seen while there is no connection.
        send(&mut second, "b", 1).await;
        begun.notified().await;
        drop(second);
        let mut third = fake.socket().await;
        end.notify_one();
        tokio::task::yield_now().await;
        third.send(Message::text(HELLO)).await.unwrap();
        send(&mut third, "b", 2).await;
        assert_eq!(heard(&mut third).await, ack("b"));
        stop.notify_one();
        assert_eq!(heard(&mut third).await, "close");
    };
    let (result, ()) = tokio::join!(run.into_future(), server);
    result.unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn what_no_retry_mends_ends_a_run() {
    let fake =
        Fake::start(|request, own| platform(request, own, 3600, || 1).unwrap_or(Answer::status(404))).await;
    let run = client(&fake).run(|_| async { Ok(()) });
    assert_eq!(run.await.unwrap_err().kind(), ErrorKind::NotRegistered);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_may_be_a_task_of_its_own() {
    let mut fake = proxy().await;
    let run = tokio::spawn(client(&fake).run(|_| async { Ok(()) }).into_future());
    let mut socket = connected(&mut fake, &["a"]).await;
    assert_eq!(heard(&mut socket).await, ack("a"));
    run.abort();
    assert_eq!(heard(&mut socket).await, "close");
}
