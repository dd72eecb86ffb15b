//! `wwproxy get` with `--keep`, `--wait` and signals.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use serde_json::Value;

use crate::{
    target::{CannedResponse, Target},
    world::{World, interrupt},
};

/// More than a pipe holds (Linux: 64 KiB).
fn large() -> String {
    format!("{{\"text\":\"{}\"}}", "x".repeat(200_000))
}

const STATUS: &str = r#"{"registration":{"scheme":"watsonwork"},"stored":9,"leased":0,"dropped":0,"storedBytes":9,"oldestAgeMs":5,"clients":0}"#;
const SETTLED: &str = r#"{"acked":1,"released":0,"stale":[]}"#;

/// Accepts a connection, and reads the head of its request.
fn accept(proxy: &TcpListener) -> (TcpStream, String) {
    let mut request = BufReader::new(proxy.accept().unwrap().0);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(request.read_line(&mut head).unwrap(), 0, "{head}");
    }
    (request.into_inner(), head)
}

/// Accepts a request to this path, and does not answer it.
pub(crate) fn accept_path(proxy: &TcpListener, path: &str) -> TcpStream {
    let (stream, head) = accept(proxy);
    assert!(head.lines().next().unwrap().contains(path), "{head}");
    stream
}

/// Answers a request to this path.
pub(crate) fn answer(proxy: &TcpListener, path: &str, body: &str) {
    let mut stream = accept_path(proxy, path);
    let length = body.len();
    write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
}

fn events(printed: &str) -> BTreeMap<String, Value> {
    serde_json::from_str(printed).unwrap_or_else(|error| panic!("{error} in {printed}"))
}

#[test]
fn get_keep_releases_events_for_the_next_client() {
    let world = World::new();
    for n in 0..120 {
        world.post(&format!("{{\"n\":{n}}}"));
    }
    let kept = world.run(&["get", "--keep"]);
    assert_eq!(kept.matches("\"n\":").count(), 120);
    assert_eq!((&world.status()["stored"], &world.status()["leased"]), (&120.into(), &0.into()));
    assert_eq!(events(&world.run(&["get", "--keep", "--max", "2"])).len(), 2);
    assert_eq!(world.run(&["get"]), kept, "the same events in the same order");
    assert_eq!(world.run(&["get", "--keep"]), "{}\n");
}

#[test]
fn get_keep_releases_events_if_stdout_is_closed() {
    let world = World::new();
    world.post(&large());
    let mut get = world.command(&["get", "--keep"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(get.stdout.take());
    assert!(get.wait().unwrap().success());
    assert_eq!((&world.status()["stored"], &world.status()["leased"]), (&1.into(), &0.into()));
}

#[test]
fn get_wait_ends_with_the_first_event_or_the_timeout() {
    let world = World::new();
    assert_eq!(world.run(&["get", "--wait", "1ms"]), "{}\n");
    let get = world.command(&["get", "--wait", "5m"]).stdout(Stdio::piped()).spawn().unwrap();
    world.post("{\"n\":1}");
    let output = get.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(events(&String::from_utf8(output.stdout).unwrap()).len(), 1);
    assert_eq!(world.status()["stored"], 0);
}

#[test]
fn get_reports_events_that_are_not_available() {
    let world = World::new();
    world.post("{}");
    let get = || {
        let ended = world.command(&["get"]).output().unwrap();
        assert!(ended.status.success());
        (String::from_utf8(ended.stdout).unwrap(), String::from_utf8(ended.stderr).unwrap())
    };
    // The event is kept on the server for a minute.
    let target = Target::new(&[CannedResponse::Status(400)]);
    let listen =
        ["listen", "--forward-to", &target.address, "--max-attempts", "1", "--exit-after-idle", "1s"];
    assert_eq!(world.command(&listen).output().unwrap().status.code(), Some(1));
    let report = "wwproxy: 1 event is stored, leased or delayed: none is available now\n";
    assert_eq!(get(), ("{}\n".into(), report.into()));
    world.run(&["unregister"]);
    world.run_with_input(&["register", "-"], crate::world::WEBHOOK_SECRET);
    assert_eq!(get(), ("{}\n".into(), String::new()));
}

#[test]
fn get_ends_while_more_events_arrive() {
    let world = World::new();
    for _ in 0..5 {
        world.post("{}");
    }
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                world.post("{}");
            }
        });
        let printed = events(&world.run(&["get"]));
        done.store(true, Ordering::SeqCst);
        assert!(printed.len() >= 5);
    });
}

#[test]
fn a_signal_ends_the_wait() {
    let world = World::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = format!("http://{}", silent.local_addr().unwrap());
    let args = ["get", "--server", &server, "--token", "t", "--max", "1", "--wait", "1h"];
    let get = world.command(&args).stdout(Stdio::piped()).spawn().unwrap();
    answer(&silent, "/status ", STATUS);
    // It waits for an event.
    let _unanswered = accept_path(&silent, "/lease ");
    interrupt(&get);
    let output = get.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(output.stdout, b"{}\n");

    let get = world.command(&args).stdout(Stdio::piped()).spawn().unwrap();
    let _unanswered = accept_path(&silent, "/status ");
    interrupt(&get);
    let output = get.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(output.stdout, b"{}\n");
}

#[test]
fn a_signal_ends_a_blocked_write_without_ack() {
    let world = World::new();
    world.post(&large());
    for args in [&["get"][..], &["get", "--keep"]] {
        let mut get = world.command(args).stdout(Stdio::piped()).spawn().unwrap();
        // It has the event, and blocks writing to a pipe that is not read.
        world.wait_until("leased", 1);
        interrupt(&get);
        assert!(get.wait().unwrap().success());
        assert_eq!((&world.status()["stored"], &world.status()["leased"]), (&1.into(), &0.into()));
    }
}

#[test]
fn a_signal_between_two_leases_leaves_valid_json() {
    let world = World::new();
    // A server that delivers one event, and no further one before the signal.
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = format!("http://{}", proxy.local_addr().unwrap());
    let args = ["get", "--server", &server, "--token", "t"];
    let get = world.command(&args).stdout(Stdio::piped()).spawn().unwrap();
    let event = r#"{"events":[{"id":"1","attempt":1,"receipt":"r","receivedAt":0,"headers":[],"data":{}}]}"#;
    for (path, body) in [("/status ", STATUS), ("/lease ", event), ("/ack ", SETTLED)] {
        answer(&proxy, path, body);
    }
    let _unanswered = accept(&proxy);
    interrupt(&get);
    let output = get.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(output.stdout, b"{\"1\":{}}\n");
}

#[test]
fn events_that_cannot_be_decoded_are_reported_and_stay() {
    let world = World::new();
    let bad = |n| format!(r#"{{"id":"bad{n}","receipt":"b","source":"hunter2/a","data":{{}}}}"#);
    let leased = |events: &[String]| format!(r#"{{"events":[{}]}}"#, events.join(","));
    let good = r#"{"id":"good","receipt":"r","data":{"n":1}}"#.to_owned();
    // Each lease, the output, and how many events stay.
    let all: Vec<_> = (0..12).map(bad).collect();
    for (leases, printed, count) in [
        (
            vec![leased(&[bad(0), good.clone()]), leased(&[])],
            "{\"good\":{\"n\":1}}\n",
            "1 event cannot be decoded and stays",
        ),
        // The same events again, whose leases have expired.
        (
            vec![leased(&all), leased(&[good]), leased(&all)],
            "{\"good\":{\"n\":1}}\n",
            "12 events cannot be decoded and stay",
        ),
        (vec![leased(&all), leased(&[])], "{}\n", "12 events cannot be decoded and stay"),
    ] {
        let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = format!("http://{}", proxy.local_addr().unwrap());
        let mut get = world.command(&["get", "--server", &server, "--token", "t"]);
        let get = get.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        answer(&proxy, "/status ", STATUS);
        for lease in leases {
            answer(&proxy, "/lease ", &lease);
            if lease.contains("good") {
                answer(&proxy, "/ack ", SETTLED);
            }
        }
        let output = get.wait_with_output().unwrap();
        let messages = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{messages}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), printed);
        let first = "on the server: bad0 (the message has an unreadable source; update this client)";
        assert!(messages.contains(&format!("{count} {first}")), "{messages}");
        assert_eq!(messages.contains(", …"), count.starts_with("12"), "{messages}");
        assert!(!messages.contains("hunter2"), "{messages}");
    }
}

#[test]
fn a_server_without_leases_is_reported() {
    let world = World::new();
    let old = Target::new(&[CannedResponse::Status(404), CannedResponse::Status(404)]);
    let server = format!("http://{}", old.address);
    let output = world.command(&["get", "--server", &server, "--token", "t"]).output().unwrap();
    let messages = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && messages.contains("wwproxy listen"), "{messages}");
}
