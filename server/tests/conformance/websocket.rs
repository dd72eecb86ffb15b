//! Reading by websocket, as a client of the original proxy does.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::frame::{
        Frame,
        coding::{Data, OpCode},
    },
};

use crate::common::{Server, Socket, eventually, exact_event, number};

const NOTHING: [&str; 0] = [];

#[tokio::test]
async fn stored_events_come_first_and_then_new_ones_as_they_arrive() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post_numbers(0..3).await;
    let mut socket = app.listen("").await;
    assert_eq!(socket.bodies(3).await, [number(0), number(1), number(2)]);
    for n in 3..6 {
        app.post(number(n)).await;
        assert_eq!(socket.event().await.1, number(n));
    }
}

#[tokio::test]
async fn a_message_is_exactly_the_legacy_one() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let post = app.indexed(7, " {\"a\" : 1.0} ").header("Authorization", "Bearer x");
    assert_eq!(post.send().await.unwrap().status(), 201);
    let id = app.lease(json!({"lease_ms": 1})).await.remove(0).id;
    let mut socket = app.listen("").await;
    assert_eq!(socket.protocol, None);
    assert_eq!(socket.next().await, format!(r#"{{"type":"event","id":"{id}","data": {{"a" : 1.0}} }}"#));
    assert_eq!(socket.ping().await, NOTHING, "neither hello nor anything else");
}

#[tokio::test]
async fn only_an_ack_deletes_an_event() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post_numbers(0..2).await;
    let mut socket = app.listen("").await;
    let (first, second) = (socket.event().await.0, socket.event().await.0);
    assert_eq!(app.gauge("stored").await, 2);
    socket.ack(&second).await;
    assert_eq!(socket.ping().await, NOTHING);
    assert_eq!(app.gauge("stored").await, 1);
    socket.ack(&second).await;
    socket.ack(&first).await;
    assert_eq!(socket.ping().await, NOTHING);
    assert_eq!(app.gauge("stored").await, 0);
}

#[tokio::test]
async fn an_ack_may_have_other_members_and_white_space() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post_numbers(0..2).await;
    let mut socket = app.listen("").await;
    let (first, second) = (socket.event().await.0, socket.event().await.0);
    socket.send(format!("\n {{ \"x\":[{{}}], \"id\" : \"{first}\" , \"type\":\"event_ack\" }} ")).await;
    socket.send(format!(r#"{{"type":"event_\u0061ck","id":"{second}"}}"#)).await;
    socket.ping().await;
    assert_eq!(app.gauge("stored").await, 0);
}

#[tokio::test]
async fn unknown_ids_unknown_types_and_null_are_ignored() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post("[1]").await;
    let mut socket = app.listen("").await;
    let (id, _) = socket.event().await;
    for ignored in [
        "null",
        "7",
        "true",
        "[]",
        "[null]",
        "{}",
        "\"event_ack\"",
        r#"{"type":"event_ack"}"#,
        r#"{"type":"event_ack","id":null}"#,
        r#"{"type":"event_ack","id":7}"#,
        r#"{"type":"event_ack","id":-1e400}"#,
        r#"{"type":"event_ack","id":""}"#,
        r#"{"type":"event_ack","id":"unknown"}"#,
        r#"{"type":"event_ack","id":{"a":[]}}"#,
        r#"{"type":"event_ack","id":"\ud800"}"#,
        r#"{"type":"event_ack","ids":7}"#,
        r#"{"type":null}"#,
        r#"{"type":"event_nack"}"#,
        r#"{"type":"event_nack","id":"unknown","delay_ms":-1}"#,
    ] {
        socket.send(ignored).await;
    }
    socket.send(format!(r#"{{"type":"unknown","id":"{id}"}}"#)).await;
    socket.send(format!(r#"{{"id":"{id}"}}"#)).await;
    socket.send(format!(r#"["event_ack","{id}"]"#)).await;
    socket.send(format!("{}{}", "[".repeat(100_000), "]".repeat(100_000))).await;
    assert_eq!(socket.ping().await, NOTHING);
    assert_eq!(app.gauge("leased").await, 1);
    socket.ack(&id).await;
    socket.ping().await;
    assert_eq!(app.gauge("stored").await, 0);
}

#[tokio::test]
async fn a_message_that_is_not_json_closes_that_one_connection_with_1007() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let mut other = app.listen("").await;
    for bad in ["", " ", "x", "{", "{}{}", "event_ack", "{'type':'event_ack'}", "nul", "\u{feff}{}"] {
        let mut socket = app.listen("").await;
        socket.send(bad).await;
        assert_eq!(socket.close_code().await, 1007, "{bad:?}");
    }
    let mut socket = app.listen("").await;
    let broken = Frame::message(&b"\"\xff\""[..], OpCode::Data(Data::Text), true);
    socket.send(Message::Frame(broken)).await;
    assert_eq!(socket.close_code().await, 1007, "text that is not UTF-8");
    app.post("[1]").await;
    assert_eq!(other.event().await.1, "[1]", "nobody else notices");
}

#[tokio::test]
async fn a_binary_message_closes_that_one_connection_with_1003() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let (mut socket, mut other) = (app.listen("").await, app.listen("").await);
    socket.send(Message::binary(&br#"{"type":"event_ack","id":"x"}"#[..])).await;
    assert_eq!(socket.close_code().await, 1003);
    app.post("[1]").await;
    assert_eq!(other.event().await.1, "[1]", "nobody else notices");
}

#[tokio::test]
async fn what_was_said_before_a_bad_message_counts() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post_numbers(0..2).await;
    let mut socket = app.listen("").await;
    let (id, _) = socket.event().await;
    socket.ack(&id).await;
    socket.send("x").await;
    assert_eq!(socket.close_code().await, 1007);
    assert_eq!(app.poll_bodies().await, [number(1)], "and what was unacked is free at once");
}

#[tokio::test]
async fn too_long_a_message_closes_that_one_connection() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let mut socket = app.listen("").await;
    socket.send(format!("\"{}\"", "x".repeat(8 << 20))).await;
    assert_eq!(socket.close_code().await, 1009);
}

#[tokio::test]
async fn a_client_that_says_goodbye_is_answered_and_frees_its_events() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post("[1]").await;
    let mut socket = app.listen("").await;
    socket.event().await;
    socket.stream.close(None).await.unwrap();
    let answer = futures_util::StreamExt::next(&mut socket.stream).await;
    assert!(matches!(&answer, Some(Ok(message)) if message.is_close()), "{answer:?}");
    eventually("its event is free", async || app.gauge("leased").await == 0).await;
    assert_eq!(app.poll_bodies().await, ["[1]"]);
}

/// A socket with exactly `window` of the app's events and no more.
async fn holds(socket: &mut Socket, window: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for n in 0..window {
        let (id, body) = socket.event().await;
        assert_eq!(body, number(n));
        ids.push(id);
    }
    assert_eq!(socket.ping().await, NOTHING);
    ids
}

#[tokio::test]
async fn up_to_64_events_are_outstanding_at_once() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post_numbers(0..70).await;
    let mut socket = app.listen("").await;
    let ids = holds(&mut socket, 64).await;
    assert_eq!(app.gauge("leased").await, 64);
    socket.ack(&ids[10]).await;
    assert_eq!(socket.event().await.1, number(64), "an ack makes room for one");
    assert_eq!(socket.ping().await, NOTHING);
    assert_eq!(app.gauge("leased").await, 64);
}

#[tokio::test]
async fn with_a_window_of_1_they_come_strictly_one_at_a_time() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post_numbers(0..20).await;
    let mut socket = app.listen("?other=2&window=1").await;
    for n in 0..20 {
        let (id, body) = socket.event().await;
        assert_eq!(body, number(n));
        assert_eq!(socket.ping().await, NOTHING);
        assert_eq!(app.gauge("leased").await, 1);
        socket.ack(&id).await;
    }
    assert_eq!(socket.ping().await, NOTHING);
}

#[tokio::test]
async fn a_window_may_be_wider() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post_numbers(0..100).await;
    let mut socket = app.listen("?window=4294967295").await;
    holds(&mut socket, 100).await;
}

/// What the original proxy got wrong: 50 events cost 2,418 frames.
#[tokio::test]
async fn a_new_arrival_never_makes_an_unacked_event_go_out_again() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let mut socket = app.listen("").await;
    for n in 0..50 {
        app.post(number(n)).await;
        assert_eq!(socket.event().await.1, number(n));
    }
    assert_eq!(socket.ping().await, NOTHING);
    assert_eq!(app.gauge("leased").await, 50);
}

#[tokio::test]
async fn an_event_not_acked_within_the_lease_time_goes_out_again() {
    let server = Server::start(&["--lease", "300ms"]);
    let app = server.app("bot").await;
    let mut socket = app.listen("").await;
    let start = Instant::now();
    app.post("[1]").await;
    let first = socket.event().await;
    let second = socket.event().await;
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert_eq!(first, second, "under the same id");
    socket.ack(&second.0).await;
    socket.ping().await;
    assert_eq!(app.gauge("stored").await, 0);
}

#[tokio::test]
async fn a_lost_connection_gives_its_events_to_the_next_at_once() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post_numbers(0..3).await;
    let mut lost = app.listen("").await;
    let (acked, _) = lost.event().await;
    lost.bodies(2).await;
    lost.ack(&acked).await;
    lost.ping().await;
    drop(lost);
    let (mut next, _) = app.listen_v2("").await;
    for n in 1..3 {
        let message: serde_json::Value = serde_json::from_str(&next.next().await).unwrap();
        assert_eq!((&message["data"]["n"], &message["attempt"]), (&json!(n), &json!(2)));
    }
    assert_eq!(next.ping().await, NOTHING);
}

/// Pipelined posts over a few connections; posts of one connection arrive in their order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_10_000_events_is_delivered_once_each_and_in_order() {
    const SENDERS: usize = 4;
    const EACH: usize = 2500;
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let mut socket = app.listen("").await;
    let senders: Vec<_> = (0..SENDERS)
        .map(|_| {
            let app = app.clone();
            tokio::spawn(async move { crate::poll::post_many(&app, EACH).await })
        })
        .collect();
    let (mut last_id, mut counts) = (String::new(), vec![0; EACH]);
    for _ in 0..SENDERS * EACH {
        let (id, body) = exact_event(&socket.next().await);
        assert!(last_id < id, "each once, in order of arrival: {last_id} {id}");
        let n: usize = body.trim_start_matches(r#"{"n":"#).trim_end_matches('}').parse().unwrap();
        counts[n] += 1;
        assert!(counts[n] <= SENDERS && (n == 0 || counts[n] <= counts[n - 1]), "{n} before its time");
        socket.ack(&id).await;
        last_id = id;
    }
    for sender in senders {
        sender.await.unwrap();
    }
    assert_eq!(socket.ping().await, NOTHING);
    assert_eq!(counts, vec![SENDERS; EACH]);
    assert_eq!(app.gauge("stored").await, 0);
}
