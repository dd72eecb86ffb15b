//! Bytes in = bytes out: a body of any kind reaches every kind of client as its sender sent it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::Method;
use serde_json::{Value, json};

use crate::common::{App, Server, empty, eventually};

/// Posts a body to the source `any`, whose scheme is GitHub's.
async fn post(app: &App, kind: Option<&str>, encoding: Option<&str>, body: &[u8]) {
    let mut post = app.github("any", "s", body);
    if let Some(kind) = kind {
        post = post.header("Content-Type", kind);
    }
    if let Some(encoding) = encoding {
        post = post.header("Content-Encoding", encoding);
    }
    empty(post.send().await.unwrap(), 201).await;
}

/// The body in `data` of a message.
fn decode(encoding: &str, data: &str) -> Vec<u8> {
    match encoding {
        "json" => data.as_bytes().to_vec(),
        "text" => serde_json::from_str::<String>(data).unwrap().into_bytes(),
        "base64" => STANDARD.decode(serde_json::from_str::<String>(data).unwrap()).unwrap(),
        other => panic!("{other}"),
    }
}

/// The text of `data`, the last member of a message.
fn data(message: &str) -> &str {
    let end = message.len() - message.chars().rev().take_while(|c| "]}".contains(*c)).count().min(1);
    let start = message.find(r#","data":"#).unwrap() + 8;
    &message[start..end]
}

/// Checks the event that was posted last by lease, legacy websocket, `wwproxy.v2` and poll.
async fn check(app: &App, encoding: &str, kind: Option<&str>, body: &[u8]) {
    let name = format!("{encoding}, {kind:?}, {}", String::from_utf8_lossy(&body[..body.len().min(60)]));
    let text = app.lease_response(json!({})).await.text().await.unwrap();
    let event = text.strip_prefix(r#"{"events":["#).unwrap().strip_suffix("]}").unwrap();
    assert!(decode(encoding, data(event)) == body, "lease: {name}");
    let leased: Value = serde_json::from_str(event).unwrap();
    assert_eq!(
        (leased["encoding"].as_str(), leased["contentType"].as_str()),
        (Some(encoding), kind),
        "{name}"
    );
    let client = wwproxy_protocol::api::decode_lease(&text).unwrap();
    assert!(client.events[0].body == body, "the client's parser: {name}");
    app.settle(json!({"release": [leased["receipt"]]})).await;

    let (mut v2, _) = app.listen_v2("").await;
    let message = v2.next().await;
    let event: Value = serde_json::from_str(&message).unwrap();
    assert_eq!((event["encoding"].as_str(), event["contentType"].as_str()), (Some(encoding), kind), "{name}");
    assert!(decode(encoding, data(&message)) == body, "wwproxy.v2: {name}");
    drop(v2);

    let mut legacy = app.listen("").await;
    let message = legacy.next().await;
    let event: Value = serde_json::from_str(&message).unwrap();
    let is_base64 = encoding == "base64";
    assert_eq!(event.get("encoding"), is_base64.then_some(&json!("base64")), "{name}");
    let members = event.as_object().unwrap().len();
    assert_eq!(members, if is_base64 { 4 } else { 3 }, "a legacy message has no other members: {name}");
    let legacy_data = data(&message).to_owned();
    let expected = match body.strip_prefix(b"\xef\xbb\xbf") {
        Some(json) if serde_json::from_slice::<Value>(json).is_ok() => json,
        _ => body,
    };
    let as_json = if expected.len() < body.len() { "json" } else { encoding };
    assert!(decode(as_json, &legacy_data) == expected, "legacy: {name}");
    drop(legacy);

    eventually("the lease is released", async || app.gauge("leased").await == 0).await;
    let polled = app.poll_text("").await;
    let value = &polled[polled.find("\":").unwrap() + 2..polled.len() - 1];
    if is_base64 {
        assert!(value == format!(r#"{{"encoding":"base64","data":{legacy_data}}}"#), "poll: {name}");
    } else {
        assert!(value == legacy_data, "poll: {name}");
    }
}

/// A gzip file that `gzip` accepts: one stored block with the text `hello`.
const GZIP: &[u8] = &[
    0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255, 1, 5, 0, 0xfa, 0xff, b'h', b'e', b'l', b'l', b'o', 0x86, 0xa6,
    0x10, 0x36, 5, 0, 0, 0,
];

#[tokio::test]
async fn each_kind_of_body_reaches_each_kind_of_client_byte_for_byte() {
    let server = Server::start(&[]);
    let app = server.new_app("bot").await;
    app.new_source("any", json!({"scheme": "github", "secrets": ["s"]})).await;
    let multipart = "--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n\u{e9}\r\n--x--\r\n";
    let xml = "<?xml version=\"1.0\"?>\r\n<a b='\"'>\u{20ac}</a>\n";
    for (encoding, kind, body) in [
        ("json", Some("application/json"), &b" {\"b\" : 1.50,\t\"a\":1E3,\"a\":\"\\u0041\"}\r\n"[..]),
        ("json", Some("text/plain"), b"\"{}\""),
        ("json", None, b"0"),
        ("text", Some("application/x-www-form-urlencoded"), b"payload=%7B%7D&a=+%22&a="),
        ("text", Some("multipart/form-data; boundary=x"), multipart.as_bytes()),
        ("text", Some("application/xml; charset=utf-8"), xml.as_bytes()),
        ("text", Some("application/json"), b"{'not': 'JSON'}"),
        ("text", Some("application/json"), b"\xef\xbb\xbf{\"a\": 1}"),
        ("text", None, b"\xef\xbb\xbfa"),
        ("text", Some("text/html"), b"<script>alert(\"1\")</script>\x00\x1b[2J\x7f"),
        ("text", None, b""),
        ("base64", Some("text/plain; charset=iso-8859-1"), b"caf\xe9"),
        ("base64", Some("application/json"), b"{\"a\":\"\xff\"}"),
        ("base64", Some("application/octet-stream"), &[0, 159, 146, 150]),
    ] {
        post(&app, kind, None, body).await;
        check(&app, encoding, kind, body).await;
    }
    post(&app, Some("application/json"), Some("gzip"), GZIP).await;
    check(&app, "base64", Some("application/json"), GZIP).await;
    // The signature is over the bytes as sent, so a body is never inflated.
    let wrong = app.source_hook(Method::POST, "any").header("Content-Encoding", "gzip").body(GZIP);
    let signature = format!("sha256={}", crate::common::sign("s", "hello"));
    assert_eq!(wrong.header("X-Hub-Signature-256", signature).send().await.unwrap().status(), 401);
}

#[tokio::test]
async fn bodies_of_5_mib_reach_each_kind_of_client_byte_for_byte() {
    let server = Server::start(&[]);
    let app = server.new_app("bot").await;
    app.new_source("any", json!({"scheme": "github", "secrets": ["s"]})).await;
    let json = format!("[\"{}\"]", "x\u{20ac}".repeat((5 << 20) / 4));
    let text = "a=\"\\\u{1}\r\n".repeat(3).into_bytes().repeat(1 << 10);
    let text = [text.as_slice(), &vec![b'y'; 5 << 20]].concat();
    let binary: Vec<u8> = (0..5 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for (encoding, body) in [("json", json.as_bytes()), ("text", &text), ("base64", &binary)] {
        post(&app, Some("a/b"), None, body).await;
        check(&app, encoding, Some("a/b"), body).await;
    }
}

#[tokio::test]
async fn the_content_encoding_is_delivered_with_the_headers() {
    let server = Server::start(&[]);
    let app = server.new_app("bot").await;
    app.new_source("any", json!({"scheme": "github", "secrets": ["s"]})).await;
    post(&app, None, Some("gzip"), GZIP).await;
    let events = app.lease(json!({})).await;
    assert!(events[0].details.headers.contains(&("content-encoding".into(), "gzip".into())));
}
