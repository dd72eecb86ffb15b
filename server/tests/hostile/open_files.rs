//! A server whose open files are limited, and peers that use them up.

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
    common::{App, Home, Server, eventually, http_client, number},
    head, post_and_poll,
};

/// Lets this process have as many open files as the system grants.
fn raise_open_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

/// Opens a connection, sends half a head, and reconnects whenever it is closed.
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
fn server_with_open_files(limits: &str, flags: &[&str]) -> Server {
    let home = Arc::new(Home::new());
    let server = home.command();
    let mut shell = Command::new("/bin/sh");
    shell.env_clear().arg("-c").arg(format!("{limits} && exec \"$@\"")).arg("sh").arg(server.get_program());
    shell.args(server.get_args()).args(["--store", "memory:", "--listen", "127.0.0.1:0"]).args(flags);
    Server::launch(home, shell)
}

#[tokio::test]
async fn half_open_heads_beyond_the_open_file_limit_are_evicted_and_hooks_answered() {
    const PEERS: usize = 1500;
    const HOOKS: usize = 20;
    /// After 3 s the platform gives up.
    const HOOK_TIMEOUT: Duration = Duration::from_secs(3);
    raise_open_files();
    let server = server_with_open_files("ulimit -n 1024", &[]);
    let clamped = "open_files=1024 reserved=128 wanted=20000 max_connections=896";
    eventually("the limit is logged", async || server.log().contains(clamped)).await;
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
    let (mut slowest, mut tries) = (Duration::ZERO, 0);
    for n in 0..HOOKS {
        let start = Instant::now();
        // A sender whose slow head was evicted retries, as real senders do.
        eventually("the hook is answered", async || {
            tries += 1;
            // On a connection of its own, as those of senders mostly are.
            let fresh = App { http: http_client(), ..app.clone() };
            fresh.hook(number(n)).send().await.is_ok_and(|answer| answer.status() == 201)
        })
        .await;
        slowest = slowest.max(start.elapsed());
    }
    println!("{PEERS} half-open heads: {HOOKS} hooks in {tries} tries, the slowest took {slowest:?}");
    end.cancel();
    peers.join().unwrap();
    assert!(slowest < HOOK_TIMEOUT, "{slowest:?}");
    eventually("all hooks are stored", async || app.gauge("stored").await == HOOKS as u64).await;
}

#[tokio::test]
async fn fewer_connections_than_wanted_are_a_warning_only_below_half() {
    for (wanted, level) in [("1000", " INFO "), ("1792", " INFO "), ("1793", " WARN ")] {
        let server = server_with_open_files("ulimit -n 1024", &["--max-connections", wanted]);
        let lowered = format!("open_files=1024 reserved=128 wanted={wanted} max_connections=896");
        eventually("the limit is logged", async || server.log().contains(&lowered)).await;
        let log = server.log();
        let line = log.lines().find(|line| line.contains(&lowered)).unwrap();
        for part in [level, "--max-connections was lowered", "ulimit -Hn", "LimitNOFILE="] {
            assert!(line.contains(part), "{part} in {line}");
        }
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_soft_limit_of_open_files_is_raised_to_the_hard_one() {
    let server = server_with_open_files("ulimit -S -n 64", &[]);
    let hard = std::fs::read_to_string(format!("/proc/{}/limits", server.process())).unwrap();
    let line = hard.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let mut limits = line.split_whitespace();
    assert_eq!(limits.next(), limits.next());
    post_and_poll(&server.app("bot").await).await;
}
