//! Handshakes that set the secret of a source, which its owner has to arm.

use std::sync::Arc;

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::common::{App, Home, Server, empty, problem, sign};

const TOKEN: &str = "secret_tMrlL1qK5vuQAh1b6cZGhFChZTSYJlce98V0pYn7yBl";

async fn arm(app: &App, name: &str) -> Value {
    let response = app.request(Method::POST, &format!("/sources/{name}/arm")).send().await.unwrap();
    assert_eq!(response.status(), 200);
    response.json().await.unwrap()
}

async fn status(app: &App, name: &str) -> Value {
    app.request(Method::GET, &format!("/sources/{name}/arm")).send().await.unwrap().json().await.unwrap()
}

/// The handshake of Asana, which sets this secret.
fn asana(app: &App, secret: &str) -> RequestBuilder {
    app.source_hook(Method::POST, "asana").header("X-Hook-Secret", secret).body("{}")
}

fn asana_event(app: &App, secret: &str) -> RequestBuilder {
    let body = r#"{"events":[]}"#;
    app.source_hook(Method::POST, "asana").header("X-Hook-Signature", sign(secret, body)).body(body)
}

fn notion(app: &App, token: &str) -> RequestBuilder {
    app.source_hook(Method::POST, "notion").body(json!({"verification_token": token}).to_string())
}

#[tokio::test]
async fn asana_sets_the_secret_once_while_the_source_is_armed() {
    let home = Arc::new(Home::new());
    let server = Server::start_in(&home, &["--log-level", "trace"]);
    let app = server.new_app("bot").await;
    app.new_source("asana", json!({"scheme": "asana"})).await;
    let detail = problem(asana(&app, "hush-1").send().await.unwrap(), 401).await;
    assert!(detail.contains("arm") && !detail.contains("hush"), "{detail}");
    assert_eq!(status(&app, "asana").await, json!({"armedUntil": null, "done": false}));
    let armed = arm(&app, "asana").await;
    let until = humantime::parse_rfc3339(armed["armedUntil"].as_str().unwrap()).unwrap();
    let left = until.duration_since(std::time::SystemTime::now()).unwrap().as_secs();
    assert!((570..=600).contains(&left), "{left} s");
    assert_eq!(status(&app, "asana").await, armed);
    let answer = asana(&app, "hush-2").send().await.unwrap();
    assert_eq!(answer.headers()["x-hook-secret"], "hush-2");
    empty(answer, 200).await;
    assert_eq!(status(&app, "asana").await, json!({"armedUntil": null, "done": true}));
    problem(asana(&app, "hush-3").send().await.unwrap(), 401).await;
    empty(asana_event(&app, "hush-2").send().await.unwrap(), 200).await;
    problem(asana_event(&app, "hush-3").send().await.unwrap(), 401).await;
    assert_eq!(app.gauge("stored").await, 1, "the handshake is not stored");
    assert_eq!(app.source("asana").await["secrets"], 1);
    for path in ["/sources", "/refusals", "/status"] {
        let text = app.request(Method::GET, path).send().await.unwrap().text().await.unwrap();
        assert!(!text.contains("hush"), "{text}");
    }
    assert!(!server.log().contains("hush"), "{}", server.log());
    server.kill();
    let server = Server::start_in(&home, &[]);
    let app = server.known_app("bot", &app.app_secret, &app.token);
    empty(asana_event(&app, "hush-2").send().await.unwrap(), 200).await;
}

/// Asana has a secret for each webhook: that of another webhook, or of a stranger, must not remove one that is in use.
#[tokio::test]
async fn a_handshake_adds_its_secret_and_a_source_without_room_cannot_be_armed() {
    let server = Server::start(&[]);
    let app = server.new_app("bot").await;
    app.new_source("asana", json!({"scheme": "asana", "secrets": ["hush-0"]})).await;
    for n in [1, 2, 2, 3] {
        arm(&app, "asana").await;
        empty(asana(&app, &format!("hush-{n}")).send().await.unwrap(), 200).await;
        assert_eq!(app.source("asana").await["secrets"], n + 1);
    }
    let refused = app.request(Method::POST, "/sources/asana/arm").send().await.unwrap();
    let detail = problem(refused, 409).await;
    assert!(detail.contains("4 secrets") && detail.contains("register"), "{detail}");
    problem(asana(&app, "hush-4").send().await.unwrap(), 401).await;
    for n in 0..4 {
        empty(asana_event(&app, &format!("hush-{n}")).send().await.unwrap(), 200).await;
    }
    problem(asana_event(&app, "hush-4").send().await.unwrap(), 401).await;
    let settings = json!({"scheme": "asana", "secrets": ["hush-2", "hush-3"]});
    assert_eq!(app.put_source("asana", settings).await.status(), 200);
    arm(&app, "asana").await;
    empty(asana(&app, "hush-4").send().await.unwrap(), 200).await;
}

#[tokio::test]
async fn the_owner_of_a_notion_source_is_shown_the_token() {
    let server = Server::start(&[]);
    let app = server.new_app("bot").await;
    app.new_source("notion", json!({"scheme": "notion"})).await;
    problem(notion(&app, TOKEN).send().await.unwrap(), 401).await;
    arm(&app, "notion").await;
    let answer = notion(&app, TOKEN).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.text().await.unwrap(), "");
    assert_eq!(status(&app, "notion").await, json!({"armedUntil": null, "done": true, "token": TOKEN}));
    let body = r#"{"id":"1","type":"page.created"}"#;
    let event = app.source_hook(Method::POST, "notion").body(body);
    let event = event.header("X-Notion-Signature", format!("sha256={}", sign(TOKEN, body)));
    empty(event.send().await.unwrap(), 201).await;
    assert!(!server.log().contains(TOKEN), "{}", server.log());
    arm(&app, "notion").await;
    assert_eq!(status(&app, "notion").await.get("token"), None, "armed again");
}

#[tokio::test]
async fn only_schemes_with_a_handshake_can_be_armed() {
    let server = Server::start(&["--allow-unverified"]);
    let app = server.new_app("bot").await;
    app.new_source("repo", json!({"scheme": "github", "secrets": ["s"]})).await;
    app.new_source("any", json!({"scheme": "none"})).await;
    for name in ["repo", "any"] {
        problem(app.request(Method::POST, &format!("/sources/{name}/arm")).send().await.unwrap(), 400).await;
    }
    for method in [Method::POST, Method::GET] {
        problem(app.request(method, "/sources/gone/arm").send().await.unwrap(), 404).await;
    }
    problem(app.request(Method::DELETE, "/sources/repo/arm").send().await.unwrap(), 405).await;
}

#[tokio::test]
async fn a_replaced_or_deleted_source_and_a_later_app_are_not_armed() {
    let server = Server::start(&[]);
    let app = server.new_app("bot").await;
    let settings = json!({"scheme": "notion", "secrets": ["registered"]});
    let not_armed = json!({"armedUntil": null, "done": false});
    app.new_source("notion", settings.clone()).await;
    for n in 0..4 {
        for handshake in [false, true] {
            arm(&app, "notion").await;
            if handshake {
                assert_eq!(notion(&app, TOKEN).send().await.unwrap().status(), 200);
            }
            match n {
                0 => assert_eq!(app.put_source("notion", settings.clone()).await.status(), 200),
                1 => {
                    empty(app.request(Method::DELETE, "/sources/notion").send().await.unwrap(), 200).await;
                    app.new_source("notion", settings.clone()).await;
                }
                2 => {
                    app.unregister().await;
                    app.new_source("notion", settings.clone()).await;
                }
                _ => {
                    let removed = server.home.app_command(&["disable", "bot", "--store", "memory:"]);
                    assert!(removed.status.success());
                    // The handshake of a disabled app sets nothing.
                    problem(notion(&app, "secret_other").send().await.unwrap(), 503).await;
                    assert!(server.home.app_command(&["enable", "bot"]).status.success());
                    assert_eq!(app.put_source("notion", settings.clone()).await.status(), 200);
                }
            }
            assert_eq!(status(&app, "notion").await, not_armed, "{n}");
            problem(notion(&app, "secret_other").send().await.unwrap(), 401).await;
            let body = r#"{"id":"1","type":"page.created"}"#;
            let event = app.source_hook(Method::POST, "notion").body(body);
            let event = event.header("X-Notion-Signature", format!("sha256={}", sign("registered", body)));
            empty(event.send().await.unwrap(), 201).await;
        }
    }
}

#[tokio::test]
async fn an_app_that_the_operator_removed_and_added_again_is_not_armed() {
    let home = Arc::new(Home::new());
    let server = Server::start_in(&home, &[]);
    let app = server.new_app("bot").await;
    app.new_source("notion", json!({"scheme": "notion"})).await;
    arm(&app, "notion").await;
    assert_eq!(notion(&app, TOKEN).send().await.unwrap().status(), 200);
    assert!(home.operate(&["remove", "bot", "--yes"]).status.success());
    let later = server.new_app("bot").await;
    later.new_source("notion", json!({"scheme": "notion"})).await;
    assert_eq!(status(&later, "notion").await, json!({"armedUntil": null, "done": false}));
}

#[tokio::test]
async fn one_of_several_simultaneous_handshakes_sets_the_secret() {
    let home = Arc::new(Home::new());
    let server = Server::start_in(&home, &[]);
    let app = server.new_app("bot").await;
    app.new_source("asana", json!({"scheme": "asana"})).await;
    arm(&app, "asana").await;
    let handshakes = (0..20).map(|n| {
        let app = app.clone();
        async move { (n, asana(&app, &format!("secret-{n}")).send().await.unwrap().status().as_u16()) }
    });
    let results = futures_util::future::join_all(handshakes).await;
    let winners: Vec<_> = results.iter().filter(|(_, status)| *status == 200).collect();
    assert_eq!(winners.len(), 1, "{results:?}");
    assert!(results.iter().all(|(_, status)| [200, 401].contains(status)), "{results:?}");
    empty(asana_event(&app, &format!("secret-{}", winners[0].0)).send().await.unwrap(), 200).await;
}

/// A handshake must neither bring a deleted source back nor undo its replacement.
#[tokio::test]
async fn a_handshake_during_a_change_of_its_source_does_not_undo_the_change() {
    let home = Arc::new(Home::new());
    let server = Server::start_in(&home, &[]);
    let app = server.new_app("bot").await;
    for _ in 0..20 {
        app.new_source("asana", json!({"scheme": "asana"})).await;
        arm(&app, "asana").await;
        let handshakes =
            futures_util::future::join_all((0..4).map(|n| asana(&app, &format!("late-{n}")).send()));
        let replacement = app.put_source("asana", json!({"scheme": "asana", "secrets": ["replaced"]}));
        let (_, replaced) = tokio::join!(handshakes, replacement);
        assert_eq!(replaced.status(), 200);
        empty(asana_event(&app, "replaced").send().await.unwrap(), 200).await;
        arm(&app, "asana").await;
        let handshakes =
            futures_util::future::join_all((0..4).map(|n| asana(&app, &format!("late-{n}")).send()));
        let deletion = app.request(Method::DELETE, "/sources/asana").send();
        let (_, deleted) = tokio::join!(handshakes, deletion);
        empty(deleted.unwrap(), 200).await;
        problem(app.request(Method::GET, "/sources/asana").send().await.unwrap(), 404).await;
    }
}
