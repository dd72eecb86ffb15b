//! Limits on the size of responses and of the server's messages.

use serde_json::{Value, json};

use crate::common::{App, Server, sign};

const MIB: usize = 1 << 20;
/// The limit on the bytes of events in one response.
const MAX_RESPONSE: usize = 16 * MIB;
/// The limit on the bytes of a message beside its body.
const MAX_ENVELOPE: usize = 256 << 10;

/// A JSON array of this many bytes, which begins with its number.
fn body(n: usize, bytes: usize) -> String {
    let start = format!("[{n},\"");
    format!("{start}{}\"]", "x".repeat(bytes - start.len() - 2))
}

/// Posts these bodies, and checks how many events each poll and each lease returns.
async fn check_batches(server: &Server, sent: &[String], expected: &[usize]) {
    for id in ["poll", "lease"] {
        let app = server.app(id).await;
        for body in sent {
            app.post(body.as_str()).await;
        }
        let (mut read, mut counts) = (0, Vec::new());
        while read < sent.len() {
            let bodies = if id == "poll" { app.poll_bodies().await } else { leased(&app).await };
            let expected = &sent[read..][..bodies.len()];
            assert!(!bodies.is_empty() && bodies == expected, "{id}: complete and in order");
            read += bodies.len();
            counts.push(bodies.len());
        }
        assert_eq!(counts, expected, "{id}");
    }
}

async fn leased(app: &App) -> Vec<String> {
    let events = app.lease(json!({})).await;
    events.into_iter().map(|event| String::from_utf8(event.body.to_vec()).unwrap()).collect()
}

#[tokio::test]
async fn a_response_has_at_most_16_mib_of_events() {
    let server = Server::start(&[]);
    let sent: Vec<_> = (0..6).map(|n| body(n, 7 * MIB / 2)).collect();
    check_batches(&server, &sent, &[4, 2]).await;
}

#[tokio::test]
async fn an_event_over_the_response_limit_is_returned_alone() {
    let server = Server::start(&["--max-body", "20MiB"]);
    let sent = [body(0, 100), body(1, MAX_RESPONSE + MIB), body(2, 100)];
    check_batches(&server, &sent, &[1, 1, 1]).await;
}

/// The worst case that a sender can cause: headers in which JSON escapes every character.
#[tokio::test]
async fn a_message_has_at_most_256_kib_beside_its_body() {
    let server = Server::start(&["--max-body", "64KiB"]);
    let app = server.app("bot").await;
    let body = body(0, 64 << 10);
    let (path, signature) = (app.hook_path(), sign(&app.secret, &body));
    let headers: Vec<_> = (0..7).map(|n| format!("x-{n}: {}\r\n", "\"".repeat(8 << 10))).collect();
    let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\nx-outbound-token: {signature}\r\n");
    let request = format!("{head}{}content-length: {}\r\n\r\n{body}", headers.concat(), body.len());
    let mut connection = app.raw().await;
    connection.send(request).await;
    assert_eq!(connection.response().await.status, 201);

    let (mut socket, _) = app.listen_v2("").await;
    let message = socket.next().await;
    let event: Value = serde_json::from_str(&message).unwrap();
    assert_eq!(event["headers"].as_array().unwrap().len(), 7 + 3);
    let envelope = message.len() - body.len();
    assert!(envelope > 100 << 10, "the headers are escaped: {envelope}");
    assert!(envelope <= MAX_ENVELOPE, "{envelope}");
    drop(socket);
    let mut socket = app.listen("").await;
    assert!(socket.next().await.len() <= body.len() + 100, "a legacy message has no headers");
}
