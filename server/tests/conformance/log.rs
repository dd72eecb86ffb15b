//! The log on stderr: no secrets, no log injection, rate limits.

use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    common::{App, Home, Server, empty, eventually, handshake_headers, problem, raw, sign},
    platform::Platform,
};

/// Runs every operation of senders and clients, with valid and invalid input.
async fn do_everything(app: &App) {
    app.register(&app.secret).await;
    let mut tap = app.listen("?tap=1").await;
    app.post("{}").await;
    app.post("[1]").await;
    tap.bodies(2).await;
    tap.send("nonsense").await;
    tap.close_code().await;
    app.hook(r#"{"type":"verification","challenge":"x"}"#).send().await.unwrap();
    app.bare_hook().header("X-OUTBOUND-TOKEN", sign("wrong", "{}")).body("{}").send().await.unwrap();
    app.hook("nonsense").send().await.unwrap();
    app.request(Method::PUT, "").body(format!(r#"{{"secret":["{}"]}}"#, app.secret)).send().await.unwrap();
    let leased = app.lease(json!({"max": 1})).await;
    app.settle(json!({"release": [leased[0].receipt]})).await;
    let mut socket = app.listen("").await;
    let (id, _) = socket.event().await;
    socket.ack(&id).await;
    socket.send("nonsense").await;
    socket.close_code().await;
    let (mut socket, _) = app.listen_v2("").await;
    socket.next().await;
    drop(socket);
    let mut upgrade = app.request(Method::GET, "?window=x");
    for (name, value) in handshake_headers() {
        upgrade = upgrade.header(name, value);
    }
    upgrade.send().await.unwrap();
    app.poll("").await;
    app.request(Method::PATCH, "").send().await.unwrap();
    app.anonymous(Method::GET, &format!("/{}", "x")).bearer_auth(&app.token).send().await.unwrap();
    app.unregister().await;
}

/// The valid signatures that [`do_everything`] sends and receives.
fn signatures(app: &App) -> Vec<String> {
    ["{}", "[1]", "nonsense", r#"{"type":"verification","challenge":"x"}"#, r#"{"response":"x"}"#]
        .map(|body| sign(&app.secret, body))
        .into()
}

#[tokio::test]
async fn secrets_tokens_and_signatures_are_not_logged() {
    let server = Server::start(&["--log-level", "trace"]);
    let app = server.app("bot").await;
    do_everything(&app).await;
    server.token_response("bot", "wrong-secret-4711").await;
    let refused = App { token: "wrong-token-4711".into(), ..app.clone() };
    refused.request(Method::GET, "").send().await.unwrap();
    let graphql = server.http.post(server.url("/graphql")).header("jwt", &app.token).body("{ me { id } }");
    graphql.send().await.unwrap();

    let platform = Platform::start().await;
    let flags = ["--log-level", "trace", "--identity", "watsonwork", "--platform-url", &platform.url];
    let platform_server = Server::start(&flags);
    let known = platform_server.known_app("bot", "", "good-token-4711");
    do_everything(&known).await;
    let unknown = platform_server.known_app("bot", "", "500");
    unknown.request(Method::GET, "").send().await.unwrap();

    let log = server.log() + &platform_server.log();
    assert!(log.contains("registered") && log.contains("TRACE"), "the log has entries up to TRACE: {log}");
    let mut secrets = signatures(&app);
    secrets.extend([&app.secret, &app.app_secret, &app.token, &known.token].map(Clone::clone));
    secrets.extend(["wrong-secret-4711".into(), "wrong-token-4711".into()]);
    for secret in secrets {
        assert!(!log.contains(&secret), "{secret} in\n{log}");
    }
}

#[tokio::test]
async fn the_log_of_dropped_events_is_rate_limited() {
    let flags = ["--max-queued-events", "1", "--overflow", "drop-oldest"];
    for server in [Server::start(&flags), Server::start_in(&Arc::new(Home::new()), &flags)] {
        assert!(server.log().contains("overflow=drop-oldest"), "{}", server.log());
        let app = server.app("bot").await;
        app.post_numbers(0..50).await;
        assert_eq!(app.gauge("dropped").await, 49);
        app.unregister().await;
        eventually("the whole log is read", async || server.log().contains("unregistered")).await;
        let log = server.log();
        let lines: Vec<_> = log.lines().filter(|line| line.contains("dropped")).collect();
        assert_eq!(lines.len(), 1, "once a minute: {log}");
        assert!(lines[0].contains("WARN") && lines[0].contains("last=bot"), "{}", lines[0]);
    }
}

#[tokio::test]
async fn a_history_longer_than_the_retention_is_reported() {
    let server = Server::start(&["--retention", "1h", "--history", "2h"]);
    server.app("bot").await;
    assert!(server.log().contains("--history is longer than --retention"), "{}", server.log());
    let server = Server::start(&[]);
    server.app("bot").await;
    assert!(!server.log().contains("--history is longer"), "{}", server.log());
}

#[tokio::test]
async fn the_log_of_rejected_webhooks_is_rate_limited() {
    let server = Server::start(&["--max-queued-events", "1"]);
    let app = server.app("bot").await;
    app.post("{}").await;
    for n in 0..50 {
        app.bare_hook().header("X-OUTBOUND-TOKEN", "wrong").body("{}").send().await.unwrap();
        app.hook(format!("[{n}]")).send().await.unwrap();
    }
    app.unregister().await;
    eventually("the whole log is read", async || server.log().contains("unregistered")).await;
    let log = server.log();
    for reason in ["signature", "full"] {
        let lines: Vec<_> = log.lines().filter(|line| line.contains(reason)).collect();
        assert_eq!(lines.len(), 10, "ten times a minute: {log}");
        assert!(lines[0].contains("WARN") && lines[0].contains("app=bot"), "{}", lines[0]);
    }
}

#[tokio::test]
async fn webhooks_of_a_suspended_app_and_changes_of_the_credentials_file_are_logged() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let file = std::fs::read(server.home.apps()).unwrap();
    let disabled = server.home.app_command(&["disable", "bot"]);
    assert!(disabled.status.success(), "{disabled:?}");
    for _ in 0..50 {
        problem(app.hook("{}").send().await.unwrap(), 503).await;
    }
    std::fs::remove_file(server.home.apps()).unwrap();
    problem(app.hook("{}").send().await.unwrap(), 503).await;
    std::fs::write(server.home.apps(), file).unwrap();
    app.post("{}").await;
    app.unregister().await;
    eventually("the whole log is read", async || server.log().contains("unregistered")).await;
    let log = server.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("disabled the app")).collect();
    assert_eq!(lines.len(), 10, "ten times a minute: {log}");
    assert!(lines[0].contains("WARN") && lines[0].contains("app=bot webhooks=1"), "{}", lines[0]);
    let read: Vec<_> = log.lines().filter(|line| line.contains("read again")).collect();
    // At first the app is added.
    assert_eq!(read.len(), 4, "once for each change: {log}");
    for (line, counts) in
        read.iter().zip(["apps=1 disabled=0", "apps=1 disabled=1", "apps=0 disabled=0", "apps=1 disabled=0"])
    {
        assert!(line.contains("INFO") && line.contains(counts), "{counts} in {line}");
    }
}

#[tokio::test]
async fn the_log_of_a_broken_credentials_file_is_rate_limited() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let file = std::fs::read(server.home.apps()).unwrap();
    std::fs::write(server.home.apps(), "[apps.bot").unwrap();
    for _ in 0..50 {
        problem(server.token_response("bot", "guess").await, 503).await;
        problem(app.request(Method::GET, "").send().await.unwrap(), 503).await;
    }
    std::fs::write(server.home.apps(), file).unwrap();
    app.unregister().await;
    eventually("the whole log is read", async || server.log().contains("unregistered")).await;
    let log = server.log();
    for message in ["no app can be authorised", "the platform is unavailable"] {
        assert_eq!(log.matches(message).count(), 10, "ten times a minute: {log}");
    }
}

#[tokio::test]
async fn the_log_of_platform_failures_is_rate_limited() {
    let platform = Platform::start().await;
    let server = Server::start(&["--identity", "watsonwork", "--platform-url", &platform.url]);
    let failing = server.known_app("bot", "", "500");
    for _ in 0..50 {
        problem(failing.request(Method::GET, "").send().await.unwrap(), 503).await;
    }
    server.known_app("bot", "", "good").register("secret").await;
    eventually("the whole log is read", async || server.log().contains(" registered")).await;
    let log = server.log();
    assert_eq!(log.matches("the platform is unavailable").count(), 10, "ten times a minute: {log}");
    assert!(log.contains("source=the platform answered 500"), "the cause: {log}");
}

#[tokio::test]
async fn the_log_of_registrations_is_rate_limited() {
    let server = Server::start(&[]);
    let app = server.new_app("bot").await;
    for _ in 0..200 {
        app.register(&app.secret).await;
        app.unregister().await;
    }
    // Rejected webhooks have a rate limit of their own, so this line is logged after the others.
    app.register(&app.secret).await;
    app.bare_hook().header("X-OUTBOUND-TOKEN", "wrong").body("{}").send().await.unwrap();
    eventually("the whole log is read", async || server.log().contains("signature")).await;
    let log = server.log();
    for word in [" registered", " unregistered"] {
        let lines = log.lines().filter(|line| line.contains(word)).count();
        assert!((1..=60).contains(&lines), "{lines} lines of{word}: {log}");
    }
}

#[tokio::test]
async fn a_signature_header_of_another_service_is_reported_without_its_value() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let hook = app.bare_hook().header("X-Hub-Signature-256", "sha256=d34db33f").body("{}");
    let detail = problem(hook.send().await.unwrap(), 401).await;
    let hint = "this looks like GitHub's X-Hub-Signature-256; the source is registered for watsonwork";
    assert!(detail.contains(hint), "{detail}");
    let both =
        app.bare_hook().header("X-OUTBOUND-TOKEN", "wrong").header("Stripe-Signature", "t=1,v1=d34db33f");
    let detail = problem(both.body("{}").send().await.unwrap(), 401).await;
    assert!(detail.contains("Stripe's Stripe-Signature") && !detail.contains("d34db33f"), "{detail}");
    let detail = problem(app.bare_hook().body("{}").send().await.unwrap(), 401).await;
    assert!(!detail.contains("looks like"), "{detail}");
    eventually("the hint is logged", async || server.log().contains(hint)).await;
    assert!(!server.log().contains("d34db33f"), "{}", server.log());
    // With a valid signature the other header is ignored.
    empty(app.hook("{}").header("X-Hub-Signature-256", "x").send().await.unwrap(), 201).await;
}

#[tokio::test]
async fn request_data_cannot_inject_log_lines() {
    for format in ["text", "json"] {
        let server = Server::start(&["--log-level", "trace", "--log", format]);
        let app = server.app("bot").await;
        for forged in [
            "GET /webhooks/bot%0A2026-01-01T00:00:00Z%20INFO%20forged HTTP/1.1\r\nhost: x\r\n\r\n",
            "GET /webhooks/bot%0d%0aforged?a=%0Aforged HTTP/1.1\r\nhost: x\r\n\r\n",
            "GET /\u{1b}[2Jforged HTTP/1.1\r\nhost: x\r\n\r\n",
            "GET /webhooks/bot HTTP/1.1\r\nhost: x\r\nauthorization: Bearer \u{b}forged\r\n\r\n",
            "GET /webhooks/bot HTTP/1.1\r\nhost: x\r\nx-a: a\r\n\tforged\r\n\r\n",
            "FORGED\u{7f} / HTTP/1.1\r\nhost: x\r\n\r\n",
        ] {
            raw(&server.address, forged).await;
        }
        app.hook("[\"\\nforged\"]").header("X-OUTBOUND-INDEX", "\u{85}\u{2028}forged").send().await.unwrap();
        app.hook("\nforged\n").send().await.unwrap();
        let mut socket = app.listen("").await;
        socket.send("\nforged\n").await;
        socket.close_code().await;
        eventually("the log is read", async || server.log().contains("registered")).await;
        let log = server.log();
        for line in log.lines() {
            assert!(!line.contains(|c: char| c.is_control() && c != '\t'), "{line:?}");
            if format == "json" {
                assert!(
                    serde_json::from_str::<Value>(line).is_ok_and(|line| line["level"].is_string()),
                    "{line}"
                );
            } else {
                let (time, rest) = line.split_once(' ').unwrap();
                assert!(humantime::parse_rfc3339(time).is_ok(), "{line}");
                let level = rest.trim_start().split(' ').next().unwrap();
                assert!(["TRACE", "DEBUG", "INFO", "WARN", "ERROR"].contains(&level), "{line}");
            }
        }
    }
}

#[tokio::test]
async fn events_in_flight_of_a_deleted_consumer_are_no_error() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.new_consumer("audit", json!({})).await;
    app.post("{}").await;
    let mut socket = app.listen("?consumer=audit").await;
    socket.event().await;
    app.request(Method::DELETE, "/consumers/audit").send().await.unwrap();
    socket.close_code().await;
    app.unregister().await;
    eventually("the whole log is read", async || server.log().contains("unregistered")).await;
    let log = server.log();
    assert!(!log.contains("ERROR"), "{log}");
}
