//! The subprotocol `wwproxy.v2`.

use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use tokio::io::AsyncReadExt;

use crate::common::{Server, Socket, eventually, handshake_text, parse_legacy_event, sign};

const NO_MESSAGES: [&str; 0] = [];

async fn event(socket: &mut Socket) -> Value {
    let event: Value = serde_json::from_str(&socket.next().await).unwrap();
    assert_eq!(event["type"], "event", "{event}");
    event
}

#[tokio::test]
async fn the_first_message_is_hello() {
    let server = Server::start(&["--lease", "5s"]);
    let app = server.app("bot").await;
    app.post("{}").await;
    let (mut socket, hello) = app.listen_v2("?window=7").await;
    assert_eq!(socket.protocol.as_deref(), Some("wwproxy.v2"));
    assert_eq!(hello["type"], "hello");
    assert_eq!(
        (&hello["appId"], &hello["window"], &hello["leaseMs"]),
        (&json!("bot"), &json!(7), &json!(5000))
    );
    assert_eq!((&hello["pingMs"], &hello["idleMs"]), (&json!(20_000), &json!(60_000)));
    event(&mut socket).await;
}

#[tokio::test]
async fn v2_is_chosen_from_a_list_of_subprotocols() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let (address, path, token) = (&app.address, app.path(""), &app.token);
    let mut socket = Socket::open(address, &path, token, Some("chat,wwproxy.v2 , soap")).await;
    assert_eq!(socket.protocol.as_deref(), Some("wwproxy.v2"));
    let hello: Value = serde_json::from_str(&socket.next().await).unwrap();
    assert_eq!(hello["type"], "hello");
}

/// Over raw TCP: the websocket library fails if the server chooses none of the offered subprotocols.
#[tokio::test]
async fn without_v2_a_client_gets_legacy_messages() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post("{}").await;
    for offer in ["", "sec-websocket-protocol: chat\r\n", "sec-websocket-protocol: WWPROXY.V2x\r\n"] {
        let headers = handshake_text();
        let mut connection = app.raw().await;
        connection
            .send(format!(
                "GET {} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n{headers}{offer}\r\n",
                app.path(""),
                app.token
            ))
            .await;
        let answer = connection.response().await;
        assert_eq!(answer.status, 101);
        assert!(!answer.head.contains("sec-websocket-protocol"), "{answer:?}");
        let mut frame = [0; 2];
        connection.0.read_exact(&mut frame).await.unwrap();
        let mut message = vec![0; usize::from(frame[1])];
        connection.0.read_exact(&mut message).await.unwrap();
        assert_eq!(parse_legacy_event(&String::from_utf8(message).unwrap()).1, "{}");
        drop(connection);
        eventually("the lease is released", async || app.gauge("leased").await == 0).await;
    }
}

#[tokio::test]
async fn an_event_has_attempt_received_at_and_end_to_end_headers() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let before = SystemTime::now();
    let post = app
        .indexed(7, "{\"a\" : 1}")
        .query(&[("q", "1")])
        .header("Content-Type", "application/json;charset=UTF-8")
        .header("X-OUTBOUND-RETRY-COUNT", "2")
        .header("X-Twice", "a")
        .header("X-Twice", "b")
        .header("Connection", "close, X-OUTBOUND-TOKEN")
        .header("TE", "trailers")
        .header("Proxy-Authorization", "Basic eDp5")
        .header("Keep-Alive", "5")
        .bearer_auth("hush");
    assert_eq!(post.send().await.unwrap().status(), 201);
    let (mut socket, _) = app.listen_v2("").await;
    let event = event(&mut socket).await;
    assert!(event["id"].is_string());
    assert_eq!((&event["attempt"], &event["data"]), (&json!(1), &json!({"a": 1})));
    let received = humantime::parse_rfc3339(event["receivedAt"].as_str().unwrap()).unwrap();
    assert!(received + Duration::from_millis(1) > before && received <= SystemTime::now(), "{event}");

    let headers: Vec<(String, String)> = serde_json::from_value(event["headers"].clone()).unwrap();
    let has = |name: &str, value: &str| headers.contains(&(name.into(), value.into()));
    assert!(has("x-outbound-index", "7") && has("x-outbound-retry-count", "2"), "{headers:?}");
    assert!(has("x-outbound-token", &sign(&app.secret, "{\"a\" : 1}")), "named by Connection: {headers:?}");
    assert!(has("x-twice", "a") && has("x-twice", "b"), "{headers:?}");
    assert!(has("content-type", "application/json;charset=UTF-8"), "{headers:?}");
    for removed in [
        "connection",
        "keep-alive",
        "te",
        "transfer-encoding",
        "upgrade",
        "authorization",
        "proxy-authorization",
    ] {
        assert!(!headers.iter().any(|(name, _)| name == removed), "{removed}: {headers:?}");
    }
}

#[tokio::test]
async fn one_message_acks_several_ids() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post_numbers(0..4).await;
    let (mut socket, _) = app.listen_v2("").await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(event(&mut socket).await["id"].clone());
    }
    socket.send(json!({"type": "event_ack", "ids": [ids[0], "unknown", 7, null, ids[2]]}).to_string()).await;
    assert_eq!(socket.ping().await, NO_MESSAGES);
    assert_eq!(app.gauge("stored").await, 2);
    socket.send(json!({"type": "event_ack", "id": ids[1]}).to_string()).await;
    socket.send(json!({"type": "event_ack", "ids": [ids[3]]}).to_string()).await;
    assert_eq!(socket.ping().await, NO_MESSAGES);
    assert_eq!(app.gauge("stored").await, 0);
}

#[tokio::test]
async fn a_nacked_event_is_redelivered_after_its_delay() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post("[1]").await;
    app.post("[2]").await;
    let (mut socket, _) = app.listen_v2("").await;
    for (delay, attempt) in [("delayMs", 2), ("delay_ms", 4)] {
        let (first, second) = (event(&mut socket).await, event(&mut socket).await);
        let nacked = Instant::now();
        socket.send(json!({"type": "event_nack", "id": first["id"], delay: 400}).to_string()).await;
        socket.send(json!({"type": "event_nack", "id": second["id"]}).to_string()).await;
        let at_once = event(&mut socket).await;
        assert_eq!(
            (&at_once["id"], &at_once["attempt"]),
            (&second["id"], &json!(attempt)),
            "without a delay"
        );
        let again = event(&mut socket).await;
        assert!(nacked.elapsed() >= Duration::from_millis(400), "{:?}", nacked.elapsed());
        assert_eq!((&again["id"], &again["attempt"]), (&first["id"], &json!(attempt)));
        drop(socket);
        eventually("both leases are released", async || app.gauge("leased").await == 0).await;
        socket = app.listen_v2("").await.0;
    }
}

#[tokio::test]
async fn a_nack_delay_outlasts_its_connection_and_frees_the_prefetch_window() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post("[1]").await;
    let (mut socket, _) = app.listen_v2("?window=1").await;
    let nacked = event(&mut socket).await;
    app.post("[2]").await;
    socket.send(json!({"type": "event_nack", "id": nacked["id"], "delay_ms": 60_000}).to_string()).await;
    assert_eq!(event(&mut socket).await["data"], json!([2]), "the nack frees a place in the window");
    drop(socket);
    eventually("the second lease is released", async || app.gauge("leased").await == 0).await;
    assert_eq!(app.gauge("stored").await, 2);
    assert_eq!(app.poll_bodies().await, ["[2]"], "the delay outlasts its connection");
}
