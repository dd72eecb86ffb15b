//! What was answered `201` survives, and how a server stops.

use std::sync::Arc;

use serde_json::json;

use crate::common::{App, Home, Server, empty, eventually, number, problem};

/// The same app on another server.
fn moved(app: &App, server: &Server) -> App {
    App { address: server.address.clone(), ..app.clone() }
}

#[tokio::test]
async fn what_was_answered_201_survives_kill_9() {
    let server = Server::start_in(&Arc::new(Home::new()), &[]);
    let app = server.app("bot").await;
    let secretless = server.app("gone").await;
    secretless.post("[\"gone\"]").await;
    secretless.unregister().await;
    app.post_numbers(0..20).await;
    let post = app.indexed(7, "[\"once\"]");
    empty(post.send().await.unwrap(), 201).await;
    let home = server.kill();

    let server = Server::start_in(&home, &[]);
    let app = moved(&app, &server);
    empty(app.indexed(7, "[\"once\"]").send().await.unwrap(), 201).await;
    app.post("[\"after\"]").await;
    let events = app.poll("").await;
    let expected: Vec<_> = (0..20).map(number).chain(["[\"once\"]".into(), "[\"after\"]".into()]).collect();
    assert_eq!(
        events.iter().map(|(_, body)| body.clone()).collect::<Vec<_>>(),
        expected,
        "token and registration too"
    );
    assert!(events.windows(2).all(|pair| pair[0].0 < pair[1].0), "ids stay ordered");
    let gone = moved(&secretless, &server);
    problem(gone.hook("{}").send().await.unwrap(), 404).await;
    assert_eq!(gone.gauge("stored").await, 0);
}

#[tokio::test]
async fn what_was_unacked_at_kill_9_goes_out_again() {
    let server = Server::start_in(&Arc::new(Home::new()), &[]);
    let app = server.app("bot").await;
    app.post_numbers(0..3).await;
    let leased = app.lease(json!({"max": 1})).await;
    let mut socket = app.listen("").await;
    socket.bodies(2).await;
    let home = server.kill();

    let server = Server::start_in(&home, &[]);
    let app = moved(&app, &server);
    let settled = app.settle(json!({"ack": [leased[0].receipt]})).await;
    assert_eq!(settled["stale"], json!([leased[0].receipt]), "its lease ended with the server");
    let mut socket = app.listen("").await;
    assert_eq!(socket.bodies(3).await, (0..3).map(number).collect::<Vec<_>>());
}

#[tokio::test]
async fn on_sigterm_and_sigint_the_server_drains_and_exits_0() {
    for signal in ["TERM", "INT"] {
        let mut server = Server::start_in(&Arc::new(Home::new()), &[]);
        let app = server.app("bot").await;
        app.post_numbers(0..3).await;
        assert_eq!(app.poll("?max=1").await.len(), 1);
        server.signal(signal);
        assert_eq!(server.exited().await.code(), Some(0));
        let server = Server::start_in(&server.home, &[]);
        let app = moved(&app, &server);
        assert_eq!(app.poll_bodies().await, [number(1), number(2)], "what was read stays read");
    }
}

#[tokio::test]
async fn on_shutdown_a_websocket_is_closed_with_1012_and_its_events_handed_back() {
    let mut server = Server::start_in(&Arc::new(Home::new()), &[]);
    let app = server.app("bot").await;
    app.post_numbers(0..3).await;
    let mut socket = app.listen("").await;
    let (acked, _) = socket.event().await;
    socket.bodies(2).await;
    let (mut v2, _) = app.listen_v2("").await;
    socket.ack(&acked).await;
    socket.ping().await;
    server.signal("TERM");
    assert_eq!(socket.close_code().await, 1012);
    assert_eq!(v2.close_code().await, 1012);
    drop((socket, v2));
    assert!(server.exited().await.success());
    let server = Server::start_in(&server.home, &[]);
    let mut socket = moved(&app, &server).listen("").await;
    assert_eq!(socket.bodies(2).await, [number(1), number(2)]);
    assert_eq!(socket.ping().await, [] as [&str; 0]);
}

#[tokio::test]
async fn a_client_that_never_reads_does_not_stop_the_shutdown() {
    let mut server = Server::start(&["--shutdown-grace", "1s"]);
    let app = server.app("bot").await;
    let stuck = app.listen("").await;
    for n in 0..4 {
        app.post(format!("[{n},\"{}\"]", "x".repeat(4 << 20))).await;
    }
    eventually("it has events", async || app.gauge("leased").await > 0).await;
    let silent = app.raw().await;
    server.signal("TERM");
    assert!(server.exited().await.success());
    drop((stuck, silent));
}

#[tokio::test]
async fn two_servers_on_one_folder_are_a_clear_error() {
    let home = Arc::new(Home::new());
    let server = Server::start_in(&home, &[]);
    let app = server.app("bot").await;
    let store = format!("file:{}", home.store().display());
    let second = home.command().args(["--store", &store, "--listen", "127.0.0.1:0"]).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains(home.store().to_str().unwrap()) && !said.contains("panicked"), "{said}");
    assert!(second.stdout.is_empty());
    app.post("{}").await;
    assert_eq!(app.poll_bodies().await, ["{}"], "the first goes on");
}

/// A limit on the size of files stands for a full disk.
#[tokio::test]
async fn storage_failing_is_503_and_what_was_answered_201_is_kept() {
    let home = Arc::new(Home::new());
    let store = format!("file:{}", home.store().display());
    let server_command = home.command();
    let mut command = std::process::Command::new("bash");
    command.env_clear().env("PATH", "/usr/bin:/bin").args([
        "-c",
        "trap '' XFSZ; ulimit -f 8192; exec \"$@\"",
        "-",
    ]);
    command.arg(server_command.get_program()).args(server_command.get_args());
    command.args(["--store", &store, "--listen", "127.0.0.1:0"]);
    let mut server = Server::launch(Arc::clone(&home), command);
    let app = server.app("bot").await;
    let body = |n: usize| format!("[{n},\"{}\"]", "x".repeat(100 << 10));
    let mut stored = 0;
    let failed = loop {
        let response = app.hook(body(stored)).send().await.unwrap();
        if response.status() != 201 {
            break response;
        }
        stored += 1;
        assert!(stored < 200, "8 MiB must be full by now");
    };
    problem(failed, 503).await;
    assert!(stored > 5 && server.is_running(), "{stored}");
    empty(server.get("/healthz").await, 200).await;
    problem(server.get("/readyz").await, 503).await;
    drop(server);

    let server = Server::start_in(&home, &[]);
    let bodies = moved(&app, &server).poll_bodies().await;
    assert!(
        bodies.len() >= stored && bodies.iter().enumerate().all(|(n, got)| *got == body(n)),
        "{}",
        bodies.len()
    );
}
