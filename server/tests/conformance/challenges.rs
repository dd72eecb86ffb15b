//! The challenges of other senders: answered, and never stored.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::{
    common::{App, Server, problem, sign},
    senders::signed,
    unverified::assert_harmless,
};

const DISCORD_KEY: &str = "9d61b19deffd5a609d61b19deffd5a609d61b19deffd5a609d61b19deffd5a60";

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Sends a challenge, and returns the answer's status, content type without parameters, and body.
async fn answer(request: RequestBuilder) -> (u16, String, String) {
    let response: Response = request.send().await.unwrap();
    assert_harmless(&response);
    let kind = response.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_owned());
    if let Some(kind) = &kind {
        assert!(kind.ends_with("; charset=utf-8"), "{kind}");
    }
    let kind = kind.unwrap_or_default().split(';').next().unwrap().to_owned();
    (response.status().as_u16(), kind, response.text().await.unwrap())
}

fn text(body: &str) -> (u16, String, String) {
    (200, "text/plain".into(), body.into())
}

async fn app_with(server: &Server, scheme: &str, settings: Value) -> App {
    let app = server.new_app(scheme).await;
    let mut settings = settings;
    settings["scheme"] = scheme.into();
    app.new_source(scheme, settings).await;
    app
}

/// Checks that nothing was stored.
async fn assert_empty(app: &App) {
    assert_eq!(app.poll_text("").await, "{}");
}

#[tokio::test]
async fn slack_gets_its_challenge_back_as_text_if_it_is_signed() {
    let server = Server::start(&[]);
    let app = app_with(&server, "slack", json!({"secrets": ["s"]})).await;
    let body = r#"{"token":"t","challenge":"3eZbrw1aBm<b>","type":"url_verification"}"#;
    let post = |secret: &str, time: u64| {
        let post = app.source_hook(Method::POST, "slack").header("X-Slack-Request-Timestamp", time);
        let signature = format!("v0={}", sign(secret, format!("v0:{time}:{body}")));
        post.header("X-Slack-Signature", signature).body(body)
    };
    assert_eq!(answer(post("s", now())).await, text("3eZbrw1aBm<b>"));
    for refused in
        [post("wrong", now()), post("s", now() - 400), app.source_hook(Method::POST, "slack").body(body)]
    {
        let detail = problem(refused.send().await.unwrap(), 401).await;
        assert!(!detail.contains("3eZbrw1aBm"), "{detail}");
    }
    assert_eq!(answer(app.source_hook(Method::GET, "slack?ssl_check=1&token=x")).await, text(""));
    assert_empty(&app).await;
}

/// Discord sends a PING with a wrong signature on purpose, and takes the hook only if that is 401.
#[tokio::test]
async fn discord_gets_pong_and_401_for_its_deliberately_wrong_signature() {
    let server = Server::start(&[]);
    let discord = wwproxy_protocol::scheme::Scheme::preset("discord").unwrap();
    let key = discord.public_key(&wwproxy_protocol::Secret::new(DISCORD_KEY)).unwrap();
    let app = app_with(&server, "discord", json!({"secrets": [key]})).await;
    let ping = |body: &str| signed(&app, "discord", DISCORD_KEY, None, body.as_bytes());
    assert_eq!(answer(ping(r#"{"type":1}"#)).await, (200, "application/json".into(), r#"{"type":1}"#.into()));
    let (status, _, body) = answer(ping(r#"{"version":1,"application_id":"1","type":0}"#)).await;
    assert_eq!((status, body.as_str()), (204, ""));
    for body in [r#"{"type":1}"#, r#"{"version":1,"application_id":"1","type":0}"#] {
        let mut forged = ping(body).build().unwrap();
        let signature = forged.headers()["x-signature-ed25519"].to_str().unwrap().to_owned();
        let digit = if signature.starts_with('0') { "1" } else { "0" };
        let wrong = format!("{digit}{}", &signature[1..]).parse().unwrap();
        forged.headers_mut().insert("x-signature-ed25519", wrong);
        problem(app.http.execute(forged).await.unwrap(), 401).await;
        problem(app.source_hook(Method::POST, "discord").body(body).send().await.unwrap(), 401).await;
    }
    assert_empty(&app).await;
    let event = ping(r#"{"type":0,"event":{"type":"ENTITLEMENT_CREATE"}}"#).send().await.unwrap();
    assert_eq!(event.status(), 204);
    assert_eq!(app.lease(json!({})).await.len(), 1);
}

#[tokio::test]
async fn zoom_gets_its_token_with_the_hmac() {
    let server = Server::start(&[]);
    let app = app_with(&server, "zoom", json!({"secrets": ["s"]})).await;
    let body = r#"{"payload":{"plainToken":"qgg8vlvZRS6UYooatFL8Aw"},"event_ts":1,"event":"endpoint.url_validation"}"#;
    let post = |secret: &str| {
        let (time, post) = (now(), app.source_hook(Method::POST, "zoom"));
        let signature = format!("v0={}", sign(secret, format!("v0:{time}:{body}")));
        post.header("x-zm-request-timestamp", time).header("x-zm-signature", signature).body(body)
    };
    let (status, kind, body) = answer(post("s")).await;
    assert_eq!((status, kind.as_str()), (200, "application/json"));
    let expected = json!({"plainToken": "qgg8vlvZRS6UYooatFL8Aw", "encryptedToken": sign("s", "qgg8vlvZRS6UYooatFL8Aw")});
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap(), expected);
    // While the secret is rotated, the answer is computed with the one that signed the challenge.
    for secrets in [["old", "s"], ["s", "new"]] {
        assert_eq!(app.put_source("zoom", json!({"scheme": "zoom", "secrets": secrets})).await.status(), 200);
        assert_eq!(answer(post("s")).await.2, body);
    }
    problem(post("wrong").send().await.unwrap(), 401).await;
    assert_empty(&app).await;
}

#[tokio::test]
async fn meta_gets_its_challenge_back_for_the_right_verify_token_only() {
    let server = Server::start(&[]);
    let app = app_with(&server, "meta", json!({"secrets": ["s"], "challengeSecret": "meatyhamhock"})).await;
    let get = |query: &str| app.source_hook(Method::GET, &format!("meta?{query}"));
    let right = "hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token=meatyhamhock";
    assert_eq!(answer(get(right)).await, text("1158201444"));
    for wrong in [
        "hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token=other",
        "hub.mode=subscribe&hub.challenge=1158201444",
        "hub.mode=subscribe&hub.verify_token=meatyhamhock",
        "hub.mode=unsubscribe&hub.challenge=1158201444&hub.verify_token=meatyhamhock",
        "",
        &format!("{right}&hub.verify_token=other"),
        // The app secret is another one.
        "hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token=s",
    ] {
        let detail = problem(get(wrong).send().await.unwrap(), 403).await;
        assert!(!detail.contains("1158201444") && !detail.contains("meatyhamhock"), "{detail}");
    }
    // A signature on a GET request makes no event.
    let get = get("x=1").header("X-Hub-Signature-256", format!("sha256={}", sign("s", "")));
    problem(get.send().await.unwrap(), 403).await;
    app.new_source("without", json!({"scheme": "meta", "secrets": ["s"]})).await;
    problem(app.source_hook(Method::GET, &format!("without?{right}")).send().await.unwrap(), 403).await;
    assert_empty(&app).await;
}

#[tokio::test]
async fn dropbox_gets_its_challenge_back_as_text() {
    let server = Server::start(&[]);
    let app = app_with(&server, "dropbox", json!({"secrets": ["s"]})).await;
    let get = |query: &str| app.source_hook(Method::GET, &format!("dropbox?{query}"));
    assert_eq!(answer(get("challenge=abc123")).await, text("abc123"));
    let markup = get("challenge=%3Cscript%3Ea%2Bb%3C%2Fscript%3E");
    assert_eq!(answer(markup).await, text("<script>a+b</script>"));
    for refused in ["", "challenge=", "challenge=a%0D%0Ab", &format!("challenge={}", "x".repeat(5000))] {
        problem(get(refused).send().await.unwrap(), 403).await;
    }
    assert_empty(&app).await;
}

#[tokio::test]
async fn x_gets_the_hmac_of_a_plain_token() {
    let server = Server::start(&[]);
    let app = app_with(&server, "x", json!({"secrets": ["s"]})).await;
    let get = |token: &str| app.source_hook(Method::GET, &format!("x?crc_token={token}"));
    let mut mac = Hmac::<Sha256>::new_from_slice(b"s").unwrap();
    mac.update(b"MDExYjYx-00");
    let token = STANDARD.encode(mac.finalize().into_bytes());
    let (status, _, body) = answer(get("MDExYjYx-00")).await;
    let expected = json!({"response_token": format!("sha256={token}")});
    assert_eq!((status, serde_json::from_str::<Value>(&body).unwrap()), (200, expected));
    // X makes the new secret itself, so it has it before the source does.
    let rotation = json!({"scheme": "x", "secrets": ["old", "s"]});
    assert_eq!(app.put_source("x", rotation).await.status(), 200);
    assert_eq!(answer(get("MDExYjYx-00")).await.2, body);
    // Otherwise anyone could have a webhook signed.
    problem(get("%7B%22event%22%3A1%7D").send().await.unwrap(), 403).await;
    assert_empty(&app).await;
}

#[tokio::test]
async fn okta_gets_its_challenge_back_for_the_right_token() {
    let server = Server::start(&[]);
    let app = app_with(&server, "okta", json!({"secrets": ["s"]})).await;
    let get = app.source_hook(Method::GET, "okta").header("x-okta-verification-challenge", "Q2hhb\"Gxlbmdl");
    let expected = (200, "application/json".to_owned(), r#"{"verification":"Q2hhb\"Gxlbmdl"}"#.to_owned());
    assert_eq!(answer(get.try_clone().unwrap().header("Authorization", "s")).await, expected);
    problem(get.try_clone().unwrap().header("Authorization", "wrong").send().await.unwrap(), 401).await;
    problem(get.send().await.unwrap(), 401).await;
    assert_empty(&app).await;
}

#[tokio::test]
async fn msgraph_gets_its_validation_token_back_decoded() {
    let server = Server::start(&[]);
    let app = app_with(&server, "msgraph", json!({"secrets": ["a-long-client-state"]})).await;
    let token = "Validation%3A+Testing+Request-Id%3A+1";
    let post = app.source_hook(Method::POST, &format!("msgraph?validationToken={token}"));
    assert_eq!(answer(post.try_clone().unwrap()).await, text("Validation: Testing Request-Id: 1"));
    // With a body it is no challenge.
    problem(post.body(r#"{"value":[]}"#).send().await.unwrap(), 401).await;
    assert_empty(&app).await;
}

#[tokio::test]
async fn trello_gets_200_for_its_head_request() {
    let server = Server::start(&[]);
    let settings = json!({"secrets": ["s"], "url": "https://proxy.example/hook/trello/trello"});
    let app = app_with(&server, "trello", settings).await;
    let response = app.source_hook(Method::HEAD, "trello").send().await.unwrap();
    assert_harmless(&response);
    assert_eq!(response.status(), 200);
    problem(app.source_hook(Method::GET, "trello").send().await.unwrap(), 405).await;
    assert_empty(&app).await;
}

#[tokio::test]
async fn a_challenge_is_answered_although_the_queue_is_full() {
    let server = Server::start(&["--max-queued-events", "1"]);
    let app = app_with(&server, "dropbox", json!({"secrets": ["s"]})).await;
    let event = signed(&app, "dropbox", "s", None, b"{}");
    assert_eq!(event.send().await.unwrap().status(), 201);
    assert_eq!(answer(app.source_hook(Method::GET, "dropbox?challenge=a")).await, text("a"));
    assert_eq!(app.gauge("stored").await, 1);
}
