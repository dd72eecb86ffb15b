//! Events that a listener does not want: left for others, or skipped and reported.

use std::{
    io::{BufRead, BufReader},
    process::{Child, ChildStderr, ChildStdout, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    target::Target,
    world::{World, next_event},
};

/// How many events of each type are posted.
const EVENTS: usize = 100;
/// How long listeners may take for them: far less than the minutes of those that hand events back and forth.
const SOON: Duration = Duration::from_secs(20);

/// A listener that leaves what is not of its type, and ends with all that is.
fn leaving(world: &World, kind: &str, more: &[&str]) -> (Child, BufReader<ChildStdout>) {
    let max = EVENTS.to_string();
    world.listen(&[&["--leave-unmatched", "--type", kind, "--max-events", &max], more].concat())
}

fn post_both(world: &World) {
    for n in 0..EVENTS {
        world.post(&format!("{{\"type\":\"a\",\"n\":{n}}}"));
        world.post(&format!("{{\"type\":\"b\",\"n\":{n}}}"));
    }
}

#[test]
fn two_listeners_that_leave_events_to_each_other_get_theirs_soon() {
    let world = World::new();
    let (mut a, a_output) = leaving(&world, "a", &[]);
    let (mut b, b_output) = leaving(&world, "b", &[]);
    let readers = [a_output, b_output].map(|output| thread::spawn(move || output.lines().count()));
    post_both(&world);
    let start = Instant::now();
    assert!(a.wait().unwrap().success() && b.wait().unwrap().success());
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    assert_eq!(readers.map(|reader| reader.join().unwrap()), [EVENTS, EVENTS]);
    assert_eq!(world.status()["stored"], 0);
}

#[test]
fn a_slow_listener_does_not_hold_up_what_it_leaves() {
    let (world, target) = (World::new(), Target::new(&[]));
    // Its first event stays with it until the target answers.
    let command = format!("curl -s --noproxy '*' -d x http://{}/ && sleep 3600", target.address);
    let (mut slow, _output) = leaving(&world, "a", &["--exec", &command, "--timeout", "1h"]);
    let (mut b, mut b_output) = leaving(&world, "b", &[]);
    post_both(&world);
    target.next();
    let start = Instant::now();
    for _ in 0..EVENTS {
        assert_eq!(next_event(&mut b_output)["data"]["type"], "b");
    }
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    assert!(b.wait().unwrap().success());
    crate::world::interrupt(&slow);
    slow.wait().unwrap();
    world.wait_until_stored(EVENTS as u64);
}

/// A listener, and its stderr after it was ready.
fn listen(world: &World, args: &[&str]) -> (Child, BufReader<ChildStderr>) {
    let mut command = world.command(&[&["listen"], args].concat());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut talk = BufReader::new(child.stderr.take().unwrap());
    line_with(&mut talk, "webhooks to http://");
    (child, talk)
}

/// Reads lines until one has this text.
fn line_with(talk: &mut impl BufRead, text: &str) -> String {
    loop {
        let mut line = String::new();
        assert_ne!(talk.read_line(&mut line).unwrap(), 0, "no line with {text}");
        if line.contains(text) {
            return line;
        }
    }
}

/// How a command ended, and what it said.
fn ended(world: &World, args: &[&str]) -> (Option<i32>, String) {
    let output = world.command(args).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_typo_in_a_type_is_reported_with_the_first_skipped_event_and_at_the_end() {
    let world = World::new();
    for _ in 0..3 {
        world.post(r#"{"type":"message-created"}"#);
    }
    world.post(r#"{"type":"space-deleted"}"#);
    world.post(r#"{"type":"reaction-added"}"#);
    let args = ["listen", "--type", "mesage-created", "--type", "reaction-*", "--exit-after-idle", "1s"];
    let (code, talk) = ended(&world, &args);
    assert_eq!(code, Some(0), "{talk}");
    let skipped: Vec<_> = talk.lines().filter(|line| line.contains("skipped event")).collect();
    assert_eq!(skipped.len(), 1, "{talk}");
    for says in
        ["of type message-created: no --type matches", "`mesage-created` is near it", "--leave-unmatched"]
    {
        assert!(skipped[0].contains(says), "{talk}");
    }
    let summary = "wwproxy: 1 taken, 0 kept, 4 skipped: 3 × message-created, 1 × space-deleted";
    assert_eq!(talk.lines().last(), Some(summary), "{talk}");
    assert_eq!(world.status()["stored"], 0);
}

#[test]
fn a_typo_in_a_route_is_reported() {
    let world = World::new();
    world.post(r#"{"type":"message-created"}"#);
    let (code, talk) = ended(&world, &["listen", "--route", "mesage-*=9", "--exit-after-idle", "1s"]);
    assert!(
        code == Some(0) && talk.contains("no --route matches (`mesage-*` is near it; a typo?)"),
        "{talk}"
    );
}

#[test]
fn what_a_filter_cannot_read_is_delivered_unless_said_otherwise() {
    let world = World::new();
    let outcome = |how: &[&str]| {
        world.post(r#"{"type":"a","n":"x"}"#);
        let args = ["listen", "--filter", ".n + 1 > 0", "--exit-after-idle", "1s", "--format", "data"];
        let output = world.command(&[&args, how].concat()).output().unwrap();
        let talk = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && talk.contains("the filter fails on event"), "{talk}");
        (output.stdout.len(), talk.lines().last().unwrap().to_owned(), world.status()["stored"].clone())
    };
    let summary = |text: &str| format!("wwproxy: {text}");
    assert_eq!(outcome(&[]), (21, summary("1 taken, 0 kept, 0 skipped"), 0.into()));
    let drop = ["--on-filter-error", "drop"];
    assert_eq!(outcome(&drop), (0, summary("0 taken, 0 kept, 1 skipped: 1 × a"), 0.into()));
    let leave = ["--on-filter-error", "leave"];
    assert_eq!(outcome(&leave), (0, summary("0 taken, 1 kept, 0 skipped"), 1.into()));
}

#[test]
fn a_filter_that_is_wrong_is_explained_by_its_place() {
    let world = World::new();
    let (code, talk) = ended(&world, &["listen", "--filter", ".type == = 1"]);
    assert_eq!(code, Some(2), "{talk}");
    assert!(talk.contains("this is no jq filter: at character 10, expected: "), "{talk}");
    assert!(!talk.contains("Parse") && !talk.contains("File"), "{talk}");
}

#[test]
fn a_filter_reads_what_jq_reads() {
    let world = World::new();
    let deep = format!("{{\"ok\":1,\"deep\":{}{}}}", "[".repeat(2000), "]".repeat(2000));
    for body in [r#"{"ok":1,"s":"\ud800"}"#, r#"{"ok":0,"ok":1}"#, r#"{"ok":1,"n":1e999}"#, &deep] {
        world.post(body);
        let (code, talk) = ended(&world, &["listen", "--filter", ".ok == 1", "-n1"]);
        assert!(code == Some(0) && !talk.contains("fails"), "{body}: {talk}");
    }
}

#[test]
fn a_listener_that_takes_events_from_others_warns_once() {
    let world = World::new();
    // The first one is alone when it starts, and learns of the other with its first event that does not match.
    let (mut first, mut first_talk) = listen(&world, &["--type", "a"]);
    let (mut second, mut second_talk) = listen(&world, &["--type", "b", "--leave-unmatched"]);
    let warning = line_with(&mut second_talk, "warning: ");
    assert!(warning.contains("2 clients are connected to my-bot") && warning.contains("leaves"), "{warning}");
    for _ in 0..20 {
        world.post(r#"{"type":"c"}"#);
    }
    let warning = line_with(&mut first_talk, "warning: ");
    assert!(warning.contains("acknowledges") && warning.contains("--leave-unmatched"), "{warning}");
    world.wait_until_stored(0);
    for child in [&mut first, &mut second] {
        crate::world::interrupt(child);
        assert!(child.wait().unwrap().success());
    }
    for mut talk in [first_talk, second_talk] {
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut talk, &mut rest).unwrap();
        assert!(!rest.contains("warning: ") && rest.contains(" taken, "), "{rest}");
    }
    // A listener that takes everything takes nothing from others that it does not handle.
    let (mut one, _) = listen(&world, &["-n1"]);
    let (mut other, talk) = listen(&world, &["--exit-after-idle", "500ms"]);
    assert!(other.wait().unwrap().success());
    assert!(!talk.lines().any(|line| line.unwrap().contains("warning")));
    world.post("{}");
    assert!(one.wait().unwrap().success());
}

#[test]
fn an_app_that_is_not_registered_is_reported() {
    let world = World::new();
    world.run(&["unregister"]);
    let says = "my-bot is not registered on http://";
    for args in [&["status"][..], &["get"], &["get", "--max", "1"]] {
        let (code, talk) = ended(&world, args);
        assert!(
            code == Some(0) && talk.contains(says) && talk.contains("wwproxy register"),
            "{args:?}: {talk}"
        );
    }
    let (code, talk) = ended(&world, &["listen", "--require-registered"]);
    assert!(code == Some(4) && talk.contains(says), "{talk}");

    let (mut waiting, mut talk) = listen(&world, &["-n1"]);
    assert!(line_with(&mut talk, says).contains("waiting"));
    world.run_with_input(&["register", "-"], crate::world::WEBHOOK_SECRET);
    world.post("{}");
    assert!(waiting.wait().unwrap().success());
    let (code, talk) = ended(&world, &["listen", "--require-registered", "--exit-after-idle", "100ms"]);
    assert!(code == Some(0) && !talk.contains(says), "{talk}");
}

#[test]
fn a_listener_says_what_it_listens_to() {
    let world = World::new();
    for (args, target) in [
        (&[][..], "events to stdout"),
        (&["--forward-to", "http://u:hunter2@127.0.0.1:9/x"], "events to http://127.0.0.1:9/x"),
        (&["--exec", "./handle.sh"], "events to ./handle.sh"),
    ] {
        let args = [&["listen", "--exit-after-idle", "100ms"], args].concat();
        let (code, talk) = ended(&world, &args);
        assert!(code == Some(0) && talk.contains("app my-bot: webhooks to http://127.0.0.1:"), "{talk}");
        assert!(talk.contains("/hook/my-bot, ") && talk.contains(target), "{talk}");
        assert!(
            !talk.contains("hunter2") && talk.ends_with("wwproxy: 0 taken, 0 kept, 0 skipped\n"),
            "{talk}"
        );
    }
}
