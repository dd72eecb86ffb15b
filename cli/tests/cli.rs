//! The built command, against a fake proxy over a real port.

#[path = "../../sdk/tests/common/mod.rs"]
mod common;
#[path = "cli/consumers.rs"]
mod consumers;
#[path = "cli/listen.rs"]
mod listen;

use std::{
    process::{Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{FakeServer, Reply, Request, platform};
use futures_util::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::Command,
    time::timeout,
};
use tokio_tungstenite::tungstenite::Message;

const SECRET: &str = "app-hunter2";
/// The deadline of each wait.
const PATIENCE: Duration = Duration::from_secs(60);

fn wwproxy(server: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wwproxy"));
    command
        .args(args)
        .env_clear()
        .env("WWPROXY_SERVER", server)
        .env("APPID", "bot")
        .env("SECRET", SECRET)
        .env("WWPROXY_CONFIG_DIR", "/nonexistent")
        // No store of certificates: `http://` must not need one.
        .env("SSL_CERT_FILE", "/nonexistent")
        .env("SSL_CERT_DIR", "/nonexistent")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// A proxy with a token endpoint. The closure answers all other requests.
async fn proxy(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> FakeServer {
    FakeServer::start(move |request, own| {
        platform(request, own, 3600, || 1).unwrap_or_else(|| answer(request))
    })
    .await
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn assert_fails(output: &Output, code: i32, says: &str) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.contains(says) && stderr.starts_with("wwproxy: "), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(!stderr.contains("hunter2") && output.stdout.is_empty(), "{stderr}");
}

#[tokio::test]
async fn a_missing_setting_is_named() {
    for (variable, says) in [
        ("WWPROXY_SERVER", "--server or WWPROXY_SERVER"),
        ("APPID", "--app-id or APPID"),
        ("SECRET", "--token or WWPROXY_TOKEN"),
    ] {
        let output = wwproxy("http://127.0.0.1:1", &["status"]).env_remove(variable).output().await.unwrap();
        assert_fails(&output, 2, says);
        let output = wwproxy("http://127.0.0.1:1", &["status"]).env(variable, "").output().await.unwrap();
        assert_fails(&output, 2, says);
    }
    assert_fails(&wwproxy("proxy.example", &["status"]).output().await.unwrap(), 2, "https://");
    assert_fails(&wwproxy("https://127.0.0.1:1", &["status"]).output().await.unwrap(), 2, "SSL_CERT_FILE");
    assert_eq!(wwproxy("http://127.0.0.1:1", &["dance"]).output().await.unwrap().status.code(), Some(2));
}

#[tokio::test]
async fn a_duration_that_is_too_long_is_a_usage_error() {
    const LONG: &str = "18446744073709551615s";
    for args in [
        &["get", "--wait", LONG][..],
        &["listen", "--forward-to", "1", "--timeout", LONG],
        &["listen", "--exec", "true", "--timeout", LONG],
        &["listen", "--exit-after-idle", LONG],
        &["listen", "--max-reconnect-time", LONG],
        &["replay", "a", "--exec", "true", "--timeout", LONG],
        &["send", "--timeout", LONG],
    ] {
        let output = wwproxy("http://127.0.0.1:1", args).output().await.unwrap();
        let messages = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {messages}");
        assert!(messages.contains("the maximum is 365d"), "{args:?}: {messages}");
    }
}

#[tokio::test]
async fn help_shows_no_secret() {
    for args in [&["--help"][..], &["listen", "--help"], &["register", "--help"]] {
        let output =
            wwproxy("http://127.0.0.1:1", args).env("WWPROXY_TOKEN", "token-hunter2").output().await.unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert!(text(&output.stdout).contains("Example") && !text(&output.stdout).contains("hunter2"));
    }
}

#[tokio::test]
async fn each_kind_of_error_has_its_exit_code() {
    let evil = r#"{"detail":"\u001b[2Jno\nwwproxy: all well"}"#;
    for (status, code) in [(401, 3), (403, 3), (404, 4), (501, 1), (503, 5), (505, 1), (400, 1), (302, 1)] {
        let fake = proxy(move |_| Reply::json(status, evil)).await;
        for args in [&["status"][..], &["unregister"], &["register", "s"], &["get"]] {
            assert_fails(&wwproxy(&fake.url, args).output().await.unwrap(), code, " [2Jno wwproxy: all well");
        }
    }
    let gone = proxy(|_| Reply::status(404)).await.url;
    assert_fails(&wwproxy(&gone, &["listen"]).output().await.unwrap(), 4, "register");
    let refusing = proxy(|_| Reply::status(401)).await.url;
    assert_fails(&wwproxy(&refusing, &["listen"]).output().await.unwrap(), 3, "check the app id");
    assert_fails(
        &wwproxy(&closed_port().await, &["status"]).output().await.unwrap(),
        5,
        ": connection refused; check the port, and that a server listens on it\n",
    );
}

#[tokio::test]
async fn a_server_address_without_a_scheme_is_rejected_with_an_example() {
    for address in ["127.0.0.1:8080", "proxy.example.com"] {
        for args in [&["status"][..], &["send", "--webhook-secret", "s"]] {
            let output = wwproxy(address, args).output().await.unwrap();
            assert_fails(&output, 2, "scheme, such as https://proxy.example.com or http://127.0.0.1:8080\n");
        }
    }
}

async fn closed_port() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[tokio::test]
async fn status_token_and_registration_commands_work() {
    const STATUS: &str = r#"{"registration":null,"stored":1,"leased":0,"dropped":0,"storedBytes":9,"oldestAgeMs":5,"clients":0}"#;
    let fake = proxy(|request| match request.line.as_str() {
        "GET /webhooks/bot/status" => Reply::json(200, STATUS),
        line if line.starts_with("GET /webhooks/bot/sources") => Reply::status(404),
        _ => Reply::status(200),
    })
    .await;
    let output = wwproxy(&fake.url, &["status", "--json"]).output().await.unwrap();
    assert_eq!(text(&output.stdout), format!("{STATUS}\n"));
    let output = wwproxy(&fake.url, &["status"]).output().await.unwrap();
    assert!(text(&output.stdout).contains("\n  \"stored\": 1,\n"));
    let output = wwproxy(&fake.url, &["token"]).output().await.unwrap();
    assert_eq!((text(&output.stdout).as_str(), output.stderr.len()), ("token-1\n", 0));
    let output = wwproxy(&fake.url, &["unregister"]).output().await.unwrap();
    assert!(output.status.success() && output.stdout.is_empty());
    let messages = text(&output.stderr);
    assert!(messages.contains("bot was not registered; 1 stored event was deleted"), "{messages}");

    let mut child = wwproxy(&fake.url, &["register", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"hook-hunter2\n").await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    assert!(output.status.success() && text(&output.stderr).contains("/hook/bot"));
    assert!(!text(&output.stderr).contains("hunter2"));
    assert_eq!(fake.requests().pop().unwrap().body, r#"{"secret":"hook-hunter2"}"#);
}

#[tokio::test]
async fn a_webhook_secret_is_read_from_argument_file_stdin_and_environment() {
    // As a server of version 0.1, which has no sources.
    let fake = proxy(|request| Reply::status(if request.line.starts_with("PUT ") { 201 } else { 404 })).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret.txt");
    let path = file.to_str().unwrap();
    let registered = |fake: &FakeServer| fake.requests().pop().unwrap().body;
    // Of `echo -n`, `echo`, Notepad, cmd and PowerShell.
    let utf16: Vec<u8> = "\u{feff}hook-hunter2\r\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let files: [&[u8]; 5] =
        [b"hook-hunter2", b"hook-hunter2\n", b"\xef\xbb\xbfhook-hunter2\r\n", b"hook-hunter2 \r\n", &utf16];
    for content in files {
        std::fs::write(&file, content).unwrap();
        let output = wwproxy(&fake.url, &["register", "--webhook-secret-file", path]).output().await.unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert_eq!(registered(&fake), r#"{"secret":"hook-hunter2"}"#);
    }
    for (name, value) in [("WEBHOOK_SECRET", "from-variable\n"), ("WEBHOOK_SECRET_FILE", path)] {
        let output = wwproxy(&fake.url, &["register"]).env(name, value).output().await.unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    assert_eq!(registered(&fake), r#"{"secret":"hook-hunter2"}"#);
    let mut given = wwproxy(&fake.url, &["register", "argument"]);
    assert!(given.env("WEBHOOK_SECRET", "variable").output().await.unwrap().status.success());
    assert_eq!(registered(&fake), r#"{"secret":"argument"}"#);

    assert_fails(&wwproxy(&fake.url, &["register"]).output().await.unwrap(), 2, "--webhook-secret-file");
    for (content, says) in [("SECRET=hunter2\n", "NAME=VALUE"), ("a\nb\n", "one line"), ("\n", "empty")] {
        std::fs::write(&file, content).unwrap();
        let output = wwproxy(&fake.url, &["register", "--webhook-secret-file", path]).output().await.unwrap();
        assert_fails(&output, 2, says);
    }
}

/// Leases of two events, one event, none; then acks and releases of anything.
async fn queue() -> FakeServer {
    let leases = AtomicUsize::new(0);
    let event = |id, body: &str| {
        format!(r#"{{"id":"{id}","receipt":"r-{id}","attempt":1,"headers":[],"data":{body}}}"#)
    };
    proxy(move |request| match request.line.as_str() {
        "POST /webhooks/bot/lease" => {
            let events = match leases.fetch_add(1, Ordering::SeqCst) {
                0 => format!("{},{}", event("a", "{\"n\": 1.50}\n"), event("b", "[]")),
                1 => event("c", "{}"),
                _ => String::new(),
            };
            Reply::json(200, format!(r#"{{"events":[{events}]}}"#))
        }
        "GET /webhooks/bot/status" => Reply::json(
            200,
            r#"{"registration":null,"stored":3,"leased":2,"dropped":0,"storedBytes":9,"oldestAgeMs":5,"clients":0}"#,
        ),
        "POST /webhooks/bot/ack" => Reply::json(200, r#"{"acked":1,"released":0,"stale":[]}"#),
        _ => Reply::status(404),
    })
    .await
}

fn settled(fake: &FakeServer) -> Vec<String> {
    let requests = fake.requests().into_iter();
    requests.filter(|request| request.line.ends_with("/ack")).map(|request| request.body).collect()
}

#[tokio::test]
async fn get_prints_all_as_one_object_and_acknowledges() {
    let fake = queue().await;
    let output = wwproxy(&fake.url, &["get"]).output().await.unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "{\"a\":{\"n\": 1.50}\n,\"b\":[],\"c\":{}}\n");
    let acks = [r#"{"ack":["r-a","r-b"],"release":[]}"#, r#"{"ack":["r-c"],"release":[]}"#];
    assert_eq!(settled(&fake), acks);
    let output = wwproxy(&fake.url, &["get", "--max", "7"]).output().await.unwrap();
    assert_eq!(text(&output.stdout), "{}\n");
    assert!(text(&output.stderr).contains("3 events are stored, leased or delayed"), "{output:?}");
    let mut leases = fake.requests().into_iter().filter(|request| request.line.ends_with("/lease"));
    assert_eq!(leases.next_back().unwrap().body, r#"{"max":7,"wait_ms":0}"#);
}

#[tokio::test]
async fn get_releases_events_if_stdout_is_closed() {
    let fake = queue().await;
    let mut child = wwproxy(&fake.url, &["get"]).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().await.unwrap().code(), Some(0));
    assert_eq!(settled(&fake), [r#"{"ack":[],"release":["r-a","r-b"]}"#]);
}
