//! Runs the examples of `docs/reverse-proxy.md` with nginx and `HAProxy` in front of the built server.

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
/// The time in which a lease must still be waiting.
const WAITING: Duration = Duration::from_secs(1);

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
    // The result is ignored: another test of this process may have installed the provider already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let authority = Certificate::from_pem(AUTHORITY.as_bytes()).unwrap();
    reqwest::Client::builder().no_proxy().tls_certs_only([authority]).timeout(DEADLINE).build().unwrap()
}

/// The issuer in the metadata for a client that forges forwarded headers, and `Host` if given.
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

/// Runs the operations of senders and clients through the proxy.
async fn check_all(server: &Server, url: &str) {
    assert_eq!(issuer(url, None).await, url);
    assert_eq!(issuer(url, Some("proxy.example.com")).await, "https://proxy.example.com");
    let app = App::register(server, url).await;
    check_poll(&app).await;
    check_lease_wait(&app).await;
    check_websocket(&app).await;
    check_body_limit(&app).await;
}

async fn check_poll(app: &App) {
    app.post_stored(r#"{"n": 1}"#).await;
    let events = app.client.drain(None).await.unwrap();
    let bodies: Vec<_> = events.iter().map(|event| &event.body[..]).collect();
    assert_eq!(bodies, [br#"{"n": 1}"#]);
}

async fn check_lease_wait(app: &App) {
    let client = app.client.clone();
    let lease = client.lease(LeaseOptions::new().wait(DEADLINE));
    tokio::pin!(lease);
    assert!(timeout(WAITING, lease.as_mut()).await.is_err(), "the queue is empty");
    app.post_stored(r#"{"n":2}"#).await;
    let leased = timeout(DEADLINE, lease).await.unwrap().unwrap();
    let receipts: Vec<_> = leased.events.into_iter().map(|event| event.receipt).collect();
    assert_eq!(app.client.ack(receipts).await.unwrap().acked, 1);
}

async fn check_websocket(app: &App) {
    let mut events = app.client.listen(ListenOptions::new());
    app.post_stored(r#"{"n":3}"#).await;
    let first = timeout(DEADLINE, events.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(first.attempt(), Some(1));
    first.nack(Duration::ZERO).await.unwrap();
    let redelivered = timeout(DEADLINE, events.next()).await.unwrap().unwrap().unwrap();
    assert_eq!((redelivered.attempt(), &redelivered.body()[..]), (Some(2), &br#"{"n":3}"#[..]));
    redelivered.ack().await.unwrap();
    eventually("the event is deleted", async || app.client.status().await.unwrap().stored == 0).await;
    events.close().await;
}

/// A body of the maximum size is delivered complete, and one byte more is `413`.
async fn check_body_limit(app: &App) {
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
        check_all(&server, &nginx.url).await;
    }
}

#[tokio::test]
async fn the_haproxy_example_works() {
    let server = server();
    if let Some(haproxy) = ReverseProxy::haproxy(&example("haproxy"), &server.address, free_port()) {
        check_all(&server, &haproxy.url).await;
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
        check_poll(&App { url: public_url, ..app }).await;
    }
}

#[tokio::test]
async fn x_forwarded_port_is_used_if_the_host_has_no_port() {
    let server = server();
    let config = replace(&example("nginx"), "$http_host", "$host");
    let config = replace(&config, r#"X-Forwarded-Port """#, "X-Forwarded-Port $server_port");
    if let Some(nginx) = ReverseProxy::nginx(&config, &server.address, free_port()) {
        assert_eq!(issuer(&nginx.url, None).await, nginx.url);
        App::register(&server, &nginx.url).await;
    }
}

/// A proxy that times out before the server answers breaks every long poll.
#[test]
fn the_timeouts_of_the_examples_exceed_the_maximum_lease_wait() {
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
