//! Hostile and faulty peers against the built server, over a real port: the limits that stop them, the memory they
//! cost, and that other clients are not disturbed.

mod bodies;
mod bombs;
#[path = "../common/mod.rs"]
mod common;
mod flood;
mod many;
#[cfg(unix)]
mod open_files;
mod silent;
mod slow;
mod sources;
mod unauthenticated;

use crate::common::{App, Server};

/// The resident memory of the server, in bytes.
#[cfg(target_os = "linux")]
fn resident_bytes(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.process())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

/// Measured on Linux only.
#[cfg(not(target_os = "linux"))]
fn resident_bytes(_: &Server) -> u64 {
    0
}

/// Checks that the server stores and returns an event of this app.
async fn post_and_poll(app: &App) {
    app.post(r#"{"n":1}"#).await;
    assert_eq!(app.poll_bodies().await, [r#"{"n":1}"#]);
}

/// The head of a webhook request, without its final empty line.
fn head(app: &App, length: usize) -> String {
    let path = app.hook_path();
    format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n"
    )
}
