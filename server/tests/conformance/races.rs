//! Races between requests: a new registration during an upload, an expiring lease during a poll, eviction of bodies.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use reqwest::Method;
use serde_json::json;
use tokio::{io::AsyncBufReadExt, time::timeout};

use crate::common::{App, Home, Raw, Server, eventually, number, sign};

/// The head of a webhook request, without its body.
fn head(path: &str, signature: &str, length: usize) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: proxy\r\nX-OUTBOUND-TOKEN: {signature}\r\nContent-Length: {length}\r\n\r\n"
    )
}

#[tokio::test]
async fn a_body_signed_with_a_secret_replaced_during_its_upload_is_401() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let body = number(1);
    let mut slow = Raw::open(&server.address).await;
    let head = head(&app.hook_path(), &sign(&app.secret, &body), body.len());
    slow.send(head.replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n")).await;
    // The server looked up the registration before it asked for the body.
    assert_eq!(slow.response().await.status, 100);
    app.unregister().await;
    app.register("another").await;
    slow.send(&body).await;
    assert_eq!(slow.response().await.status, 401);
    assert_eq!(app.gauge("stored").await, 0);
}

/// Begins a webhook to the source `repo`, and returns once the server has looked up the source and asks for the body.
async fn begin_upload(app: &App, signature: &str, length: usize) -> Raw {
    let mut slow = app.raw().await;
    slow.send(format!(
        "POST {}/repo HTTP/1.1\r\nHost: proxy\r\nX-Hub-Signature-256: sha256={signature}\r\n\
         Content-Length: {length}\r\nExpect: 100-continue\r\n\r\n",
        app.hook_path()
    ))
    .await;
    assert_eq!(slow.response().await.status, 100);
    slow
}

#[tokio::test]
async fn a_webhook_is_verified_with_the_settings_after_its_upload() {
    let server = Server::start(&[]);
    let app = server.new_app("bot").await;
    let settings = |scheme: &str, secret: &str| json!({"scheme": scheme, "secrets": [secret]});
    let signature = sign("new", "{}");
    for (replacement, status) in [
        (settings("github", "new"), 201),
        (settings("github", "other"), 401),
        (settings("gitlab-token", "new"), 401),
        (settings("meta", "new"), 200),
    ] {
        empty_body(app.put_source("repo", settings("github", "old")).await).await;
        let mut slow = begin_upload(&app, &signature, 2).await;
        empty_body(app.put_source("repo", replacement.clone()).await).await;
        slow.send("{}").await;
        assert_eq!(slow.response().await.status, status, "{replacement}");
    }
    assert_eq!(app.poll_bodies().await, ["{}"; 2]);
}

/// Posts webhooks of the source `repo` until one is refused. Returns how many were stored.
async fn post_until_refused(app: App, secret: String) -> usize {
    for stored in 0.. {
        let response =
            app.github("repo", &secret, json!({"secret": secret}).to_string()).send().await.unwrap();
        match response.status().as_u16() {
            201 => {}
            401 => return stored,
            status => panic!("{status}"),
        }
    }
    unreachable!("the last secret is replaced as well")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_webhook_of_a_replaced_secret_is_stored_after_the_answer() {
    const ROUNDS: usize = 30;
    let home = Arc::new(Home::new());
    let server = Server::start_in(&home, &[]);
    let app = server.new_app("bot").await;
    let put = async |secret: &str| {
        empty_body(app.put_source("repo", json!({"scheme": "github", "secret": secret})).await).await;
    };
    put("secret-0").await;
    for round in 0..ROUNDS {
        let secret = format!("secret-{round}");
        let senders: Vec<_> =
            (0..32).map(|_| tokio::spawn(post_until_refused(app.clone(), secret.clone()))).collect();
        eventually("webhooks are stored", async || app.gauge("stored").await >= 32).await;
        put(&format!("secret-{}", round + 1)).await;
        let answered = SystemTime::now();
        let mut accepted = 0;
        for sender in senders {
            accepted += sender.await.unwrap();
        }
        let events = app.lease(json!({"max": 1000})).await;
        assert_eq!(events.len(), accepted, "a webhook that was answered with 201 is lost");
        let late = events.iter().filter(|event| event.details.received_at > Some(answered)).count();
        assert_eq!(late, 0, "of {accepted} webhooks with the old secret, round {round}");
        let receipts: Vec<_> = events.iter().map(|event| &event.receipt).collect();
        app.settle(json!({"ack": receipts})).await;
    }
}

async fn empty_body(response: reqwest::Response) {
    assert!(response.status().is_success(), "{}", response.status());
    assert_eq!(response.text().await.unwrap(), "");
}

#[tokio::test]
async fn a_webhook_whose_source_is_deleted_during_its_upload_is_404() {
    let server = Server::start(&[]);
    let app = server.new_app("bot").await;
    let settings = json!({"scheme": "github", "secrets": ["s"]});
    for unregisters in [false, true] {
        app.new_source("repo", settings.clone()).await;
        let mut slow = begin_upload(&app, &sign("s", "{}"), 2).await;
        let rest = if unregisters { "" } else { "/sources/repo" };
        empty_body(app.request(Method::DELETE, rest).send().await.unwrap()).await;
        slow.send("{}").await;
        assert_eq!(slow.response().await.status, 404);
        assert_eq!(app.gauge("stored").await, 0);
    }
}

#[tokio::test]
async fn a_poll_that_outlasts_the_lease_time_still_deletes_its_events() {
    let server = Server::start(&["--lease", "200ms", "--max-body", "16MiB"]);
    let app = server.app("bot").await;
    // Larger than the socket buffers: the response is not complete until the client reads it.
    app.post(format!("[\"{}\"]", "x".repeat(12 << 20))).await;
    app.post("[2]").await;
    let mut slow = Raw::open(&server.address).await;
    let path = app.path("?max=1");
    slow.send(format!("GET {path} HTTP/1.1\r\nHost: proxy\r\nAuthorization: Bearer {}\r\n\r\n", app.token))
        .await;
    eventually("the poll has leased its event", async || app.gauge("leased").await == 1).await;
    // The lease of the second event starts later and expires first, so the poll has outlasted the lease time.
    let mut socket = app.listen("?window=1").await;
    let (id, _) = socket.event().await;
    assert_eq!(socket.event().await.0, id, "its lease has expired");
    assert_eq!(slow.response().await.body.len(), (12 << 20) + 45);
    socket.ack(&id).await;
    eventually("both events are deleted", async || app.gauge("stored").await == 0).await;
}

#[tokio::test]
async fn an_incomplete_body_is_evicted_to_make_room_for_a_later_one() {
    let server = Server::start(&["--max-buffered-bytes", "64KiB", "--max-body", "60KiB"]);
    let app = server.app("bot").await;
    let mut slow = Raw::open(&server.address).await;
    let head = head(&app.hook_path(), "0", 60_000);
    slow.send(head.replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n")).await;
    // The server has begun to read the body before it reads any later one: it evicts the oldest body.
    assert_eq!(slow.response().await.status, 100);
    slow.send("x".repeat(50_000)).await;
    let body = format!("[\"{}\"]", "y".repeat(30_000));
    // The first body is evicted once the server has read most of it. The later body is stored in any case.
    eventually("the first body is evicted", async || {
        app.post(&*body).await;
        timeout(Duration::ZERO, slow.0.fill_buf()).await.is_ok()
    })
    .await;
    let evicted = slow.response().await;
    assert_eq!(evicted.status, 503);
    assert!(evicted.head.contains("retry-after: "), "{}", evicted.head);
}
