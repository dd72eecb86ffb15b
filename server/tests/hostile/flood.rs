//! Websocket clients that flood the server with pings and read the pongs slowly or never.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpSocket,
    time::{Instant, sleep, timeout},
};

use crate::{
    common::{App, DEADLINE, Raw, Server, eventually, handshake_text},
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

/// Opens a connection whose receive buffer is small, so that the server notices how slowly the client reads.
async fn with_small_buffer(server: &Server) -> Raw {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    Raw(BufReader::new(socket.connect(server.address.parse().unwrap()).await.unwrap()))
}

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
    let mut socket = open(&app, with_small_buffer(&server).await, "?tap=1").await;
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

/// The client reads all the time, so only the minimum rate of 16 KiB/s closes it.
#[tokio::test]
async fn a_reader_below_the_minimum_rate_is_closed_with_1008() {
    /// Much more than the buffers of both sockets hold, also in addition to what is read until the deadline.
    const SIZE: usize = 1536 << 10;
    /// The bytes read in a second. The kernel reports progress after a third of the send buffer, which has to be within 30 s.
    const RATE: u128 = 7 << 10;
    /// 30 s, and the time for the size at 16 KiB/s.
    const ALLOWED: Duration = Duration::from_secs(30 + SIZE as u64 / (16 << 10));
    // The lease is longer than that, so that only the end of the session returns the event.
    let server = Server::start(&["--lease", "10m"]);
    let app = server.app("bot").await;
    let mut socket = open(&app, with_small_buffer(&server).await, "").await;
    let start = Instant::now();
    app.post(format!("[\"{}\"]", "x".repeat(SIZE))).await;
    eventually("the event is sent", async || app.gauge("leased").await == 1).await;
    let (mut piece, mut read) = (vec![0; 1 << 10], 0);
    while app.gauge("leased").await == 1 {
        assert!(start.elapsed() < ALLOWED + DEADLINE, "the session did not end");
        while read < start.elapsed().as_millis() * RATE / 1000 {
            let taken = timeout(DEADLINE, socket.0.read(&mut piece)).await.unwrap().unwrap();
            assert!(taken > 0, "disconnected after {:?}", start.elapsed());
            read += taken as u128;
        }
        sleep(PIECE_TIME).await;
    }
    assert!(start.elapsed() >= ALLOWED, "{:?}", start.elapsed());
    // The event is available again, and the close frame is behind the rest of its first delivery.
    let rest = socket.rest().await;
    let close = rest.iter().rposition(|&byte| byte == 0x88).expect("a close frame");
    assert_eq!(rest[close + 2..close + 4], 1008_u16.to_be_bytes());
    assert_eq!(app.poll_bodies().await.len(), 1);
}
