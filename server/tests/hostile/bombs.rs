//! Amplification: endless heads and chunks, compression bombs, deeply nested JSON.

use reqwest::Method;
use tokio::{io::AsyncWriteExt, time::timeout};

use crate::{
    common::{DEADLINE, Raw, Server, problem, raw},
    post_and_poll, resident_bytes,
};

/// Sends `begin` and then `piece` repeatedly until the server stops reading. Returns the bytes sent and the
/// response.
async fn flood(server: &Server, begin: &str, piece: &str) -> (usize, String) {
    let mut connection = Raw::open(&server.address).await;
    connection.send(begin).await;
    let mut sent = 0;
    let sending = async {
        while connection.0.write_all(piece.as_bytes()).await.is_ok() {
            sent += piece.len();
            assert!(sent < 256 << 20, "the server reads without a limit");
        }
    };
    timeout(DEADLINE, sending).await.expect("the server neither read on nor closed the connection");
    let mut answer = Vec::new();
    // The result is ignored: after a reset the response may be lost.
    let _ = timeout(DEADLINE, tokio::io::AsyncReadExt::read_to_end(&mut connection.0, &mut answer)).await;
    (sent, String::from_utf8(answer).unwrap())
}

#[tokio::test]
async fn an_endless_head_is_rejected() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    post_and_poll(&app).await;
    let before = resident_bytes(&server);
    let long = "a".repeat(16 << 10);
    for (begin, piece) in [
        ("GET /", long.as_str()),
        ("GET /healthz HTTP/1.1\r\nx-a: ", &long),
        ("GET /healthz HTTP/1.1\r\n", &format!("{long}: b\r\n")),
        ("GET /healthz HTTP/1.1\r\n", "a: b\r\n"),
        ("", "\r\n"),
    ] {
        let (sent, answer) = flood(&server, begin, piece).await;
        println!("{begin:?}: {sent} bytes, {:?}", answer.lines().next());
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    let taken = resident_bytes(&server).saturating_sub(before);
    assert!(taken < 8 << 20, "{taken} bytes");
    post_and_poll(&app).await;
}

#[tokio::test]
async fn a_head_of_about_64_kib_is_accepted_and_a_much_larger_one_is_431() {
    let server = Server::start(&[]);
    let head =
        |bytes: usize| format!("GET /healthz HTTP/1.1\r\nhost: x\r\nx-a: {}\r\n\r\n", "a".repeat(bytes));
    assert_eq!(raw(&server.address, head(60 << 10)).await.status, 200);
    assert_eq!(raw(&server.address, head(256 << 10)).await.status, 431);
    let many = |count| format!("GET /healthz HTTP/1.1\r\nhost: x\r\n{}\r\n", "x-a: b\r\n".repeat(count));
    assert_eq!(raw(&server.address, many(99)).await.status, 200);
    assert_eq!(raw(&server.address, many(101)).await.status, 431);
}

#[tokio::test]
async fn chunks_their_extensions_and_trailers_are_limited() {
    let server = Server::start(&["--max-body", "64KiB"]);
    let app = server.app("bot").await;
    let begin =
        "POST /hook/bot HTTP/1.1\r\nhost: x\r\nx-outbound-token: 00\r\ntransfer-encoding: chunked\r\n\r\n";
    let long = "a".repeat(16 << 10);
    for (what, piece) in [
        ("a body", format!("4000\r\n{long}\r\n")),
        ("tiny chunks", "1\r\na\r\n".repeat(1000)),
        ("an extension", format!("1;{long}")),
        ("extensions", "1;a=b\r\nx\r\n".repeat(1000)),
        ("a trailer", format!("0\r\n{long}: b\r\n")),
    ] {
        let (sent, answer) = flood(&server, begin, &piece).await;
        println!("{what}: {sent} bytes, {:?}", answer.lines().next());
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{what}: {answer}");
    }
    post_and_poll(&app).await;
}

/// The gzip form of `1 + 258 * repetitions` spaces: one block with fixed codes (RFC 1951, section 3.2.6), of one
/// literal and repetitions at distance 1, in the RFC 1952 format. The checksum at the end is wrong, but a decoder
/// would have inflated all of it by then.
fn gzip_bomb(repetitions: usize) -> Vec<u8> {
    let bits = ["110", "01010000", &"1100010100000".repeat(repetitions), "0000000"].concat();
    let byte = |bits: &[u8]| bits.iter().rev().fold(0, |byte, bit| byte << 1 | (bit - b'0'));
    let block = bits.as_bytes().chunks(8).map(byte);
    [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255].into_iter().chain(block).chain([0; 8]).collect()
}

/// The server never inflates a body: the signed bytes themselves must be JSON.
#[tokio::test]
async fn a_compressed_body_is_not_inflated() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    post_and_poll(&app).await;
    let bomb = gzip_bomb(520_000);
    assert!(bomb.len() < 1 << 20, "128 MiB in {} bytes", bomb.len());
    let before = resident_bytes(&server);
    let answer = app.hook(bomb.clone()).header("content-encoding", "gzip").send().await.unwrap();
    problem(answer, 400).await;
    for (method, rest) in [(Method::PUT, ""), (Method::POST, "/lease"), (Method::POST, "/ack")] {
        let request = app.request(method, rest).header("content-encoding", "gzip").body(bomb.clone());
        let status = request.send().await.unwrap().status().as_u16();
        assert!([400, 413].contains(&status), "{rest}: {status}");
    }
    let taken = resident_bytes(&server).saturating_sub(before);
    assert!(taken < 32 << 20, "{taken} bytes");
    post_and_poll(&app).await;
}

/// The parsers do not recurse, so the nesting is not limited by the stack.
#[tokio::test]
async fn deeply_nested_json_does_not_overflow_the_stack() {
    let mut server = Server::start(&[]);
    let app = server.app("bot").await;
    for deep in ["[".repeat(250_000), "{\"a\":".repeat(50_000), "[{\"type\":".repeat(25_000)] {
        for wrapped in [deep.clone(), format!("{{\"secret\":{deep}"), format!("{{\"ack\":{deep}")] {
            for (method, rest) in [(Method::PUT, ""), (Method::POST, "/lease"), (Method::POST, "/ack")] {
                let answer = app.request(method, rest).body(wrapped.clone()).send().await.unwrap();
                problem(answer, 400).await;
            }
        }
        let signed = app.hook(deep.as_str()).send().await.unwrap();
        problem(signed, 400).await;
        let mut socket = app.listen("").await;
        socket.send(format!("{{\"type\":{deep}")).await;
        assert_eq!(socket.close_code().await, 1007);
    }
    post_and_poll(&app).await;
    assert!(server.is_running());
}
