//! Bodies and metadata of events, and events that cannot be decoded, against a fake server over a real port.

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};

use common::{FakeServer, Reply, Request, Socket};
use futures_util::{SinkExt, StreamExt};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use wwproxy_sdk::{Client, ErrorKind, LeaseOptions, ListenOptions, State, scheme::Covers};

const HELLO: &str =
    r#"{"type":"hello","appId":"bot","window":64,"leaseMs":60000,"pingMs":20000,"idleMs":60000}"#;

/// A server that replies with the closure, and its client.
async fn start(reply: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> (FakeServer, Client) {
    let fake = FakeServer::start(move |request, _| reply(request)).await;
    let client = Client::builder(&fake.url).app_id("bot").token("t").build().unwrap();
    (fake, client)
}

async fn send(socket: &mut Socket, text: &str) {
    socket.send(Message::text(text)).await.unwrap();
}

#[tokio::test]
async fn bodies_that_are_not_json_are_decoded() {
    let lease = r#"{"events":[
        {"id":"1","receipt":"r","attempt":1,"source":"sms","tail":"/a","deliveryId":"7","verification":null,
         "headers":[["content-type","application/x-www-form-urlencoded"]],"encoding":"text","data":"a=%C3%A9"},
        {"id":"2","receipt":"r","attempt":1,"encoding":"base64","data":"//4="}]}"#;
    let poll = r#"{"1":"a=%C3%A9","2":{"encoding":"base64","data":"//4="},"3":{"n":1.0}}"#;
    let (_fake, client) = start(move |request| match request.line.as_str() {
        "GET /webhooks/bot" => Reply::json(200, poll),
        _ => Reply::json(200, lease),
    })
    .await;
    let leased = client.lease(LeaseOptions::new()).await.unwrap().events;
    assert_eq!((leased[0].text().unwrap(), &leased[1].bytes()[..]), ("a=%C3%A9", &b"\xff\xfe"[..]));
    assert_eq!(leased[0].form().next().unwrap(), ("a".into(), "é".into()));
    assert_eq!(leased[0].content_type(), Some("application/x-www-form-urlencoded"));
    assert_eq!((leased[0].source().as_str(), leased[0].tail()), ("sms", Some("/a")));
    assert!(leased[0].is_unverified() && leased[0].delivery_id() == Some("7"));
    assert!(leased[1].text().is_err() && !leased[1].is_unverified());
    let polled = client.drain(None).await.unwrap();
    let bodies: Vec<_> = polled.iter().map(|event| &event.bytes()[..]).collect();
    assert_eq!(bodies, [&b"a=%C3%A9"[..], b"\xff\xfe", b"{\"n\":1.0}"]);
}

#[tokio::test]
async fn events_that_cannot_be_decoded_are_named_and_do_not_withhold_the_others() {
    let bad = [
        r#"{"id":"1","receipt":"a","encoding":"cbor","data":"?"}"#,
        r#"{"id":"2","receipt":"b","attempt":-1,"encoding":"json","data":{}}"#,
        r#"{"id":"3","receipt":"c","source":"a/b","encoding":"json","data":{}}"#,
    ];
    let newer = r#"{"id":"4","receipt":"d","source":"repo","verification":{"scheme":"new","secret":1,"signed":"headers",
        "covers":"headers"},"encoding":"json","data":{}}"#;
    let is_first = AtomicUsize::new(0);
    let (_fake, client) = start(move |request| match is_first.fetch_add(1, Ordering::SeqCst) {
        _ if request.line == "GET /webhooks/bot" => {
            Reply::json(200, r#"{"1":{"encoding":"cbor","data":"?"},"2":{"attempt":-1}}"#)
        }
        0 => Reply::json(200, format!(r#"{{"events":[{},{newer}]}}"#, bad.join(","))),
        1 => Reply::json(200, format!(r#"{{"events":[{}]}}"#, bad[0])),
        _ => Reply::json(200, r#"{"events":[{"receipt":"a","data":{}}]}"#),
    })
    .await;
    let leased = client.lease(LeaseOptions::new()).await.unwrap();
    assert_eq!(leased.events.iter().map(|event| event.id.as_str()).collect::<Vec<_>>(), ["4"]);
    assert_eq!(leased.events[0].verification().unwrap().covers, Covers::Unknown);
    let left: Vec<_> = leased.undecodable.iter().map(ToString::to_string).collect();
    assert_eq!(
        left,
        [
            "event 1 cannot be decoded: the data of the message has the unknown encoding \"cbor\"; update this client",
            "event 2 cannot be decoded: the message has an unreadable attempt; update this client",
            "event 3 cannot be decoded: the message has an unreadable source; update this client",
        ]
    );
    let none = client.lease(LeaseOptions::new()).await.unwrap();
    assert_eq!((none.events.len(), none.undecodable.len()), (0, 1));
    assert_eq!(client.lease(LeaseOptions::new()).await.unwrap_err().kind(), ErrorKind::Protocol);
    // A poll has no metadata: what looks like it is the body.
    let polled = client.drain(None).await.unwrap();
    let bodies: Vec<_> = polled.iter().map(|event| &event.body[..]).collect();
    assert_eq!(bodies, [&br#"{"encoding":"cbor","data":"?"}"#[..], br#"{"attempt":-1}"#]);
}

#[tokio::test]
async fn bodies_of_any_kind_are_delivered_and_one_of_an_unknown_encoding_is_left() {
    let (mut fake, client) = start(|_| Reply::Upgrade(Some("wwproxy.v2"))).await;
    let (error_sender, mut errors) = mpsc::unbounded_channel();
    let options = ListenOptions::new().on_state(move |state| {
        if let State::Undecodable { error, .. } = state {
            let _ = error_sender.send(error.clone());
        }
    });
    let mut events = client.listen(options);
    let mut socket = fake.socket().await;
    send(&mut socket, HELLO).await;
    for event in [
        // Legacy messages have no encoding but base64.
        r#"{"type":"event","id":"1","data":"a=1"}"#,
        r#"{"type":"event","id":"2","encoding":"base64","data":"//4="}"#,
        r#"{"type":"event","id":"3","attempt":1,"source":"xml","encoding":"text","data":"<a/>\n"}"#,
        r#"{"type":"event","id":"4","encoding":"cbor","data":"?"}"#,
        r#"{"type":"event","id":"5","encoding":"json","data":"a"}"#,
    ] {
        send(&mut socket, event).await;
    }
    for body in [&b"a=1"[..], b"\xff\xfe", b"<a/>\n", b"\"a\""] {
        assert_eq!(&events.next().await.unwrap().unwrap().bytes()[..], body);
    }
    let error = errors.recv().await.unwrap().to_string();
    assert!(error.contains("event 4 cannot be decoded"), "{error}");
    assert!(error.contains("unknown encoding \"cbor\"; update this client"), "{error}");
}

#[tokio::test]
async fn an_event_with_unreadable_metadata_is_left_and_the_connection_stays() {
    let (mut fake, client) = start(|_| Reply::Upgrade(Some("wwproxy.v2"))).await;
    let (state_sender, mut states) = mpsc::unbounded_channel();
    let options = ListenOptions::new().on_state(move |state| {
        let _ = state_sender.send(format!("{state:?}"));
    });
    let mut events = client.listen(options);
    let mut socket = fake.socket().await;
    send(&mut socket, HELLO).await;
    let bad = [
        r#""attempt":4294967296"#,
        r#""source":"a/b""#,
        r#""headers":[["a"]]"#,
        r#""verification":{"scheme":"new"}"#,
    ];
    send(&mut socket, r#"{"type":"event","id":"first","data":{}}"#).await;
    for (n, members) in bad.into_iter().enumerate() {
        let event = format!(r#"{{"type":"event","id":"bad{n}",{members},"data":{{}}}}"#);
        send(&mut socket, &event).await;
    }
    let newer = r#"{"type":"event","id":"newer","attempt":1,"source":"repo",
        "verification":{"scheme":"new","secret":1,"signed":"headers","covers":"headers"},
        "headers":[["x-token","hunter2"]],"query":"hunter2","tail":"/hunter2","data":{"token":"hunter2"}}"#;
    send(&mut socket, newer).await;
    send(&mut socket, r#"{"type":"event","id":"last","data":{}}"#).await;
    for id in ["first", "newer", "last"] {
        let event = events.next().await.unwrap().unwrap();
        assert_eq!(event.id().as_str(), id);
        assert!(!format!("{event:?} {:?}", event.event()).contains("hunter2"));
        let covers = event.verification().map(|verified| verified.covers);
        assert_eq!(covers, (id == "newer").then_some(Covers::Unknown));
    }
    for n in 0..bad.len() {
        let nack = socket.next().await.unwrap().unwrap().to_string();
        assert!(nack.contains("event_nack") && nack.contains(&format!("bad{n}")), "{nack}");
    }
    let states: Vec<_> = std::iter::from_fn(|| states.try_recv().ok()).collect();
    assert_eq!(
        states.iter().filter(|state| state.starts_with("Undecodable")).count(),
        bad.len(),
        "{states:?}"
    );
    assert!(!states.iter().any(|state| state.starts_with("Reconnecting")), "{states:?}");
}
