//! Peers that mean harm, or do it without meaning to, against the built server over a real port: what each
//! of them costs, what it sees, and that nobody else notices.

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

use crate::common::{App, Server};

/// The memory that the server takes, in bytes.
#[cfg(target_os = "linux")]
fn resident_bytes(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.process())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

/// Elsewhere it is not looked at.
#[cfg(not(target_os = "linux"))]
fn resident_bytes(_: &Server) -> u64 {
    0
}

/// The server does for this app what it is there for.
async fn post_and_poll(app: &App) {
    app.post(r#"{"n":1}"#).await;
    assert_eq!(app.poll_bodies().await, [r#"{"n":1}"#]);
}

/// The head of a webhook, all but its end.
fn head(app: &App, length: usize) -> String {
    let path = app.hook_path();
    format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n"
    )
}
