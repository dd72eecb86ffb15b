//! Verification requests: `{"type":"verification","challenge":C}` on `POST /hook/{appId}`.

use crate::common::{Server, empty, problem, sign};

#[tokio::test]
async fn a_challenge_gets_a_signed_response() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    for (challenge, expected) in [
        (r#"{"type":"verification","challenge":"abc"}"#, r#"{"response":"abc"}"#),
        (r#"{"challenge":"","type":"verification"}"#, r#"{"response":""}"#),
        (" { \"more\" : [] , \"challenge\" : \"a\" , \"type\" : \"verification\" } ", r#"{"response":"a"}"#),
        (r#"{"type":"verification","challenge":"Zoë 🎉"}"#, r#"{"response":"Zoë 🎉"}"#),
    ] {
        let response = app.hook(challenge).send().await.unwrap();
        assert_eq!(response.status(), 200, "{challenge}");
        assert_eq!(response.headers()["content-type"], "application/json; charset=utf-8");
        let signature = response.headers()["x-outbound-token"].to_str().unwrap().to_owned();
        let body = response.text().await.unwrap();
        assert_eq!(body, expected);
        assert_eq!(signature, sign(&app.secret, &body));
    }
    assert_eq!(app.poll_text("").await, "{}", "a verification is not stored");
}

#[tokio::test]
async fn a_challenge_with_json_escapes_is_returned_as_the_same_string() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    for challenge in [r#""a\"b\\c\/d\n""#, r#""\u0041\ud83c\udf89""#, r#""\u0000""#, r#""</script>""#] {
        let body = format!(r#"{{"type":"verification","challenge":{challenge}}}"#);
        let response = app.hook(body).send().await.unwrap();
        assert_eq!(response.status(), 200, "{challenge}");
        let answer: serde_json::Value = response.json().await.unwrap();
        let expected: serde_json::Value = serde_json::from_str(challenge).unwrap();
        assert_eq!(answer, serde_json::json!({"response": expected}));
    }
}

#[tokio::test]
async fn a_verification_without_a_string_as_challenge_is_400() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    for bad in [
        r#"{"type":"verification"}"#,
        r#"{"type":"verification","challenge":null}"#,
        r#"{"type":"verification","challenge":7}"#,
        r#"{"type":"verification","challenge":["a"]}"#,
        r#"{"type":"verification","challenge":{"a":"b"}}"#,
        r#"{"type":"verification","Challenge":"a"}"#,
    ] {
        let detail = problem(app.hook(bad).send().await.unwrap(), 400).await;
        assert!(detail.contains("challenge"), "{detail}");
    }
    assert_eq!(app.poll_text("").await, "{}");
}

#[tokio::test]
async fn a_verification_with_a_missing_or_wrong_signature_is_401() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let body = r#"{"type":"verification","challenge":"abc"}"#;
    let response = app.bare_hook().body(body).send().await.unwrap();
    assert!(!response.headers().contains_key("x-outbound-token"));
    problem(response, 401).await;
    let post = app.bare_hook().header("X-OUTBOUND-TOKEN", sign("other", body)).body(body);
    problem(post.send().await.unwrap(), 401).await;
}

/// JSON as JavaScript reads it, in which the original proxy was written: escapes in `type` are decoded, and the
/// last of two equal members counts.
#[tokio::test]
async fn a_body_without_type_verification_is_an_event() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let events = [
        r#"[{"type":"verification","challenge":"a"}]"#,
        r#"{"type":"Verification","challenge":"a"}"#,
        r#"{"type":["verification"],"challenge":"a"}"#,
        r#"{"type":"verification","challenge":"a","type":"message-created"}"#,
        r#"{"data":{"type":"verification","challenge":"a"}}"#,
    ];
    for event in events {
        app.post(event).await;
    }
    assert_eq!(app.poll_bodies().await, events);
    for challenge in [
        r#"{"type":"verific\u0061tion","challenge":"a"}"#,
        r#"{"type":"message-created","type":"verification","challenge":"b","challenge":"a"}"#,
    ] {
        let response = app.hook(challenge).send().await.unwrap();
        assert_eq!(response.text().await.unwrap(), r#"{"response":"a"}"#);
    }
}

#[tokio::test]
async fn a_verification_is_not_deduplicated_and_needs_no_room_in_the_queue() {
    let server = Server::start(&["--max-queued-events", "1"]);
    let app = server.app("bot").await;
    app.post("{}").await;
    for _ in 0..3 {
        let post = app.indexed(1, r#"{"type":"verification","challenge":"a"}"#);
        assert_eq!(post.send().await.unwrap().status(), 200, "with an index and a full queue");
    }
    empty(app.request(reqwest::Method::HEAD, "").send().await.unwrap(), 200).await;
}
