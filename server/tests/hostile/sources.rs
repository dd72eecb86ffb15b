//! Hostile settings of sources, and hostile webhooks for schemes that parse the body.

use std::fmt::Write as _;

use reqwest::{Method, Response};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant};

use crate::{
    common::{App, Server, empty, eventually, problem, sign},
    post_and_poll, resident_bytes,
};

/// The longest time for one request, in a debug build on a busy machine.
const MAX_TIME: Duration = Duration::from_secs(10);
/// The limit on the additional memory of the server, in bytes: what the allocator keeps of the requests included.
const MAX_TAKEN: u64 = 64 << 20;

/// A server with sources of schemes that look for members of the body and for fields of a form.
async fn parsers(server: &Server) -> App {
    let app = server.app("bot").await;
    let key = "00".repeat(32);
    app.new_source("adyen-payments", json!({"scheme": "adyen-payments", "secrets": [key]})).await;
    app.new_source("stripe", json!({"scheme": "stripe", "secrets": ["s"]})).await;
    app.new_source("github", json!({"scheme": "github", "secrets": ["s"]})).await;
    app.new_source("mailgun", json!({"scheme": "mailgun", "secrets": ["s"]})).await;
    app.new_source("msgraph", json!({"scheme": "msgraph", "secrets": ["a-long-client-state"]})).await;
    app.new_source("notion", json!({"scheme": "notion"})).await;
    app.new_source("gitea-form", json!({"scheme": "gitea-form", "secrets": ["s"]})).await;
    let twilio = json!({"scheme": "twilio", "secrets": ["s"], "url": "https://proxy.example/hook"});
    app.new_source("twilio", twilio).await;
    app
}

/// Sends a webhook to each source, with a signature that is well-formed but wrong, and checks that no event is stored.
async fn send_to_all(app: &App, kind: &str, body: &[u8]) {
    let time = unix_seconds();
    for source in
        ["adyen-payments", "stripe", "github", "mailgun", "msgraph", "notion", "gitea-form", "twilio"]
    {
        let start = Instant::now();
        let post = app.source_hook(Method::POST, source).header("Content-Type", kind).body(body.to_vec());
        let post = post
            .header("Stripe-Signature", format!("t={time},v1={}", "00".repeat(32)))
            .header("X-Hub-Signature-256", format!("sha256={}", "00".repeat(32)))
            .header("X-Gitea-Signature", "00".repeat(32))
            .header("X-Twilio-Signature", "AAAAAAAAAAAAAAAAAAAAAAAAAAA=");
        let response: Response = post.send().await.unwrap();
        let taken = start.elapsed();
        assert_eq!((source, response.status().as_u16()), (source, 401));
        let detail = problem(response, 401).await;
        println!("{source}: {} bytes in {taken:?}: {detail}", body.len());
        assert!(detail.len() < 1000, "{source}: {} bytes", detail.len());
        assert!(taken < MAX_TIME, "{source}: {taken:?}");
    }
}

fn unix_seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

#[tokio::test]
async fn settings_with_many_or_deep_members_are_refused() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let put = async |body: String| {
        let start = Instant::now();
        let response = app.request(Method::PUT, "/sources/x").body(body).send().await.unwrap();
        let detail = problem(response, 400).await;
        assert!(detail.len() < 2000, "{} bytes", detail.len());
        assert!(start.elapsed() < MAX_TIME, "{:?}", start.elapsed());
    };
    let members = |name: &str| {
        let mut text = String::from(r#"{"scheme":"github","secret":"s""#);
        for n in 0..10_000 {
            let _ = write!(text, r#","{name}{n}":1"#);
        }
        text + "}"
    };
    put(members("x")).await;
    put(members(&"x".repeat(90))).await;
    put(format!(r#"{{"secrets":[{}"s"]}}"#, "\"s\",".repeat(10_000))).await;
    put(format!(r#"{{"secrets":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000))).await;
    put(format!(r#"{{"scheme":"template","secret":"s","template":{}{}}}"#, "[".repeat(500), "]".repeat(500)))
        .await;
    put(format!(r#"{{"scheme":"template","secret":"s","template":"{}"}}"#, "x".repeat(900_000))).await;
    put(format!(r#"{{"scheme":"{}","secret":"s"}}"#, "x".repeat(900_000))).await;
    put(format!(r#"{{"scheme":"stripe","secret":"s","tolerance":{}}}"#, "9".repeat(900_000))).await;
    post_and_poll(&app).await;
}

/// The cost of a template is bounded: the number of its alternatives and of the parts that each reads from the body.
#[tokio::test]
async fn the_most_expensive_templates_are_refused_or_stay_cheap() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let template = |content: &str| {
        let covers = if content.contains("{body}") { "body" } else { "nothing" };
        json!({"algorithm": "hmac-sha256", "signature": "header:X-Sig", "encoding": "hex", "content": content, "covers": covers})
    };
    let put = async |name: &str, template: Value| {
        let settings = json!({"scheme": "template", "secrets": ["a", "b", "c", "d"], "template": template});
        app.put_source(name, settings).await
    };
    let parts = |count: usize| {
        let parts: Vec<_> = (0..count).map(|n| format!("{{json:a.{}}}", 499_000 + n)).collect();
        template(&parts.join(":"))
    };
    for refused in [
        parts(17),
        template(&"{body}.".repeat(16)),
        template(&"{".repeat(800)),
        template(&format!("{{json:a{}}}{{body}}", ".a".repeat(8))),
        json!([
            template("{body}"),
            template("{body}"),
            template("{body}"),
            template("{body}"),
            template("{body}")
        ]),
        json!([]),
        parts(60),
    ] {
        let detail = problem(put("refused", refused).await, 400).await;
        assert!(detail.to_lowercase().contains("template"), "{detail}");
    }
    let large = format!(r#"{{"a":[{}0]}}"#, "0,".repeat(500_000));
    for accepted in [
        parts(16),
        json!([parts(6), parts(6), parts(6), parts(6)]),
        json!([template("{body}"), template("{body}"), template("{body}"), template("{body}")]),
    ] {
        let answer = put("own", accepted).await;
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
        let start = Instant::now();
        let post = app.source_hook(Method::POST, "own").header("X-Sig", "00".repeat(32)).body(large.clone());
        problem(post.send().await.unwrap(), 401).await;
        println!("{:?}", start.elapsed());
        assert!(start.elapsed() < MAX_TIME, "{:?}", start.elapsed());
    }
    post_and_poll(&app).await;
}

#[tokio::test]
async fn deep_and_wide_json_does_not_hurt_schemes_that_read_members_of_it() {
    let mut server = Server::start(&[]);
    let app = parsers(&server).await;
    let before = resident_bytes(&server);
    let depth = 300_000;
    for body in [
        "[".repeat(depth),
        "[".repeat(depth) + &"]".repeat(depth),
        "{\"id\":".repeat(depth) + "1" + &"}".repeat(depth),
        "{\"notificationItems\":".repeat(depth) + "1" + &"}".repeat(depth),
        "{\"signature\":{\"signature\":".repeat(depth / 2) + "1" + &"}}".repeat(depth / 2),
        "{\"value\":[".repeat(depth) + "1" + &"]}".repeat(depth),
        format!("{{{}\"id\":1}}", "\"id\":1,".repeat(depth)),
        format!("{{\"value\":[{}{{}}]}}", "{\"clientState\":\"a\"},".repeat(50_000)),
        format!("{{\"id\":\"{}\"}}", "\\u0041".repeat(depth)),
    ] {
        send_to_all(&app, "application/json", body.as_bytes()).await;
    }
    // A valid signature over deep JSON: the body is an event, at any depth.
    for body in ["[".repeat(depth) + &"]".repeat(depth), "{\"id\":".repeat(depth) + "1" + &"}".repeat(depth)]
    {
        empty(app.github("github", "s", body.clone()).send().await.unwrap(), 201).await;
        let time = unix_seconds();
        let signature = format!("t={time},v1={}", sign("s", format!("{time}.{body}")));
        let post =
            app.source_hook(Method::POST, "stripe").header("Stripe-Signature", signature).body(body.clone());
        empty(post.send().await.unwrap(), 201).await;
        assert_eq!(app.poll_bodies().await, [body.clone(), body]);
    }
    let taken = resident_bytes(&server).saturating_sub(before);
    assert!(taken < MAX_TAKEN, "{taken} bytes");
    assert!(server.is_running());
    post_and_poll(&app).await;
}

#[tokio::test]
async fn huge_forms_do_not_hurt_schemes_that_read_fields_of_them() {
    let mut server = Server::start(&[]);
    let app = parsers(&server).await;
    let mut different = String::new();
    for n in 0..200_000 {
        let _ = write!(different, "f{n}=%41&");
    }
    for body in [
        "a=1&".repeat(500_000),
        "payload=1&".repeat(200_000),
        "&".repeat(2 << 20),
        "%".repeat(1 << 20),
        "a=".to_owned() + &"%F0%9F".repeat(200_000),
        different,
    ] {
        send_to_all(&app, "application/x-www-form-urlencoded", body.as_bytes()).await;
    }
    assert!(server.is_running());
    post_and_poll(&app).await;
}

#[tokio::test]
async fn a_flood_of_refused_webhooks_takes_bounded_memory_and_hides_no_other_app() {
    let server = Server::start(&[]);
    let (app, other) = (parsers(&server).await, server.app("other").await);
    problem(other.bare_hook().body("{}").send().await.unwrap(), 401).await;
    let before = resident_bytes(&server);
    let long = "x".repeat(200);
    let posts = (0..3000).map(|n| {
        let mut post = app.source_hook(Method::POST, "github").body(format!("{n}{}", "x".repeat(10_000)));
        for header in 0..40 {
            post = post.header(format!("{long}{header}-{n}"), "v");
        }
        async move { problem(post.send().await.unwrap(), 401).await }
    });
    let posts: Vec<_> = posts.collect();
    let mut posts = posts.into_iter();
    loop {
        let batch: Vec<_> = posts.by_ref().take(50).collect();
        if batch.is_empty() {
            break;
        }
        futures_util::future::join_all(batch).await;
    }
    let refusals = app.refusals().await;
    assert_eq!(refusals.len(), 100);
    let names = refusals[0]["headers"].as_array().unwrap();
    assert!(names.len() == 32 && names.iter().all(|name| name.as_str().unwrap().len() <= 64), "{names:?}");
    assert_eq!(other.refusals().await.len(), 1);
    let taken = resident_bytes(&server).saturating_sub(before);
    println!("{taken} bytes");
    assert!(taken < MAX_TAKEN, "{taken} bytes");
    post_and_poll(&app).await;
    // A poll deletes its events after the response.
    eventually("the event is deleted", async || app.gauge("stored").await == 0).await;
}
