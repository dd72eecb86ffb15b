//! `listen`, against a fake proxy.

use super::*;

#[tokio::test]
async fn listen_acknowledges_after_printing() {
    let mut fake = proxy(|_| Reply::Upgrade(Some("wwproxy.v2"))).await;
    let mut child = wwproxy(&fake.url, &["listen", "--window", "2"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut socket = fake.socket().await;
    let hello = r#"{"type":"hello","appId":"bot","window":2,"leaseMs":60000,"pingMs":20000,"idleMs":60000}"#;
    socket.send(Message::text(hello)).await.unwrap();
    let rest =
        r#""attempt":2,"receivedAt":"2018-10-03T09:46:40.123Z","headers":[["x","\u001b"]],"query":"q=1""#;
    let event = format!(
        "{{\"type\":\"event\",\"id\":\"a\",{rest},\"data\":{{\r\n \"n\" : 1.50,\t\"s\":\"\\n\"}}\n}}"
    );
    socket.send(Message::text(event)).await.unwrap();
    let line = lines.next_line().await.unwrap().unwrap();
    assert_eq!(line, format!("{{\"id\":\"a\",{rest},\"data\":{{   \"n\" : 1.50,\t\"s\":\"\\n\"}} }}"));
    let ack = socket.next().await.unwrap().unwrap();
    assert_eq!(ack.to_text().unwrap(), r#"{"id":"a","type":"event_ack"}"#);
    assert_eq!(fake.count("GET /webhooks/bot?window=2"), 1);

    terminate(&child).await;
    assert!(matches!(socket.next().await, Some(Ok(Message::Close(_)))));
    let output = child.wait_with_output().await.unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stderr).contains("connected to http://"), "{}", text(&output.stderr));
}

#[tokio::test]
async fn the_summary_counts_events_that_cannot_be_decoded() {
    let mut fake = proxy(|_| Reply::Upgrade(Some("wwproxy.v2"))).await;
    let mut child = wwproxy(&fake.url, &["listen"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut socket = fake.socket().await;
    // The first one is redelivered.
    for id in ["a", "a", "b"] {
        let event = format!(r#"{{"type":"event","id":"{id}","encoding":"cbor","data":{{}}}}"#);
        socket.send(Message::text(event)).await.unwrap();
        let nack = socket.next().await.unwrap().unwrap();
        assert!(nack.to_text().unwrap().contains("nack"), "{nack:?}");
    }
    terminate(&child).await;
    let mut last = String::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        last = line;
    }
    assert_eq!(last, "wwproxy: 0 taken, 2 undecodable, 0 kept, 0 skipped");
    assert_eq!(child.wait().await.unwrap().code(), Some(0));
}

async fn terminate(child: &tokio::process::Child) {
    let id = child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().await.unwrap().success());
}

#[tokio::test]
async fn listen_exits_without_ack_if_stdout_is_closed() {
    let mut fake = proxy(|_| Reply::Upgrade(None)).await;
    let mut child = wwproxy(&fake.url, &["listen"]).spawn().unwrap();
    drop(child.stdout.take());
    let mut socket = fake.socket().await;
    socket.send(Message::text(r#"{"type":"event","id":"a","data":{}}"#)).await.unwrap();
    assert!(matches!(socket.next().await, Some(Ok(Message::Close(_)))));
    assert_eq!(child.wait().await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn a_slow_reader_delays_acks_but_not_pongs() {
    let mut fake = proxy(|_| Reply::Upgrade(Some("wwproxy.v2"))).await;
    let mut child = wwproxy(&fake.url, &["listen"]).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut socket = fake.socket().await;
    // More than a pipe takes (64 KiB on Linux): the write blocks until it is read.
    let body = format!("[\"{}\"]", "x".repeat(1 << 20));
    socket.send(Message::text(format!(r#"{{"type":"event","id":"a","data":{body}}}"#))).await.unwrap();
    socket.send(Message::Ping("alive?".into())).await.unwrap();
    assert!(matches!(socket.next().await, Some(Ok(Message::Pong(_)))), "no ack yet, but a pong");
    let mut read = vec![0; body.len()];
    stdout.read_exact(&mut read).await.unwrap();
    let mut rest = BufReader::new(stdout).lines();
    rest.next_line().await.unwrap().unwrap();
    assert!(socket.next().await.unwrap().unwrap().is_text());

    // A signal during a blocked write: it ends without an ack.
    socket.send(Message::text(format!(r#"{{"type":"event","id":"b","data":{body}}}"#))).await.unwrap();
    socket.send(Message::Ping("alive?".into())).await.unwrap();
    assert!(matches!(socket.next().await, Some(Ok(Message::Pong(_)))));
    terminate(&child).await;
    assert!(matches!(socket.next().await, Some(Ok(Message::Close(_)))));
    assert_eq!(child.wait().await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn listen_reconnects_and_reports_it() {
    let tries = Arc::new(AtomicUsize::new(0));
    let mut fake = proxy(move |_| match tries.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::Close,
        _ => Reply::Upgrade(None),
    })
    .await;
    let mut child = wwproxy(&fake.url, &["listen", "-n", "2"]).spawn().unwrap();
    let mut messages = BufReader::new(child.stderr.take().unwrap()).lines();
    let said = messages.next_line().await.unwrap().unwrap();
    assert!(said.contains("retrying in"), "{said}");
    let mut socket = fake.socket().await;
    for id in ["a", "b", "c"] {
        socket.send(Message::text(format!(r#"{{"type":"event","id":"{id}","data":{{}}}}"#))).await.unwrap();
    }
    let mut acks = Vec::new();
    while let Some(Ok(message)) = socket.next().await {
        if message.is_text() {
            acks.push(message.to_text().unwrap().to_owned());
        }
    }
    assert_eq!(acks, [r#"{"id":"a","type":"event_ack"}"#, r#"{"id":"b","type":"event_ack"}"#]);
    let output = child.wait_with_output().await.unwrap();
    assert_eq!(text(&output.stdout), "{\"id\":\"a\",\"data\":{}}\n{\"id\":\"b\",\"data\":{}}\n");
    assert_eq!(output.status.code(), Some(0));
}

/// A proxy whose first requests of the status fail. The app has the source `default`.
async fn failing_status(failures: usize) -> FakeServer {
    const STATUS: &str = r#"{"registration":null,"stored":0,"leased":0,"dropped":0,"storedBytes":0,"oldestAgeMs":null,"clients":1,
        "sources":[{"name":"default","scheme":"github","covers":"body","verified":true,"secrets":1,"lastAccepted":null,"lastRefused":null}]}"#;
    let tries = AtomicUsize::new(0);
    proxy(move |request| match request.line.as_str() {
        "GET /webhooks/bot/status" if tries.fetch_add(1, Ordering::SeqCst) < failures => Reply::status(503),
        "GET /webhooks/bot/status" => Reply::json(200, STATUS),
        _ => Reply::Upgrade(None),
    })
    .await
}

#[tokio::test]
async fn the_check_of_source_names_is_retried() {
    let mut fake = failing_status(2).await;
    let child = wwproxy(&fake.url, &["listen", "--source", "defalt"]).spawn().unwrap();
    let _socket = fake.socket().await;
    let output = timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap();
    let messages = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{messages}");
    assert!(messages.contains("no source of the app matches --source 'defalt'"), "{messages}");

    // After several failures it says so, and checks again at the first event that does not match.
    let mut fake = failing_status(3).await;
    let mut child = wwproxy(&fake.url, &["listen", "--source", "defalt"]).spawn().unwrap();
    let mut socket = fake.socket().await;
    let mut messages = BufReader::new(child.stderr.take().unwrap()).lines();
    let unchecked = "the names of --source could not be checked";
    let checked = async { while !messages.next_line().await.unwrap().unwrap().contains(unchecked) {} };
    timeout(PATIENCE, checked).await.unwrap();
    socket.send(Message::text(r#"{"type":"event","id":"a","data":{}}"#)).await.unwrap();
    assert_eq!(timeout(PATIENCE, child.wait()).await.unwrap().unwrap().code(), Some(2));
}

#[tokio::test]
async fn listen_says_when_a_legacy_server_redelivers_events_that_are_left() {
    let mut fake = proxy(|request| match request.line.as_str() {
        "GET /webhooks/bot/status" => Reply::status(404),
        _ => Reply::Upgrade(None),
    })
    .await;
    let args = ["listen", "--type", "x", "--leave-unmatched"];
    let mut child = wwproxy(&fake.url, &args).spawn().unwrap();
    let mut socket = fake.socket().await;
    socket.send(Message::text(r#"{"type":"event","id":"a","data":{"type":"y"}}"#)).await.unwrap();
    let mut messages = BufReader::new(child.stderr.take().unwrap()).lines();
    let left = async {
        loop {
            let line = messages.next_line().await.unwrap().expect("the event is reported");
            if line.contains("left event a of type y") {
                return line;
            }
        }
    };
    let left = timeout(PATIENCE, left).await.unwrap();
    assert!(left.contains("version 0.1") && left.contains("only after this connection ends"), "{left}");
}
