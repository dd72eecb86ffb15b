//! Consumers, against a fake proxy.

use serde_json::{Value, json};

use super::*;

const STATUS: &str = r#"{"registration":{"scheme":"watsonwork"},"stored":0,"leased":0,"dropped":0,"storedBytes":0,"oldestAgeMs":null,"clients":1}"#;

fn audit() -> Value {
    json!({
        "name": "audit", "types": ["push"], "sources": [], "start": "new", "maxAttempts": 0, "pending": 1, "pendingBytes": 7,
        "leased": 0, "dead": 2, "dropped": 0, "oldestPendingAgeMs": 1000, "lastUsed": null, "clients": 0,
    })
}

fn not_found(detail: &str) -> Reply {
    let problem = json!({"title": "Not Found", "status": 404, "detail": detail});
    Reply::Http(404, vec![("content-type", "application/problem+json".into())], problem.to_string())
}

/// A proxy with these consumers, to which websockets can be opened.
async fn with_consumers(consumers: Vec<Value>) -> FakeServer {
    proxy(move |request| {
        let (method, target) = request.line.split_once(' ').unwrap();
        let found = || consumers.iter().find(|consumer| target.ends_with(consumer["name"].as_str().unwrap()));
        match (method, target) {
            ("GET", "/webhooks/bot/status") => Reply::json(200, STATUS),
            ("GET", "/webhooks/bot/consumers") => Reply::json(200, json!({"consumers": consumers})),
            ("GET", _) if target.starts_with("/webhooks/bot/consumers/") => {
                found().map_or_else(|| not_found("no such consumer"), |consumer| Reply::json(200, consumer))
            }
            ("PUT", _) => Reply::status(if found().is_some() { 200 } else { 201 }),
            ("DELETE", _) => Reply::status(200),
            ("POST", _) if target.ends_with("/seek") => Reply::status(200),
            ("GET", _) => Reply::Upgrade(Some("wwproxy.v2")),
            _ => Reply::status(500),
        }
    })
    .await
}

async fn hello(socket: &mut common::Socket, member: &str) {
    let text = format!(
        r#"{{"type":"hello","appId":"bot","window":64,"leaseMs":60000,"pingMs":20000,"idleMs":60000,{member}}}"#
    );
    socket.send(Message::text(text)).await.unwrap();
}

async fn message(socket: &mut common::Socket) -> Value {
    let message = timeout(PATIENCE, socket.next()).await.unwrap().unwrap().unwrap();
    serde_json::from_str(message.to_text().unwrap()).unwrap()
}

#[tokio::test]
async fn listen_creates_a_consumer_with_its_filter_and_takes_its_events() {
    let mut fake = with_consumers(Vec::new()).await;
    let args = [
        "listen",
        "--consumer",
        "audit",
        "--create",
        "--type",
        "push",
        "--type",
        "issues.*",
        "--source",
        "repo",
        "--since",
        "all",
        "--dead-after",
        "5",
        "--max-events",
        "1",
    ];
    let child = wwproxy(&fake.url, &args).spawn().unwrap();
    let mut socket = fake.socket().await;
    hello(&mut socket, r#""consumer":"audit""#).await;
    // The server has filtered: the client does not.
    socket
        .send(Message::text(r#"{"type":"event","id":"a","source":"x","eventType":"y","data":{}}"#))
        .await
        .unwrap();
    assert_eq!(message(&mut socket).await, json!({"type": "event_ack", "id": "a"}));
    let output = child.wait_with_output().await.unwrap();
    let messages = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{messages}");
    assert!(messages.contains("created consumer audit\n"), "{messages}");
    assert!(messages.contains("app bot, consumer audit: events to"), "{messages}");
    assert_eq!(fake.count("GET /webhooks/bot?window=64&consumer=audit"), 1);
    let put = fake.requests().into_iter().find(|request| request.line.starts_with("PUT ")).unwrap();
    assert_eq!(put.line, "PUT /webhooks/bot/consumers/audit");
    let settings =
        json!({"types": ["issues.*", "push"], "sources": ["repo"], "start": "all", "maxAttempts": 5});
    assert_eq!(serde_json::from_str::<Value>(&put.body).unwrap(), settings);
}

#[tokio::test]
async fn an_existing_consumer_keeps_its_position_and_must_have_the_same_filter() {
    let mut fake = with_consumers(vec![audit()]).await;
    let args =
        ["listen", "--consumer", "audit", "--create", "--type", "push", "--since", "1h", "--dead-after", "7"];
    let mut child = wwproxy(&fake.url, &args).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = lines.next_line().await.unwrap().unwrap();
    assert!(
        line.contains("audit exists and continues where it is: --since counts when it is created"),
        "{line}"
    );
    drop(fake.socket().await);
    let put = fake.requests().into_iter().find(|request| request.line.starts_with("PUT ")).unwrap();
    let settings = json!({"types": ["push"], "sources": [], "start": "new", "maxAttempts": 7});
    assert_eq!(serde_json::from_str::<Value>(&put.body).unwrap(), settings);
    child.kill().await.unwrap();

    for (args, code, says) in [
        (&["--consumer", "audit", "--type", "pull"][..], 2, "has --type 'push', not --type 'pull'"),
        (&["--consumer", "audit", "--create"], 2, "has --type 'push', not no --type"),
        (
            &["--consumer", "audit", "--type", "push", "--source", "repo"],
            2,
            "has no --source, not --source 'repo'",
        ),
        (&["--consumer", "audit", "--type", "p?sh"], 2, "only the wildcard *"),
        (&["--consumer", "audit", "--source", "re*"], 2, "names of sources"),
        (&["--consumer", "audit", "--since", "1h"], 2, "give --create as well"),
        (&["--consumer", "other"], 4, "give --create to create it: the consumer other was not found"),
        (&["--since", "1h", "--leave-unmatched"], 2, "leave out --leave-unmatched"),
    ] {
        let output = wwproxy(&fake.url, &[&["listen"], args].concat()).output().await.unwrap();
        assert_fails(&output, code, says);
    }
}

#[tokio::test]
async fn a_server_that_is_not_up_yet_is_waited_for() {
    let args = ["listen", "--consumer", "audit", "--max-reconnect-time", "1s"];
    let output = wwproxy("http://127.0.0.1:1", &args).output().await.unwrap();
    let messages = text(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{messages}");
    assert!(messages.contains("; retrying in "), "{messages}");
}

#[tokio::test]
async fn an_event_that_its_target_did_not_accept_is_dead_with_the_answer_as_the_reason() {
    let mut fake = with_consumers(Vec::new()).await;
    let args = [
        "listen",
        "--exec",
        ": hunter2; exit 3",
        "--max-attempts",
        "1",
        "--on-failure",
        "dead",
        "--max-events",
        "1",
    ];
    let child = wwproxy(&fake.url, &args).spawn().unwrap();
    let mut socket = fake.socket().await;
    hello(&mut socket, r#""tap":false"#).await;
    socket.send(Message::text(r#"{"type":"event","id":"a","attempt":1,"data":{}}"#)).await.unwrap();
    let rejected = message(&mut socket).await;
    assert_eq!((&rejected["type"], &rejected["id"]), (&json!("event_reject"), &json!("a")));
    // Not the command line, which may have a secret.
    assert_eq!(rejected["reason"], "exit code 3");
    let output = child.wait_with_output().await.unwrap();
    let messages = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{messages}");
    assert!(messages.contains("wwproxy: 0 taken, 1 dead, 0 kept, 0 skipped\n"), "{messages}");
    assert!(
        messages.ends_with(
            "1 event was not accepted by its target; dead, kept on the server and not delivered again\n"
        ),
        "{messages}"
    );
}

#[tokio::test]
async fn since_alone_shows_history_without_taking_it_from_others() {
    let mut fake = with_consumers(Vec::new()).await;
    let args = [
        "listen",
        "--since",
        "2026-01-31T12:00:00Z",
        "--source",
        "repo",
        "--type",
        "push",
        "--max-events",
        "1",
    ];
    let child = wwproxy(&fake.url, &args).spawn().unwrap();
    let mut socket = fake.socket().await;
    hello(&mut socket, r#""missed":3"#).await;
    for (id, source, kind) in [("a", "shop", "push"), ("b", "repo", "pull"), ("c", "repo", "push")] {
        let event = format!(
            r#"{{"type":"event","id":"{id}","attempt":1,"source":"{source}","eventType":"{kind}","verification":null,"data":{{}}}}"#
        );
        socket.send(Message::text(event)).await.unwrap();
    }
    let mut acked = Vec::new();
    while acked.len() < 3 {
        let ack = message(&mut socket).await;
        assert_eq!(ack["type"], "event_ack", "left events would come back to this client");
        let ids = ack["ids"].as_array().cloned().unwrap_or_else(|| vec![ack["id"].clone()]);
        acked.extend(ids.into_iter().map(|id| id.as_str().unwrap().to_owned()));
    }
    acked.sort();
    assert_eq!(acked, ["a", "b", "c"]);
    let output = child.wait_with_output().await.unwrap();
    let messages = text(&output.stderr);
    assert!(messages.contains("3 events of that time are missing"), "{messages}");
    assert!(messages.contains("other clients get it all the same"), "{messages}");
    assert!(messages.ends_with("wwproxy: 1 taken, 0 kept, 2 skipped: 1 × pull, 1 × push\n"), "{messages}");
    assert_eq!(fake.count("GET /webhooks/bot?window=64&since=2026-01-31T12%3A00%3A00.000Z"), 1);
}

#[tokio::test]
async fn the_summary_of_skipped_events_says_how_to_make_a_consumer() {
    let mut fake = with_consumers(Vec::new()).await;
    let child = wwproxy(&fake.url, &["listen", "--type", "push", "--max-events", "1"]).spawn().unwrap();
    let mut socket = fake.socket().await;
    hello(&mut socket, r#""tap":false"#).await;
    for kind in ["pull", "push"] {
        let event = format!(r#"{{"type":"event","id":"{kind}","eventType":"{kind}","data":{{}}}}"#);
        socket.send(Message::text(event)).await.unwrap();
    }
    let output = child.wait_with_output().await.unwrap();
    let messages = text(&output.stderr);
    let [.., advice, summary] = messages.lines().collect::<Vec<_>>()[..] else { panic!("{messages}") };
    assert!(advice.contains("history") && advice.contains("--consumer NAME --create --type"), "{messages}");
    assert_eq!(summary, "wwproxy: 1 taken, 0 kept, 1 skipped: 1 × pull");
}

#[tokio::test]
async fn consumers_are_listed_created_moved_and_deleted() {
    let fake = with_consumers(vec![audit()]).await;
    for list in [&["consumers"][..], &["consumers", "list", "--json"]] {
        let output = wwproxy(&fake.url, list).output().await.unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), audit());
        assert!(text(&output.stdout).ends_with("}\n"));
    }
    for (args, says) in [
        (&["create", "new", "--type", "push", "--idle-expiry", "7d"][..], "created consumer new of bot"),
        (&["create", "audit", "--type", "push", "--dead-after", "3"], "changed consumer audit of bot"),
        (
            &["seek", "audit", "2026-01-31T12:00:00Z"],
            "moved consumer audit of bot to 2026-01-31T12:00:00.000Z",
        ),
        (&["create", "audit", "--type", "push"], "takes its events"),
        (&["delete", "audit"], "deleted consumer audit of bot"),
    ] {
        let output = wwproxy(&fake.url, &[&["consumers"], args].concat()).output().await.unwrap();
        assert!(output.status.success() && text(&output.stderr).contains(says), "{}", text(&output.stderr));
    }
    let bodies: Vec<_> =
        fake.requests().into_iter().filter(|request| !request.line.starts_with("GET ")).collect();
    let bodies: Vec<_> =
        bodies.iter().map(|request| request.body.as_str()).filter(|body| body.starts_with('{')).collect();
    assert_eq!(
        bodies,
        [
            r#"{"types":["push"],"sources":[],"start":"new","maxAttempts":0,"idleExpiryMs":604800000}"#,
            r#"{"types":["push"],"sources":[],"start":"new","maxAttempts":3}"#,
            r#"{"to":"2026-01-31T12:00:00.000Z"}"#,
            r#"{"types":["push"],"sources":[],"start":"new","maxAttempts":0}"#,
        ]
    );
    for (args, says) in [
        (&["create", "audit", "--overflow", "off"][..], "belongs to the consumer default only"),
        (&["create", "default", "--idle-expiry", "7d"], "never expires"),
        (&["create", "audit", "--idle-expiry", "1s"], "1 minute"),
        (&["create", "audit", "--dead-after", "1000001"], "1000000"),
    ] {
        let output = wwproxy(&fake.url, &[&["consumers"], args].concat()).output().await.unwrap();
        assert_fails(&output, 2, says);
    }
}

#[tokio::test]
async fn get_takes_the_events_of_a_consumer() {
    let fake = proxy(|request| match request.line.as_str() {
        "GET /webhooks/bot/status" => Reply::json(200, STATUS),
        "GET /webhooks/bot/consumers/audit" => Reply::json(200, audit()),
        "POST /webhooks/bot/lease" => {
            Reply::json(200, r#"{"events":[{"id":"a","receipt":"r","attempt":1,"data":[1]}]}"#)
        }
        "POST /webhooks/bot/ack" => Reply::json(200, r#"{"acked":1,"released":0,"stale":[]}"#),
        _ => Reply::status(500),
    })
    .await;
    let output = wwproxy(&fake.url, &["get", "--consumer", "audit"]).output().await.unwrap();
    assert_eq!((text(&output.stdout), output.status.code()), ("{\"a\":[1]}\n".into(), Some(0)));
    let bodies: Vec<_> = fake
        .requests()
        .into_iter()
        .map(|request| request.body)
        .filter(|body| body.starts_with('{'))
        .collect();
    assert_eq!(
        bodies,
        [r#"{"max":1,"wait_ms":0,"consumer":"audit"}"#, r#"{"consumer":"audit","ack":["r"],"release":[]}"#,]
    );
}

#[tokio::test]
async fn a_reason_has_no_address_of_the_target() {
    let mut fake = with_consumers(Vec::new()).await;
    let target = proxy(|request| match request.line.as_str() {
        "POST /hunter2" => Reply::status(500),
        _ => Reply::Close,
    })
    .await;
    for (path, reason) in [("/hunter2", "HTTP 500"), ("/hunter3", "no answer: ")] {
        let url = format!("{}{path}", target.url);
        let args = [
            "listen",
            "--forward-to",
            &url,
            "--max-attempts",
            "1",
            "--on-failure",
            "dead",
            "--max-events",
            "1",
        ];
        let child = wwproxy(&fake.url, &args).spawn().unwrap();
        let mut socket = fake.socket().await;
        hello(&mut socket, r#""tap":false"#).await;
        socket.send(Message::text(r#"{"type":"event","id":"a","attempt":1,"data":{}}"#)).await.unwrap();
        let rejected = message(&mut socket).await;
        let sent = rejected["reason"].as_str().unwrap();
        assert!(sent.starts_with(reason) && !sent.contains("hunter"), "{sent}");
        let messages = text(&child.wait_with_output().await.unwrap().stderr);
        assert!(messages.contains(path), "the user sees it: {messages}");
    }
}

#[tokio::test]
async fn unregister_names_the_pending_events_of_each_consumer() {
    let mut off = audit();
    (off["name"], off["pending"]) = (json!("default"), json!(0));
    let mut status: Value = serde_json::from_str(STATUS).unwrap();
    status["consumers"] = json!([audit(), off]);
    let fake = proxy(move |request| match request.line.as_str() {
        "GET /webhooks/bot/status" => Reply::json(200, status.clone()),
        _ => Reply::status(200),
    })
    .await;
    let output = wwproxy(&fake.url, &["unregister"]).output().await.unwrap();
    let said = "its consumers and all its events, history included, were deleted (pending: audit 1)";
    assert!(output.status.success() && text(&output.stderr).contains(said), "{}", text(&output.stderr));
}

#[tokio::test]
async fn get_reports_that_default_is_off() {
    let fake = proxy(|request| match request.line.as_str() {
        "GET /webhooks/bot/status" => Reply::json(200, STATUS),
        "POST /webhooks/bot/lease" => {
            let problem = json!({"title": "Conflict", "status": 409, "detail": "default receives no events"});
            Reply::Http(409, vec![("content-type", "application/problem+json".into())], problem.to_string())
        }
        _ => Reply::status(500),
    })
    .await;
    for args in [&["get"][..], &["get", "--keep"], &["get", "--consumer", "default"]] {
        let output = wwproxy(&fake.url, args).output().await.unwrap();
        assert!(output.stdout.is_empty() && !output.status.success());
        assert!(text(&output.stderr).contains("default receives no events"), "{}", text(&output.stderr));
    }
}

#[tokio::test]
async fn switching_default_off_says_what_is_dropped() {
    let mut default = audit();
    (default["name"], default["pending"]) = (json!("default"), json!(3));
    let fake = with_consumers(vec![default]).await;
    let args = ["consumers", "create", "default", "--overflow", "off"];
    let output = wwproxy(&fake.url, &args).output().await.unwrap();
    let said = text(&output.stderr);
    assert!(said.contains("it receives no events, and what it had not settled (3) was dropped"), "{said}");
    assert!(!said.contains("takes its events"), "{said}");
}
