//! Reading with a consumer: polls, leases and websockets of named consumers.

use std::{collections::BTreeSet, sync::Arc};

use futures_util::{StreamExt, stream};
use reqwest::Method;
use serde_json::{Value, json};

use crate::common::{App, Home, Server, empty, eventually, number, problem};

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(number).collect()
}

#[tokio::test]
async fn each_consumer_gets_all_of_its_own_by_every_way_of_reading() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    for name in ["polled", "leased", "listened"] {
        app.new_consumer(name, json!({})).await;
    }
    app.post_numbers(0..3).await;
    let polled: Vec<_> = app.poll("?consumer=polled").await.into_iter().map(|(_, body)| body).collect();
    assert_eq!(polled, numbers(0..3));
    assert_eq!(app.poll_text("?consumer=polled").await, "{}");
    assert_eq!(app.drain("leased").await, numbers(0..3));
    let mut socket = app.listen("?consumer=listened").await;
    for n in 0..3 {
        let (id, body) = socket.event().await;
        assert_eq!(body, number(n));
        socket.ack(&id).await;
    }
    socket.ping().await;
    assert_eq!(app.consumer("listened").await["pending"], 0);
    assert_eq!(app.gauge("stored").await, 3, "the default consumer has its own acknowledgements");
    assert_eq!(app.drain("default").await, numbers(0..3));
}

#[tokio::test]
async fn a_filter_matches_types_and_sources() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.typed_source().await;
    app.new_consumer("issues", json!({"types": ["issues.*"]})).await;
    app.new_consumer("typed", json!({"types": ["*"], "sources": ["github"]})).await;
    app.new_consumer("untyped", json!({"sources": ["default"]})).await;
    app.post_typed("push", "[0]").await;
    app.post_typed("issues", r#"{"action":"opened"}"#).await;
    app.post("[2]").await;
    assert_eq!(app.drain("issues").await, [r#"{"action":"opened"}"#]);
    assert_eq!(app.drain("typed").await, ["[0]", r#"{"action":"opened"}"#]);
    assert_eq!(app.drain("untyped").await, ["[2]"]);
    assert_eq!(app.drain("default").await.len(), 3);
}

#[tokio::test]
async fn connections_of_one_consumer_share_its_events() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.new_consumer("audit", json!({})).await;
    let mut sockets =
        [app.listen("?consumer=audit&window=2").await, app.listen("?consumer=audit&window=2").await];
    let mut own = app.listen("?window=4").await;
    app.post_numbers(0..4).await;
    let mut shared = BTreeSet::new();
    for socket in &mut sockets {
        shared.extend(socket.bodies(2).await);
    }
    assert_eq!(shared, numbers(0..4).into_iter().collect());
    assert_eq!(own.bodies(4).await, numbers(0..4));
}

#[tokio::test]
async fn an_unknown_consumer_is_404_and_the_answer_says_how_to_create_it() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let post = |path, body: Value| app.request(Method::POST, path).json(&body);
    let upgrade = |query| {
        let headers = crate::common::handshake_headers();
        headers
            .into_iter()
            .fold(app.request(Method::GET, query), |request, (name, value)| request.header(name, value))
    };
    for request in [
        app.request(Method::GET, "?consumer=audit"),
        app.request(Method::GET, "/status?consumer=audit"),
        app.request(Method::GET, "/consumers/audit"),
        app.request(Method::DELETE, "/consumers/audit"),
        post("/lease", json!({"consumer": "audit"})),
        post("/ack", json!({"consumer": "audit"})),
        post("/ack", json!({"consumer": "audit", "ack": ["x"]})),
        post("/consumers/audit/seek", json!({"to": "all"})),
        upgrade("?consumer=audit"),
    ] {
        let detail = problem(request.send().await.unwrap(), 404).await;
        assert!(detail.contains("PUT /webhooks/") && detail.contains("/consumers/audit"), "{detail}");
    }
    for request in [
        app.request(Method::GET, "?consumer="),
        app.request(Method::GET, "?consumer=a%0Ab"),
        app.request(Method::GET, "?consumer=~1"),
        app.request(Method::GET, "?consumer=a&consumer=b"),
        app.request(Method::GET, "/status?consumer=.."),
        post("/lease", json!({"consumer": "~1"})),
        post("/lease", json!({"consumer": 7})),
        post("/ack", json!({"consumer": "a/b"})),
        upgrade("?consumer=%00"),
        upgrade("?since="),
        upgrade("?since=2026-13-01T00:00:00Z"),
        upgrade("?since=2999-01-01T00:00:00Z"),
        upgrade("?since=1h&since=2h"),
        upgrade("?since=1h&tap=1"),
        upgrade("?since=1h&consumer=default"),
        upgrade("?tap=1&consumer=default"),
        app.request(Method::GET, "?since=1h"),
    ] {
        problem(request.send().await.unwrap(), 400).await;
    }
    problem(upgrade("?since=01a20a76-a6c2-7326-9612-60ed508a72b8").send().await.unwrap(), 404).await;
    for named in ["?consumer=default", ""] {
        assert_eq!(app.poll_text(named).await, "{}");
    }
}

#[tokio::test]
async fn a_receipt_of_another_consumer_or_app_is_stale() {
    let server = Server::start(&[]);
    let (app, other) = (server.app("bot").await, server.app("other").await);
    for app in [&app, &other] {
        app.new_consumer("audit", json!({})).await;
        app.post("[1]").await;
    }
    let audit = app.lease(json!({"consumer": "audit"})).await.remove(0).receipt;
    let default = app.lease(json!({})).await.remove(0).receipt;
    for (from, consumer, receipt) in [
        (&app, "default", &audit),
        (&app, "audit", &default),
        (&other, "audit", &audit),
        (&other, "default", &default),
    ] {
        for list in ["ack", "release", "extend"] {
            let settled = from.settle(json!({"consumer": consumer, list: [receipt]})).await;
            assert_eq!(settled["stale"], json!([receipt]), "{list}");
        }
        let settled = from.settle(json!({"consumer": consumer, "reject": [{"receipt": receipt}]})).await;
        assert_eq!(settled["stale"], json!([receipt]));
    }
    let settled = app.settle(json!({"consumer": "audit", "ack": [audit]})).await;
    assert_eq!(settled["acked"], 1);
    assert_eq!(app.settle(json!({"ack": [default]})).await["acked"], 1);
}

#[tokio::test]
async fn a_status_is_of_one_consumer_and_lists_all() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post("[0]").await;
    app.new_consumer("audit", json!({})).await;
    app.post("[1]").await;
    let status = app.status().await;
    let consumers = status["consumers"].as_array().unwrap();
    let pending = |name: &str| &consumers.iter().find(|one| one["name"] == name).unwrap()["pending"];
    assert_eq!(
        (status["stored"].as_u64(), pending("default"), pending("audit")),
        (Some(2), &json!(2), &json!(1))
    );
    let audit = app.request(Method::GET, "/status?consumer=audit").send().await.unwrap();
    let audit: Value = audit.json().await.unwrap();
    assert_eq!((&audit["stored"], audit["consumers"].as_array().unwrap().len()), (&json!(1), 2));
    assert_eq!(audit["registration"], status["registration"]);
}

#[tokio::test]
async fn a_consumer_counts_the_events_that_were_removed_before_it_settled_them() {
    let server = Server::start(&["--retention", "1s"]);
    let app = server.app("bot").await;
    app.new_consumer("lagging", json!({"maxAttempts": 1})).await;
    app.post_numbers(0..3).await;
    assert_eq!(app.poll("").await.len(), 3);
    let leased = app.lease(json!({"consumer": "lagging", "max": 1})).await.remove(0).receipt;
    eventually("the events are removed", async || app.consumer("lagging").await["dropped"] == 3).await;
    assert_eq!(app.consumer("lagging").await["pending"], 0);
    assert_eq!(app.gauge("dropped").await, 0, "the default consumer had settled them");
    let settled = app.settle(json!({"consumer": "lagging", "ack": [leased]})).await;
    assert_eq!(settled["stale"], json!([leased]));
    app.post("[1]").await;
    assert_eq!(app.drain("lagging").await, ["[1]"]);
}

#[tokio::test]
async fn a_consumer_that_no_client_reads_never_causes_a_503() {
    let server = Server::start(&["--max-queued-events", "5"]);
    let app = server.app("bot").await;
    app.new_consumer("lagging", json!({})).await;
    for n in 0..30 {
        app.post(number(n)).await;
        assert_eq!(app.poll("").await.len(), 1);
    }
    assert_eq!(app.consumer("lagging").await["pending"], 30);
    app.post_numbers(0..5).await;
    problem(app.hook("[5]").send().await.unwrap(), 503).await;
    assert_eq!(app.drain("lagging").await.len(), 35);
}

/// Posts events of two types concurrently, 10,000 in all.
async fn post_many(app: &App) {
    let posts = stream::iter(0..10_000).map(|n| async move {
        app.post_typed(if n % 2 == 0 { "even" } else { "odd" }, &number(n)).await;
    });
    posts.buffer_unordered(32).collect::<Vec<()>>().await;
}

#[tokio::test]
async fn two_consumers_with_disjoint_types_get_exactly_their_own_in_order() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.typed_source().await;
    for kind in ["even", "odd"] {
        app.new_consumer(kind, json!({"types": [kind]})).await;
    }
    let mut socket = app.listen("?consumer=odd&window=1024").await;
    let read = async {
        let mut events = Vec::new();
        while events.len() < 5000 {
            let event = socket.event().await;
            socket.ack(&event.0).await;
            events.push(event);
        }
        events
    };
    let (odd, ()) = tokio::join!(read, post_many(&app));
    let mut even = Vec::new();
    while even.len() < 5000 {
        let leased = app.lease(json!({"consumer": "even", "max": 1000})).await;
        let receipts: Vec<_> = leased.iter().map(|event| &event.receipt).collect();
        app.settle(json!({"consumer": "even", "ack": receipts})).await;
        assert!(!leased.is_empty(), "only {} events", even.len());
        let event = |event: &wwproxy_protocol::api::LeasedEvent| {
            (event.id.to_string(), String::from_utf8(event.body.to_vec()).unwrap())
        };
        even.extend(leased.iter().map(event));
    }
    for (rest, events) in [(0, even), (1, odd)] {
        assert!(events.is_sorted_by(|one, next| one.0 < next.0), "in order of arrival, each once");
        let bodies: BTreeSet<_> = events.into_iter().map(|(_, body)| body).collect();
        assert_eq!(bodies, (0..5000).map(|n| number(2 * n + rest)).collect());
    }
    assert_eq!(app.drain("even").await.len() + app.drain("odd").await.len(), 0);
    assert_eq!(app.gauge("stored").await, 10_000);
}

#[tokio::test]
async fn a_consumer_keeps_its_place_after_sigkill() {
    let server = Server::start_in(&Arc::new(Home::new()), &[]);
    let app = server.app("bot").await;
    app.new_consumer("audit", json!({})).await;
    app.post_numbers(0..6).await;
    let leased = app.lease(json!({"consumer": "audit", "max": 3})).await;
    app.settle(json!({"consumer": "audit", "ack": [leased[0].receipt, leased[2].receipt]})).await;
    app.post(number(6)).await;
    app.flush().await;
    let home = server.kill();
    let server = Server::start_in(&home, &[]);
    let app = app.at(&server);
    let rest: Vec<_> = [1, 3, 4, 5, 6].map(number).into();
    assert_eq!(app.drain("audit").await, rest);
    assert_eq!(app.drain("default").await, numbers(0..7));
    empty(app.delete_consumer("audit").await, 200).await;
}

#[tokio::test]
async fn consumers_survive_sigkill() {
    let server = Server::start_in(&Arc::new(Home::new()), &[]);
    let app = server.app("bot").await;
    app.post("[0]").await;
    app.new_consumer("audit", json!({"start": "all", "maxAttempts": 7})).await;
    app.new_consumer("gone", json!({})).await;
    empty(app.delete_consumer("gone").await, 200).await;
    app.new_consumer("moved", json!({})).await;
    app.seek("moved", "all").await;
    let home = server.kill();
    let server = Server::start_in(&home, &[]);
    let app = app.at(&server);
    assert_eq!(app.consumer("audit").await["maxAttempts"], 7);
    assert_eq!(app.status().await["consumers"].as_array().unwrap().len(), 3);
    app.post("[1]").await;
    for name in ["audit", "moved", "default"] {
        assert_eq!(app.drain(name).await, ["[0]", "[1]"], "{name}");
    }
}
