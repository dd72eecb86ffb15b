//! The identity `watsonwork`: the platform knows whose token it is.

use reqwest::Method;
use serde_json::Value;

use crate::{
    common::{App, Server, empty, eventually, problem},
    platform::Platform,
};

fn start(platform_url: &str) -> Server {
    Server::start(&["--identity", "watsonwork", "--platform-url", platform_url])
}

/// The app `bot` with a token that the platform knows.
fn bot(server: &Server, token: &str) -> App {
    server.known_app("bot", "", token)
}

async fn poll(server: &Server, token: &str) -> reqwest::Response {
    bot(server, token).request(Method::GET, "").send().await.unwrap()
}

#[tokio::test]
async fn the_platform_is_asked_with_the_clients_own_token() {
    let platform = Platform::start().await;
    let server = start(&platform.url);
    assert!(server.greeting.ends_with("identity watsonwork"), "{}", server.greeting);
    let app = bot(&server, "good");
    app.register(&app.secret).await;
    app.post("{}").await;
    assert_eq!(app.poll_bodies().await, ["{}"]);
    let mut socket = app.listen("").await;
    app.post("[1]").await;
    assert_eq!(socket.event().await.1, "[1]");

    let questions = platform.questions();
    let [question] = questions.as_slice() else { panic!("{questions:?}") };
    assert!(question.starts_with("post /graphql http/1.1\r\n"), "{question}");
    assert!(question.contains("\r\ncontent-type: application/graphql\r\n"), "{question}");
    assert!(question.contains("\r\nauthorization: bearer good\r\n"), "{question}");
    assert!(question.ends_with("\r\n\r\n{ me { id } }"), "{question}");
}

#[tokio::test]
async fn a_platform_may_have_a_path() {
    let platform = Platform::start().await;
    let server = start(&format!("{}/base/", platform.url));
    assert_eq!(poll(&server, "good").await.status(), 200);
    assert!(platform.questions()[0].starts_with("post /base/graphql "));
}

#[tokio::test]
async fn a_refusal_is_401() {
    let platform = Platform::start().await;
    let server = start(&platform.url);
    for token in [
        "401",
        "403",
        "errors",
        "null",
        "both",
        "errors-empty",
        "errors-object",
        "errors-text",
        "other",
        "person",
    ] {
        problem(poll(&server, token).await, 401).await;
    }
    assert_eq!(poll(&server, "good").await.status(), 200);
}

#[tokio::test]
async fn anything_else_that_is_no_answer_is_503_with_retry_after() {
    let platform = Platform::start().await;
    let server = start(&platform.url);
    for token in [
        "500", "502", "429", "400", "404", "201", "garbage", "empty", "cut", "nobody", "number", "list",
        "huge", "close",
    ] {
        let response = poll(&server, token).await;
        assert_eq!(response.status(), 503, "{token}");
        problem(response, 503).await;
    }
    assert_eq!(poll(&server, "good").await.status(), 200);
}

#[tokio::test]
async fn a_platform_that_is_silent_or_down_is_503() {
    let platform = Platform::start().await;
    let server = start(&platform.url);
    problem(poll(&server, "hang").await, 503).await;
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let server = start(&format!("http://{closed}"));
    problem(poll(&server, "good").await, 503).await;
}

#[tokio::test]
async fn a_platform_that_is_back_is_asked_again() {
    let platform = Platform::start().await;
    let server = start(&platform.url);
    problem(poll(&server, "500").await, 503).await;
    eventually("it is asked again", async || {
        problem(poll(&server, "500").await, 503).await;
        platform.questions().len() > 1
    })
    .await;
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_the_token_goes_nowhere_else() {
    let (platform, elsewhere) = (Platform::start().await, Platform::start().await);
    let server = start(&platform.url);
    problem(poll(&server, &format!("to-{}", elsewhere.url)).await, 503).await;
    assert_eq!((platform.questions().len(), elsewhere.questions().len()), (1, 0));
}

#[tokio::test]
async fn questions_at_the_same_time_are_asked_once() {
    let platform = Platform::start().await;
    let server = start(&platform.url);
    let polls: Vec<_> = (0..20)
        .map(|_| {
            let app = bot(&server, "slow");
            tokio::spawn(async move { app.request(Method::GET, "").send().await.unwrap().status() })
        })
        .collect();
    eventually("the platform is asked", async || !platform.questions().is_empty()).await;
    // Not another request hangs on this token's.
    assert_eq!(poll(&server, "good").await.status(), 200);
    platform.gate.add_permits(20);
    for poll in polls {
        assert_eq!(poll.await.unwrap(), 200);
    }
    assert_eq!(platform.questions().len(), 2, "once for each token");
}

#[tokio::test]
async fn answers_and_refusals_are_remembered_a_while() {
    let platform = Platform::start().await;
    let server = start(&platform.url);
    for (token, status, asked) in
        [("good", 200, 1), ("good", 200, 1), ("401", 401, 2), ("401", 401, 2), ("goodtoo", 200, 3)]
    {
        assert_eq!(poll(&server, token).await.status(), status);
        assert_eq!(platform.questions().len(), asked, "{token}");
    }
    let other = server.known_app("other", "", "good");
    problem(other.request(Method::GET, "").send().await.unwrap(), 401).await;
    assert_eq!(platform.questions().len(), 3, "it is the token that is remembered");
}

#[tokio::test]
async fn a_request_without_a_token_never_asks_the_platform() {
    let platform = Platform::start().await;
    let server = start(&platform.url);
    let app = bot(&server, "");
    for request in [
        app.anonymous(Method::GET, ""),
        app.anonymous(Method::GET, "").header("Authorization", "Basic x"),
        app.anonymous(Method::GET, "").header("Authorization", "Bearer "),
        app.anonymous(Method::GET, "").header("Authorization", "Bearer a b"),
    ] {
        problem(request.send().await.unwrap(), 401).await;
    }
    problem(app.hook("{}").send().await.unwrap(), 404).await;
    assert_eq!(platform.questions(), [] as [&str; 0]);
}

#[tokio::test]
async fn only_allowed_apps_are_served_and_nothing_is_asked_about_others() {
    let platform = Platform::start().await;
    let flags = ["--identity", "watsonwork", "--platform-url", &platform.url];
    let open = Server::start(&flags);
    assert_eq!(poll(&open, "good").await.status(), 200);
    let asked = platform.questions().len();
    let server = Server::start(&[&flags[..], &["--allow-app", "one", "--allow-app", "two"]].concat());
    let detail = problem(poll(&server, "good-not-asked").await, 403).await;
    assert!(detail.contains("--allow-app"), "{detail}");
    problem(bot(&server, "good").hook("{}").send().await.unwrap(), 404).await;
    assert_eq!(platform.questions().len(), asked);
    let allowed = Server::start(&[&flags[..], &["--allow-app", "one,bot"]].concat());
    let app = bot(&allowed, "good");
    app.register(&app.secret).await;
    app.post("{}").await;
    assert_eq!(app.poll_bodies().await, ["{}"]);
}

#[tokio::test]
async fn allowed_apps_are_refused_where_the_credentials_file_knows_the_apps() {
    let home = crate::common::Home::new();
    let flags = ["--store", "memory:", "--listen", "127.0.0.1:0", "--allow-app", "bot"];
    let ended = home.command().args(flags).output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(!ended.status.success() && said.contains("--identity watsonwork"), "{said}");
}

#[tokio::test]
async fn a_flood_of_unknown_tokens_asks_32_questions_at_once_and_delays_no_known_token() {
    let platform = Platform::start().await;
    let server = start(&platform.url);
    assert_eq!(poll(&server, "good").await.status(), 200);
    let flood: Vec<_> = (0..100)
        .map(|n| {
            let app = bot(&server, &format!("flood-{n}"));
            tokio::spawn(async move { app.request(Method::GET, "").send().await.unwrap().status() })
        })
        .collect();
    eventually("a known token is answered while the budget is used up", async || {
        let before = platform.flood().0;
        assert_eq!(poll(&server, "good").await.status(), 200);
        (before, platform.flood().0) == (32, 32)
    })
    .await;
    platform.gate.add_permits(100);
    for poll in flood {
        poll.await.unwrap();
    }
    assert_eq!(platform.flood(), (0, 32), "at most 32 at once");
}

#[tokio::test]
async fn a_platform_on_another_machine_needs_https_or_a_flag() {
    let flags = ["--identity", "watsonwork", "--platform-url", "http://platform.example"];
    let mut command = crate::common::Home::new().command();
    let refused =
        command.args(["--store", "memory:", "--listen", "127.0.0.1:0"]).args(flags).output().unwrap();
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(refused.status.code() == Some(1) && error.contains("--allow-http-platform"), "{error}");
    let server = Server::start(&[&flags[..], &["--allow-http-platform"]].concat());
    empty(server.get("/healthz").await, 200).await;
}

#[tokio::test]
async fn a_websocket_is_refused_the_same_way() {
    let platform = Platform::start().await;
    let server = start(&platform.url);
    for (token, status) in [("401", 401), ("500", 503), ("other", 401)] {
        let mut upgrade = bot(&server, token).request(Method::GET, "");
        for (name, value) in crate::common::handshake_headers() {
            upgrade = upgrade.header(name, value);
        }
        problem(upgrade.send().await.unwrap(), status).await;
    }
}

#[tokio::test]
async fn senders_do_not_depend_on_the_platform() {
    let platform = Platform::start().await;
    let server = start(&platform.url);
    let app = bot(&server, "good");
    app.register(&app.secret).await;
    app.post("{}").await;
    empty(server.get("/readyz").await, 200).await;
    assert_eq!(platform.questions().len(), 1);
}

#[tokio::test]
async fn the_metadata_names_the_platforms_token_endpoint() {
    let platform = Platform::start().await;
    let server = start(&platform.url);
    let metadata: Value = server.get("/.well-known/oauth-authorization-server").await.json().await.unwrap();
    assert_eq!(metadata["issuer"], server.url(""), "RFC 8414, section 3.3: the address that was asked");
    assert_eq!(metadata["token_endpoint"], format!("{}/oauth/token", platform.url).as_str());
    let server = Server::start(&["--identity", "watsonwork"]);
    let metadata: Value = server.get("/.well-known/oauth-authorization-server").await.json().await.unwrap();
    assert_eq!(metadata["token_endpoint"], "https://api.watsonwork.ibm.com/oauth/token");
}

#[tokio::test]
async fn the_proxy_is_not_a_platform_then() {
    let platform = Platform::start().await;
    let server = start(&platform.url);
    server.home.add_app("bot");
    for path in ["/oauth/token", "/graphql"] {
        let post = server.http.post(server.url(path)).bearer_auth("good").body("{ me { id } }");
        problem(post.send().await.unwrap(), 404).await;
    }
    assert_eq!(platform.questions(), [] as [&str; 0]);
}
