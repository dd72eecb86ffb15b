//! Receiving webhooks: `POST /hook/{appId}`.

use crate::common::{App, Raw, Server, empty, problem, problem_body, raw, sign};

const EVENT: &str = r#"{"type":"message-created","spaceId":"a"}"#;

#[tokio::test]
async fn an_event_is_answered_201_with_an_empty_body() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let response = app.hook(EVENT).send().await.unwrap();
    assert!(!response.headers().contains_key("x-outbound-token"));
    empty(response, 201).await;
    assert_eq!(app.poll_bodies().await, [EVENT]);
}

#[tokio::test]
async fn the_signature_is_the_hex_hmac_of_the_raw_body() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let valid = sign(&app.secret, EVENT);
    let other_secret = sign("other", EVENT);
    let other_body = sign(&app.secret, EVENT.replace("\"a\"", "\"b\""));
    let spaced_body = sign(&app.secret, EVENT.replace(':', ": "));
    let (prefixed, longer) = (format!("sha256={valid}"), format!("{valid}0"));
    for invalid in [
        "",
        "0",
        &valid[..63],
        &valid[..2],
        &other_secret,
        &other_body,
        &spaced_body,
        &prefixed,
        &longer,
        "é",
    ] {
        let post = app.bare_hook().header("X-OUTBOUND-TOKEN", invalid.as_bytes()).body(EVENT);
        let detail = problem(post.send().await.unwrap(), 401).await;
        assert!(detail.contains("signature") || detail.contains("X-OUTBOUND-TOKEN"), "{detail}");
        assert!(!detail.contains(&valid), "{detail}");
    }
    problem(app.bare_hook().body(EVENT).send().await.unwrap(), 401).await;
    let twice = app.hook(EVENT).header("X-OUTBOUND-TOKEN", sign("other", EVENT));
    problem(twice.send().await.unwrap(), 401).await;
    let with_token = app.bare_hook().bearer_auth(&app.token).body(EVENT);
    problem(with_token.send().await.unwrap(), 401).await;
    assert_eq!(app.poll_text("").await, "{}", "an unverified body is not stored");
    let upper = app.bare_hook().header("X-OUTBOUND-TOKEN", valid.to_uppercase()).body(EVENT);
    empty(upper.send().await.unwrap(), 201).await;
    app.post(EVENT).await;
}

#[tokio::test]
async fn the_signature_is_keyed_with_the_bytes_of_the_secret() {
    let server = Server::start(&[]);
    let mut app = server.app("bot").await;
    for secret in ["k", " spaced ", "Zoë 🎉", "\u{0}\u{1}\"\\\n", &"long".repeat(1000)] {
        app.register(secret).await;
        app.secret = secret.into();
        app.post(EVENT).await;
    }
}

#[tokio::test]
async fn an_unregistered_app_is_404_before_signature_json_and_size_are_checked() {
    let server = Server::start(&["--max-body", "1KiB"]);
    let app = server.new_app("bot").await;
    problem(app.hook(EVENT).send().await.unwrap(), 404).await;
    problem(app.bare_hook().body(EVENT).send().await.unwrap(), 404).await;
    problem(app.bare_hook().body("not JSON").send().await.unwrap(), 404).await;
    problem(app.bare_hook().body("x".repeat(4 << 20)).send().await.unwrap(), 404).await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_before_its_signature_is_checked() {
    let server = Server::start(&["--max-body", "1KiB"]);
    let app = server.app("bot").await;
    let fitting = format!("[\"{}\"]", "x".repeat(1024 - 4));
    app.post(fitting.clone()).await;
    let over = format!("{fitting} ");
    problem(app.hook(over.clone()).send().await.unwrap(), 413).await;
    problem(app.bare_hook().body(over).send().await.unwrap(), 413).await;
    problem(app.bare_hook().body("x".repeat(2000)).send().await.unwrap(), 413).await;
    assert_eq!(app.poll_bodies().await, [fitting]);
}

#[tokio::test]
async fn the_signature_is_checked_before_the_json() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    problem(app.bare_hook().body("not JSON").send().await.unwrap(), 401).await;
    problem(app.hook("not JSON").send().await.unwrap(), 400).await;
}

/// A signed webhook in the chunked transfer coding.
fn chunked(app: &App, pieces: &[&[u8]]) -> Vec<u8> {
    let (path, signature) = (app.hook_path(), sign(&app.secret, pieces.concat()));
    let mut request =
        format!("POST {path} HTTP/1.1\r\nhost: x\r\nx-outbound-token: {signature}\r\ntransfer-encoding: chunked\r\n\r\n")
            .into_bytes();
    for piece in pieces {
        request.extend(format!("{:x}\r\n", piece.len()).into_bytes());
        request.extend_from_slice(piece);
        request.extend(b"\r\n");
    }
    request.extend(b"0\r\n\r\n");
    request
}

#[tokio::test]
async fn a_chunked_body_is_accepted_within_the_limit() {
    let server = Server::start(&["--max-body", "64KiB"]);
    let app = server.app("bot").await;
    assert_eq!(raw(&app.address, chunked(&app, &[b"[1,", b"2]"])).await.status, 201);
    assert_eq!(app.poll_bodies().await, ["[1,2]"]);
    let fitting = format!("[{}]", " ".repeat((64 << 10) - 2));
    let (first, second) = fitting.as_bytes().split_at(40_000);
    assert_eq!(raw(&app.address, chunked(&app, &[first, second])).await.status, 201);
    assert_eq!(raw(&app.address, chunked(&app, &[first, second, b" "])).await.status, 413);
    assert_eq!(app.poll_bodies().await, [fitting]);
}

/// The sender writes its whole body before it reads; the body is larger than the socket buffers.
#[tokio::test]
async fn the_sender_of_an_oversized_body_gets_413_instead_of_a_reset() {
    let server = Server::start(&["--max-body", "64KiB"]);
    let app = server.app("bot").await;
    let huge = vec![b'x'; 8 << 20];
    for _ in 0..5 {
        problem(app.bare_hook().body(huge.clone()).send().await.unwrap(), 413).await;
        let answer = raw(&app.address, chunked(&app, &[&huge[..4 << 20], &huge[..4 << 20]])).await;
        assert_eq!(answer.status, 413);
        problem_body(&answer.body, 413);
    }
    assert_eq!(app.poll_text("").await, "{}");
}

#[tokio::test]
async fn expect_100_continue_for_an_oversized_body_is_answered_413_at_once() {
    let server = Server::start(&["--max-body", "64KiB"]);
    let app = server.app("bot").await;
    let request = format!(
        "POST {} HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 99999999999\r\n\r\n",
        app.hook_path()
    );
    let mut connection = Raw::open(&app.address).await;
    connection.send(request).await;
    assert_eq!(connection.response().await.status, 413);
}

#[tokio::test]
async fn a_truncated_body_is_not_stored() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let (path, signature) = (app.hook_path(), sign(&app.secret, "{}"));
    let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\nx-outbound-token: {signature}\r\n");
    for rest in ["content-length: 3\r\n\r\n{}", "transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n"] {
        let mut connection = Raw::open(&app.address).await;
        connection.send(format!("{head}{rest}")).await;
        tokio::io::AsyncWriteExt::shutdown(&mut connection.0).await.unwrap();
        let answer = String::from_utf8(connection.rest().await).unwrap();
        assert!(!answer.contains(" 201 "), "{answer}");
    }
    assert_eq!(app.poll_text("").await, "{}");
}

#[tokio::test]
async fn the_body_must_be_a_json_object_or_array() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    for bad in [
        "",
        " ",
        "x",
        "7",
        "null",
        "true",
        "\"{}\"",
        "{",
        "}",
        "{}{}",
        "{},",
        "[1,]",
        "{'a':1}",
        "{\"a\"}",
        "\u{feff}{}",
        "\u{a0}{}",
        "[\u{1}\"\"]",
        "[\"\u{1}\"]",
        "[01]",
        "[.5]",
        "[NaN]",
        "{\"a\":1}\u{0}",
        "[\"\\x\"]",
        "a=b&c=d",
    ] {
        problem(app.hook(bad).send().await.unwrap(), 400).await;
    }
    for bad in
        [b"[\"\xff\"]".as_slice(), b"[\"\xed\xa0\x80\"]", b"{\"\xc3\":1}", b"[]\xe9", b"\x1f\x8b\x08\x00"]
    {
        problem(app.hook(bad).send().await.unwrap(), 400).await;
    }
    assert_eq!(app.poll_text("").await, "{}");
}

#[tokio::test]
async fn the_content_type_of_a_webhook_is_ignored() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let kinds = [
        "application/json",
        "application/json;charset=UTF-8",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "",
        "nonsense",
        "application/json; charset=utf-16",
    ];
    for kind in kinds {
        let header = ("Content-Type", kind);
        problem(app.bare_hook().header(header.0, header.1).body(EVENT).send().await.unwrap(), 401).await;
        empty(app.hook(EVENT).header(header.0, header.1).send().await.unwrap(), 201).await;
        problem(app.hook("x").header(header.0, header.1).send().await.unwrap(), 400).await;
    }
    app.post(EVENT).await;
    assert_eq!(app.poll_bodies().await, vec![EVENT; kinds.len() + 1]);
}

#[tokio::test]
async fn the_headers_index_and_retry_count_are_stored_with_the_event() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let post = app.indexed(7, EVENT).header("X-OUTBOUND-RETRY-COUNT", "3");
    empty(post.send().await.unwrap(), 201).await;
    let events = app.lease(serde_json::json!({})).await;
    let headers = &events[0].details.headers;
    assert!(headers.contains(&("x-outbound-retry-count".into(), "3".into())), "{headers:?}");
    assert!(headers.contains(&("x-outbound-index".into(), "7".into())), "{headers:?}");
}
