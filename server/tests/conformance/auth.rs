//! Who may call what: the token.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::{Method, RequestBuilder};

use crate::common::{
    App, Server, empty, eventually, handshake_headers, handshake_text, number, problem, raw,
};

/// Every request of a client that needs its token, without one.
fn client_requests(app: &App) -> Vec<RequestBuilder> {
    let [mut upgrade, mut tap] = ["", "?tap=1"].map(|query| app.anonymous(Method::GET, query));
    for (name, value) in handshake_headers() {
        upgrade = upgrade.header(name, value);
        tap = tap.header(name, value);
    }
    vec![
        app.anonymous(Method::GET, ""),
        app.anonymous(Method::GET, "?max=1"),
        app.anonymous(Method::GET, "?tap=1"),
        app.anonymous(Method::PUT, "").body(r#"{"secret":"stolen"}"#),
        app.anonymous(Method::DELETE, ""),
        app.anonymous(Method::POST, "/lease").body("{}"),
        app.anonymous(Method::POST, "/ack").body("{}"),
        app.anonymous(Method::GET, "/status"),
        upgrade,
        tap,
    ]
}

/// An app with three events, which must still be there untouched.
async fn untouched(app: &App) {
    app.post(number(3)).await;
    assert_eq!(app.gauge("leased").await, 0);
    assert_eq!(app.poll_bodies().await, (0..4).map(number).collect::<Vec<_>>());
}

#[tokio::test]
async fn without_a_good_token_every_request_of_a_client_is_401() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let stranger = server.app("other").await;
    app.post_numbers(0..3).await;
    let token = &app.token;
    let (short, long) = (&token[..token.len() - 1], format!("{token}A"));
    for authorization in [
        String::new(),
        "Bearer".into(),
        "Bearer ".into(),
        "Bearer x".into(),
        token.clone(),
        format!("Basic {token}"),
        format!("Bearer{token}"),
        format!("Bearer {token} x"),
        format!("Bearer {token},{token}"),
        format!("Bearer {short}"),
        format!("Bearer {long}"),
        format!("Bearer {}", stranger.token),
        format!("Bearer {}", app.app_secret),
        format!("Bearer \"{token}\""),
        "Bearer é".into(),
        format!("token {token}"),
    ] {
        for request in client_requests(&app) {
            let refused = request.header("Authorization", authorization.as_bytes()).send().await.unwrap();
            assert_eq!(refused.headers()["www-authenticate"], "Bearer");
            problem(refused, 401).await;
        }
    }
    for request in client_requests(&app) {
        problem(request.send().await.unwrap(), 401).await;
    }
    let twice = app.anonymous(Method::GET, "").bearer_auth(&stranger.token).bearer_auth(token);
    problem(twice.send().await.unwrap(), 401).await;
    let as_query = app.anonymous(Method::GET, &format!("?access_token={token}"));
    problem(as_query.send().await.unwrap(), 401).await;
    untouched(&app).await;
}

/// The body is more than the sockets' buffers hold.
#[tokio::test]
async fn who_is_refused_sees_the_401_and_not_a_reset() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    for (method, path, token) in [
        (Method::PUT, "/webhooks/bot", "nonsense"),
        (Method::DELETE, "/webhooks/bot", "nonsense"),
        (Method::POST, "/webhooks/bot/lease", "nonsense"),
        (Method::POST, "/webhooks/bot/ack", "nonsense"),
        (Method::POST, "/webhooks/bot/ack", ""),
        (Method::POST, "/graphql", ""),
    ] {
        let request = server.http.request(method.clone(), server.url(path)).bearer_auth(token);
        let refused = request.body(vec![b' '; 8 << 20]).send().await;
        problem(refused.unwrap_or_else(|error| panic!("{method} {path}: {error:?}")), 401).await;
    }
    app.status().await;
}

#[tokio::test]
async fn bearer_matches_without_regard_to_case_with_any_run_of_spaces() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    for scheme in ["Bearer ", "bearer ", "BEARER ", "bEaReR ", "Bearer  ", "bearer         "] {
        let request =
            app.anonymous(Method::GET, "").header("Authorization", format!("{scheme}{}", app.token));
        assert_eq!(request.send().await.unwrap().status(), 200, "{scheme:?}");
    }
    let mut upgrade = app.anonymous(Method::GET, "");
    for (name, value) in handshake_headers() {
        upgrade = upgrade.header(name, value);
    }
    let upgrade = upgrade.header("Authorization", format!("bearer   {}", app.token));
    assert_eq!(upgrade.send().await.unwrap().status(), 101);
}

#[tokio::test]
async fn a_token_of_another_app_is_401() {
    let server = Server::start(&[]);
    let (app, similar) = (server.app("bot").await, server.app("Bot").await);
    app.post_numbers(0..3).await;
    for request in client_requests(&app) {
        problem(request.bearer_auth(&similar.token).send().await.unwrap(), 401).await;
    }
    untouched(&app).await;
}

#[tokio::test]
async fn a_forged_token_is_401() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let elsewhere = Server::start(&[]).app("bot").await;
    let [header, claims, signature] = app.token.split('.').collect::<Vec<_>>()[..] else { panic!() };
    let mut later: serde_json::Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    later["exp"] = 9_999_999_999_u64.into();
    let later = URL_SAFE_NO_PAD.encode(later.to_string());
    let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
    for forged in [
        elsewhere.token.clone(),
        format!("{header}.{later}.{signature}"),
        format!("{none}.{later}."),
        format!("{none}.{claims}.{signature}"),
        format!("{header}.{claims}."),
        format!("{header}.{claims}"),
        format!("{claims}.{signature}"),
        format!(".{claims}.{signature}"),
        "..".into(),
        ".".into(),
    ] {
        let request = app.anonymous(Method::GET, "").header("Authorization", format!("Bearer {forged}"));
        problem(request.send().await.unwrap(), 401).await;
    }
}

#[tokio::test]
async fn an_expired_token_is_401() {
    let server = Server::start(&["--token-lifetime", "2s"]);
    let app = server.app("bot").await;
    let fresh = server.token("bot", &app.app_secret).await;
    eventually("the token runs out", async || {
        let status = app.request(Method::GET, "/status").send().await.unwrap().status();
        assert!(status == 200 || status == 401, "{status}");
        status == 401
    })
    .await;
    assert_ne!(fresh, server.token("bot", &app.app_secret).await);
}

#[tokio::test]
async fn an_app_removed_from_the_credentials_file_is_refused_at_once() {
    let server = Server::start(&[]);
    let (app, other) = (server.app("bot").await, server.app("other").await);
    app.post_numbers(0..3).await;
    let file = std::fs::read_to_string(server.home.apps()).unwrap();
    let rest = &file[file.find("[apps.other]").unwrap()..];
    assert!(!rest.contains("bot"), "{file}");
    std::fs::write(server.home.apps(), rest).unwrap();
    for request in client_requests(&app) {
        problem(request.bearer_auth(&app.token).send().await.unwrap(), 401).await;
    }
    problem(server.token_response("bot", &app.app_secret).await, 401).await;
    other.status().await;

    let secret = server.home.add_app("bot");
    assert_ne!(secret, app.app_secret);
    problem(app.request(Method::GET, "").send().await.unwrap(), 401).await;
    let app = App { token: server.token("bot", &secret).await, ..app };
    untouched(&app).await;
}

/// The platform cannot be asked, which is no refusal.
#[tokio::test]
async fn a_broken_credentials_file_is_503_and_not_401() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let good = std::fs::read(server.home.apps()).unwrap();
    std::fs::write(server.home.apps(), "[apps.bot").unwrap();
    for request in client_requests(&app) {
        problem(request.bearer_auth(&app.token).send().await.unwrap(), 503).await;
    }
    problem(server.token_response("bot", &app.app_secret).await, 503).await;
    app.post("{}").await;
    std::fs::write(server.home.apps(), good).unwrap();
    assert_eq!(app.poll_bodies().await, ["{}"]);
}

#[tokio::test]
async fn a_websocket_is_refused_before_the_upgrade_and_takes_nothing() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let stranger = server.app("other").await;
    app.post_numbers(0..3).await;
    let headers = handshake_text();
    for authorization in [String::new(), format!("authorization: Bearer {}\r\n", stranger.token)] {
        let request = format!("GET {} HTTP/1.1\r\nhost: x\r\n{headers}{authorization}\r\n", app.path(""));
        let answer = raw(&app.address, request).await;
        assert_eq!(answer.status, 401);
        assert!(answer.head.contains("www-authenticate: bearer\r\n"), "{answer:?}");
        crate::common::problem_body(&answer.body, 401);
    }
    untouched(&app).await;
}

type Headers = Vec<(&'static str, &'static str)>;

/// A proxy on the way took a part of it, or a client has it wrong.
#[tokio::test]
async fn half_an_upgrade_takes_nothing() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post_numbers(0..3).await;
    let with = |change: &dyn Fn(&mut Headers)| {
        let mut headers = handshake_headers();
        change(&mut headers);
        headers
            .into_iter()
            .fold(app.request(Method::GET, ""), |request, (name, value)| request.header(name, value))
    };
    for missing in 0..4 {
        let response = with(&|headers| _ = headers.remove(missing)).send().await.unwrap();
        let status = if handshake_headers()[missing].0 == "sec-websocket-version" { 426 } else { 400 };
        problem(response, status).await;
    }
    for (place, value) in [(0, "keep-alive"), (1, "h2c"), (3, ""), (3, "short")] {
        let response = with(&|headers| headers[place].1 = value).send().await.unwrap();
        problem(response, 400).await;
    }
    let response = with(&|headers| headers[2].1 = "8").send().await.unwrap();
    assert_eq!(response.headers()["sec-websocket-version"], "13");
    problem(response, 426).await;
    for window in ["0", "-1", "x", ""] {
        let request = with(&|_| ()).query(&[("window", window)]);
        problem(request.send().await.unwrap(), 400).await;
    }
    let headers = handshake_text();
    let old = format!(
        "GET {} HTTP/1.0\r\nhost: x\r\nauthorization: Bearer {}\r\n{headers}\r\n",
        app.path(""),
        app.token
    );
    assert_eq!(raw(&app.address, old).await.status, 400);
    for method in [Method::HEAD, Method::POST] {
        let request = with(&|_| ()).build().unwrap();
        let mut request = RequestBuilder::from_parts(app.http.clone(), request).build().unwrap();
        *request.method_mut() = method;
        assert_ne!(app.http.execute(request).await.unwrap().status(), 101);
    }
    untouched(&app).await;
}

#[tokio::test]
async fn a_client_that_goes_right_after_its_upgrade_takes_nothing() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post_numbers(0..3).await;
    for _ in 0..5 {
        drop(app.listen("").await);
    }
    eventually("they are gone", async || app.gauge("clients").await == 0).await;
    untouched(&app).await;
}

#[tokio::test]
async fn senders_need_no_token_and_operations_neither() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    empty(app.hook("{}").send().await.unwrap(), 201).await;
    empty(server.get("/healthz").await, 200).await;
    empty(server.get("/readyz").await, 200).await;
}
