//! The sources of an app: how they are registered, listed, replaced and deleted.

use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};

use crate::common::{App, Home, Server, empty, problem};

const GITHUB: &str = "github-secret";

fn github() -> Value {
    json!({"scheme": "github", "secrets": [GITHUB]})
}

/// The names of the sources that the app lists.
async fn names(app: &App) -> Vec<String> {
    let answer: Value = app.request(Method::GET, "/sources").send().await.unwrap().json().await.unwrap();
    let sources = answer["sources"].as_array().unwrap();
    sources.iter().map(|source| source["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn put_answers_201_for_a_new_source_and_200_for_a_replaced_one() {
    let server = Server::start(&[]);
    let app = server.new_app("bot").await;
    empty(app.put_source("repo", github()).await, 201).await;
    empty(app.put_source("repo", json!({"scheme": "github", "secret": "other"})).await, 200).await;
    problem(app.github("repo", GITHUB, "{}").send().await.unwrap(), 401).await;
    empty(app.github("repo", "other", "{}").send().await.unwrap(), 201).await;
}

#[tokio::test]
async fn each_source_has_its_own_scheme_and_secrets() {
    let server = Server::start(&[]);
    let (app, other) = (server.app("bot").await, server.app("other").await);
    app.new_source("one", github()).await;
    app.new_source("two", json!({"scheme": "github", "secrets": ["two"]})).await;
    problem(app.github("two", GITHUB, "[2]").send().await.unwrap(), 401).await;
    problem(app.github("one", "two", "[1]").send().await.unwrap(), 401).await;
    problem(app.github("default", GITHUB, "[0]").send().await.unwrap(), 401).await;
    problem(other.github("one", GITHUB, "[1]").send().await.unwrap(), 404).await;
    empty(app.github("one", GITHUB, "[1]").send().await.unwrap(), 201).await;
    empty(app.github("two", "two", "[2]").send().await.unwrap(), 201).await;
    app.post("[0]").await;
    let events = app.lease(json!({})).await;
    let sources: Vec<_> = events
        .iter()
        .map(|event| {
            (event.details.origin.source.to_string(), String::from_utf8(event.body.to_vec()).unwrap())
        })
        .collect();
    let expected = [("one", "[1]"), ("two", "[2]"), ("default", "[0]")];
    assert_eq!(sources, expected.map(|(name, body)| (name.to_owned(), body.to_owned())));
    assert_eq!(other.poll_text("").await, "{}");
}

#[tokio::test]
async fn registering_an_app_is_the_source_default_and_leaves_other_sources_alone() {
    let server = Server::start(&[]);
    let app = server.new_app("bot").await;
    app.new_source("repo", github()).await;
    assert_eq!(app.status().await["registration"], json!(null));
    for _ in 0..2 {
        let put = app.request(Method::PUT, "").body(r#"{"scheme":"gitlab-token","secrets":["t"]}"#);
        empty(put.send().await.unwrap(), 201).await;
    }
    assert_eq!(names(&app).await, ["default", "repo"]);
    assert_eq!(app.status().await["registration"], json!({"scheme": "gitlab-token"}));
    for path in ["", "default"] {
        let hook = app.http.post(format!("http://{}{}/{path}", app.address, app.hook_path()));
        empty(hook.header("X-Gitlab-Token", "t").body("{}").send().await.unwrap(), 201).await;
    }
    empty(app.put_source("default", json!({"secret": app.secret})).await, 200).await;
    app.post("[1]").await;
    empty(app.github("repo", GITHUB, "{}").send().await.unwrap(), 201).await;
    empty(app.request(Method::DELETE, "/sources/default").send().await.unwrap(), 200).await;
    problem(app.hook("{}").send().await.unwrap(), 404).await;
    empty(app.github("repo", GITHUB, "{}").send().await.unwrap(), 201).await;
}

#[tokio::test]
async fn a_source_name_is_1_to_64_letters_digits_dots_underscores_and_dashes() {
    let server = Server::start(&[]);
    let app = server.new_app("bot").await;
    for name in ["a", "A.b_c-9", "...", &"x".repeat(64)] {
        app.new_source(name, github()).await;
        empty(app.github(name, GITHUB, "{}").send().await.unwrap(), 201).await;
    }
    for name in ["a%2Fb", "a%20b", "%61", "a~b", "a:b", "caf%C3%A9", &"x".repeat(65)] {
        problem(app.put_source(name, github()).await, 404).await;
        problem(app.github(name, GITHUB, "{}").send().await.unwrap(), 404).await;
        problem(app.request(Method::GET, &format!("/sources/{name}")).send().await.unwrap(), 404).await;
    }
}

#[tokio::test]
async fn an_app_has_at_most_32_sources() {
    let server = Server::start(&[]);
    let app = server.new_app("bot").await;
    for n in 0..32 {
        app.new_source(&format!("s{n}"), github()).await;
    }
    let detail = problem(app.put_source("one-more", github()).await, 409).await;
    assert!(detail.contains("32"), "{detail}");
    let put = app.request(Method::PUT, "").body(r#"{"secret":"x"}"#);
    problem(put.send().await.unwrap(), 409).await;
    empty(app.put_source("s7", github()).await, 200).await;
    empty(app.request(Method::DELETE, "/sources/s7").send().await.unwrap(), 200).await;
    app.new_source("one-more", github()).await;
    assert_eq!(names(&app).await.len(), 32);
}

#[tokio::test]
async fn a_source_is_shown_without_its_secrets() {
    let server = Server::start(&["--public-url", "https://proxy.example/base"]);
    let app = server.new_app("bot").await;
    let url = "https://proxy.example/base/hook/bot/calls";
    app.new_source("calls", json!({"scheme": "twilio", "secrets": ["hush-1", "hush-2"], "url": url})).await;
    app.new_source("pages", json!({"scheme": "meta", "secrets": ["hush-3"], "challengeSecret": "hush-4"}))
        .await;
    app.new_source("pay", json!({"scheme": "stripe", "secrets": ["hush-5"], "tolerance": 60})).await;
    app.new_source("default", json!({"scheme": "gitlab-token", "secrets": ["hush-6"]})).await;
    let text = app.request(Method::GET, "/sources").send().await.unwrap().text().await.unwrap();
    assert!(!text.contains("hush"), "{text}");
    let sources: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        sources["sources"][0],
        json!({"name": "calls", "scheme": "twilio", "covers": "body", "verified": true, "secrets": 2, "url": url,
            "hook": url, "lastAccepted": null, "lastRefused": null})
    );
    assert_eq!(app.source("pay").await, sources["sources"][3]);
    assert_eq!(sources["sources"][3]["tolerance"], 60);
    assert_eq!(sources["sources"][1]["hook"], "https://proxy.example/base/hook/bot");
    assert_eq!(sources["sources"][1]["covers"], "nothing");
    assert_eq!(app.status().await["sources"].as_array().unwrap().len(), 4);
    let head = app.request(Method::HEAD, "/sources/pay").send().await.unwrap();
    assert_eq!(head.status(), 200);
}

#[tokio::test]
async fn a_source_shows_when_it_last_stored_an_event_and_last_refused_a_webhook() {
    let server = Server::start(&[]);
    let app = server.new_app("bot").await;
    app.new_source("repo", github()).await;
    app.new_source("files", json!({"scheme": "dropbox", "secrets": ["x"]})).await;
    let times = async |name: &str| {
        let source = app.source(name).await;
        ["lastAccepted", "lastRefused"].map(|member| {
            let time = source[member].as_str();
            time.inspect(|time| assert!(humantime::parse_rfc3339(time).is_ok(), "{time}")).is_some()
        })
    };
    assert_eq!(times("repo").await, [false, false]);
    problem(app.github("repo", "wrong", "{}").send().await.unwrap(), 401).await;
    assert_eq!(times("repo").await, [false, true]);
    empty(app.github("repo", GITHUB, "{}").send().await.unwrap(), 201).await;
    assert_eq!(times("repo").await, [true, true]);
    // A challenge that anyone can send is not an event.
    let challenge = app.source_hook(Method::GET, "files?challenge=a").send().await.unwrap();
    assert_eq!(challenge.status(), 200);
    assert_eq!(times("files").await, [false, false]);
    empty(app.request(Method::DELETE, "/sources/repo").send().await.unwrap(), 200).await;
    app.new_source("repo", github()).await;
    assert_eq!(times("repo").await, [false, false], "a new source");
}

#[tokio::test]
async fn deleting_a_source_keeps_its_events_and_an_unknown_one_is_404() {
    let server = Server::start(&[]);
    let app = server.new_app("bot").await;
    app.new_source("repo", github()).await;
    empty(app.github("repo", GITHUB, "[1]").send().await.unwrap(), 201).await;
    empty(app.request(Method::DELETE, "/sources/repo").send().await.unwrap(), 200).await;
    for method in [Method::DELETE, Method::GET] {
        problem(app.request(method, "/sources/repo").send().await.unwrap(), 404).await;
    }
    problem(app.github("repo", GITHUB, "[2]").send().await.unwrap(), 404).await;
    assert_eq!(names(&app).await, [] as [&str; 0]);
    assert_eq!(app.poll_bodies().await, ["[1]"]);
}

#[tokio::test]
async fn unregistering_removes_all_sources_and_events() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.new_source("repo", github()).await;
    empty(app.github("repo", GITHUB, "[1]").send().await.unwrap(), 201).await;
    problem(app.github("repo", "wrong", "[1]").send().await.unwrap(), 401).await;
    app.unregister().await;
    problem(app.github("repo", GITHUB, "[2]").send().await.unwrap(), 404).await;
    app.new_source("other", github()).await;
    assert_eq!(names(&app).await, ["other"]);
    assert_eq!(app.poll_text("").await, "{}");
    assert_eq!(app.refusals().await, [] as [Value; 0]);
}

#[tokio::test]
async fn sources_survive_a_restart() {
    let home = Arc::new(Home::new());
    let server = Server::start_in(&home, &[]);
    let app = server.app("bot").await;
    let template = json!({"algorithm": "hmac-sha256", "signature": "header:X-Sig", "encoding": "hex", "content": "{body}"});
    let settings = [
        ("repo", json!({"scheme": "github", "secrets": ["old", GITHUB]})),
        ("own", json!({"scheme": "template", "secrets": ["a\"\u{1}é"], "template": template})),
        ("pay", json!({"scheme": "stripe", "secrets": ["x"], "tolerance": 77})),
        ("calls", json!({"scheme": "twilio", "secrets": ["x"], "url": "https://proxy.example/a?b=c@d"})),
        ("pages", json!({"scheme": "meta", "secrets": ["x"], "challengeSecret": "verify"})),
        ("notes", json!({"scheme": "notion"})),
    ];
    for (name, settings) in settings {
        app.new_source(name, settings).await;
    }
    let before: Value = app.request(Method::GET, "/sources").send().await.unwrap().json().await.unwrap();
    server.kill();
    let server = Server::start_in(&home, &[]);
    let app = server.known_app("bot", &app.app_secret, &app.token);
    let after: Value = app.request(Method::GET, "/sources").send().await.unwrap().json().await.unwrap();
    assert_eq!(after, before);
    for secret in ["old", GITHUB] {
        empty(app.github("repo", secret, "{}").send().await.unwrap(), 201).await;
    }
    let own =
        app.source_hook(Method::POST, "own").header("X-Sig", crate::common::sign("a\"\u{1}é", "x")).body("x");
    empty(own.send().await.unwrap(), 201).await;
    let path = "pages?hub.mode=subscribe&hub.challenge=7&hub.verify_token=verify";
    assert_eq!(app.source_hook(Method::GET, path).send().await.unwrap().text().await.unwrap(), "7");
    app.post("{}").await;
}

#[tokio::test]
async fn an_invalid_setting_is_400_names_the_member_and_changes_nothing() {
    let server = Server::start(&[]);
    let app = server.new_app("bot").await;
    app.new_source("repo", github()).await;
    let long = "x".repeat(4097);
    let template = json!({"algorithm": "hmac-sha256", "signature": "header:X-Sig", "encoding": "hex", "content": "{body}"});
    for (settings, word) in [
        (json!({"scheme": "hush", "secrets": ["x"]}), "no scheme \"hush\""),
        (json!({"scheme": "github"}), "\"secrets\""),
        (json!({"scheme": "github", "secrets": []}), "\"secrets\""),
        (json!({"scheme": "github", "secrets": "hush-hush"}), "\"secrets\""),
        (json!({"scheme": "github", "secrets": ["hush-hush", 7]}), "\"secrets\""),
        (json!({"scheme": "github", "secrets": ["hush-hush", ""]}), "\"secrets\""),
        (json!({"scheme": "github", "secrets": [long]}), "4096"),
        (json!({"scheme": "github", "secrets": ["a", "b", "c", "d", "hush-hush"]}), "at most 4"),
        (json!({"scheme": "github", "secret": "hush-hush", "secrets": ["hush-hush"]}), "\"secret\""),
        (
            json!({"scheme": "github", "secret": "hush-hush", "tolerance": 60}),
            "\"tolerance\" needs a scheme with",
        ),
        (json!({"scheme": "github", "secret": "hush-hush", "url": "https://x.example"}), "\"url\""),
        (
            json!({"scheme": "github", "secret": "hush-hush", "challengeSecret": "hush-hush"}),
            "\"challengeSecret\"",
        ),
        (json!({"scheme": "github", "secret": "hush-hush", "template": template}), "\"template\""),
        (json!({"scheme": "github", "secret": "hush-hush", "Secrets": []}), "\"Secrets\""),
        (json!({"scheme": "stripe", "secret": "hush-hush", "tolerance": 0}), "tolerance"),
        (json!({"scheme": "stripe", "secret": "hush-hush", "tolerance": 86_401}), "tolerance"),
        (json!({"scheme": "stripe", "secret": "hush-hush", "tolerance": "60"}), "tolerance"),
        (json!({"scheme": "square", "secret": "hush-hush"}), "\"url\""),
        (json!({"scheme": "square", "secret": "hush-hush", "url": "ftp://x"}), "\"url\""),
        (json!({"scheme": "square", "secret": "hush-hush", "url": format!("https://{long}")}), "\"url\""),
        (json!({"scheme": "square", "secret": "s", "url": "https://bot:hush-hush@x.example/a"}), "password"),
        (json!({"scheme": "square", "secret": "s", "url": "http://hush-hush@x.example"}), "user name"),
        (json!({"scheme": "square", "secret": "s", "url": "https:///bot:hush-hush@x.example"}), "host"),
        (json!({"scheme": "template", "secret": "hush-hush"}), "\"template\""),
        (json!({"scheme": "template", "secret": "hush-hush", "template": {"algorithm": "md5"}}), "algorithm"),
        (json!({"scheme": "template", "secret": "hush-hush", "template": "x"}), "template"),
        (json!({"scheme": "discord", "secret": "hush-hush"}), "\"secrets\""),
        (json!({"scheme": "standard-webhooks", "secret": "whsec_hush hush"}), "\"secrets\""),
        (json!({"scheme": "none", "secret": "hush-hush"}), "\"secrets\""),
        (json!({"scheme": 7, "secret": "hush-hush"}), "\"scheme\""),
        (json!({"scheme": null, "secret": "hush-hush"}), "\"scheme\""),
        (json!(["hush-hush"]), "JSON object"),
    ] {
        let text = settings.to_string();
        let detail = problem(app.put_source("repo", settings).await, 400).await;
        assert!(detail.contains(word), "{text}: {detail}");
        assert!(!detail.contains("hush-hush") && !detail.contains("hush hush"), "{text}: {detail}");
        assert!(detail.len() < 400, "{text}: {detail}");
    }
    empty(app.github("repo", GITHUB, "{}").send().await.unwrap(), 201).await;
    assert!(!server.log().contains("hush-hush"), "{}", server.log());
}

#[tokio::test]
async fn the_paths_of_sources_need_the_token_of_their_app() {
    let server = Server::start(&[]);
    let (app, other) = (server.new_app("bot").await, server.new_app("other").await);
    app.new_source("notes", json!({"scheme": "notion"})).await;
    for (method, path) in [
        (Method::GET, "/sources"),
        (Method::GET, "/sources/notes"),
        (Method::PUT, "/sources/notes"),
        (Method::DELETE, "/sources/notes"),
        (Method::POST, "/sources/notes/arm"),
        (Method::GET, "/sources/notes/arm"),
        (Method::GET, "/refusals"),
    ] {
        let body = r#"{"scheme":"github","secret":"x"}"#;
        problem(app.anonymous(method.clone(), path).body(body).send().await.unwrap(), 401).await;
        let foreign = app.anonymous(method, path).bearer_auth(&other.token).body(body);
        problem(foreign.send().await.unwrap(), 401).await;
    }
    assert_eq!(app.source("notes").await["scheme"], "notion");
    assert_eq!(app.request(Method::GET, "/sources/notes/arm").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn the_hook_of_a_disabled_app_is_503() {
    let server = Server::start(&[]);
    let app = server.new_app("bot").await;
    app.new_source("repo", github()).await;
    assert!(server.home.app_command(&["disable", "bot", "--store", "memory:"]).status.success());
    problem(app.github("repo", GITHUB, "{}").send().await.unwrap(), 503).await;
    problem(app.github("gone", GITHUB, "{}").send().await.unwrap(), 404).await;
    assert!(server.home.app_command(&["enable", "bot"]).status.success());
    empty(app.github("repo", GITHUB, "{}").send().await.unwrap(), 201).await;
}

#[tokio::test]
async fn concurrent_changes_of_different_sources_all_count() {
    let home = Arc::new(Home::new());
    let server = Server::start_in(&home, &[]);
    let app = server.new_app("bot").await;
    let puts = (0..32).map(|n| {
        let app = app.clone();
        async move { app.new_source(&format!("s{n}"), github()).await }
    });
    futures_util::future::join_all(puts).await;
    assert_eq!(names(&app).await.len(), 32);
    let deletions = (0..31).map(|n| {
        let deletion = app.request(Method::DELETE, &format!("/sources/s{n}"));
        async move { empty(deletion.send().await.unwrap(), 200).await }
    });
    futures_util::future::join_all(deletions).await;
    assert_eq!(names(&app).await, ["s31"]);
}
