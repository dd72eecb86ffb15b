//! Deduplication: source, tail, query, number of the secret, type, delivery id and body are the idempotency key of a webhook.

use reqwest::RequestBuilder;
use serde_json::{Value, json};

use crate::{
    common::{App, Server, empty, eventually, problem, sign},
    senders::{seconds, signed, signed_to, stripe},
};

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
    problem(rejected, 503).await;
    post(&app, 1, "[1]").await;
    assert_eq!(app.poll_bodies().await, ["[1]"]);
    eventually("the queue has room", async || app.gauge("stored").await == 0).await;
    post(&app, 2, "[2]").await;
    assert_eq!(app.poll_bodies().await, ["[2]"]);
}

/// Posts a webhook twice. Each answer must have this status.
async fn post_twice(post: RequestBuilder, status: u16) {
    for _ in 0..2 {
        empty(post.try_clone().unwrap().send().await.unwrap(), status).await;
    }
}

#[tokio::test]
async fn a_delivery_id_that_is_not_signed_names_a_duplicate_only_with_the_same_body() {
    let server = Server::start(&[]);
    let app = server.new_app("bot").await;
    for name in ["one", "two"] {
        app.new_source(name, json!({"scheme": "github", "secrets": ["s"]})).await;
    }
    for (source, id, body) in
        [("one", "7", "[1]"), ("one", "7", "[2]"), ("one", "8", "[1]"), ("two", "7", "[1]")]
    {
        post_twice(app.github(source, "s", body).header("X-GitHub-Delivery", id), 201).await;
    }
    post_twice(app.github("one", "s", "[3]"), 201).await;
    assert_eq!(app.poll_bodies().await, ["[1]", "[2]", "[1]", "[1]", "[3]", "[3]"]);
}

/// Two endpoints of a Stripe account get an event with one id, and each its own version of the object.
#[tokio::test]
async fn a_delivery_id_that_is_signed_names_a_duplicate_only_with_the_same_body() {
    let server = Server::start(&[]);
    let app = server.new_app("bot").await;
    app.new_source("stripe", json!({"scheme": "stripe", "secrets": ["s"]})).await;
    let body = |version: &str| json!({"id": "evt_1", "api_version": version}).to_string();
    for body in [body("2024"), body("2026")] {
        // A retry has a new timestamp and signature.
        for age in [2, 1] {
            empty(stripe(&app, "s", seconds(age), &body).send().await.unwrap(), 201).await;
        }
    }
    assert_eq!(app.poll_bodies().await, [body("2024"), body("2026")]);
    // An id cannot be claimed without the secret.
    let forged = stripe(&app, "wrong", seconds(0), r#"{"id":"evt_3"}"#);
    problem(forged.send().await.unwrap(), 401).await;
    empty(stripe(&app, "s", seconds(0), r#"{"id":"evt_3"}"#).send().await.unwrap(), 201).await;
    assert_eq!(app.poll_bodies().await, [r#"{"id":"evt_3"}"#]);
}

/// A card's and its board's webhook of Trello share the id of the action.
#[tokio::test]
async fn two_webhooks_about_one_action_are_both_stored() {
    let server = Server::start(&[]);
    let app = server.new_app("bot").await;
    let url = "https://proxy.example/hook/bot/trello";
    app.new_source("trello", json!({"scheme": "trello", "secrets": ["s"], "url": url})).await;
    let body = |model: &str| {
        json!({"model": {"id": model}, "action": {"id": "a1", "type": "updateCard"}}).to_string()
    };
    let bodies = [body("card"), body("board")];
    for body in &bodies {
        post_twice(signed(&app, "trello", "s", Some(url), body.as_bytes()), 200).await;
    }
    assert_eq!(app.poll_bodies().await, bodies);
}

/// Endpoints of one sender share the message id: they differ in their secret, path, query or body.
#[tokio::test]
async fn one_message_of_several_endpoints_is_stored_for_each() {
    let server = Server::start(&[]);
    let app = server.new_app("bot").await;
    let (first, second) =
        ("whsec_Zmlyc3Qgc2VjcmV0IG9mIDI0IGJ5dGVz", "whsec_c2Vjb25kIHNlY3JldCBvZiAyNCBieXRl");
    app.new_source("hook", json!({"scheme": "standard-webhooks", "secrets": [first, second]})).await;
    let webhooks = [
        ("hook", first, "{}"),
        ("hook", second, "{}"),
        ("hook/a", first, "{}"),
        ("hook/b", first, "{}"),
        ("hook?a", first, "{}"),
        ("hook/?a=1", first, "{}"),
        ("hook", first, "{ }"),
    ];
    for _ in 0..2 {
        for (path, secret, body) in webhooks {
            let post = signed_to(&app, path, "standard-webhooks", secret, None, body.as_bytes());
            post_twice(post, 201).await;
        }
    }
    let answer: Value = app.lease_response(json!({})).await.json().await.unwrap();
    let events = answer["events"].as_array().unwrap();
    assert!(events.iter().all(|event| event["deliveryId"] == "d-1"), "{events:?}");
    assert_eq!(events.len(), webhooks.len(), "{events:?}");
}

/// The id of a template may be that of an object, which many webhooks are about.
#[tokio::test]
async fn webhooks_of_a_template_with_the_same_id_are_stored_unless_type_and_body_are_the_same() {
    let server = Server::start(&[]);
    let app = server.new_app("bot").await;
    let template = json!({"algorithm": "hmac-sha256", "signature": "header:X-Signature", "encoding": "hex",
        "content": "{body}", "id": "json:data.id", "event": "header:X-Event"});
    app.new_source("shop", json!({"scheme": "template", "template": template, "secrets": ["s"]})).await;
    let webhooks = [
        ("created", r#"{"data":{"id":7}}"#),
        ("deleted", r#"{"data":{"id":7}}"#),
        ("created", r#"{"data":{"id":7,"n":1}}"#),
    ];
    for (event, body) in webhooks {
        let post = app.source_hook(reqwest::Method::POST, "shop").header("X-Signature", sign("s", body));
        post_twice(post.header("X-Event", event).body(body), 201).await;
    }
    assert_eq!(app.poll_bodies().await, webhooks.map(|(_, body)| body));
}

/// The client cannot tell such a retry from the stored event. One under another number is stored again, as it may be of another
/// endpoint.
#[tokio::test]
async fn a_retry_after_a_rotation_is_a_duplicate_if_the_number_of_its_secret_is_the_same() {
    let server = Server::start(&[]);
    let app = server.new_app("bot").await;
    let body = r#"{"id":"evt_1"}"#;
    let post =
        async |secret: &str| empty(stripe(&app, secret, seconds(0), body).send().await.unwrap(), 201).await;
    app.new_source("stripe", json!({"scheme": "stripe", "secrets": ["old"]})).await;
    post("old").await;
    let response = app.put_source("stripe", json!({"scheme": "stripe", "secrets": ["new", "old"]})).await;
    assert!(response.status().is_success());
    post("new").await;
    assert_eq!(app.poll_bodies().await, [body]);
    for _ in 0..2 {
        post("old").await;
    }
    assert_eq!(app.poll_bodies().await, [body]);
}

#[tokio::test]
async fn a_duplicate_counts_as_accepted() {
    let server = Server::start(&[]);
    let app = server.new_app("bot").await;
    app.new_source("stripe", json!({"scheme": "stripe", "secrets": ["s"]})).await;
    let last_accepted = async || {
        empty(stripe(&app, "s", seconds(0), r#"{"id":"evt_1"}"#).send().await.unwrap(), 201).await;
        app.source("stripe").await["lastAccepted"].as_str().unwrap().to_owned()
    };
    let first = last_accepted().await;
    eventually("the time of the duplicate", async || last_accepted().await > first).await;
    assert_eq!(app.gauge("stored").await, 1);
}
