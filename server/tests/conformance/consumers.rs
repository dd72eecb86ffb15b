//! `/webhooks/{appId}/consumers`: how consumers are created, listed, moved and deleted.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use reqwest::Method;
use serde_json::{Value, json};

use crate::common::{App, Home, Server, empty, eventually, number, problem};

#[tokio::test]
async fn a_consumer_is_created_once_and_its_filter_and_start_stay() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.new_source("github", json!({"scheme": "github", "secret": "s"})).await;
    let settings = json!({"types": ["push", "issues.*"], "sources": ["github"], "start": "all", "maxAttempts": 3,
        "idleExpiryMs": 60_000});
    app.new_consumer("audit", settings.clone()).await;
    empty(app.put_consumer("audit", settings.clone()).await, 200).await;
    for (member, value) in [
        ("types", json!(["push"])),
        ("types", json!([])),
        ("sources", json!(["default"])),
        ("start", json!("new")),
        ("start", json!("2026-01-31T12:00:00Z")),
    ] {
        let mut other = settings.clone();
        other[member] = value;
        let detail = problem(app.put_consumer("audit", other).await, 409).await;
        assert!(detail.contains("delete") && detail.contains("another name"), "{detail}");
    }
    problem(app.put_consumer("audit", json!({})).await, 409).await;
    let mut changed = settings.clone();
    changed["types"] = json!(["issues.*", "push", "push"]);
    changed["maxAttempts"] = json!(5);
    changed["idleExpiryMs"] = json!(null);
    empty(app.put_consumer("audit", changed).await, 200).await;
    let consumer = app.consumer("audit").await;
    assert_eq!((&consumer["maxAttempts"], &consumer["idleExpiryMs"]), (&json!(5), &Value::Null));
    assert_eq!(consumer["types"], json!(["issues.*", "push"]));
}

#[tokio::test]
async fn a_body_is_optional_and_default_takes_its_own_settings() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let put = |name: &str| app.request(Method::PUT, &format!("/consumers/{name}"));
    empty(put("audit").send().await.unwrap(), 201).await;
    empty(put("audit").body("{}").send().await.unwrap(), 200).await;
    let longest = "Az0._-".repeat(11)[..64].to_owned();
    empty(put(&longest).send().await.unwrap(), 201).await;
    empty(app.put_consumer("default", json!({"maxAttempts": 2, "overflow": "reject"})).await, 200).await;
    assert_eq!(app.consumer("default").await["overflow"], "reject");
    problem(app.put_consumer("default", json!({"types": ["push"]})).await, 409).await;
}

#[tokio::test]
async fn a_consumer_has_every_member() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let settings =
        json!({"types": ["push"], "sources": ["github"], "maxAttempts": 3, "idleExpiryMs": 60_000});
    app.new_consumer("audit", settings).await;
    let _socket = app.listen("?consumer=audit").await;
    let mut consumer = app.consumer("audit").await;
    let used = consumer["lastUsed"].take();
    assert!(humantime::parse_rfc3339(used.as_str().unwrap()).unwrap() <= SystemTime::now(), "{used}");
    assert_eq!(
        consumer,
        json!({"name": "audit", "types": ["push"], "sources": ["github"], "start": "new", "maxAttempts": 3,
            "idleExpiryMs": 60_000, "pending": 0, "pendingBytes": 0, "leased": 0, "dead": 0, "dropped": 0,
            "oldestPendingAgeMs": null, "lastUsed": null, "clients": 1})
    );
    let list = app.request(Method::GET, "/consumers").send().await.unwrap();
    let list: Value = list.json().await.unwrap();
    let names: Vec<_> = list["consumers"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["audit", "default"]);
    for path in ["/consumers", "/consumers/audit"] {
        empty(app.request(Method::HEAD, path).send().await.unwrap(), 200).await;
    }
}

#[tokio::test]
async fn a_member_that_is_not_valid_is_named() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    for (member, body) in [
        ("types", json!({"types": "push"})),
        ("types", json!({"types": [""]})),
        ("types", json!({"types": [7]})),
        ("types", json!({"types": ["x".repeat(257)]})),
        ("types", json!({"types": ["*a".repeat(65)]})),
        ("types", json!({"types": (0..65).map(|n| n.to_string()).collect::<Vec<_>>()})),
        ("sources", json!({"sources": ["a/b"]})),
        ("sources", json!({"sources": [".."]})),
        ("sources", json!({"sources": (0..33).map(|n| n.to_string()).collect::<Vec<_>>()})),
        ("start", json!({"start": 7})),
        ("start", json!({"start": "2026-02-30T00:00:00Z"})),
        ("start", json!({"start": ""})),
        ("maxAttempts", json!({"maxAttempts": -1})),
        ("maxAttempts", json!({"maxAttempts": 1.5})),
        ("maxAttempts", json!({"maxAttempts": 1_000_001})),
        ("overflow", json!({"overflow": "off"})),
        ("idleExpiryMs", json!({"idleExpiryMs": 59_999})),
        ("idleExpiryMs", json!({"idleExpiryMs": "1h"})),
        ("window", json!({"window": 1})),
        ("type", json!({"type": ["push"]})),
        ("\\u{1b}[31m", json!({"\u{1b}[31m": 1})),
    ] {
        let detail = problem(app.put_consumer("audit", body).await, 400).await;
        assert!(detail.contains(&format!("\"{member}\"")), "{member}: {detail}");
    }
    for (member, body) in [
        ("idleExpiryMs", json!({"idleExpiryMs": 60_000})),
        ("overflow", json!({"overflow": "block"})),
        ("overflow", json!({"overflow": 1})),
    ] {
        let detail = problem(app.put_consumer("default", body).await, 400).await;
        assert!(detail.contains(&format!("\"{member}\"")), "{member}: {detail}");
    }
    for body in [&b"[]"[..], b"x", b"{", b"7", b"{\"types\":[\"\xff\"]}", b" "] {
        let request = app.request(Method::PUT, "/consumers/audit").body(body);
        problem(request.send().await.unwrap(), 400).await;
    }
    let large = "x".repeat((1 << 20) + 1);
    problem(app.request(Method::PUT, "/consumers/audit").body(large).send().await.unwrap(), 413).await;
    problem(app.request(Method::GET, "/consumers/audit").send().await.unwrap(), 404).await;
}

#[tokio::test]
async fn an_app_has_at_most_32_consumers() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    for n in 1..32 {
        app.new_consumer(&format!("c{n}"), json!({})).await;
    }
    let detail = problem(app.put_consumer("one-more", json!({})).await, 409).await;
    assert!(detail.contains("32"), "{detail}");
    empty(app.put_consumer("c1", json!({"maxAttempts": 1})).await, 200).await;
    empty(app.delete_consumer("c2").await, 200).await;
    app.new_consumer("one-more", json!({})).await;
}

#[tokio::test]
async fn consumers_live_as_long_as_the_registration() {
    let server = Server::start(&[]);
    let app = server.new_app("bot").await;
    let detail = problem(app.put_consumer("audit", json!({})).await, 404).await;
    assert!(detail.contains("register"), "{detail}");
    app.register(&app.secret).await;
    app.new_consumer("audit", json!({})).await;
    let mut socket = app.listen("?consumer=audit").await;
    app.unregister().await;
    assert_eq!(socket.close_code().await, 1008);
    app.register(&app.secret).await;
    problem(app.request(Method::GET, "/consumers/audit").send().await.unwrap(), 404).await;
    app.new_consumer("audit", json!({"start": "all"})).await;
    assert_eq!(app.consumer("audit").await["pending"], 0);
}

#[tokio::test]
async fn deleting_a_consumer_closes_its_websockets_and_ends_its_leases() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.new_consumer("audit", json!({})).await;
    app.post_numbers(0..3).await;
    let mut other = app.listen("").await;
    // The window of this websocket is full: it leases nothing meanwhile.
    let (mut full, mut idle) =
        (app.listen("?consumer=audit&window=1").await, app.listen_v2("?consumer=audit").await);
    assert_eq!(full.bodies(1).await.len(), 1);
    assert_eq!(idle.1["consumer"], "audit");
    eventually("all events are leased", async || app.consumer("audit").await["leased"] == 3).await;
    let waiting = tokio::spawn({
        let app = app.clone();
        async move { app.lease_response(json!({"consumer": "audit", "waitMs": 15_000})).await }
    });
    // The first request was sent before this one, so it is waiting when this one has been answered.
    app.lease(json!({"consumer": "audit", "waitMs": 100})).await;
    empty(app.delete_consumer("audit").await, 200).await;
    assert_eq!(full.close_code().await, 1008);
    assert_eq!(idle.0.close_code().await, 1008);
    problem(waiting.await.unwrap(), 404).await;
    assert_eq!(other.bodies(3).await.len(), 3, "other consumers have their events");
    problem(app.delete_consumer("audit").await, 404).await;
    let detail = problem(app.delete_consumer("default").await, 409).await;
    assert!(detail.contains("set its \"overflow\" to \"off\""), "{detail}");
    app.new_consumer("audit", json!({})).await;
    assert_eq!(app.consumer("audit").await["pending"], 0, "it begins anew");
}

#[tokio::test]
async fn a_consumer_is_moved_to_any_position() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.new_consumer("audit", json!({})).await;
    app.post_numbers(0..2).await;
    tokio::time::sleep(Duration::from_millis(2)).await;
    let middle = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
    tokio::time::sleep(Duration::from_millis(2)).await;
    app.post_numbers(2..4).await;
    let all = app.lease(json!({"consumer": "audit"})).await;
    let receipt = |n: usize| all[n].receipt.as_str();
    let rejected = app.settle(json!({"consumer": "audit", "reject": [{"receipt": receipt(1)}]})).await;
    assert_eq!(rejected["rejected"], 1);
    let bodies = |numbers: &[usize]| numbers.iter().map(|n| number(*n)).collect::<Vec<_>>();
    for (to, expected) in
        [("all", &[0, 2, 3][..]), (&middle, &[2, 3]), (all[0].id.as_str(), &[2, 3]), ("new", &[])]
    {
        app.seek("audit", to).await;
        assert_eq!(app.drain("audit").await, bodies(expected), "{to}; the dead event stays dead");
    }
    let settled =
        app.settle(json!({"consumer": "audit", "ack": [receipt(0)], "release": [receipt(2)]})).await;
    assert_eq!(settled["stale"], json!([receipt(0), receipt(2)]), "leases end");
    assert_eq!(app.consumer("audit").await["dead"], 1);
    assert_eq!(app.drain("default").await, bodies(&[0, 1, 2, 3]), "no other consumer is moved");
    empty(app.put_consumer("audit", json!({"maxAttempts": 2})).await, 200).await;
    eventually("changes and moves are logged", async || {
        ["consumer changed", "consumer moved"].iter().all(|line| server.log().contains(line))
    })
    .await;
}

#[tokio::test]
async fn a_seek_wakes_a_waiting_client_and_default_can_be_moved() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post("[1]").await;
    assert_eq!(app.poll_bodies().await, ["[1]"]);
    let mut socket = app.listen("").await;
    app.seek("default", "all").await;
    assert_eq!(socket.event().await.1, "[1]");
}

#[tokio::test]
async fn a_position_that_does_not_exist_is_an_error() {
    let server = Server::start(&[]);
    let (app, other) = (server.app("bot").await, server.app("other").await);
    app.post("[1]").await;
    other.post("[2]").await;
    let foreign = other.poll("").await.remove(0).0;
    for to in [&*foreign, "x", "01a20a76-a6c2-7326-9612-60ed508a72b8"] {
        problem(app.seek_response("default", to).await, 404).await;
        let detail = problem(app.put_consumer("audit", json!({"start": to})).await, 404).await;
        assert!(detail.contains("a time such as") && detail.contains("the id of a stored event"), "{detail}");
    }
    let future = humantime::format_rfc3339(SystemTime::now() + Duration::from_secs(90)).to_string();
    for response in [
        app.seek_response("default", &future).await,
        app.put_consumer("audit", json!({"start": future})).await,
    ] {
        let detail = problem(response, 400).await;
        assert!(detail.contains("future"), "{detail}");
    }
    problem(app.seek_response("audit", "all").await, 404).await;
    for body in
        ["", "{}", "[]", r#"{"to":""}"#, r#"{"to":7}"#, r#"{"to":"2026-01-31"}"#, r#"{"to":"new","at":1}"#]
    {
        let request = app.request(Method::POST, "/consumers/default/seek").body(body);
        problem(request.send().await.unwrap(), 400).await;
    }
    assert_eq!(app.poll_bodies().await, ["[1]"]);
}

#[tokio::test]
async fn every_path_needs_the_token_of_its_app_and_a_method_that_it_has() {
    let server = Server::start(&[]);
    let (app, other) = (server.app("bot").await, server.app("other").await);
    app.new_consumer("audit", json!({})).await;
    let paths = [
        ("/consumers", "GET, HEAD"),
        ("/consumers/audit", "GET, HEAD, PUT, DELETE"),
        ("/consumers/audit/seek", "POST"),
    ];
    for (path, allowed) in paths {
        for name in ["GET", "HEAD", "PUT", "DELETE", "POST", "PATCH", "OPTIONS", "TRACE"] {
            let method = Method::from_bytes(name.as_bytes()).unwrap();
            let foreign = App { token: other.token.clone(), ..app.clone() };
            for request in [foreign.request(method.clone(), path), app.anonymous(method.clone(), path)] {
                let response = request.body(r#"{"to":"all"}"#).send().await.unwrap();
                let expected = if allowed.split(", ").any(|one| one == name) { 401 } else { 405 };
                assert_eq!(response.status(), expected, "{name} {path}");
                if expected == 405 {
                    assert_eq!(response.headers()["allow"], allowed);
                }
                if name != "HEAD" {
                    problem(response, expected).await;
                }
            }
        }
    }
    for query in ["?consumer=audit", "?since=1h"] {
        let foreign = App { token: other.token.clone(), ..app.clone() };
        problem(foreign.request(Method::GET, query).send().await.unwrap(), 401).await;
    }
    assert_eq!(app.consumer("audit").await["name"], "audit", "nothing was deleted");
}

#[tokio::test]
async fn a_name_that_is_not_valid_is_404_in_a_path() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    // Over raw TCP: an HTTP client would change some of these paths.
    let mut connection = app.raw().await;
    for name in ["..", ".", "%2e%2e", "a%2Fb", "a%0Ab", "~1", &"x".repeat(65), "%00", "audit/x", "%61"] {
        let (path, token) = (app.path(&format!("/consumers/{name}")), &app.token);
        let head = format!(
            "PUT {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: 0\r\n\r\n"
        );
        connection.send(head).await;
        assert_eq!(connection.response().await.status, 404, "{name}");
    }
    let list = app.request(Method::GET, "/consumers").send().await.unwrap();
    assert_eq!(list.json::<Value>().await.unwrap()["consumers"].as_array().unwrap().len(), 1);
}

/// One app changes its consumers without an end: other apps store and register meanwhile.
#[tokio::test]
async fn a_flood_of_changes_does_not_delay_webhooks() {
    let server = Server::start_in(&Arc::new(Home::new()), &[]);
    let (app, other) = (server.app("bot").await, server.app("other").await);
    let floods: Vec<_> = (0..32)
        .map(|n| {
            let app = app.clone();
            tokio::spawn(async move {
                let name = format!("c{n}");
                loop {
                    for attempts in 0..8 {
                        app.put_consumer(&name, json!({"maxAttempts": attempts})).await;
                    }
                    app.delete_consumer(&name).await;
                }
            })
        })
        .collect();
    eventually("the flood runs", async || app.status().await["consumers"].as_array().unwrap().len() > 20)
        .await;
    for n in 0..20 {
        other.post(number(n)).await;
        other.register(&other.secret).await;
    }
    floods.iter().for_each(tokio::task::JoinHandle::abort);
    let lines = server.log().matches("consumer created").count();
    assert!((1..=60).contains(&lines), "the log is limited: {lines} lines");
}
