//! Legacy websockets, which behave as those of the original proxy.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::frame::{
        Frame,
        coding::{Data, OpCode},
    },
};

use crate::common::{Server, Socket, eventually, number, parse_legacy_event};

const NO_MESSAGES: [&str; 0] = [];

#[tokio::test]
async fn stored_events_are_sent_before_new_ones() {
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
async fn a_legacy_message_has_type_id_and_the_body_byte_for_byte() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let post = app.indexed(7, " {\"a\" : 1.0} ").header("Authorization", "Bearer x");
    assert_eq!(post.send().await.unwrap().status(), 201);
    let id = app.lease(json!({"lease_ms": 1})).await.remove(0).event.id;
    let mut socket = app.listen("").await;
    assert_eq!(socket.protocol, None);
    assert_eq!(socket.next().await, format!(r#"{{"type":"event","id":"{id}","data": {{"a" : 1.0}} }}"#));
    assert_eq!(socket.ping().await, NO_MESSAGES, "no hello and no other message");
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
    assert_eq!(socket.ping().await, NO_MESSAGES);
    assert_eq!(app.gauge("stored").await, 1);
    socket.ack(&second).await;
    socket.ack(&first).await;
    assert_eq!(socket.ping().await, NO_MESSAGES);
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
async fn messages_of_unknown_type_or_id_are_ignored() {
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
    assert_eq!(socket.ping().await, NO_MESSAGES);
    assert_eq!(app.gauge("leased").await, 1);
    socket.ack(&id).await;
    socket.ping().await;
    assert_eq!(app.gauge("stored").await, 0);
}

#[tokio::test]
async fn invalid_json_closes_only_its_own_websocket_with_1007() {
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
    assert_eq!(other.event().await.1, "[1]", "the other websocket stays open");
}

#[tokio::test]
async fn a_binary_message_closes_only_its_own_websocket_with_1003() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let (mut socket, mut other) = (app.listen("").await, app.listen("").await);
    socket.send(Message::binary(&br#"{"type":"event_ack","id":"x"}"#[..])).await;
    assert_eq!(socket.close_code().await, 1003);
    app.post("[1]").await;
    assert_eq!(other.event().await.1, "[1]", "the other websocket stays open");
}

#[tokio::test]
async fn acks_before_an_invalid_message_are_processed() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post_numbers(0..2).await;
    let mut socket = app.listen("").await;
    let (id, _) = socket.event().await;
    socket.ack(&id).await;
    socket.send("x").await;
    assert_eq!(socket.close_code().await, 1007);
    assert_eq!(app.poll_bodies().await, [number(1)], "the unacked event is available at once");
}

#[tokio::test]
async fn an_oversized_message_closes_the_websocket_with_1009() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let mut socket = app.listen("").await;
    socket.send(format!("\"{}\"", "x".repeat(8 << 20))).await;
    assert_eq!(socket.close_code().await, 1009);
}

#[tokio::test]
async fn a_close_frame_is_answered_and_releases_the_leases() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post("[1]").await;
    let mut socket = app.listen("").await;
    socket.event().await;
    socket.stream.close(None).await.unwrap();
    let answer = futures_util::StreamExt::next(&mut socket.stream).await;
    assert!(matches!(&answer, Some(Ok(message)) if message.is_close()), "{answer:?}");
    eventually("its lease is released", async || app.gauge("leased").await == 0).await;
    assert_eq!(app.poll_bodies().await, ["[1]"]);
}

/// Reads exactly `window` events, and returns their ids.
async fn fill_window(socket: &mut Socket, window: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for n in 0..window {
        let (id, body) = socket.event().await;
        assert_eq!(body, number(n));
        ids.push(id);
    }
    assert_eq!(socket.ping().await, NO_MESSAGES);
    ids
}

#[tokio::test]
async fn the_default_prefetch_window_is_64_events() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post_numbers(0..70).await;
    let mut socket = app.listen("").await;
    let ids = fill_window(&mut socket, 64).await;
    assert_eq!(app.gauge("leased").await, 64);
    socket.ack(&ids[10]).await;
    assert_eq!(socket.event().await.1, number(64), "an ack makes room for one event");
    assert_eq!(socket.ping().await, NO_MESSAGES);
    assert_eq!(app.gauge("leased").await, 64);
}

#[tokio::test]
async fn a_prefetch_window_of_1_delivers_one_event_at_a_time() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post_numbers(0..20).await;
    let mut socket = app.listen("?other=2&window=1").await;
    for n in 0..20 {
        let (id, body) = socket.event().await;
        assert_eq!(body, number(n));
        assert_eq!(socket.ping().await, NO_MESSAGES);
        assert_eq!(app.gauge("leased").await, 1);
        socket.ack(&id).await;
    }
    assert_eq!(socket.ping().await, NO_MESSAGES);
}

#[tokio::test]
async fn a_prefetch_window_may_exceed_the_default() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post_numbers(0..100).await;
    let mut socket = app.listen("?window=4294967295").await;
    fill_window(&mut socket, 100).await;
}

/// The original proxy resent unacked events at each arrival: 50 events took 2,418 frames.
#[tokio::test]
async fn a_new_event_does_not_redeliver_unacked_ones() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let mut socket = app.listen("").await;
    for n in 0..50 {
        app.post(number(n)).await;
        assert_eq!(socket.event().await.1, number(n));
    }
    assert_eq!(socket.ping().await, NO_MESSAGES);
    assert_eq!(app.gauge("leased").await, 50);
}

#[tokio::test]
async fn an_expired_lease_is_redelivered() {
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
async fn events_of_a_lost_connection_are_redelivered_at_once() {
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
    assert_eq!(next.ping().await, NO_MESSAGES);
}

/// Several connections post, each pipelined and in order.
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
        let (id, body) = parse_legacy_event(&socket.next().await);
        assert!(last_id < id, "ids ascend: {last_id} {id}");
        let n: usize = body.trim_start_matches(r#"{"n":"#).trim_end_matches('}').parse().unwrap();
        counts[n] += 1;
        assert!(
            counts[n] <= SENDERS && (n == 0 || counts[n] <= counts[n - 1]),
            "{n} is out of order or a duplicate"
        );
        socket.ack(&id).await;
        last_id = id;
    }
    for sender in senders {
        sender.await.unwrap();
    }
    assert_eq!(socket.ping().await, NO_MESSAGES);
    assert_eq!(counts, vec![SENDERS; EACH]);
    assert_eq!(app.gauge("stored").await, 0);
}
