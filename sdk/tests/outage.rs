//! How long a subscription retries without a connection, in paused time.

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use common::{FakeServer, Reply, platform};
use futures_util::{SinkExt, StreamExt};
use reqwest::dns::{Name, Resolve, Resolving};
use tokio::{sync::mpsc, time::Instant};
use tokio_tungstenite::tungstenite::Message;
use wwproxy_sdk::{Client, ErrorKind, HttpOptions, ListenOptions, State};

/// A resolver whose lookups fail at once or never end.
struct BrokenResolver {
    fails: bool,
}

impl Resolve for BrokenResolver {
    fn resolve(&self, _name: Name) -> Resolving {
        let fails = self.fails;
        Box::pin(async move {
            if !fails {
                std::future::pending::<()>().await;
            }
            Err("no such name".into())
        })
    }
}

/// A client without a network. It opens no socket, so that paused time advances only if all tasks are idle.
fn offline_client(fails: bool) -> Client {
    let http = HttpOptions::new().no_proxy().client_builder().unwrap().dns_resolver(BrokenResolver { fails });
    let builder = Client::builder("http://proxy.example").app_id("bot").token("t").allow_http(true);
    builder.http_client(http.build().unwrap()).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn without_a_connection_the_stream_ends_with_the_last_error() {
    let started = Instant::now();
    let mut events =
        offline_client(true).listen(ListenOptions::new().max_disconnected(Duration::from_secs(300)));
    let error = events.next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.to_string().contains("http://proxy.example"), "{error}");
    assert_eq!(started.elapsed().as_secs(), 300);
    assert!(events.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn max_disconnected_ends_a_hanging_attempt() {
    let started = Instant::now();
    let mut events =
        offline_client(false).listen(ListenOptions::new().max_disconnected(Duration::from_secs(5)));
    assert_eq!(events.next().await.unwrap().unwrap_err().kind(), ErrorKind::Unreachable);
    assert_eq!(started.elapsed().as_secs(), 5);
    assert!(events.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn without_a_limit_it_retries_forever() {
    for options in [ListenOptions::new(), ListenOptions::new().max_disconnected(Duration::MAX)] {
        let mut events = offline_client(true).listen(options);
        let day = Duration::from_secs(24 * 3600);
        assert!(tokio::time::timeout(day, events.next()).await.is_err());
    }
}

#[tokio::test]
async fn max_disconnected_counts_from_the_loss_of_the_connection() {
    let hour = Duration::from_secs(3600);
    let down = Arc::new(AtomicBool::new(false));
    let is_down = down.clone();
    let mut fake = FakeServer::start(move |request, own| {
        let upgrade = || {
            if is_down.load(Ordering::SeqCst) {
                Reply::status(503)
            } else {
                Reply::Upgrade(Some("wwproxy.v2"))
            }
        };
        platform(request, own, 3600, || 1).unwrap_or_else(upgrade)
    })
    .await;
    let (state_sender, mut states) = mpsc::unbounded_channel();
    let options =
        ListenOptions::new().idle_timeout(hour * 24).max_disconnected(hour).on_state(move |state| {
            let _ = state_sender.send(matches!(state, State::Connected { .. }));
        });
    let client = Client::builder(&fake.url).app_id("bot").token("t").build().unwrap();
    let mut events = client.listen(options);
    let hello = r#"{"type":"hello","appId":"bot","window":64,"leaseMs":60000,"pingMs":20000,"idleMs":60000}"#;
    let pass = async |time| {
        tokio::time::pause();
        tokio::time::advance(time).await;
        tokio::time::resume();
    };
    for id in ["a", "b"] {
        let mut socket = fake.socket().await;
        socket.send(Message::text(hello)).await.unwrap();
        assert!(states.recv().await.unwrap());
        // The limit does not apply while there is a connection.
        pass(hour * 2).await;
        let event = format!(r#"{{"type":"event","id":"{id}","data":{{}}}}"#);
        socket.send(Message::text(event)).await.unwrap();
        assert_eq!(events.next().await.unwrap().unwrap().id().as_str(), id);
        down.store(id == "b", Ordering::SeqCst);
        drop(socket);
        assert!(!states.recv().await.unwrap());
    }
    pass(hour * 2).await;
    let error = events.next().await.unwrap().unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert!(events.next().await.is_none());
}
