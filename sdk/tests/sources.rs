//! Sources and refusals, against a fake server over a real port.

mod common;

use common::{FakeServer, Reply, Request};
use wwproxy_sdk::{Client, Error, ErrorKind, Secret, SourceSettings, scheme::Covers};

const SOURCE: &str = r#"{"name":"repo","scheme":"github","covers":"body","verified":true,"secrets":1,"hook":"https://p/hook/bot/repo","lastAccepted":null,"lastRefused":null,"later":1}"#;
const ARMED: &str = r#"{"armedUntil":"2026-01-31T12:00:00.000Z","done":false}"#;
const REFUSAL: &str = r#"{"at":"2026-01-31T12:00:00.000Z","count":2,"source":"repo","check":"signature","detail":"d","status":401,"bytes":9,"headers":["host"]}"#;

async fn start(reply: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> (FakeServer, Client) {
    let fake = FakeServer::start(move |request, _| reply(request)).await;
    let client = Client::builder(&fake.url).app_id("bot").token("t").build().unwrap();
    (fake, client)
}

fn github() -> SourceSettings {
    let secrets = vec![Secret::new("hunter2"), Secret::new("hunter3")];
    SourceSettings { scheme: "github".into(), secrets, ..SourceSettings::default() }
}

#[tokio::test]
async fn sources_are_registered_listed_armed_and_deleted() {
    let (fake, client) = start(|request| match request.line.as_str() {
        "PUT /webhooks/bot/sources/repo" => Reply::status(201),
        "PUT /webhooks/bot/sources/default" | "DELETE /webhooks/bot/sources/repo" => Reply::status(200),
        "GET /webhooks/bot/sources" => Reply::json(200, format!(r#"{{"sources":[{SOURCE}]}}"#)),
        "GET /webhooks/bot/sources/repo" => Reply::json(200, SOURCE),
        "POST /webhooks/bot/sources/repo/arm" | "GET /webhooks/bot/sources/repo/arm" => {
            Reply::json(200, ARMED)
        }
        "GET /webhooks/bot/refusals" => Reply::json(200, format!(r#"{{"refusals":[{REFUSAL}]}}"#)),
        line => panic!("{line}"),
    })
    .await;
    let repo = "repo".parse().unwrap();
    assert!(client.put_source(&repo, &github()).await.unwrap());
    assert!(!client.put_source(&"default".parse().unwrap(), &github()).await.unwrap());
    let put = &fake.requests()[0];
    assert_eq!(put.header("content-type"), Some("application/json"));
    assert_eq!(put.body, r#"{"scheme":"github","secrets":["hunter2","hunter3"]}"#);

    let source = client.source(&repo).await.unwrap();
    assert_eq!((source.name.as_str(), source.hook.as_deref()), ("repo", Some("https://p/hook/bot/repo")));
    assert_eq!(client.sources().await.unwrap(), [source]);
    let armed = client.arm_source(&repo).await.unwrap();
    assert!(armed.armed_until.is_some() && !armed.done);
    assert_eq!(client.arm_status(&repo).await.unwrap(), armed);
    client.delete_source(&repo).await.unwrap();
    assert_eq!(fake.count("DELETE /webhooks/bot/sources/repo"), 1);
    let refusals = client.refusals().await.unwrap();
    assert_eq!((refusals[0].count, refusals[0].sha256.as_deref()), (2, None));
}

#[tokio::test]
async fn a_source_of_a_newer_server_is_read() {
    let source = SOURCE.replace(r#""covers":"body""#, r#""covers":"headers""#);
    let status = r#""registration":null,"stored":0,"leased":0,"dropped":0,"storedBytes":0,"oldestAgeMs":null,"clients":0"#;
    let (_fake, client) = start(move |request| match request.line.as_str() {
        "GET /webhooks/bot/status" => Reply::json(200, format!(r#"{{{status},"sources":[{source}]}}"#)),
        "GET /webhooks/bot/sources" => Reply::json(200, format!(r#"{{"sources":[{source}]}}"#)),
        _ => Reply::json(200, &source),
    })
    .await;
    let one = client.source(&"repo".parse().unwrap()).await.unwrap();
    assert_eq!((one.covers, one.verified), (Covers::Unknown, true));
    assert_eq!(client.sources().await.unwrap(), std::slice::from_ref(&one));
    assert_eq!(client.status().await.unwrap().sources, Some(vec![one]));
}

/// All calls, each with the error that the server caused.
async fn errors(client: &Client) -> [Error; 7] {
    let repo = "repo".parse().unwrap();
    [
        client.put_source(&repo, &github()).await.unwrap_err(),
        client.sources().await.unwrap_err(),
        client.source(&repo).await.unwrap_err(),
        client.delete_source(&repo).await.unwrap_err(),
        client.arm_source(&repo).await.unwrap_err(),
        client.arm_status(&repo).await.unwrap_err(),
        client.refusals().await.unwrap_err(),
    ]
}

#[tokio::test]
async fn a_server_of_version_0_1_is_reported_as_one_without_sources() {
    let (_fake, client) = start(|_| Reply::status(404)).await;
    for error in errors(&client).await {
        assert_eq!(error.kind(), ErrorKind::Protocol);
        assert!(error.to_string().contains("does not know sources"), "{error}");
        assert!(!format!("{error:?}").contains("hunter"), "{error:?}");
    }
}

#[tokio::test]
async fn a_missing_source_is_distinguished_from_an_old_server() {
    let (_fake, client) = start(|request| match request.line.as_str() {
        "GET /webhooks/bot/sources" => Reply::json(200, r#"{"sources":[]}"#),
        _ => Reply::json(404, r#"{"detail":"no such source"}"#),
    })
    .await;
    let error = client.source(&"repo".parse().unwrap()).await.unwrap_err();
    assert_eq!((error.kind(), error.status()), (ErrorKind::NotRegistered, Some(404)));
    assert_eq!(error.to_string(), "the source was not found (HTTP 404: no such source)");
}

#[tokio::test]
async fn other_errors_keep_their_kind_and_detail() {
    let (_fake, client) = start(|_| Reply::json(400, r#"{"detail":"tolerance must be …"}"#)).await;
    for error in errors(&client).await {
        assert_eq!(error.kind(), ErrorKind::InvalidRequest);
        assert_eq!(error.detail(), Some("tolerance must be …"));
    }
}
