//! Senders that begin bodies and do not end them: what they cost, and that no other request notices.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::{
    common::{App, Raw, Server, eventually},
    head, post_and_poll, resident_bytes,
};

/// How long a webhook may take beside the uploads: on an idle machine it is well below 0.5 s.
const HOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// Begins a body without a valid signature, and sends all of it but the last byte.
async fn upload(app: &App, length: usize, chunked: bool) -> Raw {
    let mut peer = app.raw().await;
    let head = head(app, length);
    let head = if chunked {
        let before = head.split("content-length").next().unwrap();
        format!("{before}transfer-encoding: chunked\r\nx-outbound-token: 00\r\n\r\n{length:x}\r\n")
    } else {
        format!("{head}x-outbound-token: 00\r\n\r\n")
    };
    // The server may refuse it and close before it has come.
    let _ = peer.0.write_all(head.as_bytes()).await;
    let _ = peer.0.write_all(&vec![b' '; length - 1]).await;
    peer
}

fn answered(peers: &[Raw]) -> usize {
    peers.iter().filter(|peer| peer.0.get_ref().try_read(&mut [0; 1]).is_ok()).count()
}

#[tokio::test]
async fn unsigned_uploads_to_one_app_block_neither_its_hooks_nor_other_apps() {
    let server = Server::start(&[]);
    let (app, other) = (server.app("bot").await, server.app("other").await);
    post_and_poll(&app).await;
    let before = resident_bytes(&server);
    let mut peers = Vec::new();
    for _ in 0..33 {
        peers.push(upload(&app, 8 << 20, false).await);
    }
    eventually("one too many was refused", async || answered(&peers) > 0).await;
    let taken = resident_bytes(&server).saturating_sub(before);
    println!("33 uploads: {} MiB", taken >> 20);
    assert!(taken < 128 << 20, "a quarter of --max-buffered-bytes and what is around it: {taken} bytes");
    let ordinary = format!("[\"{}\"]", "x".repeat(2000));
    for app in [&other, &app] {
        for _ in 0..5 {
            let began = Instant::now();
            app.post(ordinary.as_str()).await;
            println!("{}: stored in {:?}", app.id, began.elapsed());
            assert!(began.elapsed() < HOOK_TIMEOUT, "{}: {:?}", app.id, began.elapsed());
        }
        assert_eq!(app.poll_bodies().await.len(), 5);
    }
    server.token(&other.id, &other.app_secret).await;
    other.register(&other.secret).await;
    other.post("[1]").await;
    let leased = other.lease(json!({"max": 1})).await;
    assert_eq!(other.settle(json!({"ack": [leased[0].receipt]})).await["acked"], 1);
    let large = format!("[\"{}\"]", "x".repeat(4 << 20));
    other.post(large.as_str()).await;
    app.post(large.as_str()).await;
}

#[tokio::test]
async fn uploads_to_many_apps_do_not_block_another_one() {
    let server = Server::start(&["--max-buffered-bytes", "16MiB", "--max-body", "1MiB"]);
    let other = server.app("other").await;
    let mut peers = Vec::new();
    for n in 0..8 {
        let app = server.app(&format!("bot-{n}")).await;
        for _ in 0..4 {
            peers.push(upload(&app, 1 << 20, n % 2 == 0).await);
        }
    }
    eventually("some were refused", async || answered(&peers) > 0).await;
    for _ in 0..5 {
        post_and_poll(&other).await;
    }
    other.post(format!("[\"{}\"]", "x".repeat(1 << 19))).await;
}

#[tokio::test]
async fn a_clients_own_slow_requests_block_no_other_client() {
    let server = Server::start(&[]);
    let (app, other) = (server.app("bot").await, server.app("other").await);
    let mut peers = Vec::new();
    for _ in 0..40 {
        let mut peer = app.raw().await;
        let (path, token, length) = (app.path("/ack"), &app.token, 1 << 20);
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: {length}\r\n\r\n"
        );
        peer.send(head).await;
        let _ = peer.0.write_all(&vec![b' '; length - 1]).await;
        peers.push(peer);
    }
    eventually("the oldest were refused", async || answered(&peers) > 0).await;
    for app in [&other, &app] {
        app.post("[1]").await;
        let leased = app.lease(json!({"max": 1})).await;
        assert_eq!(app.settle(json!({"ack": [leased[0].receipt]})).await["acked"], 1);
        assert_eq!(app.request(Method::GET, "").send().await.unwrap().status(), 200);
    }
}

/// The open sockets of the server. The store opens files as it needs them.
fn open_sockets(server: &Server) -> usize {
    let Ok(files) = std::fs::read_dir(format!("/proc/{}/fd", server.process())) else { return 0 };
    let targets = files.flatten().filter_map(|file| std::fs::read_link(file.path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
}

/// Again and again, as what the allocator keeps of earlier bodies counts as well.
#[tokio::test]
async fn a_body_is_held_once() {
    const BODIES: usize = 16;
    const ROUNDS: usize = 3;
    for chunked in [false, true] {
        let server = Server::start(&["--max-buffered-bytes", "1GiB"]);
        let app = server.app("bot").await;
        post_and_poll(&app).await;
        let (before, sockets) = (resident_bytes(&server), open_sockets(&server));
        let sent = (BODIES as u64) << 23;
        let taken = || resident_bytes(&server).saturating_sub(before);
        for round in 1..=ROUNDS {
            let mut peers = Vec::new();
            for _ in 0..BODIES {
                peers.push(upload(&app, 8 << 20, chunked).await);
            }
            if cfg!(target_os = "linux") {
                eventually("they have come", async || taken() > sent - (sent >> 4)).await;
            }
            println!("round {round}: {} MiB of bodies take {} MiB", sent >> 20, taken() >> 20);
            assert!(taken() < sent + (sent >> 2), "{} bytes", taken());
            assert_eq!(answered(&peers), 0, "there is room for all");
            drop(peers);
            eventually("they are gone", async || open_sockets(&server) <= sockets).await;
        }
    }
}
