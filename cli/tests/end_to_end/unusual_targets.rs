//! Targets with unusual responses and addresses, which curl and browsers accept too.

use std::{
    fs,
    io::{BufRead, ErrorKind, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::net::UnixListener,
    process::{Command, Output},
    thread,
    time::{Duration, Instant},
};

use crate::world::World;

/// A server that handles each connection in a thread of its own; they are numbered from 0.
fn server(handle: impl Fn(usize, TcpStream) + Clone + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for (n, stream) in listener.incoming().enumerate() {
            let handle = handle.clone();
            thread::spawn(move || handle(n, stream.unwrap()));
        }
    });
    address
}

/// Reads a request, and returns its head.
fn request(stream: &mut impl Read) -> String {
    let head = head(stream);
    // Case-sensitive, as in naive servers.
    let length = head.split("\r\nContent-Length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
    let mut body = vec![0; length.expect("a length in the usual case").parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    head
}

fn head(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// Runs `wwproxy replay` with this number of events and this size of their bodies.
pub(crate) fn replay(
    events: usize,
    body_bytes: usize,
    args: &[&str],
    set: impl FnOnce(&mut Command),
) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_wwproxy"));
    command.arg("replay").current_dir(&folder).env("WWPROXY_CONFIG_DIR", folder.path());
    for n in 0..events {
        let name = format!("{n}.json");
        let text = "x".repeat(body_bytes);
        let event =
            format!("{{\"id\":\"{n}\",\"attempt\":1,\"headers\":[],\"data\":{{\"text\":\"{text}\"}}}}");
        fs::write(folder.path().join(&name), event).unwrap();
        command.arg(name);
    }
    command.args(args);
    set(&mut command);
    command.output().unwrap()
}

/// Expects that each event is accepted at the first try.
fn accepted(events: usize, body_bytes: usize, target: &str) {
    let output = replay(events, body_bytes, &["--max-attempts", "1", "--forward-to", target], |_| {});
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn responses_of_lenient_servers_are_accepted() {
    for answer in [
        // No length: the body ends with the connection.
        "HTTP/1.0 200 OK\r\n\r\nbye",
        "HTTP/1.1 200 OK\r\n\r\nbye",
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbye",
        // Shorter than its length.
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbye",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nbye\r\n0\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        // Invalid heads.
        "HTTP/1.1 200\r\n\r\n",
        "HTTP/1.1 200 OK\nServer: x\n\nbye",
        "HTTP/1.1 200 OK\r\nServer : x\r\n\r\nbye",
        "HTTP/1.1 200 OK\r\nnot a header\r\n\r\nbye",
        "HTTP/1.1 200 OK\r\nA: x\r\n y\r\n\r\nbye",
        // A body where there should be none.
        "HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\nbye",
    ] {
        let target = server(move |_, mut stream| {
            request(&mut stream);
            stream.write_all(answer.as_bytes()).unwrap();
        });
        accepted(2, 10, &target);
    }
}

#[test]
fn a_slow_response_is_accepted() {
    let target = server(|_, mut stream| {
        request(&mut stream);
        for byte in b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n" {
            stream.write_all(&[*byte]).unwrap();
            thread::sleep(Duration::from_millis(10));
        }
    });
    accepted(1, 10, &target);
}

#[test]
fn a_response_before_the_body_was_read_is_accepted() {
    let target = server(|_, mut stream| {
        head(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").unwrap();
        // The rest is never read: the system resets the connection.
    });
    accepted(20, 4 << 20, &target);
}

#[test]
fn a_response_body_that_does_not_end_blocks_nothing() {
    let target = server(|_, mut stream| {
        request(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbye").unwrap();
        let _ = stream.read(&mut [0]);
    });
    let start = Instant::now();
    let output = replay(2, 10, &["--timeout", "60s", "--forward-to", &target], |_| {});
    assert!(output.status.success() && start.elapsed() < Duration::from_secs(50), "{output:?}");
}

#[test]
fn a_half_closed_connection_is_accepted() {
    let target = server(|_, mut stream| {
        request(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nbye").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let _ = stream.read(&mut [0]);
    });
    accepted(2, 10, &target);
}

#[test]
fn a_closed_pooled_connection_is_replaced() {
    let target = server(|n, mut stream| {
        request(&mut stream);
        stream.write_all(b"HTTP/1.1 204 OK\r\n\r\n").unwrap();
        if n == 0 {
            // The idle timeout of the target expires as the next request arrives.
            stream.read_exact(&mut [0]).unwrap();
        } else {
            let _ = stream.read(&mut [0]);
        }
    });
    accepted(2, 10, &target);
}

#[test]
fn an_unreachable_target_does_not_count_as_a_try() {
    let world = World::new();
    world.post("{\"n\":1}");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let args = ["--forward-to", &address.to_string(), "--max-attempts", "2", "--max-events", "1"];
    let (mut listen, output) = world.listen(&[&args[..], &["--format", "pretty"]].concat());
    let (mut stream, _) = listener.accept().unwrap();
    request(&mut stream);
    drop((stream, listener));
    let mut lines = output.lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("the connection broke")));
    for _ in 0..2 {
        assert!(lines.any(|line| line.contains("connection refused")));
    }
    let listener = TcpListener::bind(address).unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    let head = request(&mut stream).to_ascii_lowercase();
    assert!(head.contains("wwproxy-attempt: 2\r\n"), "{head}");
    stream.write_all(b"HTTP/1.1 204 OK\r\n\r\n").unwrap();
    assert!(listen.wait().unwrap().success());
    assert_eq!(world.status()["stored"], 0);
}

#[test]
fn an_unreachable_target_is_reported_and_retried() {
    let world = World::new();
    world.post("{\"n\":1}");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let args = ["--forward-to", &address.to_string(), "--max-attempts", "1", "--max-events", "1"];
    let (mut listen, mut messages) = world.listen_with_messages(&args);
    let line = messages.next_with("was not accepted");
    assert!(line.contains(&format!("POST http://{address}/: connection refused")), "{line}");
    assert!(line.contains("again in"), "{line}");
    let listener = TcpListener::bind(address).unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    let head = request(&mut stream).to_ascii_lowercase();
    assert!(head.contains("wwproxy-attempt: 1\r\n"), "{head}");
    stream.write_all(b"HTTP/1.1 204 OK\r\n\r\n").unwrap();
    assert!(listen.wait().unwrap().success());
    assert_eq!(world.status()["stored"], 0);
}

#[test]
fn a_timeout_while_connecting_does_not_count_as_an_attempt() {
    let world = World::new();
    world.post("{\"n\":1}");
    // With a full accept queue Linux drops further SYN packets.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let listener = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        socket.listen(0).unwrap().into_std().unwrap()
    });
    listener.set_nonblocking(false).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(500)) {
        queued.push(stream);
    }
    let args = ["--forward-to", &address.to_string(), "--max-attempts", "1", "--max-events", "1"];
    let (mut listen, mut messages) = world.listen_with_messages(&[&args[..], &["--timeout", "3s"]].concat());
    let line = messages.next_with("was not accepted");
    assert!(line.contains("no connection in time") && line.contains("again in"), "{line}");
    drop(queued);
    // The queued connections are accepted first, and are at their end.
    let mut stream =
        listener.incoming().map(Result::unwrap).find(|stream| stream.peek(&mut [0]).unwrap() > 0).unwrap();
    let head = request(&mut stream).to_ascii_lowercase();
    assert!(head.contains("wwproxy-attempt: 1\r\n"), "{head}");
    stream.write_all(b"HTTP/1.1 204 OK\r\n\r\n").unwrap();
    assert!(listen.wait().unwrap().success());
    assert_eq!(world.status()["stored"], 0);
}

#[test]
fn throttled_events_do_not_block_others() {
    let world = World::new();
    // The last one overflows 64 bits.
    let delays = ["9", "3600", "99999999999999999999"];
    let target = server(move |n, mut stream| {
        let head = request(&mut stream).to_ascii_lowercase();
        let answer = match delays.get(n) {
            Some(delay) => format!(
                "HTTP/1.1 429 Later\r\nRetry-After: {delay}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            ),
            None => "HTTP/1.1 204 OK\r\nConnection: close\r\n\r\n".into(),
        };
        assert!(head.contains("wwproxy-attempt: 1\r\n"), "{head}");
        stream.write_all(answer.as_bytes()).unwrap();
    });
    for n in 0..5 {
        world.post(&format!("{{\"n\":{n}}}"));
    }
    let args = ["listen", "--forward-to", &target, "--max-events", "2", "--format", "data"];
    let output = world.command(&args).output().unwrap();
    assert_eq!(output.stdout, b"{\"n\":3}\n{\"n\":4}\n");
    let messages = String::from_utf8(output.stderr).unwrap();
    assert!(
        messages.contains("was not accepted: 429 POST") && messages.contains("2 taken, 3 kept"),
        "{messages}"
    );
    assert_eq!((&world.status()["stored"], &world.status()["leased"]), (&3.into(), &0.into()));
}

#[test]
fn retry_after_dates_use_the_clock_of_the_response() {
    // A clock that is a year ahead: one second later is one second.
    let target = server(|n, mut stream| {
        request(&mut stream);
        let answer = match n {
            0 => {
                "HTTP/1.1 503 Later\r\nDate: Fri, 31 Dec 2100 12:00:00 GMT\r\n\
                 Retry-After: Fri, 31 Dec 2100 12:00:01 GMT\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            }
            _ => "HTTP/1.1 204 OK\r\nConnection: close\r\n\r\n",
        };
        stream.write_all(answer.as_bytes()).unwrap();
    });
    let start = Instant::now();
    let output = replay(1, 10, &["--max-attempts", "2", "--forward-to", &target], |_| {});
    assert!(output.status.success(), "{output:?}");
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(60), "{took:?}");
}

#[test]
fn a_port_alone_is_tried_at_both_loopback_addresses() {
    for loopback in ["127.0.0.1:0", "[::1]:0"] {
        let listener = match TcpListener::bind(loopback) {
            // The system has no IPv6.
            Err(error) if loopback.starts_with('[') && error.kind() == ErrorKind::AddrNotAvailable => {
                continue;
            }
            bound => bound.unwrap(),
        };
        let port = listener.local_addr().unwrap().port();
        let app = thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            let head = request(&mut stream);
            stream.write_all(b"HTTP/1.1 204 OK\r\n\r\n").unwrap();
            head
        });
        accepted(1, 10, &format!(":{port}"));
        let head = app.join().unwrap();
        assert!(head.contains(&format!("\r\nHost: localhost:{port}\r\n")), "{head}");
    }
}

#[test]
fn a_unix_socket_is_a_target() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("app.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let app = thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let head = request(&mut stream);
        stream.write_all(b"HTTP/1.1 204 OK\r\n\r\n").unwrap();
        head
    });
    // A proxy is not used.
    let target = format!("unix:{}:/hooks", socket.display());
    let args = ["--max-attempts", "1", "--forward-to", &target, "--proxy", "http://127.0.0.1:1"];
    let output = replay(1, 10, &args, |_| {});
    assert!(output.status.success(), "{output:?}");
    let head = app.join().unwrap();
    assert!(
        head.starts_with("POST /hooks HTTP/1.1\r\n") && head.contains("\r\nHost: localhost\r\n"),
        "{head}"
    );
    fs::remove_file(&socket).unwrap();
    let output = replay(1, 10, &args, |_| {});
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains(&format!("POST {target}: ")) && printed.contains("socket's path"), "{printed}");
}

#[test]
fn an_invalid_target_is_a_usage_error_with_the_accepted_forms() {
    for bad in ["3000:4000", "http:3000", "ftp://h", "./handle.sh", "unix:"] {
        for args in [["replay", "x", "--forward-to", bad].as_slice(), &["send", "--to", bad]] {
            let output = Command::new(env!("CARGO_BIN_EXE_wwproxy")).args(args).output().unwrap();
            let messages = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{messages}");
            assert!(messages.contains("give a port (3000), HOST:PORT"), "{messages}");
        }
    }
}

/// What `replay` prints for a target that does not accept the event.
fn failure(target: &str, set: impl FnOnce(&mut Command)) -> String {
    let output = replay(1, 10, &["--max-attempts", "1", "--forward-to", target], set);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn each_cause_of_a_missing_response_has_its_message_and_advice() {
    let plain = server(|_, mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    });
    // An alert is what TLS answers to anything else.
    let tls = server(|_, mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(&[21, 3, 3, 0, 2, 2, 70]);
    });
    let http2 = server(|_, mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
    });
    for (target, reason) in [
        ("127.0.0.1:1".to_owned(), "connection refused; check the port"),
        ("http://nowhere.invalid".to_owned(), "no such host"),
        (format!("https://{plain}"), "does not speak TLS; use http://"),
        (format!("http://{tls}"), "speaks TLS; use https://"),
        (format!("http://{http2}"), "speaks HTTP/2 only; give --http2"),
    ] {
        let printed = failure(&target, |command| {
            command.env("no_proxy", "*");
        });
        assert!(printed.contains(reason), "{target}: {printed}");
    }
    let args = ["--max-attempts", "1", "--http2", "--forward-to", &plain];
    let printed = String::from_utf8(replay(1, 10, &args, |_| {}).stdout).unwrap();
    assert!(printed.contains("it does not answer in HTTP/2; leave out --http2"), "{printed}");
}

#[test]
fn proxies_are_used_only_for_other_machines() {
    let target = server(|_, mut stream| {
        request(&mut stream);
        stream.write_all(b"HTTP/1.1 204 OK\r\n\r\n").unwrap();
    });
    let by_proxy = |command: &mut Command| {
        command
            .env_remove("NO_PROXY")
            .env_remove("no_proxy")
            .env("http_proxy", "http://u:hunter2@127.0.0.1:1");
    };
    let output = replay(1, 10, &["--max-attempts", "1", "--forward-to", &target], by_proxy);
    assert!(output.status.success(), "{output:?}");
    let printed = failure("http://app.example", by_proxy);
    assert!(printed.contains("127.0.0.1:1") && printed.contains("http_proxy"), "{printed}");
    assert!(!printed.contains("hunter2"), "{printed}");
}
