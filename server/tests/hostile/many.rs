//! Very many peers at one address.

use std::{process::Command, sync::Arc, thread, time::Duration};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    common::{App, Home, Raw, Server, eventually, http_client, number},
    head, memory, works,
};

/// How many connections one address opens.
const CONNECTIONS: usize = 10_000;
/// The most memory that one of them may take, in bytes: its buffers and its task.
const CONNECTION_BYTES: u64 = 24 << 10;

/// Lets this process have as many open files as the system grants.
fn raise_open_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

/// How many of them this machine lets a process have, whose own files count as well.
fn possible() -> usize {
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
async fn ten_thousand_half_sent_requests_cost_little_and_hinder_nobody() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    works(&app).await;
    let mut listener = app.listen("").await;
    let before = memory(&server);
    let begun = format!("{}x-", head(&app, 10));
    let count = possible();
    let mut peers = Vec::with_capacity(count);
    for _ in 0..count {
        let mut peer = TcpStream::connect(&server.address).await.unwrap();
        peer.write_all(begun.as_bytes()).await.unwrap();
        peers.push(peer);
    }
    app.receive("[1]").await;
    let (id, body) = listener.event().await;
    listener.ack(&id).await;
    assert_eq!(body, "[1]");
    eventually("it is accepted", async || app.figure("stored").await == 0).await;
    works(&server.app("another").await).await;
    let each = memory(&server).saturating_sub(before) / count as u64;
    println!("{count} connections: {each} bytes each");
    assert!(each < CONNECTION_BYTES, "{each} bytes each");
}

#[tokio::test]
async fn beyond_the_most_connections_one_waits_until_another_ends() {
    let server = Server::start(&["--max-connections", "20"]);
    let mut peers = Vec::new();
    for _ in 0..20 {
        let mut peer = Raw::open(&server.address).await;
        peer.send("GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert_eq!(peer.answer().await.status, 200);
        peers.push(peer);
    }
    let mut next = Raw::open(&server.address).await;
    next.send("GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
    // All that are served are served before it is: it has no place yet.
    for peer in &mut peers {
        peer.send("GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert_eq!(peer.answer().await.status, 200);
    }
    assert!(next.0.get_ref().try_read(&mut [0]).is_err(), "it is not answered");
    drop(peers.pop());
    assert_eq!(next.answer().await.status, 200);
}

/// Bodies that are on their way have one bound together, whatever each of them may have.
#[tokio::test]
async fn bodies_that_are_never_finished_take_no_more_than_their_share() {
    let server = Server::start(&["--max-buffered-bytes", "16MiB"]);
    let app = server.app("bot").await;
    works(&app).await;
    let before = memory(&server);
    let (head, piece) = (format!("{}x-outbound-token: 00\r\n\r\n", head(&app, 4 << 20)), vec![b' '; 1 << 20]);
    let mut peers = Vec::new();
    for _ in 0..64 {
        let mut peer = Raw::open(&server.address).await;
        peer.send(&head).await;
        // Where it was refused already the rest is thrown away.
        peer.send(&piece).await;
        peers.push(peer);
    }
    let mut refused = 0;
    for peer in &mut peers {
        if peer.0.get_ref().try_read(&mut [0]).is_ok() {
            refused += 1;
        }
    }
    let taken = memory(&server).saturating_sub(before);
    println!("{} bodies of which {refused} are refused so far: {} KiB", peers.len(), taken >> 10);
    assert!(taken < 48 << 20, "{taken} bytes");
    drop(peers);
    eventually("there is room again", async || app.hook("[1]").send().await.unwrap().status() == 201).await;
}

/// Opens a connection, sends half a head, and comes again whenever it is closed.
async fn reconnect_forever(address: String, half: String) {
    loop {
        let Ok(mut peer) = TcpStream::connect(&address).await else { continue };
        if peer.write_all(half.as_bytes()).await.is_ok() {
            // It ends when the server closes.
            let _ = peer.read_to_end(&mut Vec::new()).await;
        }
    }
}

/// A server with at most this many open files, which a shell may set where a test cannot.
fn server_with_open_files(limits: &str) -> Server {
    let home = Arc::new(Home::new());
    let server = home.command();
    let mut shell = Command::new("/bin/sh");
    shell.env_clear().arg("-c").arg(format!("{limits} && exec \"$@\"")).arg("sh").arg(server.get_program());
    shell.args(server.get_args()).args(["--store", "memory:", "--listen", "127.0.0.1:0"]);
    Server::launch(home, shell)
}

#[tokio::test]
async fn half_open_heads_beyond_the_open_file_limit_are_evicted_and_hooks_answered() {
    const PEERS: usize = 1500;
    const HOOKS: usize = 20;
    raise_open_files();
    let server = server_with_open_files("ulimit -n 1024");
    assert!(server.log().contains("open_files=1024 wanted=20000 max_connections=896"), "{}", server.log());
    let app = server.app("bot").await;
    let half = format!("{}x-", head(&app, 10));
    let (address, end) = (server.address.clone(), CancellationToken::new());
    let attack = end.clone();
    // In a thread of their own, so that they do not delay the senders of hooks.
    let peers = thread::spawn(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            for _ in 0..PEERS {
                runtime.spawn(reconnect_forever(address.clone(), half.clone()));
            }
            attack.cancelled().await;
        });
    });
    eventually("all places are taken", async || server.log().contains("all connections are taken")).await;
    let mut slowest = Duration::ZERO;
    for n in 0..HOOKS {
        // Each on a connection of its own, as those of senders mostly are.
        let fresh = App { http: http_client(), ..app.clone() };
        let start = Instant::now();
        fresh.receive(number(n)).await;
        slowest = slowest.max(start.elapsed());
    }
    println!("{PEERS} half-open heads: the slowest hook took {slowest:?}");
    end.cancel();
    peers.join().unwrap();
    eventually("all hooks are stored", async || app.figure("stored").await == HOOKS as u64).await;
}

#[tokio::test]
async fn a_soft_limit_of_open_files_is_raised_to_the_hard_one() {
    let server = server_with_open_files("ulimit -S -n 64");
    let hard = std::fs::read_to_string(format!("/proc/{}/limits", server.process())).unwrap();
    let line = hard.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let mut limits = line.split_whitespace();
    assert_eq!(limits.next(), limits.next());
    works(&server.app("bot").await).await;
}

/// A connection that was answered is evicted only when it has waited for a while.
#[tokio::test]
async fn a_connection_that_waits_for_its_next_request_makes_room_last() {
    let server = Server::start(&["--max-connections", "2"]);
    let mut kept = Raw::open(&server.address).await;
    let healthz = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
    kept.send(healthz).await;
    assert_eq!(kept.answer().await.status, 200);
    // The second place is taken by one head after the other.
    for _ in 0..3 {
        let mut half = Raw::open(&server.address).await;
        half.send("GET /healthz HTTP/1.1\r\n").await;
        let mut whole = Raw::open(&server.address).await;
        whole.send(healthz).await;
        assert_eq!(whole.answer().await.status, 200);
        assert_eq!(half.rest().await, b"");
        kept.send(healthz).await;
        assert_eq!(kept.answer().await.status, 200);
    }
    // Without another head, the connection goes whose answer is longest ago.
    let (mut one, mut two) = (Raw::open(&server.address).await, Raw::open(&server.address).await);
    for fresh in [&mut one, &mut two] {
        fresh.send(healthz).await;
        assert_eq!(fresh.answer().await.status, 200);
    }
    assert_eq!(kept.rest().await, b"");
}
