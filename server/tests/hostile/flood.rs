//! Websocket clients that flood the server with pings and read the pongs slowly or never.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpSocket,
    time::{Instant, sleep, timeout},
};

use crate::{
    common::{App, DEADLINE, Raw, Server, handshake_text},
    post_and_poll, resident_bytes,
};

/// The duration of a flood.
const FLOOD: Duration = Duration::from_secs(2);
/// The limit on the bytes of pings in a flood.
const MAX_SENT: usize = 64 << 20;
/// The limit on the additional memory of the server in a flood, in bytes: buffers, and memory that the allocator
/// keeps.
const MAX_TAKEN: u64 = 8 << 20;
/// A slow reader reads `PIECE` bytes every `PIECE_TIME`: 300 KB/s.
const PIECE: usize = 30_000;
const PIECE_TIME: Duration = Duration::from_millis(100);

/// Upgrades a connection to a websocket.
async fn open(app: &App, mut socket: Raw, query: &str) -> Raw {
    let request = format!(
        "GET {} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n{}\r\n",
        app.path(query),
        app.token,
        handshake_text()
    );
    socket.send(request).await;
    assert_eq!(socket.response().await.status, 101);
    socket
}

/// Many pings of 125 bytes, masked with zeros.
fn pings() -> Vec<u8> {
    let ping = [&[0x89, 0x80 | 0x7d, 0, 0, 0, 0][..], &[b'x'; 0x7d]].concat();
    ping.repeat(512)
}

/// Floods the server with pings. Returns the bytes sent, and the peak of the server's additional memory.
async fn flood(server: &Server, socket: Raw, reads: bool) -> (usize, u64) {
    let before = resident_bytes(server);
    let (mut reader, mut writer) = tokio::io::split(socket.0.into_inner());
    let mut sent = 0;
    let sending = async {
        let pings = pings();
        while sent < MAX_SENT {
            writer.write_all(&pings).await.unwrap();
            sent += pings.len();
        }
    };
    let reading = async {
        if !reads {
            return;
        }
        let mut piece = vec![0; PIECE];
        loop {
            reader.read_exact(&mut piece).await.unwrap();
            sleep(PIECE_TIME).await;
        }
    };
    let mut taken = 0;
    let watching = async {
        let end = Instant::now() + FLOOD;
        while Instant::now() < end {
            sleep(Duration::from_millis(50)).await;
            taken = taken.max(resident_bytes(server).saturating_sub(before));
        }
    };
    tokio::select! {
        ((), ()) = async { tokio::join!(sending, reading) } => {}
        () = watching => {}
    }
    (sent, taken)
}

#[tokio::test]
async fn unread_pongs_use_limited_memory() {
    let server = Server::start(&[]);
    let (app, other) = (server.app("bot").await, server.app("other").await);
    post_and_poll(&other).await;
    for query in ["", "?tap=1"] {
        for reads in [false, true] {
            let socket = open(&app, app.raw().await, query).await;
            let (sent, taken) = flood(&server, socket, reads).await;
            println!("{query:?}, reads {reads}: {} KiB sent, {} KiB taken", sent >> 10, taken >> 10);
            assert!(taken < MAX_TAKEN, "{query:?}, reads {reads}: {taken} bytes");
            post_and_poll(&other).await;
        }
    }
}

/// Reading the event takes longer than the idle timeout. The client cannot answer the pings queued behind it earlier.
#[tokio::test]
async fn the_idle_timeout_does_not_close_a_slow_reader_of_a_large_event() {
    const SIZE: usize = 1536 << 10;
    const RATE: usize = 20 << 10;
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    let stream = socket.connect(server.address.parse().unwrap()).await.unwrap();
    let mut socket = open(&app, Raw(BufReader::new(stream)), "?tap=1").await;
    app.post(format!("[\"{}\"]", "x".repeat(SIZE))).await;
    let (start, mut piece, mut read) = (Instant::now(), vec![0; RATE], 0);
    while read < SIZE {
        sleep(Duration::from_secs(1)).await;
        let wanted = RATE.min(SIZE - read);
        timeout(DEADLINE, socket.0.read_exact(&mut piece[..wanted])).await.unwrap().unwrap();
        read += wanted;
    }
    assert!(start.elapsed() > Duration::from_secs(65));
    app.post("[2]").await;
    let mut rest = Vec::new();
    let read = async {
        while !rest.ends_with(b"\"data\":[2]}") {
            rest.push(socket.0.read_u8().await.unwrap());
        }
    };
    timeout(DEADLINE, read).await.expect("the next event did not arrive in time");
}
