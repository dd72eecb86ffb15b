//! Requests and tokens, against a fake server over a real port.

mod common;

use std::{
    error::Error as _,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{FakeServer, Reply, Request, platform};
use futures_util::future::join_all;
use wwproxy_sdk::{AckRequest, AckResponse, Client, ErrorKind, LeaseOptions, Receipt, Rejection, Secret};

const STATUS: &str = r#"{"registration":{"scheme":"watsonwork"},"stored":1,"leased":0,"dropped":0,"storedBytes":9,"oldestAgeMs":5,"clients":0}"#;
const DISCOVERY: &str = "GET /.well-known/oauth-authorization-server";
const TOKEN: &str = "POST /oauth/token";

fn client(fake: &FakeServer) -> Client {
    Client::builder(&fake.url).app_id("bot").app_secret("app-hunter2").build().unwrap()
}

/// A server that issues tokens with this lifetime, and replies to other requests with the closure.
async fn proxy(expires_in: u64, reply: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> FakeServer {
    let issued = AtomicUsize::new(0);
    FakeServer::start(move |request, own| {
        platform(request, own, expires_in, || issued.fetch_add(1, Ordering::SeqCst) + 1)
            .unwrap_or_else(|| reply(request))
    })
    .await
}

#[tokio::test]
async fn concurrent_requests_share_one_token_fetch() {
    let fake = proxy(3600, |_| Reply::json(200, STATUS)).await;
    let client = client(&fake);
    let all = join_all((0..20).map(|_| client.status())).await;
    assert!(all.iter().all(|status| status.as_ref().is_ok_and(|status| status.stored == 1)));
    assert_eq!((fake.count(DISCOVERY), fake.count(TOKEN)), (1, 1));
    let requests = fake.requests();
    let token = requests.iter().find(|request| request.line == TOKEN).unwrap();
    assert_eq!(token.header("authorization"), Some("Basic Ym90OmFwcC1odW50ZXIy"));
    assert_eq!(token.body, "grant_type=client_credentials");
    assert_eq!(token.header("content-type"), Some("application/x-www-form-urlencoded"));
    let status = requests.iter().find(|request| request.line == "GET /webhooks/bot/status").unwrap();
    assert_eq!(status.header("authorization"), Some("Bearer token-1"));
}

#[tokio::test]
async fn a_token_is_renewed_before_it_expires() {
    let fake = proxy(3600, |_| Reply::json(200, STATUS)).await;
    let client = client(&fake);
    assert_eq!(client.token().await.unwrap().expose(), "token-1");
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(3600 - 61)).await;
    assert_eq!(client.token().await.unwrap().expose(), "token-1");
    tokio::time::advance(Duration::from_secs(2)).await;
    tokio::time::resume();
    let tokens = join_all((0..20).map(|_| client.token())).await;
    assert!(tokens.into_iter().all(|token| token.unwrap().expose() == "token-2"));
    assert_eq!((fake.count(DISCOVERY), fake.count(TOKEN)), (1, 2));
}

#[tokio::test]
async fn a_failed_renewal_keeps_a_token_that_is_still_valid() {
    let up = AtomicUsize::new(0);
    let fake = FakeServer::start(move |request, own| {
        let first = || up.fetch_add(1, Ordering::SeqCst) == 0;
        if request.line == TOKEN && !first() {
            return Reply::status(503);
        }
        platform(request, own, 3600, || 1).unwrap_or_else(|| Reply::json(200, STATUS))
    })
    .await;
    let client = client(&fake);
    client.token().await.unwrap();
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(3590)).await;
    tokio::time::resume();
    assert_eq!(client.token().await.unwrap().expose(), "token-1");
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(20)).await;
    tokio::time::resume();
    assert_eq!(client.token().await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(fake.count(TOKEN), 3);
}

#[tokio::test]
async fn concurrent_401s_share_one_renewal() {
    let fake = proxy(3600, |request| match request.header("authorization") {
        Some("Bearer token-1") => Reply::status(401),
        _ => Reply::json(200, STATUS),
    })
    .await;
    let client = client(&fake);
    let all = join_all((0..20).map(|_| client.status())).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert_eq!(fake.count(TOKEN), 2);
}

#[tokio::test]
async fn a_second_401_is_an_error() {
    let problem =
        r#"{"type":"about:blank","title":"Unauthorized","status":401,"detail":"not\u001b[31m your app"}"#;
    let fake = proxy(3600, move |_| Reply::json(401, problem)).await;
    let error = client(&fake).register(&Secret::new("hook-hunter2")).await.unwrap_err();
    assert_eq!((error.kind(), error.status()), (ErrorKind::Refused, Some(401)));
    assert_eq!(error.detail(), Some("not [31m your app"));
    assert!(!format!("{error} {error:?}").contains("hunter2"));
    assert_eq!((fake.count(TOKEN), fake.count("PUT /webhooks/bot")), (2, 2));

    let ready = Client::builder(&fake.url).app_id("bot").token("ready").build().unwrap();
    assert_eq!(ready.status().await.unwrap_err().kind(), ErrorKind::Refused);
    assert_eq!((fake.count(TOKEN), fake.count("GET /webhooks/bot/status")), (2, 1));
}

#[tokio::test]
async fn a_501_or_505_is_no_wwproxy_server() {
    for status in [501, 505] {
        let fake = FakeServer::start(move |_, _| Reply::status(status)).await;
        for client in
            [client(&fake), Client::builder(&fake.url).app_id("bot").token("ready").build().unwrap()]
        {
            let error = client.status().await.unwrap_err();
            assert_eq!((error.kind(), error.status()), (ErrorKind::Protocol, Some(status)));
            assert!(error.to_string().contains("does not look like a wwproxy server"), "{error}");
            assert!(!error.is_transient());
        }
    }
}

#[tokio::test]
async fn concurrent_requests_share_a_failed_token_fetch() {
    for (status, kind) in
        [(503, ErrorKind::Unavailable), (401, ErrorKind::Refused), (400, ErrorKind::Refused)]
    {
        let fake = FakeServer::start(move |request, own| match request.line.as_str() {
            TOKEN => Reply::Http(status, vec![("retry-after", "7".into())], String::new()),
            _ => platform(request, own, 3600, || 1).unwrap(),
        })
        .await;
        let client = client(&fake);
        let all = join_all((0..20).map(|_| client.status())).await;
        for error in all.into_iter().map(Result::unwrap_err) {
            assert_eq!(error.kind(), kind);
            assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
        }
        assert_eq!(fake.count(TOKEN), 1);
    }
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let other = FakeServer::start(|_, _| Reply::json(200, STATUS)).await;
    let elsewhere = other.url.clone();
    let fake =
        proxy(3600, move |_| Reply::Http(307, vec![("location", elsewhere.clone())], String::new())).await;
    assert_eq!(client(&fake).status().await.unwrap_err().kind(), ErrorKind::Protocol);

    let elsewhere = other.url.clone();
    let fake =
        FakeServer::start(move |_, _| Reply::Http(302, vec![("location", elsewhere.clone())], String::new()))
            .await;
    assert_eq!(client(&fake).status().await.unwrap_err().kind(), ErrorKind::Protocol);
    assert!(other.requests().is_empty());
}

#[tokio::test]
async fn errors_redact_secrets() {
    let closing = FakeServer::start(|_, _| Reply::Close).await;
    let invalid = proxy(3600, |_| Reply::json(200, "hunter2")).await;
    let secret_in_url = FakeServer::start(|request, own| {
        let endpoint = format!(r#"{{"issuer":"{own}","token_endpoint":"{own}/oauth/token?key=hunter2"}}"#);
        if request.line == DISCOVERY { Reply::json(200, endpoint) } else { Reply::Close }
    })
    .await;
    for fake in [&closing, &invalid, &secret_in_url] {
        let client = client(fake);
        let error = client.status().await.unwrap_err();
        let mut text = format!("{error} {error:?} {client:?}");
        let mut source = error.source();
        while let Some(cause) = source {
            text = format!("{text} {cause} {cause:?}");
            source = cause.source();
        }
        assert!(!text.contains("hunter2") && !text.contains("aHVudGVy"), "{text}");
        let expected =
            if std::ptr::eq(fake, &raw const invalid) { ErrorKind::Protocol } else { ErrorKind::Unreachable };
        assert_eq!(error.kind(), expected, "{error:?}");
    }
}

#[tokio::test]
async fn an_unreachable_server_is_reported_with_its_source() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let client = Client::builder(&url).app_id("bot").token("t").build().unwrap();
    let error = client.unregister().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.to_string().contains(&url) && error.source().is_some() && error.is_transient(), "{error}");
}

#[tokio::test]
async fn metadata_with_another_origin_does_not_get_the_secret() {
    let elsewhere =
        FakeServer::start(|request, own| platform(request, own, 3600, || 1).unwrap_or(Reply::status(404)))
            .await;
    let endpoint = format!("{}/oauth/token", elsewhere.url);
    let named = endpoint.clone();
    let server = FakeServer::start(move |request, own| match request.line.as_str() {
        DISCOVERY => Reply::json(200, format!(r#"{{"issuer":"{own}","token_endpoint":"{named}"}}"#)),
        _ => Reply::json(200, STATUS),
    })
    .await;
    let builder = || Client::builder(&server.url).app_id("bot").app_secret("hunter2");
    let error = builder().build().unwrap().status().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
    assert!(error.to_string().contains(&format!("of another origin, {endpoint};")), "{error}");
    assert!(elsewhere.requests().is_empty());

    let client = builder().token_endpoint(&endpoint).build().unwrap();
    client.status().await.unwrap();
    assert_eq!(client.token_endpoint().await, Some(endpoint));
    assert_eq!((elsewhere.count("POST /oauth/token"), server.count(DISCOVERY)), (1, 1));
}

#[tokio::test]
async fn metadata_of_another_issuer_is_rejected() {
    let server = FakeServer::start(|request, own| match request.line.as_str() {
        DISCOVERY => Reply::json(
            200,
            format!(r#"{{"issuer":"http://internal:8080","token_endpoint":"{own}/oauth/token"}}"#),
        ),
        _ => Reply::status(404),
    })
    .await;
    let error = client(&server).status().await.unwrap_err().to_string();
    assert!(error.contains("metadata says that its address is http://internal:8080"), "{error}");
    assert!(error.contains(&format!("sets --public-url {}.", server.url)), "{error}");
    assert_eq!(server.count("POST /oauth/token"), 0);
}

#[tokio::test]
async fn a_configured_token_endpoint_replaces_discovery() {
    let fake = FakeServer::start(|request, own| match request.line.as_str() {
        DISCOVERY => Reply::status(404),
        _ => platform(request, own, 3600, || 1).unwrap_or_else(|| Reply::json(200, STATUS)),
    })
    .await;
    assert_eq!(client(&fake).status().await.unwrap_err().kind(), ErrorKind::Protocol);
    let endpoint = format!("{}/oauth/token", fake.url);
    let builder = Client::builder(&fake.url).app_id("bot").app_secret("s").token_endpoint(endpoint);
    builder.build().unwrap().status().await.unwrap();
}

#[tokio::test]
async fn events_keep_their_bytes_and_order() {
    let lease = r#"{"events":[{"id":"b","receipt":"r1","attempt":2,"receivedAt":"2018-10-03T09:46:40.123Z","headers":[["a","b"]],"data": {"n" : 1.50}
}]}"#;
    let fake = proxy(3600, move |request| match request.line.as_str() {
        "GET /webhooks/bot?max=3" => Reply::json(200, "{\"b\": {\"n\" : 1.50}\n,\"a\":[]}"),
        "POST /webhooks/bot/lease" => Reply::json(200, lease),
        "POST /webhooks/bot/ack" => Reply::json(200, r#"{"acked":1,"released":0,"stale":["x"]}"#),
        "PUT /webhooks/bot" => Reply::status(201),
        "DELETE /webhooks/bot" => Reply::status(200),
        _ => Reply::status(404),
    })
    .await;
    let client = client(&fake);
    client.register(&Secret::new("s\"x")).await.unwrap();
    let drained = client.drain(3).await.unwrap();
    let drained: Vec<_> = drained.iter().map(|event| (event.id.as_str(), event.body.as_ref())).collect();
    assert_eq!(drained, [("b", &b" {\"n\" : 1.50}\n"[..]), ("a", b"[]")]);
    let leased = client.lease(LeaseOptions::new().max(5).wait(Duration::from_millis(1500))).await.unwrap();
    let leased = leased.events;
    assert_eq!(leased[0].body.as_ref(), b" {\"n\" : 1.50}\n");
    assert_eq!(leased[0].details.attempt, Some(2));
    let settled = client.ack([leased[0].receipt.clone()]).await.unwrap();
    assert_eq!((settled.acked, settled.stale), (1, vec![Receipt::new("x")]));
    client.release([Receipt::new("r2")]).await.unwrap();
    client.unregister().await.unwrap();
    assert_eq!(client.drain(None).await.unwrap_err().kind(), ErrorKind::NotRegistered);

    let bodies: Vec<_> = fake.requests().into_iter().map(|request| request.body).collect();
    for body in [
        r#"{"secret":"s\"x"}"#,
        r#"{"max":5,"wait_ms":1500}"#,
        r#"{"ack":["r1"],"release":[]}"#,
        r#"{"ack":[],"release":["r2"]}"#,
    ] {
        assert!(bodies.iter().any(|sent| sent == body), "{body} in {bodies:?}");
    }
}

#[tokio::test]
async fn more_than_a_thousand_receipts_are_split_into_requests() {
    let fake = proxy(3600, |request| {
        assert!(request.body.len() <= 1 << 20, "{} bytes", request.body.len());
        let body: AckRequest = serde_json::from_str(&request.body).unwrap();
        assert!(body.receipts() <= 1000, "{}", body.receipts());
        let count = body.receipts().to_string();
        Reply::json(
            200,
            serde_json::to_string(&AckResponse {
                acked: body.ack.len() as u64,
                rejected: body.reject.len() as u64,
                released: body.release.len() as u64,
                extended: body.extend.len() as u64,
                stale: vec![Receipt::new(count)],
            })
            .unwrap(),
        )
    })
    .await;
    let client = client(&fake);
    let sizes = |settled: &AckResponse| -> Vec<_> {
        settled.stale.iter().map(|receipt| receipt.as_str().parse::<usize>().unwrap()).collect()
    };
    let receipts = |count| (0..count).map(|n| Receipt::new(n.to_string()));
    let request = |acks, releases| AckRequest {
        ack: receipts(acks).collect(),
        release: receipts(releases).map(Into::into).collect(),
        ..AckRequest::default()
    };
    let settled = client.settle(&request(2500, 1001)).await.unwrap();
    assert_eq!((settled.acked, settled.released), (2500, 1001));
    assert_eq!(sizes(&settled), [1000, 1000, 500, 1000, 1]);
    assert_eq!(sizes(&client.settle(&request(500, 500)).await.unwrap()), [1000], "one request");
    // A reason of control characters is six times as long in JSON.
    let reason = Some("\0".repeat(1024));
    let reject = receipts(250).map(|receipt| Rejection { receipt, reason: reason.clone() }).collect();
    let extend = receipts(2).map(Into::into).collect();
    let settled = client.settle(&AckRequest { reject, extend, ..request(1, 1) }).await.unwrap();
    assert_eq!((settled.acked, settled.rejected, settled.released, settled.extended), (1, 250, 1, 2));
    assert_eq!(sizes(&settled), [1, 100, 100, 50, 1, 2]);
}

#[tokio::test]
async fn the_size_of_a_response_is_limited() {
    let body = Arc::new(format!("{{\"a\":\"{}\"}}", "x".repeat(10_000)));
    let fake = proxy(3600, move |_| Reply::json(200, &body)).await;
    let builder = Client::builder(&fake.url).app_id("bot").app_secret("s").max_response_bytes(9_000);
    let error = builder.build().unwrap().drain(None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
    assert_eq!(client(&fake).drain(None).await.unwrap().len(), 1);
}
