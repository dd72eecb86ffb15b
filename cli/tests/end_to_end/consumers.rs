//! Consumers: their filters, their positions, and dead events.

use std::time::{Duration, Instant};

use serde_json::Value;
use wwproxy_sdk::{Secret, SourceSettings, sign_watson_work};

use super::world::{World, interrupt, next_event};

/// The deadline of a wait.
const PATIENCE: Duration = Duration::from_secs(60);

/// The consumer of this name, as `wwproxy consumers` prints it, or `null`.
fn consumer(world: &World, name: &str) -> Value {
    let lines = world.run(&["consumers"]);
    let mut consumers = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    consumers.find(|consumer| consumer["name"] == name).unwrap_or_default()
}

/// Waits until a member of a consumer has this value.
fn wait_until(world: &World, name: &str, member: &str, value: u64) {
    let start = Instant::now();
    while consumer(world, name)[member] != value {
        assert!(start.elapsed() < PATIENCE, "{name} has {}", consumer(world, name));
    }
}

fn types_of(world: &World, args: &[&str]) -> Vec<String> {
    let (mut listen, mut output) = world.listen(args);
    let count = args[args.iter().position(|arg| *arg == "-n").unwrap() + 1].parse().unwrap();
    let types = (0..count).map(|_| next_event(&mut output)["data"]["type"].as_str().unwrap().to_owned());
    let types = types.collect();
    assert!(listen.wait().unwrap().success());
    types
}

#[test]
fn each_consumer_gets_its_own_types_and_takes_nothing_from_others() {
    let world = World::new();
    let post = |kind: &str| world.post(&format!(r#"{{"type":"{kind}"}}"#));
    post("a");
    world.run(&["consumers", "create", "one", "--type", "a", "--since", "all"]);
    world.run(&["consumers", "create", "rest", "--type", "b*"]);
    for kind in ["b1", "a", "c", "b2"] {
        post(kind);
    }
    assert_eq!(types_of(&world, &["--consumer", "one", "--type", "a", "-n", "2"]), ["a", "a"]);
    assert_eq!(types_of(&world, &["--consumer", "rest", "-n", "2"]), ["b1", "b2"]);
    assert_eq!(types_of(&world, &["-n", "5"]), ["a", "b1", "a", "c", "b2"], "default takes everything");
    for name in ["one", "rest", "default"] {
        wait_until(&world, name, "pending", 0);
    }
}

#[test]
fn listen_creates_a_consumer_that_continues_where_it_was() {
    let world = World::new();
    world.post(r#"{"type":"a","n":1}"#);
    let args = ["--consumer", "audit", "--create", "--since", "all", "-n"];
    assert_eq!(types_of(&world, &[&args[..], &["1"]].concat()), ["a"]);
    world.post(r#"{"type":"b","n":2}"#);
    assert_eq!(types_of(&world, &[&args[..], &["1"]].concat()), ["b"], "not from the start again");
    world.run(&["consumers", "seek", "audit", "1h"]);
    assert_eq!(types_of(&world, &[&args[..], &["2"]].concat()), ["a", "b"]);
    world.run(&["consumers", "delete", "audit"]);
    let output = world.command(&["listen", "--consumer", "audit"]).output().unwrap();
    let messages = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(4), "{messages}");
    assert!(messages.contains("--create"), "{messages}");
}

#[test]
fn a_deleted_consumer_ends_its_listeners() {
    let world = World::new();
    let (mut listen, mut messages) = world.listen_with_messages(&["--consumer", "audit", "--create"]);
    messages.next_with("ready: connected");
    world.run(&["consumers", "delete", "audit"]);
    messages.next_with("the consumer was not found");
    assert_eq!(listen.wait().unwrap().code(), Some(4));
}

#[test]
fn sources_are_filtered_by_the_server() {
    let world = World::new();
    let secret = || Secret::new("hunter2");
    world.put_source("repo", &SourceSettings { secrets: vec![secret()], ..SourceSettings::default() });
    let (mut listen, mut output) =
        world.listen(&["--consumer", "repo", "--create", "--source", "repo", "-n", "1"]);
    wait_until(&world, "repo", "clients", 1);
    world.post(r#"{"type":"a"}"#);
    let body = r#"{"type":"b"}"#;
    let token = format!("X-OUTBOUND-TOKEN: {}", sign_watson_work(&secret(), body.as_bytes()));
    let path = world.hook("repo").split_once("/hook").map(|(_, path)| format!("/hook{path}")).unwrap();
    assert!(world.deliver(&path, &[&token], body).starts_with("HTTP/1.1 201 "));
    let event = next_event(&mut output);
    assert_eq!((&event["source"], &event["data"]["type"]), (&"repo".into(), &"b".into()));
    assert!(listen.wait().unwrap().success());
    assert_eq!(world.status()["stored"], 2, "both are there for default");
}

#[test]
fn history_is_shown_without_taking_events() {
    let world = World::new();
    world.post(r#"{"type":"a"}"#);
    assert_eq!(types_of(&world, &["-n", "1"]), ["a"]);
    world.post(r#"{"type":"b"}"#);
    assert_eq!(types_of(&world, &["--since", "1h", "-n", "2"]), ["a", "b"]);
    assert_eq!(types_of(&world, &["--since", "all", "--type", "b", "-n", "1"]), ["b"]);
    assert_eq!(world.status()["stored"], 1, "b is still there for default");
    let consumers = world.run(&["consumers"]);
    assert_eq!(consumers.lines().count(), 1, "{consumers}");
}

#[test]
fn a_poison_event_is_dead_with_its_reason() {
    let world = World::new();
    world.post(r#"{"type":"a"}"#);
    let args =
        ["listen", "--exec", "exit 3", "--max-attempts", "1", "--on-failure", "dead", "--max-events", "1"];
    let ended = world.command(&args).output().unwrap();
    let messages = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1), "{messages}");
    assert!(messages.contains("exit code 3") && messages.contains("0 taken, 1 dead"), "{messages}");
    wait_until(&world, "default", "dead", 1);
    assert_eq!(consumer(&world, "default")["leased"], 0);
    assert_eq!(world.run(&["get"]), "{}\n", "it is not redelivered");
}

#[test]
fn an_event_that_kills_its_client_is_dead_after_its_deliveries() {
    let world = World::new();
    world.run(&["consumers", "create", "jobs", "--dead-after", "2"]);
    world.post(r#"{"type":"a"}"#);
    for _ in 0..2 {
        let (mut listen, mut messages) =
            world.listen_with_messages(&["--consumer", "jobs", "--exec", "kill -9 $PPID"]);
        messages.next_with("ready: connected");
        assert!(!listen.wait().unwrap().success());
    }
    wait_until(&world, "jobs", "dead", 1);
    let (mut listen, mut messages) =
        world.listen_with_messages(&["--consumer", "jobs", "--exit-after-idle", "1s"]);
    messages.next_with("0 taken");
    assert!(listen.wait().unwrap().success());
}

#[test]
fn get_takes_the_events_of_a_consumer() {
    let world = World::new();
    world.run(&["consumers", "create", "audit", "--type", "a"]);
    world.post(r#"{"type":"a"}"#);
    world.post(r#"{"type":"b"}"#);
    let printed = world.run(&["get", "--consumer", "audit"]);
    assert!(printed.contains(r#"{"type":"a"}"#) && !printed.contains(r#"{"type":"b"}"#), "{printed}");
    assert_eq!(world.run(&["get", "--consumer", "audit"]), "{}\n");
    assert_eq!(world.status()["stored"], 2);
}

#[test]
fn clients_of_one_consumer_share_its_events() {
    let world = World::new();
    world.run(&["consumers", "create", "jobs"]);
    let (first, _output) = world.listen(&["--consumer", "jobs"]);
    let (second, _others) = world.listen(&["--consumer", "jobs"]);
    wait_until(&world, "jobs", "clients", 2);
    for n in 0..10 {
        world.post(&format!(r#"{{"n":{n}}}"#));
    }
    wait_until(&world, "jobs", "pending", 0);
    for mut listen in [first, second] {
        interrupt(&listen);
        assert!(listen.wait().unwrap().success());
    }
}
