//! Consumers, against a fake server over a real port.

mod common;

use std::time::{Duration, SystemTime};

use common::{FakeServer, Reply, Request, Socket};
use futures_util::{SinkExt, StreamExt};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use wwproxy_sdk::{
    AckRequest, Client, ConsumerSettings, ErrorKind, LeaseOptions, ListenOptions, Receipt, Rejection, Start,
    State, Subscription,
};

const V2: Option<&str> = Some("wwproxy.v2");
const AUDIT: &str = r#"{"name":"audit","types":["push"],"sources":[],"start":"new","maxAttempts":3,"pending":null,"pendingBytes":null,
    "leased":0,"dead":1,"dropped":2,"oldestPendingAgeMs":null,"lastUsed":"2026-01-31T12:00:00.000Z","clients":0}"#;

fn client(fake: &FakeServer) -> Client {
    Client::builder(&fake.url).app_id("bot").token("t").build().unwrap()
}

fn not_found(detail: &str) -> Reply {
    let problem = serde_json::json!({"title": "Not Found", "status": 404, "detail": detail});
    Reply::Http(404, vec![("content-type", "application/problem+json".into())], problem.to_string())
}

/// A server with the consumer `audit`.
fn reply(request: &Request) -> Reply {
    match request.line.as_str() {
        "GET /webhooks/bot/consumers" => Reply::json(200, format!(r#"{{"consumers":[{AUDIT}]}}"#)),
        "GET /webhooks/bot/consumers/audit" => Reply::json(200, AUDIT),
        "PUT /webhooks/bot/consumers/audit" => Reply::status(201),
        "DELETE /webhooks/bot/consumers/audit" | "POST /webhooks/bot/consumers/audit/seek" => {
            Reply::status(200)
        }
        "POST /webhooks/bot/lease" if request.body.contains("later") => not_found("create it"),
        "POST /webhooks/bot/lease" => Reply::json(200, r#"{"events":[]}"#),
        "POST /webhooks/bot/ack" => {
            Reply::json(200, r#"{"acked":1,"rejected":1,"released":0,"extended":0,"stale":[]}"#)
        }
        _ => not_found("PUT /webhooks/bot/consumers/later creates it"),
    }
}

#[tokio::test]
async fn a_consumer_is_created_read_moved_and_deleted() {
    let fake = FakeServer::start(|request, _| reply(request)).await;
    let client = client(&fake);
    let audit = client.consumer("audit").unwrap();
    let settings = ConsumerSettings {
        types: ["push".to_owned()].into(),
        start: Start::All,
        max_attempts: 3,
        idle_expiry: Some(Duration::from_secs(60)),
        ..ConsumerSettings::default()
    };
    assert!(audit.create(&settings).await.unwrap());
    let status = audit.status().await.unwrap();
    assert_eq!((status.types[0].as_str(), status.pending, status.dead, status.dropped), ("push", None, 1, 2));
    assert_eq!(client.consumers().await.unwrap(), [status]);
    audit.seek(Start::New).await.unwrap();
    audit.delete().await.unwrap();
    let requests = fake.requests();
    let body = r#"{"types":["push"],"sources":[],"start":"all","maxAttempts":3,"idleExpiryMs":60000}"#;
    assert_eq!(
        (requests[0].line.as_str(), requests[0].body.as_str()),
        ("PUT /webhooks/bot/consumers/audit", body)
    );
    assert_eq!(requests[3].line, "POST /webhooks/bot/consumers/audit/seek");
    assert_eq!(requests[3].body, r#"{"to":"new"}"#);
    assert_eq!(requests[4].line, "DELETE /webhooks/bot/consumers/audit");
    let invalid = client.consumer("a/b").unwrap_err();
    assert_eq!(invalid.kind(), ErrorKind::Usage);
}

#[tokio::test]
async fn requests_name_the_consumer_unless_it_is_default() {
    let fake = FakeServer::start(|request, _| reply(request)).await;
    let client = client(&fake);
    let settlement = AckRequest {
        ack: vec![Receipt::new("a")],
        reject: vec![Rejection { receipt: Receipt::new("b"), reason: Some("no such user".into()) }],
        ..AckRequest::default()
    };
    for name in ["audit", "default"] {
        let consumer = client.consumer(name).unwrap();
        consumer.lease(LeaseOptions::new()).await.unwrap();
        assert_eq!(consumer.settle(&settlement).await.unwrap().rejected, 1);
    }
    let bodies: Vec<_> = fake.requests().into_iter().map(|request| request.body).collect();
    let settled = r#""ack":["a"],"reject":[{"receipt":"b","reason":"no such user"}],"release":[]}"#;
    assert_eq!(
        bodies,
        [
            r#"{"wait_ms":0,"consumer":"audit"}"#.to_owned(),
            format!(r#"{{"consumer":"audit",{settled}"#),
            r#"{"wait_ms":0}"#.to_owned(),
            format!("{{{settled}"),
        ]
    );
}

#[tokio::test]
async fn a_missing_consumer_is_distinguished_from_an_old_server() {
    let fake = FakeServer::start(|request, _| reply(request)).await;
    let later = client(&fake).consumer("later").unwrap();
    let error = later.status().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotRegistered);
    assert!(error.to_string().contains("the consumer later was not found"), "{error}");
    assert!(error.detail().unwrap().contains("creates it"), "{error}");
    let error = later.lease(LeaseOptions::new()).await.unwrap_err();
    assert!(error.to_string().contains("the consumer later was not found"), "{error}");
    let error = later.create(&ConsumerSettings::default()).await.unwrap_err();
    assert_eq!(error.to_string(), "PUT /webhooks/bot/consumers/later creates it (HTTP 404)");

    let old = FakeServer::start(|_, _| Reply::status(404)).await;
    let error = client(&old).consumer("audit").unwrap().status().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
    assert!(error.to_string().contains("does not know consumers"), "{error}");
}

async fn hello(socket: &mut Socket, members: &str) {
    let text = format!(
        r#"{{"type":"hello","appId":"bot","window":64,"leaseMs":60000,"pingMs":20000,"idleMs":60000{members}}}"#
    );
    socket.send(Message::text(text)).await.unwrap();
}

async fn send(socket: &mut Socket, id: &str) {
    let text = format!(r#"{{"type":"event","id":"{id}","data":{{}}}}"#);
    socket.send(Message::text(text)).await.unwrap();
}

async fn error_of(mut events: Subscription) -> (ErrorKind, String) {
    let error = events.next().await.unwrap().unwrap_err();
    (error.kind(), error.to_string())
}

#[tokio::test]
async fn a_subscription_requires_that_the_server_confirms_the_consumer() {
    let mut fake = FakeServer::start(|_, _| Reply::Upgrade(V2)).await;
    let client = client(&fake);
    let audit = client.consumer("audit").unwrap();
    let mut events = audit.listen(ListenOptions::new().window(2));
    let mut socket = fake.socket().await;
    hello(&mut socket, r#","consumer":"audit""#).await;
    send(&mut socket, "a").await;
    assert_eq!(events.next().await.unwrap().unwrap().id().as_str(), "a");
    assert_eq!(fake.requests()[0].line, "GET /webhooks/bot?window=2&consumer=audit");
    events.close().await;

    // A server that does not know consumers ignores the query.
    for options in [None, Some(ListenOptions::new().since(Start::All))] {
        let events = match options {
            None => audit.listen(ListenOptions::new()),
            Some(options) => client.listen(options),
        };
        let mut socket = fake.socket().await;
        hello(&mut socket, "").await;
        let (kind, message) = error_of(events).await;
        assert!(kind == ErrorKind::Protocol && message.contains("does not know consumers"), "{message}");
    }
    let legacy = FakeServer::start(|_, _| Reply::Upgrade(None)).await;
    let audit =
        Client::builder(&legacy.url).app_id("bot").token("t").build().unwrap().consumer("audit").unwrap();
    assert_eq!(error_of(audit.listen(ListenOptions::new())).await.0, ErrorKind::Protocol);
    let both = ListenOptions::new().since(Start::All);
    assert_eq!(error_of(audit.listen(both)).await.0, ErrorKind::Usage);
}

#[tokio::test]
async fn an_ephemeral_consumer_continues_after_the_last_settled_event() {
    let mut fake = FakeServer::start(|_, _| Reply::Upgrade(V2)).await;
    let (states_sender, mut states) = mpsc::unbounded_channel();
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let options = ListenOptions::new().since(start).on_state(move |state| {
        let _ = states_sender.send(state.clone());
    });
    let mut events = client(&fake).listen(options);
    let mut first = fake.socket().await;
    hello(&mut first, r#","missed":7"#).await;
    assert!(matches!(states.recv().await, Some(State::Connected { missed: 7, .. })));
    let mut received = Vec::new();
    for id in ["e1", "e2", "e3", "e4"] {
        send(&mut first, id).await;
        received.push(events.next().await.unwrap().unwrap());
    }
    received[0].ack().await.unwrap();
    received[1].reject("no such user").await.unwrap();
    received[3].ack().await.unwrap();
    drop(first);

    let mut second = fake.socket().await;
    hello(&mut second, r#","missed":0"#).await;
    for id in ["e3", "e4", "e5"] {
        send(&mut second, id).await;
    }
    for id in ["e3", "e5"] {
        assert_eq!(events.next().await.unwrap().unwrap().id().as_str(), id, "e4 is settled already");
    }
    let Some(Ok(Message::Text(text))) = second.next().await else { panic!("no message") };
    assert_eq!(text.as_str(), r#"{"id":"e4","type":"event_ack"}"#);
    let lines: Vec<_> = fake.requests().into_iter().map(|request| request.line).collect();
    assert_eq!(lines, ["GET /webhooks/bot?since=2001-09-09T01%3A46%3A40.000Z", "GET /webhooks/bot?since=e2"]);
}

#[tokio::test]
async fn new_is_the_time_of_the_server_and_not_of_this_machine() {
    let mut fake = FakeServer::start(|_, _| Reply::Upgrade(V2)).await;
    let mut events = client(&fake).listen(ListenOptions::new().since(Start::New));
    let mut first = fake.socket().await;
    hello(&mut first, r#","missed":0"#).await;
    send(&mut first, "e1").await;
    drop(events.next().await.unwrap().unwrap());
    drop(first);
    drop(fake.socket().await);
    let lines: Vec<_> = fake.requests().into_iter().map(|request| request.line).collect();
    assert_eq!(
        lines,
        ["GET /webhooks/bot?since=new", "GET /webhooks/bot?since=2001-09-09T01%3A46%3A40.000Z"]
    );
}
