//! How the program starts: what its flags may say, what it logs, and what it refuses.

use std::sync::Arc;

use crate::common::{Home, Server, empty};

#[tokio::test]
async fn a_port_alone_listens_on_loopback_and_one_with_a_colon_on_all_addresses() {
    for (listen, host) in [("0", "127.0.0.1"), (":0", "[::]")] {
        let home = Arc::new(Home::new());
        let mut command = home.command();
        command.args(["--store", "memory:", "--listen", listen]);
        let server = Server::launch(home, command);
        let (bound, port) = server.address.rsplit_once(':').unwrap();
        // A machine without IPv6 has no [::].
        assert!(bound == host || (listen == ":0" && bound == "0.0.0.0"), "{listen}: {bound}");
        let health = server.http.get(format!("http://127.0.0.1:{port}/healthz"));
        empty(health.send().await.unwrap(), 200).await;
    }
}

#[tokio::test]
async fn sizes_take_short_and_decimal_units() {
    for (size, limit) in [("2k", 2048), ("2KB", 2000), ("2KiB", 2048)] {
        let server = Server::start(&["--max-body", size]);
        let app = server.app("bot").await;
        let body = |length: usize| format!("[\"{}\"]", "x".repeat(length - 4));
        app.receive(body(limit)).await;
        crate::common::problem(app.hook(body(limit + 1)).send().await.unwrap(), 413).await;
    }
}

#[test]
fn without_home_the_places_must_be_named() {
    let home = Home::new();
    for arguments in [&["--listen", "127.0.0.1:0"][..], &["--listen", "127.0.0.1:0", "--store", "memory:"]] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_wwproxy-server"));
        let ended = command.env_clear().args(arguments).output().unwrap();
        let error = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(1), "{arguments:?}: {error}");
        for named in ["HOME", "--store", "--apps"] {
            assert!(error.contains(named), "{arguments:?}: {error}");
        }
    }
    let relative = home.command().env("HOME", "here").args(["--listen", "127.0.0.1:0"]).output().unwrap();
    assert_eq!(relative.status.code(), Some(1), "a store somewhere: {relative:?}");
}
