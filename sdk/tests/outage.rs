//! How long a subscription goes on without a connection, with the clock in hand.

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use common::{Answer, Fake, platform};
use futures_util::{SinkExt, StreamExt};
use reqwest::dns::{Name, Resolve, Resolving};
use tokio::{sync::mpsc, time::Instant};
use tokio_tungstenite::tungstenite::Message;
use wwproxy_sdk::{Client, ErrorKind, HttpOptions, ListenOptions, State};

/// A network without a name server: looking a name up fails at once, or never ends.
struct NoNames {
    fails: bool,
}

impl Resolve for NoNames {
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

/// A client that reaches nothing, without a socket, so that time only moves when nothing else does.
fn cut_off(fails: bool) -> Client {
    let http = HttpOptions::new().no_proxy().client_builder().unwrap().dns_resolver(NoNames { fails });
    let builder = Client::builder("http://proxy.example").app_id("bot").token("t").allow_http(true);
    builder.http_client(http.build().unwrap()).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn who_never_gets_a_connection_is_told_the_last_error() {
    let started = Instant::now();
    let mut events = cut_off(true).listen(ListenOptions::new().max_disconnected(Duration::from_secs(300)));
    let error = events.next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.to_string().contains("http://proxy.example"), "{error}");
    assert_eq!(started.elapsed().as_secs(), 300);
    assert!(events.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_try_that_hangs_does_not_outlast_the_limit() {
    let started = Instant::now();
    let mut events = cut_off(false).listen(ListenOptions::new().max_disconnected(Duration::from_secs(5)));
    assert_eq!(events.next().await.unwrap().unwrap_err().kind(), ErrorKind::Unreachable);
    assert_eq!(started.elapsed().as_secs(), 5);
    assert!(events.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn without_a_limit_it_is_tried_for_ever() {
    for options in [ListenOptions::new(), ListenOptions::new().max_disconnected(Duration::MAX)] {
        let mut events = cut_off(true).listen(options);
        let day = Duration::from_secs(24 * 3600);
        assert!(tokio::time::timeout(day, events.next()).await.is_err());
    }
}

#[tokio::test]
async fn the_limit_counts_from_the_loss_of_a_connection() {
    let hour = Duration::from_secs(3600);
    let down = Arc::new(AtomicBool::new(false));
    let is_down = down.clone();
    let mut fake = Fake::start(move |request, own| {
        let upgrade = || {
            if is_down.load(Ordering::SeqCst) {
                Answer::status(503)
            } else {
                Answer::Upgrade(Some("wwproxy.v2"))
            }
        };
        platform(request, own, 3600, || 1).unwrap_or_else(upgrade)
    })
    .await;
    let (states, mut told) = mpsc::unbounded_channel();
    let options =
        ListenOptions::new().idle_timeout(hour * 24).max_disconnected(hour).on_state(move |state| {
            let _ = states.send(matches!(state, State::Connected { .. }));
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
        assert!(told.recv().await.unwrap());
        // While there is a connection no limit runs.
        pass(hour * 2).await;
        let event = format!(r#"{{"type":"event","id":"{id}","data":{{}}}}"#);
        socket.send(Message::text(event)).await.unwrap();
        assert_eq!(events.next().await.unwrap().unwrap().id().as_str(), id);
        down.store(id == "b", Ordering::SeqCst);
        drop(socket);
        assert!(!told.recv().await.unwrap());
    }
    pass(hour * 2).await;
    let error = events.next().await.unwrap().unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert!(events.next().await.is_none());
}
