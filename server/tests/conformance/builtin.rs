//! The identity `builtin`: the proxy is its own platform.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};

use crate::common::{Server, empty, problem};

const FORM: &str = "grant_type=client_credentials";

fn claims(token: &str) -> Value {
    let claims = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap()
}

#[tokio::test]
async fn it_is_the_default() {
    let server = Server::start(&[]);
    assert!(server.greeting.ends_with("identity builtin"), "{}", server.greeting);
}

#[tokio::test]
async fn a_token_is_answered_as_watson_work_does() {
    let server = Server::start(&["--token-lifetime", "1h"]);
    let secret = server.home.add_app("bot");
    let response = server.token_response("bot", &secret).await;
    assert_eq!(response.status(), 200);
    assert!(response.headers()["content-type"].to_str().unwrap().starts_with("application/json"));
    assert_eq!(response.headers()["cache-control"], "no-store", "RFC 6749, section 5.1");
    let token: Value = response.json().await.unwrap();
    assert_eq!(
        (&token["token_type"], &token["expires_in"], &token["id"]),
        (&json!("bearer"), &json!(3600), &json!("bot"))
    );
    assert!(
        token["scope"].is_string() && token["jti"].as_str().is_some_and(|jti| !jti.is_empty()),
        "{token}"
    );
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let exp = claims(token["access_token"].as_str().unwrap())["exp"].as_u64().unwrap();
    assert!((now + 3500..=now + 3600).contains(&exp), "clients read it: {exp}");
    let again: Value = server.token_response("bot", &secret).await.json().await.unwrap();
    assert_ne!(token["jti"], again["jti"]);
}

#[tokio::test]
async fn credentials_may_stand_in_the_form_and_the_form_may_say_more() {
    let server = Server::start(&[]);
    let secret = server.home.add_app("bot");
    for body in [
        format!("{FORM}&client_id=bot&client_secret={secret}"),
        format!("client_secret={secret}&scope=a+b&client_id=bot&{FORM}"),
    ] {
        let post = server.http.post(server.url("/oauth/token")).body(body);
        assert_eq!(post.send().await.unwrap().status(), 200);
    }
    let lower_case = format!("basic {}", STANDARD.encode(format!("bot:{secret}")));
    let post = server.http.post(server.url("/oauth/token")).header("Authorization", lower_case).body(FORM);
    assert_eq!(post.send().await.unwrap().status(), 200);
}

/// RFC 6749, appendix B: a client may percent-encode any character.
#[tokio::test]
async fn a_form_is_percent_decoded() {
    let server = Server::start(&[]);
    let secret = server.home.add_app("my.bot");
    let encoded = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<Vec<_>>().concat();
    for body in [
        format!("{FORM}&client_id=my%2Ebot&client_secret={}", encoded(&secret)),
        format!("grant%5ftype=client%5Fcredentials&client%5Fid={}&client_secret={secret}", encoded("my.bot")),
    ] {
        let post = server.http.post(server.url("/oauth/token")).body(body);
        assert_eq!(post.send().await.unwrap().status(), 200);
    }
    for body in [
        format!("{FORM}&client_id=my%252Ebot&client_secret={secret}"),
        format!("{FORM}&client_id=my.bot&client_secret={secret}%20"),
        format!("{FORM}&client_id=my.bot&client_secret=+{secret}"),
    ] {
        let post = server.http.post(server.url("/oauth/token")).body(body.clone());
        assert_eq!(post.send().await.unwrap().status(), 401, "{body}");
    }
}

#[tokio::test]
async fn wrong_credentials_are_401() {
    let server = Server::start(&[]);
    let (secret, other) = (server.home.add_app("bot"), server.home.add_app("other"));
    let basic = |text: String| format!("Basic {}", STANDARD.encode(text));
    let hash_in_file = std::fs::read_to_string(server.home.apps()).unwrap();
    let hash = hash_in_file.split('"').nth(1).unwrap();
    for authorization in [
        basic(format!("bot:{other}")),
        basic(format!("bot:{secret}x")),
        basic("bot:".into()),
        basic("bot".into()),
        basic(format!(":{secret}")),
        basic(format!("nobody:{secret}")),
        basic(format!("bot :{secret}")),
        basic(format!("bot:{hash}")),
        basic(format!("bot:{}", secret.to_uppercase())),
        basic(format!("nobody:{}", "0".repeat(64))),
        format!("Basic {secret}"),
        "Basic".into(),
        "Basic !".into(),
        format!("Bearer {secret}"),
        String::new(),
    ] {
        let post = server.http.post(server.url("/oauth/token")).header("Authorization", &authorization);
        let response = post.body(FORM).send().await.unwrap();
        assert!(
            response.headers()["www-authenticate"].to_str().unwrap().starts_with("Basic"),
            "{authorization}"
        );
        problem(response, 401).await;
    }
    let right = basic(format!("bot:{secret}"));
    for second in [right.clone(), basic(format!("other:{other}")), "Bearer x".into(), String::new()] {
        let post = server.http.post(server.url("/oauth/token")).body(FORM);
        let twice = post.header("Authorization", &right).header("Authorization", &second);
        problem(twice.send().await.unwrap(), 401).await;
    }
    let post = server.http.post(server.url("/oauth/token")).body(FORM);
    let refused: Value = post.send().await.unwrap().json().await.unwrap();
    assert_eq!(refused["error"], "invalid_client", "RFC 6749, section 5.2");
}

#[tokio::test]
async fn another_grant_type_is_400() {
    let server = Server::start(&[]);
    let secret = server.home.add_app("bot");
    for form in [
        "",
        "grant_type=password",
        "grant_type=authorization_code&code=x",
        "GRANT_TYPE=client_credentials",
        "{}",
    ] {
        let post = server.http.post(server.url("/oauth/token")).basic_auth("bot", Some(&secret)).body(form);
        problem(post.send().await.unwrap(), 400).await;
    }
    let post = server.http.post(server.url("/oauth/token")).basic_auth("bot", Some(&secret));
    problem(post.body("x".repeat(4 << 20)).send().await.unwrap(), 413).await;
}

#[tokio::test]
async fn graphql_tells_whose_token_it_is() {
    let server = Server::start(&[]);
    let app = server.new_app("bot").await;
    let (as_graphql, as_json) = ("application/graphql", "application/json");
    for (kind, body) in [
        (as_graphql, "{ me { id } }"),
        (as_graphql, "{me{id}}"),
        (as_graphql, "query who {\n  me {\n    id\n  }\n}\n"),
        (as_json, r#"{"query":"{ me { id } }"}"#),
        ("application/json; charset=utf-8", r#"{"variables":{},"query":"query { me { id } }"}"#),
    ] {
        let post = || server.http.post(server.url("/graphql")).header("Content-Type", kind).body(body);
        for post in [post().bearer_auth(&app.token), post().header("jwt", &app.token)] {
            let response = post.send().await.unwrap();
            assert_eq!(response.status(), 200, "{body}");
            let answer: Value = response.json().await.unwrap();
            assert_eq!(answer, json!({"data": {"me": {"id": "bot"}}}), "{body}");
        }
    }
}

#[tokio::test]
async fn graphql_refuses_other_tokens_and_other_questions() {
    let server = Server::start(&[]);
    let app = server.new_app("bot").await;
    let post = || server.http.post(server.url("/graphql")).header("Content-Type", "application/graphql");
    problem(post().body("{ me { id } }").send().await.unwrap(), 401).await;
    problem(post().header("jwt", "x").body("{ me { id } }").send().await.unwrap(), 401).await;
    problem(post().header("jwt", "").body("{ me { id } }").send().await.unwrap(), 401).await;
    problem(post().bearer_auth("x").body("{ me { id } }").send().await.unwrap(), 401).await;
    let both = post().bearer_auth("x").header("jwt", &app.token).body("{ me { id } }");
    problem(both.send().await.unwrap(), 401).await;
    for question in ["", "{ spaces { id } }", "mutation { me { id } }", "{ me { id } } { me { id } }"] {
        let response = post().bearer_auth(&app.token).body(question).send().await.unwrap();
        assert_eq!(response.status(), 200);
        let answer: Value = response.json().await.unwrap();
        assert!(answer["errors"].as_array().is_some_and(|errors| !errors.is_empty()), "{answer}");
    }
    let json = server.http.post(server.url("/graphql")).bearer_auth(&app.token);
    problem(json.header("Content-Type", "application/json").body("x").send().await.unwrap(), 400).await;
}

#[tokio::test]
async fn the_credentials_file_may_be_read_only() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let mut permissions = std::fs::metadata(server.home.apps()).unwrap().permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(server.home.apps(), permissions).unwrap();
    let fresh = server.token("bot", &app.app_secret).await;
    let get = server.http.get(server.url("/webhooks/bot")).bearer_auth(fresh);
    assert_eq!(get.send().await.unwrap().text().await.unwrap(), "{}");
    empty(app.request(reqwest::Method::DELETE, "").send().await.unwrap(), 200).await;
}
