//! Peers without a valid token or signature that try to hold all connections of the server.

use std::{thread, time::Duration};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::common::{App, Server, eventually, http_client, number};

/// How many connections the server has, and how many peers compete for them.
const CONNECTIONS: &str = "60";
const PEERS: usize = 100;
/// How many webhooks are sent meanwhile, and how long each may take: after 3 s the platform gives up.
const HOOKS: usize = 5;
const HOOK_TIMEOUT: Duration = Duration::from_secs(3);
/// How often a peer repeats its request: within the minimum age at which a connection is evicted.
const REPEAT_PAUSE: Duration = Duration::from_millis(250);

/// What a peer does after its first request, until the server closes the connection.
#[derive(Debug, Clone, Copy)]
enum Then {
    /// Reads the answer, and waits.
    Wait,
    /// Reads the answer, and repeats the request after a pause.
    Repeat,
    /// Repeats the request without a pause, and reads nothing.
    Pipeline,
}

/// Opens a connection, and reconnects whenever the server closes it.
async fn reconnect_forever(address: String, request: String, then: Then) {
    loop {
        let Ok(mut peer) = TcpStream::connect(&address).await else { continue };
        while peer.write_all(request.as_bytes()).await.is_ok() {
            match then {
                Then::Wait => {
                    // It ends when the server closes.
                    let _ = peer.read_to_end(&mut Vec::new()).await;
                    break;
                }
                Then::Repeat => {
                    if !matches!(peer.read(&mut [0; 1024]).await, Ok(1..)) {
                        break;
                    }
                    sleep(REPEAT_PAUSE).await;
                }
                Then::Pipeline => {}
            }
        }
    }
}

/// Runs the peers on a thread of their own, so that they do not delay the senders of hooks.
fn attack(address: &str, request: &str, then: Then, end: CancellationToken) -> thread::JoinHandle<()> {
    let (address, request) = (address.to_owned(), request.to_owned());
    thread::spawn(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            for _ in 0..PEERS {
                runtime.spawn(reconnect_forever(address.clone(), request.clone(), then));
            }
            end.cancelled().await;
        });
    })
}

/// Sends a webhook on a connection of its own, again if the connection is evicted, and returns how long that took.
async fn hook(app: &App, body: &str) -> Duration {
    let start = Instant::now();
    eventually("the hook is answered", async || {
        let fresh = App { http: http_client(), ..app.clone() };
        fresh.hook(body).send().await.is_ok_and(|answer| answer.status() == 201)
    })
    .await;
    start.elapsed()
}

async fn hooks_are_answered_beside(request: &str, then: Then) {
    let name = format!("{:?}, {then:?}", request.lines().next());
    let server = Server::start(&["--max-connections", CONNECTIONS, "--allow-unverified"]);
    let (app, open) = (server.app("bot").await, server.new_app("open").await);
    app.new_source("files", json!({"scheme": "dropbox", "secrets": ["s"]})).await;
    open.new_source("any", json!({"scheme": "none"})).await;
    let mut listener = app.listen("").await;
    let end = CancellationToken::new();
    let peers = attack(&server.address, request, then, end.clone());
    eventually("all connections are taken", async || server.log().contains("all connections are taken"))
        .await;
    let mut slowest = Duration::ZERO;
    for n in 0..HOOKS {
        slowest = slowest.max(hook(&app, &number(n)).await);
        assert_eq!(listener.event().await.1, number(n), "an open websocket is not evicted");
    }
    println!("{name}: the slowest of {HOOKS} hooks took {slowest:?}");
    end.cancel();
    peers.join().unwrap();
    assert!(slowest < HOOK_TIMEOUT, "{name}: {slowest:?}");
    eventually("each hook is stored once", async || app.gauge("stored").await == HOOKS as u64).await;
}

#[tokio::test]
async fn repeated_health_checks_do_not_hold_connections() {
    hooks_are_answered_beside("GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n", Then::Repeat).await;
}

/// Anyone can send a challenge that is not signed, and it is answered with 200.
#[tokio::test]
async fn repeated_challenges_without_a_signature_do_not_hold_connections() {
    let request = "GET /hook/bot/files?challenge=a HTTP/1.1\r\nhost: x\r\n\r\n";
    hooks_are_answered_beside(request, Then::Repeat).await;
}

#[tokio::test]
async fn repeated_events_without_verification_do_not_hold_connections() {
    let request = "POST /hook/open/any HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}";
    hooks_are_answered_beside(request, Then::Repeat).await;
}

#[tokio::test]
async fn idle_connections_do_not_hold_their_places() {
    hooks_are_answered_beside("GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n", Then::Wait).await;
}

#[tokio::test]
async fn bodies_that_are_never_sent_do_not_hold_connections() {
    for line in [
        "POST /hook/bot HTTP/1.1\r\nx-outbound-token: 00",
        "POST /nowhere HTTP/1.1",
        "PUT /webhooks/bot HTTP/1.1\r\nauthorization: Bearer invalid",
        "POST /oauth/token HTTP/1.1",
    ] {
        let request = format!("{line}\r\nhost: x\r\ncontent-length: 100\r\n\r\n");
        hooks_are_answered_beside(&request, Then::Wait).await;
    }
}

#[tokio::test]
async fn answers_that_are_never_read_do_not_hold_connections() {
    hooks_are_answered_beside(&"GET /nowhere HTTP/1.1\r\nhost: x\r\n\r\n".repeat(50), Then::Pipeline).await;
}

/// A poll whose response is not read yet loses no event.
#[tokio::test]
async fn an_authorised_request_keeps_its_connection_until_its_response_is_read() {
    const EVENTS: usize = 12;
    let server = Server::start(&["--max-connections", CONNECTIONS]);
    let app = server.app("bot").await;
    let large = format!("[\"{}\"]", "x".repeat(1 << 20));
    for _ in 0..EVENTS {
        app.post(large.as_str()).await;
    }
    let mut reader = app.raw().await;
    let (path, token) = (app.path(""), &app.token);
    reader.send(format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n")).await;
    eventually("the poll is being answered", async || app.gauge("leased").await == EVENTS as u64).await;
    let end = CancellationToken::new();
    let request = "POST /nowhere HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n";
    let peers = attack(&server.address, request, Then::Wait, end.clone());
    eventually("all connections are taken", async || server.log().contains("all connections are taken"))
        .await;
    // Each hook takes the place of an evicted connection.
    for n in 0..HOOKS {
        hook(&app, &number(n)).await;
    }
    end.cancel();
    peers.join().unwrap();
    let answer = reader.response().await;
    assert_eq!((answer.status, answer.body.matches(&large).count()), (200, EVENTS));
    eventually("only the polled events are deleted", async || app.gauge("stored").await == HOOKS as u64)
        .await;
}
