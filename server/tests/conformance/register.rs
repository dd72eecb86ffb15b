//! Registration: `PUT` and `DELETE /webhooks/{appId}`.

use reqwest::Method;
use serde_json::json;

use crate::common::{App, Server, empty, problem};

async fn put(app: &App, body: impl Into<reqwest::Body>) -> reqwest::Response {
    app.request(Method::PUT, "").body(body).send().await.unwrap()
}

#[tokio::test]
async fn put_creates_or_replaces_a_registration_and_answers_an_empty_201() {
    let server = Server::start(&[]);
    let app = server.new_app("bot").await;
    empty(put(&app, r#"{"secret":"first"}"#).await, 201).await;
    let first = App { secret: "first".into(), ..app.clone() };
    first.post("[1]").await;
    empty(put(&app, r#"{"secret":"second"}"#).await, 201).await;
    problem(first.hook("[2]").send().await.unwrap(), 401).await;
    let second = App { secret: "second".into(), ..app.clone() };
    second.post("[3]").await;
    assert_eq!(app.poll_bodies().await, ["[1]", "[3]"], "stored events are kept");
}

#[tokio::test]
async fn the_content_type_of_a_registration_is_ignored() {
    let server = Server::start(&[]);
    let app = server.new_app("bot").await;
    for (n, kind) in ["application/json", "text/plain", "application/x-www-form-urlencoded", "nonsense", ""]
        .into_iter()
        .enumerate()
    {
        let secret = format!("secret-{n}");
        let request = app.request(Method::PUT, "").header("Content-Type", kind);
        empty(request.body(json!({"secret": secret}).to_string()).send().await.unwrap(), 201).await;
        App { secret, ..app.clone() }.post("{}").await;
    }
}

#[tokio::test]
async fn white_space_and_escapes_are_accepted() {
    let server = Server::start(&[]);
    let app = server.new_app("bot").await;
    empty(put(&app, " { \"secret\" : \"a\\u0062c\" }\n").await, 201).await;
    App { secret: "abc".into(), ..app.clone() }.post("{}").await;
}

#[tokio::test]
async fn an_unknown_member_is_400_with_its_name_and_keeps_the_registration() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    for (body, name) in [
        (r#"{"secret":"x","algorithm":"md5"}"#, "\"algorithm\""),
        (r#"{"\u0061lgorithm":"md5","secret":"x"}"#, "\"algorithm\""),
        (r#"{"Secret":"x"}"#, "\"Secret\""),
        (r#"{"secret":"x","":1}"#, "\"\""),
        ("{\"secret\":\"x\",\"a\u{202e}b\":1}", "\"a\\u{202e}b\""),
    ] {
        let detail = problem(put(&app, body).await, 400).await;
        assert!(detail.contains(name), "{detail}");
    }
    let long = format!(r#"{{"secret":"x","{}":1}}"#, "n".repeat(10_000));
    assert!(problem(put(&app, long).await, 400).await.len() < 300);
    app.post("{}").await;
}

#[tokio::test]
async fn a_missing_empty_or_non_string_secret_is_400_and_keeps_the_registration() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    for bad in [
        "",
        "{}",
        "null",
        "7",
        "\"secret\"",
        "[\"secret\"]",
        "[{\"secret\":\"x\"}]",
        "{",
        "secret=x",
        r#"{"secret":""}"#,
        r#"{"secret":null}"#,
        r#"{"secret":7}"#,
        r#"{"secret":["x"]}"#,
        r#"{"secret":{"a":"x"}}"#,
        r#"{"Secret":"x"}"#,
        r#"{"secret":"x"}{}"#,
        r#"{"secret":"\ud800"}"#,
    ] {
        problem(put(&app, bad).await, 400).await;
    }
    problem(put(&app, b"{\"secret\":\"\xff\"}".to_vec()).await, 400).await;
    app.post("{}").await;
}

#[tokio::test]
async fn a_secret_over_4_kib_is_400() {
    let server = Server::start(&[]);
    let app = server.new_app("bot").await;
    let longest = "é".repeat(2048);
    empty(put(&app, json!({"secret": longest}).to_string()).await, 201).await;
    problem(put(&app, json!({"secret": format!("{longest}x")}).to_string()).await, 400).await;
    App { secret: longest, ..app.clone() }.post("{}").await;
}

#[tokio::test]
async fn an_oversized_registration_is_413() {
    let server = Server::start(&[]);
    let app = server.new_app("bot").await;
    problem(put(&app, vec![b' '; 4 << 20]).await, 413).await;
}

#[tokio::test]
async fn put_without_a_token_is_401_even_with_a_large_body() {
    let server = Server::start(&[]);
    let app = server.new_app("bot").await;
    let huge = vec![b' '; 4 << 20];
    for body in [br#"{"secret":"x"}"#.to_vec(), huge] {
        problem(app.anonymous(Method::PUT, "").body(body).send().await.unwrap(), 401).await;
    }
    assert_eq!(app.status().await["registration"], json!(null));
}

#[tokio::test]
async fn delete_answers_an_empty_200_with_or_without_a_registration() {
    let server = Server::start(&[]);
    let app = server.new_app("bot").await;
    for _ in 0..2 {
        empty(app.request(Method::DELETE, "").send().await.unwrap(), 200).await;
    }
    app.register("x").await;
    empty(app.request(Method::DELETE, "").send().await.unwrap(), 200).await;
    problem(app.hook("{}").send().await.unwrap(), 404).await;
}

#[tokio::test]
async fn unregistering_deletes_the_stored_events() {
    let server = Server::start(&[]);
    let (app, other) = (server.app("bot").await, server.app("other").await);
    app.post_numbers(0..3).await;
    other.post("[\"mine\"]").await;
    let leased = app.lease(json!({"max": 1})).await;
    app.unregister().await;
    let status = app.status().await;
    assert_eq!((&status["stored"], &status["leased"]), (&json!(0), &json!(0)), "{status}");
    assert_eq!(app.poll_text("").await, "{}");
    let settled = app.settle(json!({"release": [leased[0].receipt]})).await;
    assert_eq!(settled["stale"], json!([leased[0].receipt]));
    app.register(&app.secret).await;
    assert_eq!(app.poll_text("").await, "{}", "a new registration does not restore them");
    assert_eq!(other.poll_bodies().await, ["[\"mine\"]"], "events of another app are kept");
}

#[tokio::test]
async fn a_websocket_survives_unregistering() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let mut socket = app.listen("").await;
    app.post("[1]").await;
    let (old, _) = socket.event().await;
    app.unregister().await;
    app.register(&app.secret).await;
    app.post("[2]").await;
    let (id, body) = socket.event().await;
    assert_eq!(body, "[2]");
    socket.ack(&old).await;
    socket.ack(&id).await;
    assert_eq!(socket.ping().await, [] as [&str; 0]);
    assert_eq!(app.gauge("stored").await, 0);
}
