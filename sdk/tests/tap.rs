//! Taps over real sockets, against a fake server.

mod common;

use common::{FakeServer, Reply, Socket, platform};
use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::Message;
use wwproxy_sdk::{Client, ErrorKind, ListenOptions, Tap, TapItem};

const HELLO: &str =
    r#"{"type":"hello","appId":"bot","window":64,"leaseMs":60000,"pingMs":20000,"idleMs":60000,"tap":true}"#;
const OLD_HELLO: &str =
    r#"{"type":"hello","appId":"bot","window":64,"leaseMs":60000,"pingMs":20000,"idleMs":60000}"#;
const EVENT: &str = r#"{"type":"event","id":"a","attempt":0,"headers":[],"data": {"n" : 1}}"#;

async fn proxy(subprotocol: Option<&'static str>) -> FakeServer {
    FakeServer::start(move |request, own| {
        platform(request, own, 3600, || 1).unwrap_or(Reply::Upgrade(subprotocol))
    })
    .await
}

fn tap(fake: &FakeServer) -> Tap {
    Client::builder(&fake.url).app_id("bot").app_secret("s").build().unwrap().tap(ListenOptions::new())
}

async fn send(socket: &mut Socket, text: &str) {
    socket.send(Message::text(text)).await.unwrap();
}

/// The messages that the server receives until the client closes the connection.
async fn receive_all(mut socket: Socket) -> Vec<Message> {
    let mut messages = Vec::new();
    while let Some(Ok(message)) = socket.next().await {
        messages.push(message);
    }
    messages
}

#[tokio::test]
async fn a_tap_shows_events_and_gaps_and_acknowledges_nothing() {
    let mut fake = proxy(Some("wwproxy.v2")).await;
    let mut tap = tap(&fake);
    let mut socket = fake.socket().await;
    for text in [HELLO, EVENT, r#"{"type":"gap","missed":7}"#, EVENT] {
        send(&mut socket, text).await;
    }
    for n in 0..3 {
        match tap.next().await.unwrap().unwrap() {
            TapItem::Event(event) => {
                assert!(n != 1);
                assert_eq!((event.body.as_ref(), event.details.attempt), (&br#" {"n" : 1}"#[..], Some(0)));
            }
            gap => assert!(n == 1 && matches!(gap, TapItem::Gap { missed: Some(7), .. }), "{gap:?}"),
        }
    }
    let ((), received) = tokio::join!(tap.close(), receive_all(socket));
    assert!(matches!(received[..], [Message::Close(_)]), "{received:?}");
    assert_eq!(fake.count("GET /webhooks/bot?tap=1"), 1);
}

#[tokio::test]
async fn debug_redacts_headers_query_path_and_body() {
    let mut fake = proxy(Some("wwproxy.v2")).await;
    let mut tap = tap(&fake);
    let mut socket = fake.socket().await;
    send(&mut socket, HELLO).await;
    let event = r#"{"type":"event","id":"7","attempt":0,"source":"repo","tail":"/hunter2","verification":null,
        "headers":[["x-token","hunter2"]],"query":"token=hunter2","data":{"token":"hunter2"}}"#;
    send(&mut socket, event).await;
    let item = tap.next().await.unwrap().unwrap();
    let shown = format!("{item:?} {tap:?}");
    assert!(
        shown.contains("x-token") && shown.contains("body_bytes") && !shown.contains("hunter2"),
        "{shown}"
    );
}

#[tokio::test]
async fn a_reconnect_reports_a_gap() {
    let mut fake = proxy(Some("wwproxy.v2")).await;
    let mut tap = tap(&fake);
    // A connection that is lost before the server is ready has no gap.
    drop(fake.socket().await);
    let mut socket = fake.socket().await;
    send(&mut socket, HELLO).await;
    send(&mut socket, EVENT).await;
    assert!(matches!(tap.next().await, Some(Ok(TapItem::Event(_)))));
    drop(socket);
    let mut socket = fake.socket().await;
    send(&mut socket, HELLO).await;
    send(&mut socket, EVENT).await;
    assert!(matches!(tap.next().await, Some(Ok(TapItem::Gap { missed: None, .. }))));
    assert!(matches!(tap.next().await, Some(Ok(TapItem::Event(_)))));
}

#[tokio::test]
async fn a_server_without_taps_ends_the_tap() {
    let v2 = Some("wwproxy.v2");
    let legacy_event = r#"{"type":"event","id":"a","data":{}}"#;
    for (subprotocol, messages) in
        [(v2, [OLD_HELLO, EVENT]), (v2, [EVENT, HELLO]), (None, [legacy_event, legacy_event])]
    {
        let mut fake = proxy(subprotocol).await;
        let mut tap = tap(&fake);
        let mut socket = fake.socket().await;
        for text in messages {
            // The client may have closed the connection before the second.
            let _ = socket.send(Message::text(text)).await;
        }
        let error = tap.next().await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol);
        assert!(error.to_string().contains("too old"), "{error}");
        assert!(tap.next().await.is_none());
        let received = receive_all(socket).await;
        assert!(received.iter().all(Message::is_close), "{received:?}");
        assert_eq!(fake.count("GET /webhooks/bot?tap=1"), 1);
    }
}
