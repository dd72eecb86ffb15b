//! Signals and graceful shutdown.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
    sync::Arc,
};

use tokio::time::{Duration, Instant};

use crate::common::{Home, Server, empty, eventually};

#[tokio::test]
async fn sighup_is_logged_and_does_not_stop_the_server() {
    let mut server = Server::start(&[]);
    let app = server.app("bot").await;
    server.signal("HUP");
    eventually("the signal is logged", async || server.log().contains("SIGHUP")).await;
    app.post("{}").await;
    assert!(server.is_running());
}

#[tokio::test]
async fn a_shutdown_logs_its_signal_and_the_result_of_the_drain() {
    for (signal, name) in [("TERM", "SIGTERM"), ("INT", "SIGINT")] {
        let mut server = Server::start(&[]);
        let mut socket = server.app("bot").await.listen("").await;
        server.signal(signal);
        assert_eq!(socket.close_code().await, 1012);
        assert!(server.exited().await.success());
        eventually("the shutdown is logged", async || server.log().contains("stopped")).await;
        let log = server.log();
        assert!(log.contains(&format!("signal=\"{name}\"")), "{log}");
        assert!(log.contains("draining") && log.contains("cut_off=0") && log.contains("took="), "{log}");
    }
}

#[tokio::test]
async fn a_second_signal_ends_the_server_at_once() {
    for (second, code) in [("TERM", 143), ("INT", 130)] {
        let mut server = Server::start(&["--shutdown-grace", "10m"]);
        let app = server.app("bot").await;
        // A request without its body keeps the drain from ending.
        let mut slow = app.raw().await;
        let head = "POST /hook/bot HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n";
        slow.send(head).await;
        assert_eq!(slow.response().await.status, 100, "the request is in progress");
        let began = Instant::now();
        server.signal("TERM");
        eventually("the drain begins", async || server.log().contains("draining")).await;
        assert!(server.is_running());
        server.signal(second);
        assert_eq!(server.exited().await.code(), Some(code));
        assert!(began.elapsed() < Duration::from_secs(20));
    }
}

/// As after the terminal of the server was closed: writes to stderr fail.
#[tokio::test]
async fn a_closed_stderr_does_not_fail_requests() {
    let home = Arc::new(Home::new());
    let mut command = home.command();
    command.args(["--store", "memory:", "--listen", "127.0.0.1:0"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut greeting = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut greeting).unwrap();
    // The limits are the last lines of the startup log.
    let log = child.stderr.take().unwrap();
    let mut lines = BufReader::new(log).lines();
    assert!(lines.any(|line| line.unwrap().contains("shutdown_grace")));
    drop(lines);
    let address =
        greeting.strip_prefix("listening on http://").unwrap().split(',').next().unwrap().to_owned();
    let secret = home.add_app("bot");
    let http = crate::common::http_client();
    let token = http.post(format!("http://{address}/oauth/token")).basic_auth("bot", Some(&secret));
    let token: serde_json::Value =
        token.form(&[("grant_type", "client_credentials")]).send().await.unwrap().json().await.unwrap();
    // Each registration is logged.
    for _ in 0..3 {
        let put = http.put(format!("http://{address}/webhooks/bot")).body(r#"{"secret":"s"}"#);
        empty(put.bearer_auth(token["access_token"].as_str().unwrap()).send().await.unwrap(), 201).await;
    }
    child.kill().unwrap();
    child.wait().unwrap();
}
