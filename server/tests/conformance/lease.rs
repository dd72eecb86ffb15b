//! `POST /webhooks/{appId}/lease`, `/ack` and `GET /webhooks/{appId}/status`.

use std::time::{Duration, Instant, SystemTime};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::common::{App, DEADLINE, Raw, Server, empty, eventually, number, problem};

fn bodies(events: &[wwproxy_protocol::api::LeasedEvent]) -> Vec<String> {
    events.iter().map(|event| String::from_utf8(event.body.to_vec()).unwrap()).collect()
}

#[tokio::test]
async fn a_leased_event_has_id_receipt_attempt_received_at_and_data() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let before = SystemTime::now();
    app.post("{\"a\": 1}").await;
    let response = app.request(Method::POST, "/lease").send().await.unwrap();
    assert_eq!(response.status(), 200, "all members and the body itself are optional");
    let answer: Value = response.json().await.unwrap();
    let [event] = answer["events"].as_array().unwrap().as_slice() else { panic!("{answer}") };
    assert!(event["id"].is_string() && event["receipt"].is_string(), "{event}");
    assert_eq!((&event["attempt"], &event["data"]), (&json!(1), &json!({"a": 1})));
    let received = humantime::parse_rfc3339(event["receivedAt"].as_str().unwrap()).unwrap();
    assert!(received + Duration::from_millis(1) > before && received <= SystemTime::now(), "{event}");
}

#[tokio::test]
async fn a_leased_event_is_not_delivered_to_another_client() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post_numbers(0..3).await;
    assert_eq!(bodies(&app.lease(json!({"max": 2})).await), [number(0), number(1)]);
    assert_eq!(bodies(&app.lease(json!({})).await), [number(2)]);
    assert_eq!(app.lease(json!({})).await, []);
    assert_eq!(app.poll_text("").await, "{}");
    assert_eq!(app.listen("").await.ping().await, [] as [&str; 0]);
    assert_eq!(app.gauge("stored").await, 3);
}

#[tokio::test]
async fn a_lease_waits_up_to_wait_ms_for_an_event() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let waiting = tokio::spawn({
        let app = app.clone();
        async move { app.lease(json!({"wait_ms": 60_000})).await }
    });
    let start = Instant::now();
    assert_eq!(app.lease(json!({"wait_ms": 50})).await, []);
    assert!(start.elapsed() >= Duration::from_millis(50));
    let posted = Instant::now();
    app.post("[1]").await;
    assert_eq!(bodies(&waiting.await.unwrap()), ["[1]"]);
    assert!(posted.elapsed() < DEADLINE);
}

#[tokio::test]
async fn every_waiting_lease_gets_an_event() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let waiting: Vec<_> = (0..10)
        .map(|_| {
            let app = app.clone();
            tokio::spawn(async move { bodies(&app.lease(json!({"wait_ms": 15_000, "max": 1})).await) })
        })
        .collect();
    app.post_numbers(0..10).await;
    let mut got = Vec::new();
    for lease in waiting {
        got.extend(lease.await.unwrap());
    }
    got.sort_unstable();
    assert_eq!(got, (0..10).map(number).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_client_that_disconnects_while_waiting_leases_nothing() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    for n in 0..5 {
        let mut connection: Raw = app.raw().await;
        let (path, token, body) = (app.path("/lease"), &app.token, r#"{"wait_ms":60000}"#);
        connection
            .send(format!(
                "POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            ))
            .await;
        // The server closes the connection when it has noticed the client's half close.
        connection.0.shutdown().await.unwrap();
        assert_eq!(connection.rest().await, b"");
        app.post(number(n)).await;
        let leased = app.lease(json!({"wait_ms": 15_000})).await;
        assert_eq!(bodies(&leased), [number(n)]);
        app.settle(json!({"ack": [leased[0].receipt]})).await;
    }
}

#[tokio::test]
async fn an_expired_lease_is_redelivered_with_a_new_receipt() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post("[1]").await;
    let start = Instant::now();
    let first = app.lease(json!({"lease_ms": 300})).await;
    let second = app.lease(json!({"wait_ms": 15_000})).await;
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert_eq!((bodies(&second), second[0].details.attempt), (vec!["[1]".into()], Some(2)));
    assert_eq!(first[0].id, second[0].id);
    assert_ne!(first[0].receipt, second[0].receipt);

    let settled = app.settle(json!({"ack": [first[0].receipt]})).await;
    assert_eq!(
        settled,
        json!({"acked": 0, "rejected": 0, "released": 0, "extended": 0, "stale": [first[0].receipt]})
    );
    assert_eq!(app.gauge("stored").await, 1, "a stale receipt deletes nothing");
    let settled = app.settle(json!({"ack": [second[0].receipt]})).await;
    assert_eq!(settled, json!({"acked": 1, "rejected": 0, "released": 0, "extended": 0, "stale": []}));
    assert_eq!(app.gauge("stored").await, 0);
}

#[tokio::test]
async fn the_lease_flag_sets_the_default_lease_time() {
    let server = Server::start(&["--lease", "300ms"]);
    let app = server.app("bot").await;
    app.post("[1]").await;
    app.lease(json!({})).await;
    let again = app.lease(json!({"wait_ms": 15_000})).await;
    assert_eq!(again[0].details.attempt, Some(2));
}

#[tokio::test]
async fn ack_deletes_and_release_redelivers_at_once() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post_numbers(0..3).await;
    let events = app.lease(json!({"max": 3})).await;
    let receipts: Vec<_> = events.iter().map(|event| &event.receipt).collect();
    let settled = app.settle(json!({"ack": [receipts[1]], "release": [receipts[2], receipts[0]]})).await;
    assert_eq!(settled, json!({"acked": 1, "rejected": 0, "released": 2, "extended": 0, "stale": []}));
    let again = app.lease(json!({})).await;
    assert_eq!(bodies(&again), [number(0), number(2)], "in order of arrival");
    assert!(again.iter().all(|event| event.details.attempt == Some(2)));
}

#[tokio::test]
async fn a_release_wakes_a_waiting_lease() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post("[1]").await;
    let leased = app.lease(json!({})).await;
    let (again, _) = tokio::join!(
        app.lease(json!({"wait_ms": 15_000})),
        app.settle(json!({"release": [leased[0].receipt]}))
    );
    assert_eq!(bodies(&again), ["[1]"]);
}

#[tokio::test]
async fn a_receipt_settles_once_and_unknown_receipts_are_stale() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post("[1]").await;
    let receipt = app.lease(json!({})).await.remove(0).receipt;
    let settled = app.settle(json!({"ack": [receipt, receipt], "release": [receipt]})).await;
    assert_eq!(
        settled,
        json!({"acked": 1, "rejected": 0, "released": 0, "extended": 0, "stale": [receipt, receipt]})
    );
    let nonsense = json!(["", "-", "x", "0-0", "ffffffffffffffffffffffff-1", "é", "a".repeat(1000)]);
    let settled = app.settle(json!({"ack": nonsense, "release": nonsense})).await;
    assert_eq!((&settled["acked"], &settled["released"]), (&json!(0), &json!(0)));
    assert_eq!(settled["stale"].as_array().unwrap().len(), 14);
    assert_eq!(
        app.settle(json!({})).await,
        json!({"acked": 0, "rejected": 0, "released": 0, "extended": 0, "stale": []})
    );
}

#[tokio::test]
async fn a_receipt_of_another_app_is_stale() {
    let server = Server::start(&[]);
    let (app, other) = (server.app("bot").await, server.app("other").await);
    app.post("[1]").await;
    other.post("[2]").await;
    let (mine, theirs) = (app.lease(json!({})).await, other.lease(json!({})).await);
    for kind in ["ack", "release"] {
        let settled = other.settle(json!({kind: [mine[0].receipt]})).await;
        assert_eq!(
            settled,
            json!({"acked": 0, "rejected": 0, "released": 0, "extended": 0, "stale": [mine[0].receipt]})
        );
    }
    assert_eq!(app.gauge("leased").await, 1);
    assert_eq!(app.settle(json!({"ack": [mine[0].receipt]})).await["acked"], 1);
    assert_eq!(other.settle(json!({"ack": [theirs[0].receipt]})).await["acked"], 1);
}

#[tokio::test]
async fn invalid_lease_and_ack_bodies_are_400() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post("{}").await;
    let post = |rest, body: &'static str| app.request(Method::POST, rest).body(body).send();
    for bad in [
        "x",
        "[]",
        "[1,0,1000]",
        " [null,null,null]",
        "7",
        "{",
        r#"{"max":0}"#,
        r#"{"waitMs":"x"}"#,
        r#"{"leaseMs":0}"#,
        r#"{"waitMs":1,"wait_ms":1}"#,
        r#"{"max":-1}"#,
        r#"{"max":"1"}"#,
        r#"{"max":1.5}"#,
        r#"{"wait_ms":-1}"#,
        r#"{"wait_ms":"x"}"#,
        r#"{"lease_ms":0}"#,
        r#"{"lease_ms":-5}"#,
    ] {
        problem(post("/lease", bad).await.unwrap(), 400).await;
    }
    for bad in [
        "",
        "x",
        "7",
        "{",
        "\"r\"",
        "[[],[]]",
        r#"[["r"],[]]"#,
        r#"{"ack":"r"}"#,
        r#"{"ack":[7]}"#,
        r#"{"release":{}}"#,
        r#"{"ack":null}"#,
    ] {
        problem(post("/ack", bad).await.unwrap(), 400).await;
    }
    assert_eq!(app.gauge("leased").await, 0);
    for extreme in [json!({"max": u32::MAX}), json!({"lease_ms": u64::MAX, "wait_ms": u64::MAX})] {
        app.post("{}").await;
        assert!(!app.lease(extreme).await.is_empty());
    }
}

#[tokio::test]
async fn durations_have_camel_case_names_and_their_snake_case_aliases() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post("[1]").await;
    for (lease, wait) in [("leaseMs", "waitMs"), ("lease_ms", "wait_ms")] {
        assert_eq!(bodies(&app.lease(json!({lease: 300})).await), ["[1]"]);
        let again = app.lease(json!({wait: 15_000, "leaseMs": 300})).await;
        assert_eq!(bodies(&again), ["[1]"], "the lease of {lease} expired and {wait} waited for it");
        app.settle(json!({"release": [again[0].receipt]})).await;
    }
}

#[tokio::test]
async fn a_wait_is_limited_to_50_s() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let body = r#"{"waitMs":3600000}"#;
    let request = app.request(Method::POST, "/lease").timeout(Duration::from_secs(120)).body(body);
    let began = Instant::now();
    assert_eq!(request.send().await.unwrap().text().await.unwrap(), r#"{"events":[]}"#);
    let waited = began.elapsed();
    assert!(waited >= Duration::from_secs(50) && waited < Duration::from_secs(58), "{waited:?}");
}

#[tokio::test]
async fn unknown_members_of_lease_and_ack_are_ignored() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post("[1]").await;
    let leased = app.lease(json!({"max": 1, "later": {"a": []}})).await;
    assert_eq!(app.settle(json!({"ack": [leased[0].receipt], "later": [1]})).await["acked"], 1);
}

#[tokio::test]
async fn an_ack_request_over_1000_receipts_is_400() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post("[1]").await;
    let receipt = app.lease(json!({})).await.remove(0).receipt;
    let post = |body: &Value| app.request(Method::POST, "/ack").json(body).send();
    let text = receipt.as_str();
    for (known, ack, release) in [(text, 1001, 0), (text, 0, 1001), (text, 501, 500), ("x", 50_000, 0)] {
        let body = json!({"ack": vec![known; ack], "release": vec![known; release]});
        let detail = problem(post(&body).await.unwrap(), 400).await;
        assert!(detail.contains("1000"), "{detail}");
    }
    assert_eq!(app.gauge("leased").await, 1, "nothing was settled");
    let settled = app.settle(json!({"ack": vec![&receipt; 500], "release": vec!["x"; 500]})).await;
    assert_eq!((&settled["acked"], settled["stale"].as_array().unwrap().len()), (&json!(1), 999));
}

#[tokio::test]
async fn a_receipt_in_another_notation_is_stale() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post("[1]").await;
    let receipt = app.lease(json!({})).await.remove(0).receipt;
    let (seq, lease) = receipt.as_str().split_once('-').unwrap();
    let others = json!([
        format!("+{seq}-{lease}"),
        format!("{seq}-+{lease}"),
        format!("0{seq}-{lease}"),
        format!("{seq}-{lease} "),
        format!("{seq}-{lease}-"),
        format!(" {seq}-{lease}"),
    ]);
    let settled = app.settle(json!({"ack": others})).await;
    assert_eq!(settled, json!({"acked": 0, "rejected": 0, "released": 0, "extended": 0, "stale": others}));
    assert_eq!(app.settle(json!({"ack": [receipt]})).await["acked"], 1);
}

#[tokio::test]
async fn status_reports_queue_and_registration_without_the_secret() {
    let server = Server::start(&[]);
    let app = server.new_app("bot").await;
    let status = app.status().await;
    assert_eq!(status["registration"], json!(null));
    assert_eq!(status["oldestAgeMs"], json!(null));
    app.register(&app.secret).await;
    app.post_numbers(0..3).await;
    app.lease(json!({"max": 1})).await;
    let (one, two) = (app.listen("?window=1").await, app.listen("?window=1").await);
    eventually("both websockets have an event", async || app.gauge("leased").await == 3).await;
    let status = app.status().await;
    assert_eq!(status["registration"], json!({"scheme": "watsonwork"}));
    let gauges = ["stored", "leased", "dropped", "clients"].map(|name| status[name].as_u64().unwrap());
    assert_eq!(gauges, [3, 3, 0, 2]);
    assert!(!status.to_string().contains(&app.secret), "{status}");
    let age = status["oldestAgeMs"].as_u64().unwrap();
    eventually("the oldest event ages", async || app.gauge("oldestAgeMs").await > age).await;
    drop((one, two));
    eventually("both websockets are closed", async || app.gauge("clients").await == 0).await;
    empty(app.request(Method::HEAD, "/status").send().await.unwrap(), 200).await;
}

#[tokio::test]
async fn a_shutdown_answers_a_waiting_lease_with_503() {
    let mut server = Server::start(&[]);
    let app: App = server.app("bot").await;
    // The first request was sent before this one, so it is waiting when this one has been answered.
    let waiting = tokio::spawn({
        let app = app.clone();
        async move { app.lease_response(json!({"wait_ms": 60_000})).await }
    });
    app.lease(json!({"wait_ms": 100})).await;
    server.signal("TERM");
    problem(waiting.await.unwrap(), 503).await;
    assert!(server.exited().await.success());
}
