//! The read-only tap, `?tap=1`: it shows new events, and leases none.

use std::sync::Arc;

use reqwest::{Method, Response};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    common::{App, Home, Server, Socket, eventually, handshake_headers, number, problem},
    poll::post_many,
};

const NO_MESSAGES: [&str; 0] = [];
/// The limit on the taps of one app.
const MAX_TAPS: usize = 16;

async fn tap(app: &App) -> Socket {
    app.listen("?tap=1").await
}

/// Sends an upgrade request, and returns the HTTP response.
async fn upgrade_response(app: &App, query: &str) -> Response {
    let mut request = app.request(Method::GET, query);
    for (name, value) in handshake_headers() {
        request = request.header(name, value);
    }
    request.send().await.unwrap()
}

#[tokio::test]
async fn a_tap_shows_only_events_that_arrive_after_it_in_order() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post_numbers(0..3).await;
    let mut tap = tap(&app).await;
    app.post_numbers(3..6).await;
    assert_eq!(tap.bodies(3).await, [number(3), number(4), number(5)]);
    assert_eq!(tap.ping().await, NO_MESSAGES);
}

#[tokio::test]
async fn events_shown_to_a_tap_are_still_delivered() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let mut tap = tap(&app).await;
    app.post_numbers(0..3).await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(tap.event().await);
    }
    assert_eq!((app.gauge("stored").await, app.gauge("leased").await), (3, 0));
    let leased = app.lease(json!({"max": 1})).await;
    assert_eq!(leased[0].details.attempt, Some(1), "a tap does not count as an attempt");
    app.settle(json!({"release": [leased[0].receipt]})).await;
    assert_eq!(app.poll("").await, seen);
    assert_eq!(tap.ping().await, NO_MESSAGES, "a redelivery is not shown");
}

#[tokio::test]
async fn a_tap_shows_events_that_a_client_acknowledges_at_once() {
    let server = Server::start_in(&Arc::new(Home::new()), &[]);
    let app = server.app("bot").await;
    let (mut tap, mut client) = (tap(&app).await, app.listen("?window=1").await);
    for n in 0..20 {
        app.post(number(n)).await;
        let event = client.event().await;
        client.ack(&event.0).await;
        assert_eq!(tap.event().await, event);
    }
    client.ping().await;
    assert_eq!(app.gauge("stored").await, 0);
}

#[tokio::test]
async fn a_tap_without_v2_sends_legacy_messages_byte_for_byte() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let mut tap = tap(&app).await;
    assert_eq!(tap.protocol, None);
    let body = " {\"a\" : 1.0e0 , \"ü\":[ ]}\n";
    app.post(body).await;
    let id = app.lease(json!({})).await.remove(0).event.id;
    assert_eq!(tap.next().await, format!(r#"{{"type":"event","id":"{id}","data":{body}}}"#));
}

#[tokio::test]
async fn a_v2_tap_sends_hello_first_and_attempt_0() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let (mut tap, hello) = app.listen_v2("?tap=1").await;
    assert_eq!(
        (&hello["type"], &hello["appId"], &hello["tap"]),
        (&json!("hello"), &json!("bot"), &json!(true))
    );
    let (mut client, _) = app.listen_v2("").await;
    let sent = app.indexed(7, "{\"a\": 1}").query(&[("q", "1")]).send().await.unwrap();
    assert_eq!(sent.status(), 201);
    let (shown, delivered) = (tap.next().await, client.next().await);
    assert_eq!(shown.replace("\"attempt\":0,", "\"attempt\":1,"), delivered);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&shown["attempt"], &shown["query"]), (&json!(0), &json!("q=1")));
}

#[tokio::test]
async fn every_tap_shows_all_events_of_its_own_app_only() {
    let server = Server::start(&[]);
    let (app, other) = (server.app("bot").await, server.app("bot2").await);
    let mut stranger = tap(&other).await;
    let mut taps = [tap(&app).await, tap(&app).await, tap(&app).await];
    app.post_numbers(0..5).await;
    for tap in &mut taps {
        assert_eq!(tap.bodies(5).await, (0..5).map(number).collect::<Vec<_>>());
    }
    assert_eq!(stranger.ping().await, NO_MESSAGES);
    other.post("[1]").await;
    assert_eq!(stranger.event().await.1, "[1]");
    assert_eq!(taps[0].ping().await, NO_MESSAGES);
}

#[tokio::test]
async fn acks_and_nacks_sent_through_a_tap_are_ignored() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let (mut tap, _) = app.listen_v2("?tap=1").await;
    let mut client = app.listen("").await;
    app.post_numbers(0..2).await;
    let (id, _) = client.event().await;
    client.event().await;
    // A pong may overtake events that were stored but not sent yet, so the ping is sent after them.
    for _ in 0..2 {
        tap.next().await;
    }
    tap.ack(&id).await;
    tap.send(json!({"type": "event_ack", "ids": [id]}).to_string()).await;
    tap.send(json!({"type": "event_nack", "id": id}).to_string()).await;
    tap.send("null").await;
    assert_eq!(tap.ping().await, NO_MESSAGES, "each event is shown once");
    assert_eq!(client.ping().await, NO_MESSAGES);
    assert_eq!((app.gauge("stored").await, app.gauge("leased").await), (2, 2));
}

#[tokio::test]
async fn invalid_json_or_binary_closes_only_its_own_tap() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let mut other = tap(&app).await;
    for (message, code) in [(Message::text("nonsense"), 1007), (Message::binary("{}"), 1003)] {
        let mut tap = tap(&app).await;
        tap.send(message).await;
        assert_eq!(tap.close_code().await, code);
    }
    app.post("[1]").await;
    assert_eq!(other.event().await.1, "[1]");
}

/// The tap does not read while 48 MiB arrive, more than the socket buffers of both ends: systems limit them to
/// 4 MiB and 32 MiB.
#[tokio::test]
async fn a_slow_tap_gets_a_gap_with_the_number_of_missed_events_in_their_place() {
    const SENT: usize = 48;
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let mut slow = tap(&app).await;
    let large = |n: usize| format!("[{n},\"{}\"]", "x".repeat(1 << 20));
    for n in 0..SENT {
        app.post(large(n)).await;
    }
    let (mut next, mut shown) = (0, 0);
    while next < SENT {
        let message = slow.next().await;
        if message.starts_with(r#"{"type":"event""#) {
            assert!(crate::common::parse_legacy_event(&message).1 == large(next), "expected event {next}");
            (next, shown) = (next + 1, shown + 1);
        } else {
            let gap: Value = serde_json::from_str(&message).unwrap();
            let missed = gap["missed"].as_u64().unwrap();
            assert_eq!(gap, json!({"type": "gap", "missed": missed}));
            next += usize::try_from(missed).unwrap();
        }
    }
    assert_eq!(next, SENT, "shown and missed events add up to the sent ones");
    assert!(0 < shown && shown < SENT, "{shown}");
    app.post("[0]").await;
    assert_eq!(slow.event().await.1, "[0]");
    assert_eq!((app.gauge("stored").await, app.gauge("leased").await), (SENT as u64 + 1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_every_event_is_shown_or_counted_as_missed() {
    const SENT: u64 = 5000;
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let mut tap = tap(&app).await;
    let sender = tokio::spawn({
        let app = app.clone();
        async move { post_many(&app, usize::try_from(SENT).unwrap()).await }
    });
    let (mut accounted, mut last_id) = (0, String::new());
    while accounted < SENT {
        let message: Value = serde_json::from_str(&tap.next().await).unwrap();
        if message["type"] == "gap" {
            accounted += message["missed"].as_u64().unwrap();
        } else {
            assert_eq!(message["data"]["n"], accounted, "a gap is sent in the place of the missed events");
            assert!(last_id.as_str() < message["id"].as_str().unwrap(), "ids ascend");
            last_id = message["id"].as_str().unwrap().to_owned();
            accounted += 1;
        }
    }
    sender.await.unwrap();
    assert_eq!(accounted, SENT);
    assert_eq!(tap.ping().await, NO_MESSAGES);
    assert_eq!(app.gauge("stored").await, SENT);
}

#[tokio::test]
async fn a_tap_without_a_websocket_upgrade_is_400_and_leases_nothing() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post_numbers(0..2).await;
    for query in ["?tap=1", "?max=1&tap=1", "?tap=", "?tap", "?tap=2", "?tap=true"] {
        problem(app.request(Method::GET, query).send().await.unwrap(), 400).await;
    }
    for query in [
        "?tap=",
        "?tap=2",
        "?tap=yes",
        "?tap=1&tap=0",
        "?tap=1&window=0",
        "?window=%2B1",
        "?window=1&window=2",
    ] {
        problem(upgrade_response(&app, query).await, 400).await;
    }
    assert_eq!((app.gauge("stored").await, app.gauge("leased").await), (2, 0));
    let mut client = app.listen("?tap=0&window=1").await;
    let (id, _) = client.event().await;
    client.ack(&id).await;
    client.ping().await;
    drop(client);
    eventually("its lease is released", async || app.gauge("leased").await == 0).await;
    assert_eq!(app.poll("?tap=0").await.len(), 1);
}

#[tokio::test]
async fn a_tap_over_the_limit_is_429_until_another_is_closed() {
    let server = Server::start(&[]);
    let (app, other) = (server.app("bot").await, server.app("other").await);
    let mut taps = Vec::new();
    for _ in 0..MAX_TAPS {
        taps.push(tap(&app).await);
    }
    let response = upgrade_response(&app, "?tap=1").await;
    let after = response.headers()["retry-after"].to_str().unwrap().to_owned();
    assert!(after.parse::<u32>().is_ok_and(|seconds| seconds > 0), "{after}");
    problem(response, 429).await;
    tap(&other).await;
    app.listen("").await;
    // No further event arrives, so the server must notice the closed connection itself.
    taps.pop();
    eventually("there is room for a tap", async || {
        let answer = upgrade_response(&app, "?tap=1").await;
        answer.status() == 101
    })
    .await;
    app.post("[1]").await;
    for tap in &mut taps {
        assert_eq!(tap.event().await.1, "[1]");
    }
}

#[tokio::test]
async fn a_tap_is_not_counted_as_a_client_in_the_status() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let _client = app.listen("").await;
    let (mut tap, _) = app.listen_v2("?tap=1").await;
    tap.ping().await;
    eventually("the client is counted", async || app.gauge("clients").await == 1).await;
    tap.ping().await;
    assert_eq!(app.gauge("clients").await, 1);
}

#[tokio::test]
async fn a_tap_survives_unregistering() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let mut tap = tap(&app).await;
    app.post("[1]").await;
    app.unregister().await;
    problem(app.hook("[2]").send().await.unwrap(), 404).await;
    app.register(&app.secret).await;
    app.post("[3]").await;
    assert_eq!(tap.bodies(2).await, ["[1]", "[3]"]);
}

#[tokio::test]
async fn on_shutdown_a_tap_is_closed_with_1012() {
    let mut server = Server::start(&[]);
    let app = server.app("bot").await;
    let (mut legacy, (mut v2, _)) = (tap(&app).await, app.listen_v2("?tap=1").await);
    server.signal("TERM");
    assert_eq!(legacy.close_code().await, 1012);
    assert_eq!(v2.close_code().await, 1012);
    drop((legacy, v2));
    assert!(server.exited().await.success());
}
