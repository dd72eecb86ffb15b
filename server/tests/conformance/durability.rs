//! Durability: stored events survive a crash, a shutdown and a failing disk.

use std::sync::Arc;

use serde_json::json;

use crate::common::{App, Home, Server, empty, eventually, number, problem};

/// The same app at another server's address.
fn app_at(app: &App, server: &Server) -> App {
    App { address: server.address.clone(), ..app.clone() }
}

#[tokio::test]
async fn events_answered_201_survive_sigkill() {
    let server = Server::start_in(&Arc::new(Home::new()), &[]);
    let app = server.app("bot").await;
    let unregistered = server.app("gone").await;
    unregistered.post("[\"gone\"]").await;
    unregistered.unregister().await;
    app.post_numbers(0..20).await;
    let post = app.indexed(7, "[\"once\"]");
    empty(post.send().await.unwrap(), 201).await;
    let home = server.kill();

    let server = Server::start_in(&home, &[]);
    let app = app_at(&app, &server);
    empty(app.indexed(7, "[\"once\"]").send().await.unwrap(), 201).await;
    app.post("[\"after\"]").await;
    let events = app.poll("").await;
    let expected: Vec<_> = (0..20).map(number).chain(["[\"once\"]".into(), "[\"after\"]".into()]).collect();
    assert_eq!(
        events.iter().map(|(_, body)| body.clone()).collect::<Vec<_>>(),
        expected,
        "the token and the registration survive too"
    );
    assert!(events.windows(2).all(|pair| pair[0].0 < pair[1].0), "ids ascend across the restart");
    let gone = app_at(&unregistered, &server);
    problem(gone.hook("{}").send().await.unwrap(), 404).await;
    assert_eq!(gone.gauge("stored").await, 0);
}

#[tokio::test]
async fn unacked_events_are_redelivered_after_sigkill() {
    let server = Server::start_in(&Arc::new(Home::new()), &[]);
    let app = server.app("bot").await;
    app.post_numbers(0..3).await;
    let leased = app.lease(json!({"max": 1})).await;
    let mut socket = app.listen("").await;
    socket.bodies(2).await;
    let home = server.kill();

    let server = Server::start_in(&home, &[]);
    let app = app_at(&app, &server);
    let settled = app.settle(json!({"ack": [leased[0].receipt]})).await;
    assert_eq!(settled["stale"], json!([leased[0].receipt]), "a lease ends with its server process");
    let mut socket = app.listen("").await;
    assert_eq!(socket.bodies(3).await, (0..3).map(number).collect::<Vec<_>>());
}

#[tokio::test]
async fn sigterm_and_sigint_drain_the_server_and_exit_0() {
    for signal in ["TERM", "INT"] {
        let mut server = Server::start_in(&Arc::new(Home::new()), &[]);
        let app = server.app("bot").await;
        app.post_numbers(0..3).await;
        assert_eq!(app.poll("?max=1").await.len(), 1);
        server.signal(signal);
        assert_eq!(server.exited().await.code(), Some(0));
        let server = Server::start_in(&server.home, &[]);
        let app = app_at(&app, &server);
        assert_eq!(app.poll_bodies().await, [number(1), number(2)], "polled events stay deleted");
    }
}

#[tokio::test]
async fn a_shutdown_closes_websockets_with_1012_and_releases_their_events() {
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
    let mut socket = app_at(&app, &server).listen("").await;
    assert_eq!(socket.bodies(2).await, [number(1), number(2)]);
    assert_eq!(socket.ping().await, [] as [&str; 0]);
}

#[tokio::test]
async fn a_client_that_never_reads_does_not_block_the_shutdown() {
    let mut server = Server::start(&["--shutdown-grace", "1s"]);
    let app = server.app("bot").await;
    let stuck = app.listen("").await;
    for n in 0..4 {
        app.post(format!("[{n},\"{}\"]", "x".repeat(4 << 20))).await;
    }
    eventually("events are leased", async || app.gauge("leased").await > 0).await;
    let silent = app.raw().await;
    server.signal("TERM");
    assert!(server.exited().await.success());
    drop((stuck, silent));
}

#[tokio::test]
async fn a_second_server_on_the_same_store_exits_with_an_error() {
    let home = Arc::new(Home::new());
    let server = Server::start_in(&home, &[]);
    let app = server.app("bot").await;
    let store = format!("file:{}", home.store().display());
    let second = home.command().args(["--store", &store, "--listen", "127.0.0.1:0"]).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let error = String::from_utf8(second.stderr).unwrap();
    assert!(error.contains(home.store().to_str().unwrap()) && !error.contains("panicked"), "{error}");
    assert!(second.stdout.is_empty());
    app.post("{}").await;
    assert_eq!(app.poll_bodies().await, ["{}"], "the first server still works");
}

/// A limit on the file size simulates a full disk.
#[tokio::test]
async fn a_failed_write_is_503_and_events_answered_201_are_kept() {
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
    let bodies = app_at(&app, &server).poll_bodies().await;
    assert!(
        bodies.len() >= stored && bodies.iter().enumerate().all(|(n, got)| *got == body(n)),
        "{}",
        bodies.len()
    );
}
