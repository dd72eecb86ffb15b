//! The examples of `docs/reverse-proxy.md`, run with the real programs before the built server.

#[path = "../common/mod.rs"]
mod common;
mod program;

use std::time::Duration;

use futures_util::StreamExt;
use reqwest::{Certificate, Response};
use serde_json::Value;
use tokio::time::timeout;
use wwproxy_protocol::{Secret, api::MAX_LEASE_WAIT};
use wwproxy_sdk::{Client, HttpOptions, LeaseOptions, ListenOptions};
use wwproxy_server::Settings;

use crate::{
    common::{DEADLINE, Server, eventually, sign},
    program::{AUTHORITY, GUIDE, ReverseProxy, example, free_port, replace, url},
};

const WEBHOOK_SECRET: &str = "webhook-secret";
/// How long a lease is watched to be waiting.
const WATCHED: Duration = Duration::from_secs(1);

/// An app behind a reverse proxy: its sender and its client.
struct App {
    url: String,
    http: reqwest::Client,
    client: Client,
}

impl App {
    async fn register(server: &Server, url: &str) -> Self {
        let secret = server.home.add_app("bot");
        let options = HttpOptions::new().no_proxy().ca_certificates(AUTHORITY).unwrap();
        let client = Client::builder(url).app_id("bot").app_secret(secret).http(options).build().unwrap();
        client.register(&Secret::new(WEBHOOK_SECRET)).await.unwrap();
        Self { url: url.to_owned(), http: http_client(), client }
    }

    async fn post(&self, body: String) -> Response {
        let hook = self.http.post(format!("{}/hook/bot", self.url));
        hook.header("X-OUTBOUND-TOKEN", sign(WEBHOOK_SECRET, &body)).body(body).send().await.unwrap()
    }

    async fn post_stored(&self, body: &str) {
        assert_eq!(self.post(body.to_owned()).await.status(), 201);
    }
}

fn http_client() -> reqwest::Client {
    // Another test of this process may have installed it already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let authority = Certificate::from_pem(AUTHORITY.as_bytes()).unwrap();
    reqwest::Client::builder().no_proxy().tls_certs_only([authority]).timeout(DEADLINE).build().unwrap()
}

/// The issuer that a client sees that sends forged headers, and this `Host` instead of its own.
async fn issuer(url: &str, host: Option<&str>) -> String {
    let mut request = http_client().get(format!("{url}/.well-known/oauth-authorization-server"));
    if let Some(host) = host {
        request = request.header("Host", host);
    }
    for (name, value) in [
        ("X-Forwarded-Host", "attacker.example"),
        ("X-Forwarded-Port", "4443"),
        ("X-Forwarded-Proto", "http"),
    ] {
        request = request.header(name, value);
    }
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    let metadata: Value = response.json().await.unwrap();
    let issuer = metadata["issuer"].as_str().unwrap().to_owned();
    assert_eq!(metadata["token_endpoint"], format!("{issuer}/oauth/token"));
    issuer
}

/// Everything that senders and clients do.
async fn works(server: &Server, url: &str) {
    assert_eq!(issuer(url, None).await, url);
    assert_eq!(issuer(url, Some("proxy.example.com")).await, "https://proxy.example.com");
    let app = App::register(server, url).await;
    polls(&app).await;
    waits_with_a_lease(&app).await;
    listens(&app).await;
    obeys_the_body_limit(&app).await;
}

async fn polls(app: &App) {
    app.post_stored(r#"{"n": 1}"#).await;
    let events = app.client.drain(None).await.unwrap();
    let bodies: Vec<_> = events.iter().map(|(_, body)| &body[..]).collect();
    assert_eq!(bodies, [br#"{"n": 1}"#]);
}

async fn waits_with_a_lease(app: &App) {
    let client = app.client.clone();
    let lease = client.lease(LeaseOptions::new().wait(DEADLINE));
    tokio::pin!(lease);
    assert!(timeout(WATCHED, lease.as_mut()).await.is_err(), "there is nothing to lease yet");
    app.post_stored(r#"{"n":2}"#).await;
    let events = timeout(DEADLINE, lease).await.unwrap().unwrap();
    let receipts: Vec<_> = events.into_iter().map(|event| event.receipt).collect();
    assert_eq!(app.client.ack(receipts).await.unwrap().acked, 1);
}

async fn listens(app: &App) {
    let mut events = app.client.listen(ListenOptions::new());
    app.post_stored(r#"{"n":3}"#).await;
    let refused = timeout(DEADLINE, events.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(refused.attempt(), Some(1));
    refused.nack(Duration::ZERO).await.unwrap();
    let again = timeout(DEADLINE, events.next()).await.unwrap().unwrap().unwrap();
    assert_eq!((again.attempt(), &again.body()[..]), (Some(2), &br#"{"n":3}"#[..]));
    again.ack().await.unwrap();
    eventually("the event is deleted", async || app.client.status().await.unwrap().stored == 0).await;
    events.close().await;
}

/// The largest body reaches the websocket whole, and one byte more is refused.
async fn obeys_the_body_limit(app: &App) {
    let limit = usize::try_from(Settings::default().max_body).unwrap();
    let largest = format!("[\"{}\"]", "x".repeat(limit - 4));
    assert_eq!(app.post(format!("{largest} ")).await.status(), 413);
    app.post_stored(&largest).await;
    let mut events = app.client.listen(ListenOptions::new());
    let event = timeout(DEADLINE, events.next()).await.unwrap().unwrap().unwrap();
    assert!(event.body() == largest.as_bytes(), "{} bytes", event.body().len());
    event.ack().await.unwrap();
    events.close().await;
}

fn server() -> Server {
    Server::start(&["--trusted-proxy", "127.0.0.1"])
}

#[tokio::test]
async fn the_nginx_example_works() {
    let server = server();
    if let Some(nginx) = ReverseProxy::nginx(&example("nginx"), &server.address, free_port()) {
        works(&server, &nginx.url).await;
    }
}

#[tokio::test]
async fn the_haproxy_example_works() {
    let server = server();
    if let Some(haproxy) = ReverseProxy::haproxy(&example("haproxy"), &server.address, free_port()) {
        works(&server, &haproxy.url).await;
    }
}

#[tokio::test]
async fn the_nginx_example_works_below_a_path_prefix() {
    let port = free_port();
    let public_url = format!("{}/wwproxy", url(port));
    let server = Server::start(&["--public-url", &public_url]);
    let mut config = example("nginx");
    for (from, to) in [
        ("    location / {", "    location /wwproxy/ {"),
        ("        proxy_pass http://wwproxy;", "        proxy_pass http://wwproxy/;"),
    ] {
        assert!(GUIDE.contains(to));
        config = replace(&config, from, to);
    }
    if let Some(_nginx) = ReverseProxy::nginx(&config, &server.address, port) {
        assert_eq!(issuer(&public_url, None).await, public_url);
        let app = App::register(&server, &format!("{public_url}/")).await;
        polls(&App { url: public_url, ..app }).await;
    }
}

#[tokio::test]
async fn a_port_that_the_host_lacks_comes_from_x_forwarded_port() {
    let server = server();
    let config = replace(&example("nginx"), "$http_host", "$host");
    let config = replace(&config, r#"X-Forwarded-Port """#, "X-Forwarded-Port $server_port");
    if let Some(nginx) = ReverseProxy::nginx(&config, &server.address, free_port()) {
        assert_eq!(issuer(&nginx.url, None).await, nginx.url);
        App::register(&server, &nginx.url).await;
    }
}

/// A proxy that gives up before the server answers would break every long poll.
#[test]
fn the_timeouts_of_the_examples_are_longer_than_the_longest_wait() {
    for (program, setting) in [
        ("nginx", "proxy_read_timeout"),
        ("nginx", "proxy_send_timeout"),
        ("haproxy", "timeout client"),
        ("haproxy", "timeout server"),
        ("haproxy", "timeout tunnel"),
        ("yaml", "readTimeout:"),
    ] {
        let example = example(program);
        let (_, rest) = example.split_once(setting).unwrap();
        let seconds = rest.trim_start().split_once('s').unwrap().0.parse().unwrap();
        assert!(Duration::from_secs(seconds) > MAX_LEASE_WAIT, "{setting} {seconds}");
    }
}
