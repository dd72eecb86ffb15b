//! Settling in other ways than acknowledging: delays, reasons, rejections, extensions, and the end of attempts.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use wwproxy_protocol::api::LeasedEvent;

use crate::common::{App, Home, Server, Socket, eventually, number};

async fn frame(socket: &mut Socket) -> Value {
    let event: Value = serde_json::from_str(&socket.next().await).unwrap();
    assert_eq!(event["type"], "event", "{event}");
    event
}

/// Leases one event, and waits for it.
async fn next(app: &App) -> LeasedEvent {
    let mut leased = app.lease(json!({"max": 1, "waitMs": 15_000})).await;
    leased.pop().expect("an event arrives in time")
}

async fn dead(app: &App) -> u64 {
    app.consumer("default").await["dead"].as_u64().unwrap()
}

/// An app whose events are dead after this number of attempts.
async fn app_with_attempts(server: &Server, attempts: u32) -> App {
    let app = server.app("bot").await;
    let put = app.put_consumer("default", json!({"maxAttempts": attempts})).await;
    assert_eq!(put.status(), 200);
    app
}

#[tokio::test]
async fn a_release_with_a_delay_redelivers_later_and_others_meanwhile() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post_numbers(0..2).await;
    let first = app.lease(json!({"max": 1})).await.remove(0);
    let began = Instant::now();
    for (name, delay) in [("delayMs", 400), ("delay_ms", 0)] {
        let release = json!({"release": [{"receipt": first.receipt, name: delay, "reason": "busy"}]});
        let settled = app.settle(release).await;
        assert_eq!(settled["released"], u64::from(delay > 0), "the second one is stale");
    }
    let second = next(&app).await;
    assert_eq!(second.body, number(1).as_bytes(), "another event is not held back");
    let again = next(&app).await;
    assert!(began.elapsed() >= Duration::from_millis(400));
    assert_eq!((&again.id, again.details.attempt), (&first.id, Some(2)));
}

#[tokio::test]
async fn a_rejected_event_is_dead_and_is_not_redelivered() {
    let server = Server::start_in(&Arc::new(Home::new()), &[]);
    let app = server.app("bot").await;
    app.post_numbers(0..4).await;
    let leased = app.lease(json!({"max": 2})).await;
    // A reason is cut to 1024 bytes. Whatever a client writes, no log line has it.
    let reasons = [json!(format!("\u{1b}[31mred\r\n{}", "é".repeat(2000))), Value::Null];
    let reject = |n: usize| json!({"receipt": leased[n].receipt, "reason": reasons[n]});
    let settled = app.settle(json!({"reject": [reject(0), reject(1), {"receipt": "x"}]})).await;
    assert_eq!(settled, json!({"acked": 0, "rejected": 2, "released": 0, "extended": 0, "stale": ["x"]}));
    let (mut socket, _) = app.listen_v2("?window=2").await;
    let (third, _fourth) = (frame(&mut socket).await, frame(&mut socket).await);
    socket
        .send(json!({"type": "event_reject", "id": third["id"], "reason": "\u{1b}]0;x\u{7}"}).to_string())
        .await;
    eventually("the event is dead", async || dead(&app).await == 3).await;
    drop(socket);
    let status = app.consumer("default").await;
    assert_eq!(status["pending"], 1, "a dead event is settled");
    app.seek("default", "all").await;
    assert_eq!(app.drain("default").await, [number(3)]);
    assert!(!server.log().contains(['\u{1b}', '\u{7}']), "{}", server.log());
    let home = server.kill();
    let server = Server::start_in(&home, &[]);
    let app = app.at(&server);
    assert_eq!(dead(&app).await, 3);
    app.seek("default", "all").await;
    assert_eq!(app.drain("default").await, [number(3)]);
}

#[tokio::test]
async fn an_extended_lease_lasts_longer() {
    let server = Server::start(&["--lease", "20s"]);
    let app = server.app("bot").await;
    app.post_numbers(0..3).await;
    let leased = app.lease(json!({"leaseMs": 600})).await;
    let receipts: Vec<_> = leased.iter().map(|event| &event.receipt).collect();
    let extend = json!([receipts[0], {"receipt": receipts[1], "leaseMs": 20_000}, {"receipt": "x"}]);
    let settled = app.settle(json!({"extend": extend})).await;
    assert_eq!(settled, json!({"acked": 0, "rejected": 0, "released": 0, "extended": 2, "stale": ["x"]}));
    let third = next(&app).await;
    assert_eq!(third.body, number(2).as_bytes(), "its lease was not extended");
    assert_eq!(app.settle(json!({"ack": receipts})).await["acked"], 2);
    let zero = json!({"extend": [{"receipt": third.receipt, "leaseMs": 0}]}).to_string();
    let response = app.request(reqwest::Method::POST, "/ack").body(zero).send().await.unwrap();
    assert_eq!(response.status(), 400);
    app.settle(json!({"extend": [{"receipt": third.receipt, "leaseMs": 1}]})).await;
    assert_eq!(next(&app).await.details.attempt, Some(3), "an extension may also shorten the lease");
}

#[tokio::test]
async fn progress_on_a_websocket_extends_the_lease() {
    let server = Server::start(&["--lease", "600ms"]);
    let app = server.app("bot").await;
    app.post_numbers(0..2).await;
    let (mut socket, _) = app.listen_v2("").await;
    let (kept, other) = (frame(&mut socket).await, frame(&mut socket).await);
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(1500) {
        socket.send(json!({"type": "event_progress", "id": kept["id"]}).to_string()).await;
        let redelivered = socket.ping().await;
        assert!(
            redelivered.iter().all(|text| text.contains(other["id"].as_str().unwrap())),
            "{redelivered:?}"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    socket.ack(kept["id"].as_str().unwrap()).await;
    socket.ping().await;
    assert_eq!(app.gauge("stored").await, 1);
}

#[tokio::test]
async fn nacks_use_up_the_attempts() {
    let server = Server::start(&[]);
    let app = app_with_attempts(&server, 3).await;
    app.post("[1]").await;
    let (mut socket, _) = app.listen_v2("").await;
    for attempt in 1..=3 {
        let event = frame(&mut socket).await;
        assert_eq!(event["attempt"], attempt);
        let nack = json!({"type": "event_nack", "id": event["id"], "delayMs": 0, "reason": "no"});
        socket.send(nack.to_string()).await;
    }
    eventually("the event is dead", async || dead(&app).await == 1).await;
    app.post("[2]").await;
    assert_eq!(frame(&mut socket).await["data"], json!([2]), "others are delivered");
    assert_eq!(app.gauge("stored").await, 1);
}

#[tokio::test]
async fn expired_leases_use_up_the_attempts() {
    let server = Server::start(&["--lease", "300ms"]);
    let app = app_with_attempts(&server, 2).await;
    app.post("[1]").await;
    for attempt in 1..=2 {
        assert_eq!(next(&app).await.details.attempt, Some(attempt));
    }
    eventually("the event is dead", async || dead(&app).await == 1).await;
    assert_eq!(app.lease(json!({})).await, []);
}

/// An event may make its client crash: the attempts end this, too, also across crashes of the server.
#[tokio::test]
async fn clients_that_disconnect_and_servers_that_crash_use_up_the_attempts() {
    let server = Server::start_in(&Arc::new(Home::new()), &[]);
    let app = app_with_attempts(&server, 4).await;
    app.post("[1]").await;
    for attempt in 1..=2 {
        let (mut socket, _) = app.listen_v2("").await;
        assert_eq!(frame(&mut socket).await["attempt"], attempt);
        drop(socket);
    }
    assert_eq!(next(&app).await.details.attempt, Some(3));
    app.flush().await;
    let home = server.kill();
    let server = Server::start_in(&home, &[]);
    let app = app.at(&server);
    assert_eq!(next(&app).await.details.attempt, Some(4), "its lease ended with the server");
    app.flush().await;
    let home = server.kill();
    let server = Server::start_in(&home, &[]);
    let app = app.at(&server);
    assert_eq!((dead(&app).await, app.lease(json!({})).await), (1, Vec::new()));
    app.post("[2]").await;
    assert_eq!(next(&app).await.body, "[2]".as_bytes());
}

#[tokio::test]
async fn without_a_limit_attempts_do_not_end_and_a_limit_may_be_set_later() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post("[1]").await;
    for attempt in 1..20 {
        let event = next(&app).await;
        assert_eq!(event.details.attempt, Some(attempt));
        app.settle(json!({"release": [event.receipt]})).await;
    }
    assert_eq!(app.put_consumer("default", json!({"maxAttempts": 1})).await.status(), 200);
    let event = next(&app).await;
    app.settle(json!({"release": [event.receipt]})).await;
    assert_eq!((dead(&app).await, app.gauge("stored").await), (1, 0));
}

#[tokio::test]
async fn a_delay_survives_sigkill() {
    let server = Server::start_in(&Arc::new(Home::new()), &[]);
    let app = server.app("bot").await;
    app.post_numbers(0..2).await;
    let leased = app.lease(json!({})).await;
    let (hour, soon) = (&leased[0], &leased[1]);
    let began = Instant::now();
    let release = |event: &LeasedEvent, delay: u64| json!({"receipt": event.receipt, "delayMs": delay});
    app.settle(json!({"release": [release(hour, 3_600_000), release(soon, 1500)]})).await;
    app.flush().await;
    let home = server.kill();
    let server = Server::start_in(&home, &[]);
    let app = app.at(&server);
    let again = next(&app).await;
    assert!(began.elapsed() >= Duration::from_millis(1500));
    assert_eq!((&again.id, again.details.attempt), (&soon.id, Some(2)));
    assert_eq!(app.lease(json!({})).await, []);
    assert_eq!(app.gauge("stored").await, 2);
}
