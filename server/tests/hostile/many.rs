//! Limits on the number of connections, and on the memory of incomplete requests.

use std::time::Duration;

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    common::{App, Raw, Server, eventually},
    head, post_and_poll, resident_bytes,
};

/// The number of connections.
const CONNECTIONS: usize = 10_000;
/// The age from which the server evicts connections.
const MIN_AGE: Duration = Duration::from_millis(500);
/// The limit on the memory of one connection, in bytes: its buffers and its task.
const CONNECTION_BYTES: u64 = 24 << 10;

/// The number of connections that this process can open within its limit on open files.
fn possible_connections() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let open_files = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let open_files = open_files.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    let possible = CONNECTIONS.min(open_files.unwrap_or(1024_usize).saturating_sub(200));
    if possible < CONNECTIONS {
        println!("only {possible} connections: raise the limit with `ulimit -n 20000`");
    }
    possible
}

#[tokio::test]
async fn ten_thousand_incomplete_requests_use_little_memory_and_block_no_client() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    post_and_poll(&app).await;
    let mut listener = app.listen("").await;
    let before = resident_bytes(&server);
    let begun = format!("{}x-", head(&app, 10));
    let count = possible_connections();
    let mut peers = Vec::with_capacity(count);
    for _ in 0..count {
        let mut peer = TcpStream::connect(&server.address).await.unwrap();
        peer.write_all(begun.as_bytes()).await.unwrap();
        peers.push(peer);
    }
    app.post("[1]").await;
    let (id, body) = listener.event().await;
    listener.ack(&id).await;
    assert_eq!(body, "[1]");
    eventually("the event is deleted", async || app.gauge("stored").await == 0).await;
    post_and_poll(&server.app("another").await).await;
    let each = resident_bytes(&server).saturating_sub(before) / count as u64;
    println!("{count} connections: {each} bytes each");
    assert!(each < CONNECTION_BYTES, "{each} bytes each");
}

#[tokio::test]
async fn a_connection_over_the_limit_waits_until_another_is_closed() {
    let server = Server::start(&["--max-connections", "20"]);
    let app = server.app("bot").await;
    let mut sockets = Vec::new();
    for _ in 0..20 {
        sockets.push(app.listen("").await);
    }
    let mut next = Raw::open(&server.address).await;
    next.send("GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
    // Open websockets are never evicted, so the new connection is not accepted.
    timeout(2 * MIN_AGE, next.0.fill_buf()).await.expect_err("the new connection got a response");
    for socket in &mut sockets {
        assert_eq!(socket.ping().await, [] as [&str; 0]);
    }
    drop(sockets.pop());
    assert_eq!(next.response().await.status, 200);
}

/// `--max-buffered-bytes` limits all incomplete bodies together.
#[tokio::test]
async fn incomplete_bodies_share_one_memory_limit() {
    let server = Server::start(&["--max-buffered-bytes", "16MiB"]);
    let app = server.app("bot").await;
    post_and_poll(&app).await;
    let before = resident_bytes(&server);
    let (head, piece) = (format!("{}x-outbound-token: 00\r\n\r\n", head(&app, 4 << 20)), vec![b' '; 1 << 20]);
    let mut peers = Vec::new();
    for _ in 0..64 {
        let mut peer = Raw::open(&server.address).await;
        peer.send(&head).await;
        // The server discards the rest of a rejected body.
        peer.send(&piece).await;
        peers.push(peer);
    }
    let mut rejected = 0;
    for peer in &mut peers {
        if peer.0.get_ref().try_read(&mut [0]).is_ok() {
            rejected += 1;
        }
    }
    let taken = resident_bytes(&server).saturating_sub(before);
    println!("{} bodies, {rejected} rejected so far: {} KiB", peers.len(), taken >> 10);
    assert!(taken < 48 << 20, "{taken} bytes");
    drop(peers);
    eventually("the memory is free again", async || app.hook("[1]").send().await.unwrap().status() == 201)
        .await;
}

/// Connections without a valid token are evicted before idle ones that had one.
#[tokio::test]
async fn an_idle_keep_alive_connection_is_evicted_last() {
    let server = Server::start(&["--max-connections", "2"]);
    let App { token, .. } = server.app("bot").await;
    let healthz = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
    let status =
        format!("GET /webhooks/bot/status HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n");
    let mut kept = Raw::open(&server.address).await;
    kept.send(&status).await;
    assert_eq!(kept.response().await.status, 200);
    // One incomplete head after the other takes the second place.
    for _ in 0..3 {
        let mut half = Raw::open(&server.address).await;
        half.send("GET /healthz HTTP/1.1\r\n").await;
        let mut whole = Raw::open(&server.address).await;
        whole.send(healthz).await;
        assert_eq!(whole.response().await.status, 200);
        assert_eq!(half.rest().await, b"");
        kept.send(&status).await;
        assert_eq!(kept.response().await.status, 200);
    }
    // If all had a valid token, the connection that has been idle longest is evicted.
    let (mut one, mut two) = (Raw::open(&server.address).await, Raw::open(&server.address).await);
    for fresh in [&mut one, &mut two] {
        fresh.send(&status).await;
        assert_eq!(fresh.response().await.status, 200);
    }
    assert_eq!(kept.rest().await, b"");
}
