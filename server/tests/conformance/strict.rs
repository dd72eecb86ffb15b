//! Requests that HTTP servers may parse differently (request smuggling) are rejected on every path.

use crate::common::{Raw, RawResponse, Server, problem_body, raw, sign};

/// Checks that a request gets this error, and that the connection is closed after it.
async fn check_rejected(address: &str, request: &str, status: u16) {
    let mut connection = Raw::open(address).await;
    connection.send(request).await;
    let RawResponse { status: actual, head, body } = connection.response().await;
    assert_eq!(actual, status, "{request:?}: {body}");
    assert!(head.contains("content-type: application/problem+json\r\n"), "{head}");
    assert!(head.contains("connection: close\r\n"), "{head}");
    problem_body(&body, status);
    assert_eq!(connection.rest().await, b"");
}

#[tokio::test]
async fn a_request_without_exactly_one_valid_host_is_400() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    for valid in ["host: x", "HOST: proxy.example.com", "host: [::1]:8080", "host:x:1"] {
        let request = format!("GET /healthz HTTP/1.1\r\n{valid}\r\n\r\n");
        assert_eq!(raw(&server.address, request).await.status, 200, "{valid}");
    }
    for bad in [
        "",
        "host:\r\n",
        "host: x\r\nhost: x\r\n",
        "host: x\r\nHost: y\r\n",
        "host: a b\r\n",
        "host: a,b\r\n",
        "host: user@x\r\n",
        "host: x/y\r\n",
        "host: x:y\r\n",
        "host: \u{e4}\r\n",
    ] {
        check_rejected(&server.address, &format!("GET /healthz HTTP/1.1\r\n{bad}\r\n"), 400).await;
        let (path, signature) = (app.hook_path(), sign(&app.secret, "{}"));
        let hook = format!(
            "POST {path} HTTP/1.1\r\n{bad}x-outbound-token: {signature}\r\ncontent-length: 2\r\n\r\n{{}}"
        );
        check_rejected(&server.address, &hook, 400).await;
    }
    assert_eq!(app.gauge("stored").await, 0);
    // HTTP/1.0 needs no Host, but two are invalid there too.
    assert_eq!(raw(&server.address, "GET /healthz HTTP/1.0\r\n\r\n").await.status, 200);
    check_rejected(&server.address, "GET /healthz HTTP/1.0\r\nhost: x\r\nhost: x\r\n\r\n", 400).await;
}

#[tokio::test]
async fn a_transfer_coding_other_than_chunked_is_501() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let hook = |coding: &str| {
        let (path, signature) = (app.hook_path(), sign(&app.secret, "{}"));
        format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nx-outbound-token: {signature}\r\n{coding}\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n"
        )
    };
    for bad in [
        "transfer-encoding: gzip, chunked",
        "transfer-encoding: identity, chunked",
        "transfer-encoding: chunked, chunked",
        "transfer-encoding: gzip\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
    ] {
        check_rejected(&server.address, &hook(bad), 501).await;
    }
    assert_eq!(app.gauge("stored").await, 0);
    for valid in ["transfer-encoding: chunked", "Transfer-Encoding:  Chunked "] {
        assert_eq!(raw(&server.address, hook(valid)).await.status, 201, "{valid}");
    }
}

/// The HTTP library answers these before any route.
#[tokio::test]
async fn a_parse_error_is_an_empty_response_and_closes_the_connection() {
    let server = Server::start(&[]);
    let long = "x".repeat(70_000);
    for (status, request) in [
        (400, "GET\r\n\r\n".to_owned()),
        (400, "GET /healthz HTTP/1.1\r\nhost: x\r\na b: c\r\n\r\n".into()),
        (400, "POST /hook/bot HTTP/1.1\r\nhost: x\r\ncontent-length: x\r\n\r\n".into()),
        // The length of the body is unknown (RFC 9112, section 6.3).
        (400, "POST /hook/bot HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\n".into()),
        (400, "POST /hook/bot HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked, gzip\r\n\r\n".into()),
        (431, format!("GET /healthz HTTP/1.1\r\nhost: x\r\na: {long}{long}{long}{long}\r\n\r\n")),
        (431, format!("GET /healthz HTTP/1.1\r\nhost: x\r\n{}\r\n", "a: b\r\n".repeat(101))),
    ] {
        let mut connection = Raw::open(&server.address).await;
        connection.send(&request).await;
        let answer = connection.response().await;
        let start = request.chars().take(80).collect::<String>();
        assert_eq!((answer.status, answer.body.as_str()), (status, ""), "{start:?}");
        assert_eq!(connection.rest().await, b"", "{start:?}");
    }
}
