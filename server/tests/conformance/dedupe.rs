//! `X-OUTBOUND-INDEX`: the pair of space and index names a delivery.

use serde_json::json;

use crate::common::{App, Server, empty, eventually};

async fn post(app: &App, index: u32, body: &str) {
    empty(app.indexed(index, body).send().await.unwrap(), 201).await;
}

#[tokio::test]
async fn the_same_pair_with_the_same_body_is_stored_once() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let body = r#"{"spaceId":"a","n":1}"#;
    for retry in 0..3 {
        let post = app.indexed(7, body).header("X-OUTBOUND-RETRY-COUNT", retry);
        empty(post.send().await.unwrap(), 201).await;
    }
    assert_eq!(app.poll_bodies().await, [body]);
    post(&app, 7, body).await;
    assert_eq!(app.poll_text("").await, "{}", "also when the first was read meanwhile");
    app.register("another secret").await;
    let app = App { secret: "another secret".into(), ..app };
    post(&app, 7, body).await;
    assert_eq!(app.poll_text("").await, "{}", "also with a new secret");
}

#[tokio::test]
async fn the_same_pair_is_stored_once_while_it_is_leased_and_after_its_ack() {
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
async fn deliveries_at_the_same_time_are_stored_once() {
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
async fn the_same_pair_with_another_body_is_a_new_event() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let bodies = [r#"{"spaceId":"a"}"#, r#"{"spaceId":"a" }"#, r#"{"spaceId":"a","n":1}"#];
    for body in bodies {
        post(&app, 7, body).await;
    }
    assert_eq!(app.poll_bodies().await, bodies);
}

#[tokio::test]
async fn the_index_counts_per_space_and_per_app() {
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
async fn without_an_index_it_is_always_a_new_event() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    for _ in 0..3 {
        app.post("{}").await;
    }
    assert_eq!(app.poll_bodies().await, ["{}"; 3]);
}

#[tokio::test]
async fn after_the_dedupe_window_it_is_a_new_event() {
    let server = Server::start(&["--dedupe-window", "300ms"]);
    let app = server.app("bot").await;
    post(&app, 7, "{}").await;
    eventually("the repetition is new", async || {
        post(&app, 7, "{}").await;
        app.gauge("stored").await == 2
    })
    .await;
}

#[tokio::test]
async fn an_unregistered_app_begins_anew() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    post(&app, 7, "{}").await;
    app.unregister().await;
    app.register(&app.secret).await;
    post(&app, 7, "{}").await;
    assert_eq!(app.poll_bodies().await, ["{}"]);
}

#[tokio::test]
async fn a_refused_delivery_is_not_taken_for_stored() {
    let server = Server::start(&["--max-queued-events", "1"]);
    let app = server.app("bot").await;
    post(&app, 1, "[1]").await;
    let refused = app.indexed(2, "[2]").send().await.unwrap();
    crate::common::problem(refused, 503).await;
    post(&app, 1, "[1]").await;
    assert_eq!(app.poll_bodies().await, ["[1]"]);
    eventually("there is room", async || app.gauge("stored").await == 0).await;
    post(&app, 2, "[2]").await;
    assert_eq!(app.poll_bodies().await, ["[2]"]);
}
