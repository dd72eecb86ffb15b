//! The real command line against the real server, on disk, over a real port.

mod blocked;
mod bodies;
mod challenge;
mod closed_stdout;
mod consumers;
mod exec;
mod files;
mod forward;
mod get;
mod libraries;
mod send;
mod side_by_side;
mod sources;
mod tail;
mod target;
mod terminal;
mod tls;
mod unmatched;
mod unusual_targets;
mod world;

use std::{collections::BTreeMap, process::Stdio};

use serde_json::Value;

use self::world::{World, next_event};

/// An event that is larger than a pipe buffer (Linux: 64 KiB), so that its line is written only once it is read.
fn large(n: usize) -> String {
    format!("{{\"n\":{n},\"text\":\"{}\"}}", "x".repeat(200_000))
}

#[test]
fn events_are_printed_in_order_and_acknowledged() {
    let world = World::new();
    for n in 0..20 {
        world.post(&format!("{{\"n\": {n}.0 }}\n"));
    }
    let (mut listen, mut output) = world.listen(&["--max-events", "20"]);
    for n in 0..20 {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut output, &mut line).unwrap();
        assert!(line.contains(&format!("\"data\":{{\"n\": {n}.0 }}")), "{line}");
        assert!(line.contains("\"attempt\":1,"), "{line}");
    }
    assert!(listen.wait().unwrap().success());
    assert_eq!(world.status()["stored"], 0);
    assert_eq!(world.status()["registration"]["scheme"], "watsonwork");
}

#[test]
fn get_prints_bodies_byte_for_byte_and_takes_them() {
    let world = World::new();
    world.post("{\"b\": 1e400,\n \"a\":[ ]}");
    world.post("[1.50]");
    let printed = world.run(&["get"]);
    assert!(printed.contains(":{\"b\": 1e400,\n \"a\":[ ]},"), "{printed}");
    assert!(printed.ends_with(":[1.50]}\n"), "{printed}");
    assert_eq!(world.run(&["get"]), "{}\n");
}

#[test]
fn a_closed_pipe_loses_no_event() {
    let world = World::new();
    for n in 0..5 {
        world.post(&large(n));
    }
    let (mut listen, mut output) = world.listen(&[]);
    assert_eq!(next_event(&mut output)["data"]["n"], 0);
    drop(output);
    assert!(listen.wait().unwrap().success(), "a closed pipe is not an error");

    // Only the event that was read has been acknowledged.
    assert_eq!(world.status()["stored"], 4);
    let (mut listen, mut output) = world.listen(&["--max-events", "4"]);
    for n in 1..5 {
        assert_eq!(next_event(&mut output)["data"]["n"], n);
    }
    assert!(listen.wait().unwrap().success());
    assert_eq!(world.status()["stored"], 0);
}

#[test]
fn get_into_a_closed_pipe_loses_no_event() {
    let world = World::new();
    world.post(&large(0));
    world.post(&large(1));
    let mut get = world.command(&["get"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(get.stdout.take());
    assert!(get.wait().unwrap().success());
    assert_eq!(world.status()["leased"], 0, "they were released");
    let events: BTreeMap<String, Value> = serde_json::from_str(&world.run(&["get"])).unwrap();
    assert_eq!(events.values().map(|event| &event["n"]).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn a_killed_server_loses_no_event() {
    let mut world = World::new();
    let (mut listen, mut output) = world.listen(&[]);
    for n in 0..10 {
        world.post(&format!("{{\"n\":{n}}}"));
    }
    let mut seen = BTreeMap::new();
    let mut see = |event: &Value| {
        let id = event["id"].as_str().unwrap().to_owned();
        seen.insert(event["data"]["n"].as_u64().unwrap(), id).is_none_or(|before| before == event["id"])
    };
    for _ in 0..5 {
        assert!(see(&next_event(&mut output)));
    }
    world.kill();
    world.start();
    for n in 10..20 {
        world.post(&format!("{{\"n\":{n}}}"));
    }
    // Events in flight may be redelivered, with the same id.
    loop {
        let event = next_event(&mut output);
        assert!(see(&event), "another id for {event}");
        if event["data"]["n"] == 19 {
            break;
        }
    }
    assert_eq!(seen.keys().copied().collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
    world.wait_until_stored(0);
    listen.kill().unwrap();
    listen.wait().unwrap();
}

#[test]
fn wrong_credentials_are_rejected_and_not_shown() {
    let world = World::new();
    for args in [["listen"], ["status"], ["get"], ["token"]] {
        let output = world.command(&args).env("SECRET", "hunter2").output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{args:?}");
        let messages = String::from_utf8(output.stderr).unwrap();
        assert_eq!(messages.lines().count(), 1, "{messages}");
        assert!(!messages.contains("hunter2"), "{messages}");
        assert!(output.stdout.is_empty());
    }
    let mut world = world;
    world.kill();
    assert_eq!(world.command(&["status"]).output().unwrap().status.code(), Some(5));
}

#[test]
fn unregister_deletes_stored_events() {
    let world = World::new();
    world.post("{}");
    let unregister = || {
        let ended = world.command(&["unregister"]).output().unwrap();
        assert!(ended.status.success());
        String::from_utf8(ended.stderr).unwrap()
    };
    assert_eq!(
        unregister(),
        "wwproxy: unregistered my-bot; its consumers and all its events, history included, were deleted (pending: default 1)\n"
    );
    assert_eq!(world.status()["registration"], Value::Null);
    assert_eq!(world.status()["stored"], 0);
    assert_eq!(unregister(), "wwproxy: my-bot was not registered\n");
}
