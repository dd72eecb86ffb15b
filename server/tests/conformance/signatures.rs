//! What a signature must be: timestamps, URLs, templates, malformed headers, and secrets that a sender repeats.

use reqwest::Method;
use serde_json::json;

use crate::{
    common::{Server, empty, problem, sign},
    senders::{labels, seconds, signed, slack, stripe},
};

#[tokio::test]
async fn a_stale_timestamp_is_401_with_its_age_and_a_tolerance_can_be_set() {
    let server = Server::start(&[]);
    let app = server.new_app("bot").await;
    for scheme in ["stripe", "slack"] {
        app.new_source(scheme, json!({"scheme": scheme, "secrets": ["s"]})).await;
    }
    let number = |detail: &str| {
        let age: String =
            detail.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
        age.parse::<u64>().unwrap_or_else(|_| panic!("{detail}"))
    };
    for age in [301, 1000] {
        for post in [stripe(&app, "s", seconds(age), "{}"), slack(&app, "s", seconds(age), "{}")] {
            let detail = problem(post.send().await.unwrap(), 401).await;
            assert!((age..age + 20).contains(&number(&detail)), "{detail}");
            assert!(detail.contains("300 s") && detail.contains("old"), "{detail}");
        }
    }
    let detail = problem(stripe(&app, "s", seconds(0) + 600, "{}").send().await.unwrap(), 401).await;
    assert!(detail.contains("ahead of the clock"), "{detail}");
    for post in [stripe(&app, "s", seconds(250), "{}"), slack(&app, "s", seconds(250), "{}")] {
        empty(post.send().await.unwrap(), 201).await;
    }
    empty(
        app.put_source("stripe", json!({"scheme": "stripe", "secrets": ["s"], "tolerance": 20})).await,
        200,
    )
    .await;
    problem(stripe(&app, "s", seconds(30), "{}").send().await.unwrap(), 401).await;
    empty(stripe(&app, "s", seconds(0), "[]").send().await.unwrap(), 201).await;
    empty(
        app.put_source("slack", json!({"scheme": "slack", "secrets": ["s"], "tolerance": 86_400})).await,
        200,
    )
    .await;
    empty(slack(&app, "s", seconds(80_000), "[]").send().await.unwrap(), 201).await;
}

#[tokio::test]
async fn a_signed_url_is_the_registered_one_whatever_host_the_request_has() {
    let server = Server::start(&[]);
    let app = server.new_app("bot").await;
    let (url, other) =
        ("https://proxy.example/hook/bot/square?a=b", "https://other.example/hook/bot/square?a=b");
    app.new_source("square", json!({"scheme": "square", "secrets": ["s"], "url": url})).await;
    let post = |signed_url: &str, host: &str| {
        signed(&app, "square", "s", Some(signed_url), b"{}")
            .header("Host", host)
            .header("X-Forwarded-Host", host)
    };
    empty(post(url, "other.example").send().await.unwrap(), 201).await;
    problem(post(other, "other.example").send().await.unwrap(), 401).await;
}

#[tokio::test]
async fn a_template_describes_any_other_sender() {
    let server = Server::start(&[]);
    let app = server.new_app("bot").await;
    let template = json!({"algorithm": "hmac-sha256", "signature": "header:X-Sig", "prefix": "v=", "encoding": "hex",
        "content": "{timestamp}.{body}", "timestamp": "header:X-Time", "tolerance": 60, "id": "header:X-Id",
        "event": "json:kind.json:what"});
    app.new_source("own", json!({"scheme": "template", "secrets": ["s"], "template": template})).await;
    let post = |time: u64, id: &str| {
        let body = r#"{"kind":"a","what":"b"}"#;
        let signature = format!("v={}", sign("s", format!("{time}.{body}")));
        let post = app.source_hook(Method::POST, "own").header("X-Sig", signature).header("X-Time", time);
        post.header("X-Id", id).body(body)
    };
    empty(post(seconds(0), "1").send().await.unwrap(), 201).await;
    let detail = problem(post(seconds(100), "2").send().await.unwrap(), 401).await;
    assert!(detail.contains("60 s"), "{detail}");
    assert_eq!(json!(labels(&app).await), json!([["own", "a.b", "1"]]));
}

#[tokio::test]
async fn doubled_empty_and_malformed_signature_headers_are_401() {
    let server = Server::start(&[]);
    let app = server.new_app("bot").await;
    for scheme in ["github", "stripe", "gitlab-token"] {
        app.new_source(scheme, json!({"scheme": scheme, "secrets": ["s"]})).await;
    }
    let valid = format!("sha256={}", sign("s", "{}"));
    let github = |values: &[&str]| {
        let post = app.source_hook(Method::POST, "github").body("{}");
        values.iter().fold(post, |post, value| post.header("X-Hub-Signature-256", *value))
    };
    for values in [
        &[valid.as_str(), &valid][..],
        &[&valid, "sha256=00"],
        &["sha256=00", &valid],
        &[""],
        &["sha256="],
        &[&valid[7..]],
        &[&valid.replace("sha256", "sha1")],
        &[&valid[..70]],
        &[&format!("{valid}00")],
        &[&format!("{valid},{valid}")],
        &["sha256=é"],
    ] {
        let detail = problem(github(values).send().await.unwrap(), 401).await;
        assert!(!detail.contains(&valid[7..]), "{detail}");
    }
    empty(github(&[&valid.to_uppercase().replace("SHA", "sha")]).send().await.unwrap(), 201).await;
    let time = seconds(0);
    let item = format!("v1={}", sign("s", format!("{time}.{{}}")));
    let post = |header: String| {
        app.source_hook(Method::POST, "stripe").header("Stripe-Signature", header).body("{}")
    };
    for header in [
        item.clone(),
        format!("t={time},t={time},{item}"),
        format!("t=+{time},{item}"),
        format!("t={time},{}", "v1=00,".repeat(15) + &item),
        format!("t={time},v0={}", &item[3..]),
    ] {
        problem(post(header).send().await.unwrap(), 401).await;
    }
    empty(post(format!("t={time},v1=00,{item}")).send().await.unwrap(), 201).await;
    let twice = app.source_hook(Method::POST, "gitlab-token").header("X-Gitlab-Token", "s");
    problem(twice.header("X-Gitlab-Token", "s").body("{}").send().await.unwrap(), 401).await;
}

#[tokio::test]
async fn a_secret_that_the_sender_repeats_in_a_header_reaches_the_client_only() {
    let server = Server::start(&["--log-level", "trace"]);
    let app = server.new_app("bot").await;
    app.new_source("git", json!({"scheme": "gitlab-token", "secrets": ["hush-token"]})).await;
    app.new_source("okta", json!({"scheme": "okta", "secrets": ["hush-token"]})).await;
    for (source, header) in [("git", "X-Gitlab-Token"), ("okta", "Authorization")] {
        let post = |value: &str| app.source_hook(Method::POST, source).header(header, value).body("{}");
        let detail = problem(post("hush-wrong").send().await.unwrap(), 401).await;
        assert!(!detail.contains("hush"), "{detail}");
        let response = post("hush-token").send().await.unwrap();
        assert!(response.status().is_success(), "{}", response.status());
    }
    for path in ["/sources", "/status", "/refusals"] {
        let text = app.request(Method::GET, path).send().await.unwrap().text().await.unwrap();
        assert!(!text.contains("hush"), "{text}");
    }
    let events = app.lease(json!({})).await;
    for (event, header) in events.iter().zip(["x-gitlab-token", "authorization"]) {
        assert!(event.details.headers.contains(&(header.into(), "hush-token".into())), "{header}");
    }
    assert!(!server.log().contains("hush"), "{}", server.log());
}
