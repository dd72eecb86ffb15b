//! App ids, paths, methods, and the format of errors.

use reqwest::Method;

use crate::common::{Raw, Server, empty, number, problem, problem_body, raw};

#[tokio::test]
async fn an_app_id_is_1_to_128_letters_digits_dots_underscores_and_dashes() {
    let server = Server::start(&[]);
    for id in ["a", "0c1d2e3f-4a5b-4c6d-8e7f-9a0b1c2d3e4f", "A.b_c-9", "..a", "-", &"x".repeat(128)] {
        let app = server.app(id).await;
        app.post("{}").await;
        assert_eq!(app.poll_bodies().await, ["{}"], "{id}");
    }
}

#[tokio::test]
async fn an_invalid_app_id_is_404_with_and_without_a_token() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post("{}").await;
    let long = "x".repeat(129);
    for id in [
        "",
        ".",
        "..",
        "%62ot",
        "bot%20",
        "bot%00",
        "bot%2Fx",
        "bot%2f..%2fbot",
        "%2e%2e",
        "b%C3%B4t",
        "bot+",
        "b~t",
        "b:t",
        "b@t",
        "bot;x",
        "bot,bot",
        "bot*",
        "bot%",
        "bot%zz",
        "bot'",
        "(bot)",
        "bot=",
        "bot&x",
        "!bot",
        &long,
    ] {
        for (method, path) in [
            ("POST", format!("/hook/{id}")),
            ("GET", format!("/webhooks/{id}")),
            ("PUT", format!("/webhooks/{id}")),
            ("DELETE", format!("/webhooks/{id}")),
            ("POST", format!("/webhooks/{id}/lease")),
            ("POST", format!("/webhooks/{id}/ack")),
            ("GET", format!("/webhooks/{id}/status")),
            ("GET", format!("/webhooks/{id}/sources")),
            ("PUT", format!("/webhooks/{id}/sources/a")),
            ("GET", format!("/webhooks/{id}/refusals")),
            ("POST", format!("/hook/{id}/default")),
        ] {
            for token in [format!("authorization: Bearer {}\r\n", app.token), String::new()] {
                let request =
                    format!("{method} {path} HTTP/1.1\r\nhost: x\r\n{token}content-length: 2\r\n\r\n{{}}");
                let answer = raw(&server.address, request).await;
                assert_eq!(answer.status, 404, "{method} {path}");
                problem_body(&answer.body, 404);
            }
        }
    }
    assert_eq!(app.poll_bodies().await, ["{}"]);
}

#[tokio::test]
async fn one_trailing_slash_is_accepted_and_two_are_404() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let post = |path: String| {
        app.hook("{}").build().map(|mut request| {
            request.url_mut().set_path(&path);
            app.http.execute(request)
        })
    };
    empty(post("/hook/bot/".into()).unwrap().await.unwrap(), 201).await;
    problem(post("/hook/bot//".into()).unwrap().await.unwrap(), 404).await;
    problem(post("/hook//bot".into()).unwrap().await.unwrap(), 404).await;
    problem(post("//hook/bot".into()).unwrap().await.unwrap(), 404).await;
    for (method, rest) in [
        (Method::HEAD, ""),
        (Method::GET, "/status"),
        (Method::GET, "/sources"),
        (Method::GET, "/sources/default"),
        (Method::GET, "/sources/default/arm"),
        (Method::GET, "/refusals"),
        (Method::POST, "/lease"),
        (Method::GET, ""),
    ] {
        let slashes = |slashes: &str| app.request(method.clone(), &format!("{rest}{slashes}")).send();
        assert_eq!(slashes("//").await.unwrap().status(), 404, "{method} {rest}");
        assert_eq!(slashes("/").await.unwrap().status(), 200, "{method} {rest}");
    }
    let mut socket = app.listen("/?window=1").await;
    app.post("[1]").await;
    assert_eq!(socket.event().await.1, "[1]");
}

#[tokio::test]
async fn a_query_string_is_not_part_of_the_app_id() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    for query in ["", "?", "?x", "?a=b&c", "?a/b", "?%2F", "?a?b", "/?a"] {
        let mut request = app.hook("{}").build().unwrap();
        let url = format!("http://{}/hook/bot{query}", app.address);
        *request.url_mut() = url.parse().unwrap();
        empty(app.http.execute(request).await.unwrap(), 201).await;
        assert_eq!(
            app.poll_text(query).await.len(),
            app.poll_text("").await.len() + 41,
            "one event: {query}"
        );
    }
}

#[tokio::test]
async fn an_unsupported_method_is_405_with_allow() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post(number(0)).await;
    let paths = [
        ("/hook/bot", vec!["POST"]),
        ("/webhooks/bot", vec!["GET", "HEAD", "PUT", "DELETE"]),
        ("/webhooks/bot/lease", vec!["POST"]),
        ("/webhooks/bot/ack", vec!["POST"]),
        ("/webhooks/bot/status", vec!["GET", "HEAD"]),
        ("/webhooks/bot/sources", vec!["GET", "HEAD"]),
        ("/webhooks/bot/sources/default", vec!["GET", "HEAD", "PUT", "DELETE"]),
        ("/webhooks/bot/sources/default/arm", vec!["GET", "HEAD", "POST"]),
        ("/webhooks/bot/refusals", vec!["GET", "HEAD"]),
        ("/hook/bot/default", vec!["POST"]),
        ("/hook/bot/default/a", vec!["POST"]),
        ("/oauth/token", vec!["POST"]),
        ("/graphql", vec!["POST"]),
        ("/.well-known/oauth-authorization-server", vec!["GET", "HEAD"]),
        ("/healthz", vec!["GET", "HEAD"]),
        ("/readyz", vec!["GET", "HEAD"]),
    ];
    for (path, supported) in paths {
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"] {
            if supported.contains(&method) {
                continue;
            }
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let request = server.http.request(method.clone(), server.url(path)).bearer_auth(&app.token);
            let response = request.body("{}").send().await.unwrap();
            let allow = response.headers().get("allow").unwrap_or_else(|| panic!("{method} {path}"));
            let mut allowed: Vec<_> = allow.to_str().unwrap().split(", ").collect();
            allowed.retain(|method| *method != "HEAD" || supported.contains(method));
            assert_eq!(allowed, supported, "{method} {path}");
            if method == Method::HEAD {
                assert_eq!(response.status(), 405);
            } else {
                problem(response, 405).await;
            }
        }
    }
    assert_eq!(app.poll_bodies().await, [number(0)]);
}

#[tokio::test]
async fn an_unknown_path_is_404() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    for path in [
        "/",
        "/hook",
        "/hook/",
        "/webhooks",
        "/webhooks/",
        "/hook/bot/x",
        "/webhooks/bot/x",
        "/Webhooks/bot",
        "/webhooks/bot/lease/x",
        "/webhooks/bot/sources/default/x",
        "/webhooks/bot/sources/default/arm/x",
        "/webhooks/bot/refusals/x",
        "/oauth",
        "/oauth/token/x",
        "/metrics",
        "/healthz/x",
        "/.well-known/",
        "/favicon.ico",
    ] {
        for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
            let request = server.http.request(method, server.url(path)).bearer_auth(&app.token).body("{}");
            problem(request.send().await.unwrap(), 404).await;
        }
    }
}

/// The body is larger than the socket buffers.
#[tokio::test]
async fn the_sender_of_a_large_body_gets_404_or_405_instead_of_a_reset() {
    let server = Server::start(&[]);
    for (path, status) in
        [("/hook/nobody", 404), ("/hook/b~t", 404), ("/hook/bot/x", 404), ("/", 404), ("/webhooks/bot", 405)]
    {
        let posted = server.http.post(server.url(path)).body(vec![b' '; 8 << 20]).send().await;
        problem(posted.unwrap_or_else(|error| panic!("{path}: {error:?}")), status).await;
    }
}

#[tokio::test]
async fn malformed_requests_and_requests_without_a_path_do_not_stop_the_server() {
    let mut server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post("{}").await;
    for line in [
        "CONNECT host:443",
        "CONNECT /webhooks/bot",
        "OPTIONS *",
        "GET *",
        "CONNECT [::1]:1",
        "OPTIONS http://x",
    ] {
        let request = format!("{line} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n", app.token);
        let answer = raw(&server.address, request).await;
        assert!((400..500).contains(&answer.status), "{line}: {answer:?}");
    }
    for nonsense in [
        "\r\n\r\n\r\n",
        "GET\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "\u{0}\u{1}\u{2}\r\n\r\n",
        "GET  /  HTTP/1.1\r\n\r\n",
        "POST /hook/bot HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        "GET /healthz HTTP/1.1\r\n: x\r\n\r\n",
        "POST /hook/bot HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n{}",
        "\x16\x03\x01\x02\x00\x01\x00\x01",
    ] {
        let mut connection = Raw::open(&server.address).await;
        connection.send(nonsense).await;
        tokio::io::AsyncWriteExt::shutdown(&mut connection.0).await.unwrap();
        let answer = String::from_utf8(connection.rest().await).unwrap();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{nonsense:?}: {answer}");
    }
    let many = "x-a: b\r\n".repeat(500);
    assert!(raw(&server.address, format!("GET /healthz HTTP/1.1\r\n{many}\r\n")).await.status >= 400);
    let absolute = format!(
        "GET http://proxy.example{} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n",
        app.path(""),
        app.token
    );
    assert!(
        raw(&server.address, absolute).await.body.ends_with("\":{}}"),
        "the absolute form of a request target"
    );
    assert!(server.is_running());
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

/// Every error that an unauthenticated peer, a sender or a client can cause.
#[tokio::test]
async fn no_error_contains_a_secret_a_token_or_a_signature() {
    let server = Server::start(&["--max-queued-events", "1", "--max-body", "1KiB"]);
    let app = server.app("bot").await;
    let other = server.app("other").await;
    app.post("{}").await;
    let signature = |body: &str| crate::common::sign(&app.secret, body);
    let requests = [
        (401, app.bare_hook().header("X-OUTBOUND-TOKEN", "abc").body("{}")),
        (400, app.hook("nonsense")),
        (413, app.hook("x".repeat(2000))),
        (503, app.hook("[1]")),
        (400, app.hook(r#"{"type":"verification"}"#)),
        (401, app.anonymous(Method::GET, "").bearer_auth(&other.token)),
        (401, app.anonymous(Method::GET, "").bearer_auth("nonsense.token.here")),
        (400, app.request(Method::PUT, "").body(r#"{"secret":["hush-hush"]}"#)),
        (400, app.request(Method::POST, "/ack").body(r#"{"ack":"hush-hush"}"#)),
        (405, app.request(Method::PATCH, "")),
        (404, app.request(Method::GET, "/x")),
        (
            401,
            server
                .http
                .post(server.url("/oauth/token"))
                .basic_auth("bot", Some("hush-hush"))
                .body("grant_type=client_credentials"),
        ),
        (
            400,
            server
                .http
                .post(server.url("/oauth/token"))
                .basic_auth("bot", Some(&app.app_secret))
                .body("x=hush-hush"),
        ),
        (401, server.http.post(server.url("/graphql")).bearer_auth("hush-hush").body("{ me { id } }")),
    ];
    for (status, request) in requests {
        let response = request.send().await.unwrap();
        let headers = format!("{:?}", response.headers());
        let text = headers + &problem(response, status).await;
        for secret in [
            &app.secret,
            &app.app_secret,
            &app.token,
            &other.token,
            "hush-hush",
            "nonsense",
            &signature("{}"),
            &signature("nonsense"),
            &signature("[1]"),
            "src/",
            ".rs:",
            "panicked",
        ] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
}
