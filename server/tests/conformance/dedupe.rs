//! Deduplication: space, `X-OUTBOUND-INDEX` and body are the idempotency key of a webhook.

use serde_json::json;

use crate::common::{App, Server, empty, eventually};

async fn post(app: &App, index: u32, body: &str) {
    empty(app.indexed(index, body).send().await.unwrap(), 201).await;
}

#[tokio::test]
async fn a_retry_with_the_same_space_index_and_body_is_stored_once() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let body = r#"{"spaceId":"a","n":1}"#;
    for retry in 0..3 {
        let post = app.indexed(7, body).header("X-OUTBOUND-RETRY-COUNT", retry);
        empty(post.send().await.unwrap(), 201).await;
    }
    assert_eq!(app.poll_bodies().await, [body]);
    post(&app, 7, body).await;
    assert_eq!(app.poll_text("").await, "{}", "after the first was polled");
    app.register("another secret").await;
    let app = App { secret: "another secret".into(), ..app };
    post(&app, 7, body).await;
    assert_eq!(app.poll_text("").await, "{}", "after the secret was replaced");
}

#[tokio::test]
async fn a_retry_is_not_stored_while_the_event_is_leased_or_after_its_ack() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    post(&app, 7, "{}").await;
    let leased = app.lease(json!({})).await;
    post(&app, 7, "{}").await;
    assert_eq!(app.gauge("stored").await, 1);
    app.settle(json!({"ack": [leased[0].receipt]})).await;
    post(&app, 7, "{}").await;
    assert_eq!(app.gauge("stored").await, 0);
}

#[tokio::test]
async fn concurrent_retries_are_stored_once() {
    let home = std::sync::Arc::new(crate::common::Home::new());
    for server in [Server::start(&[]), Server::start_in(&home, &[])] {
        let app = server.app("bot").await;
        let posts = (0..50).map(|n| {
            let app = app.clone();
            async move { post(&app, n % 5, "{}").await }
        });
        futures_util::future::join_all(posts).await;
        assert_eq!(app.poll("").await.len(), 5, "{}", server.greeting);
    }
}

#[tokio::test]
async fn the_same_space_and_index_with_another_body_is_a_new_event() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let bodies = [r#"{"spaceId":"a"}"#, r#"{"spaceId":"a" }"#, r#"{"spaceId":"a","n":1}"#];
    for body in bodies {
        post(&app, 7, body).await;
    }
    assert_eq!(app.poll_bodies().await, bodies);
}

#[tokio::test]
async fn the_same_index_of_another_space_or_app_is_a_new_event() {
    let server = Server::start(&[]);
    let (app, other) = (server.app("bot").await, server.app("other").await);
    for app in [&app, &other] {
        post(app, 7, r#"{"spaceId":"a"}"#).await;
        post(app, 7, r#"{"spaceId":"b"}"#).await;
        post(app, 8, r#"{"spaceId":"a"}"#).await;
    }
    let bodies = [r#"{"spaceId":"a"}"#, r#"{"spaceId":"b"}"#, r#"{"spaceId":"a"}"#];
    assert_eq!(app.poll_bodies().await, bodies);
    assert_eq!(other.poll_bodies().await, bodies);
}

#[tokio::test]
async fn a_webhook_without_an_index_is_always_a_new_event() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    for _ in 0..3 {
        app.post("{}").await;
    }
    assert_eq!(app.poll_bodies().await, ["{}"; 3]);
}

#[tokio::test]
async fn a_retry_after_the_dedupe_window_is_a_new_event() {
    let server = Server::start(&["--dedupe-window", "300ms"]);
    let app = server.app("bot").await;
    post(&app, 7, "{}").await;
    eventually("the retry is stored as a new event", async || {
        post(&app, 7, "{}").await;
        app.gauge("stored").await == 2
    })
    .await;
}

#[tokio::test]
async fn unregistering_forgets_the_idempotency_keys() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    post(&app, 7, "{}").await;
    app.unregister().await;
    app.register(&app.secret).await;
    post(&app, 7, "{}").await;
    assert_eq!(app.poll_bodies().await, ["{}"]);
}

#[tokio::test]
async fn the_retry_of_a_rejected_webhook_is_stored() {
    let server = Server::start(&["--max-queued-events", "1"]);
    let app = server.app("bot").await;
    post(&app, 1, "[1]").await;
    let rejected = app.indexed(2, "[2]").send().await.unwrap();
    crate::common::problem(rejected, 503).await;
    post(&app, 1, "[1]").await;
    assert_eq!(app.poll_bodies().await, ["[1]"]);
    eventually("the queue has room", async || app.gauge("stored").await == 0).await;
    post(&app, 2, "[2]").await;
    assert_eq!(app.poll_bodies().await, ["[2]"]);
}
