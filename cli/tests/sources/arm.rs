//! `sources arm`.

use std::{fs::OpenOptions, sync::Mutex, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    time::timeout,
};

use super::{
    common::{FakeServer, Reply},
    messages, run, server, status, text, wwproxy,
};

/// The deadline of each wait.
const PATIENCE: Duration = Duration::from_secs(60);

const POST: &str = "POST /webhooks/bot/sources/a/arm";

/// A source of this scheme, which is armed by the first `POST` for `polls` polls before it ends as `end` says.
async fn arming(scheme: &'static str, polls: usize, end: Value) -> FakeServer {
    // The polls since it was armed.
    let polled = Mutex::new(None);
    server(move |request| {
        let mut polled = polled.lock().unwrap();
        let armed = json!({"armedUntil": "2026-01-31T12:10:00.000Z", "done": false});
        match (request.line.as_str(), polled.as_mut()) {
            ("GET /webhooks/bot/sources/a", _) => Reply::json(200, status("a", scheme)),
            (POST, _) => {
                *polled = Some(0);
                Reply::json(200, armed)
            }
            ("GET /webhooks/bot/sources/a/arm", None) => {
                Reply::json(200, json!({"armedUntil": null, "done": false}))
            }
            ("GET /webhooks/bot/sources/a/arm", Some(count)) => {
                *count += 1;
                Reply::json(200, if *count > polls { &end } else { &armed })
            }
            _ => Reply::status(404),
        }
    })
    .await
}

#[tokio::test]
async fn arm_waits_for_the_handshake() {
    let server = arming("asana", 1, json!({"armedUntil": null, "done": true})).await;
    let output = timeout(PATIENCE, run(&server, &["sources", "arm", "a"])).await.unwrap();
    let said = messages(&output, 0);
    assert!(said.contains("armed until 2026-01-31T12:10:00Z"), "{said}");
    assert!(said.contains("/hook/bot/a\n") && said.contains("at Asana"), "{said}");
    assert!(said.contains("the handshake took place") && output.stdout.is_empty(), "{said}");
    assert_eq!(server.count(POST), 1);
}

#[tokio::test]
async fn arm_prints_the_token_of_notion() {
    let token = "secret_\u{1b}[2Jx\nwwproxy: y";
    let server = arming("notion", 0, json!({"armedUntil": null, "done": true, "token": token})).await;
    let output = timeout(PATIENCE, run(&server, &["sources", "arm", "a"])).await.unwrap();
    assert!(messages(&output, 0).contains("enter this verification token"));
    assert_eq!(text(&output.stdout), "secret_ [2Jx wwproxy: y\n");
    // Again, without arming the source again: that would discard the token.
    let output = timeout(PATIENCE, run(&server, &["sources", "arm", "a", "--json"])).await.unwrap();
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(printed["token"], token);
    assert_eq!(server.count(POST), 1);
    assert!(messages(&output, 0).contains("not armed") && messages(&output, 0).contains("arm a --again"));
    // For another handshake it is armed again.
    let output = timeout(PATIENCE, run(&server, &["sources", "arm", "a", "--again"])).await.unwrap();
    assert!(messages(&output, 0).contains("waiting for the handshake"));
    assert_eq!(server.count(POST), 2);
    for device in ["/dev/full", "/dev/null"] {
        let device = OpenOptions::new().write(true).open(device).unwrap();
        let child = wwproxy(&server, &["sources", "arm", "a"]).stdout(device).spawn().unwrap();
        let output = timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap();
        assert!(messages(&output, 1).contains("again within 10 minutes to get the verification token"));
    }
}

#[tokio::test]
async fn arm_fails_if_the_source_is_disarmed_or_the_wait_is_stopped() {
    let server = arming("asana", 1, json!({"armedUntil": null, "done": false})).await;
    let output = timeout(PATIENCE, run(&server, &["sources", "arm", "a"])).await.unwrap();
    let said = messages(&output, 1);
    assert!(said.contains("no handshake took place"), "{said}");

    let server = arming("asana", usize::MAX, Value::Null).await;
    let mut child = wwproxy(&server, &["sources", "arm", "a"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    while !lines.next_line().await.unwrap().unwrap().contains("waiting for the handshake") {}
    let id = child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().await.unwrap().success());
    let said = lines.next_line().await.unwrap().unwrap();
    assert!(said.contains("stopped waiting") && said.contains("stays armed"), "{said}");
    assert_eq!(timeout(PATIENCE, child.wait()).await.unwrap().unwrap().code(), Some(1));
}
