//! Events that do not match: left on the server, or skipped and reported.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, ChildStderr, ChildStdout, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use crate::{
    target::Target,
    world::{WEBHOOK_SECRET, World, next_event},
};

/// How many events of each type are posted.
const EVENTS: usize = 100;
/// The time limit for the listeners: far less than if the same events were redelivered to the wrong one again and again.
const SOON: Duration = Duration::from_secs(20);

/// A listener that leaves events of other types, and ends after all events of its type.
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
fn two_listeners_that_leave_unmatched_events_get_theirs_soon() {
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
fn a_slow_listener_does_not_block_events_that_it_leaves() {
    let (world, target) = (World::new(), Target::new(&[]));
    // Its first event stays in progress until the target answers.
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

/// Copies a stream, with a delay for each piece.
fn copy_delayed(mut from: TcpStream, mut to: TcpStream, delay: Duration) {
    let (pieces, delayed) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        for (due, piece) in delayed {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&piece).is_err() {
                return;
            }
        }
        // The peer may have closed it already; ignore.
        let _ = to.shutdown(std::net::Shutdown::Write);
    });
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            if pieces.send((Instant::now() + delay, buffer[..length].to_vec())).is_err() {
                return;
            }
        }
    });
}

/// The address of a proxy over which the server is as far away as this round-trip time.
fn distant(world: &World, round_trip: Duration) -> String {
    let (listener, server) = (TcpListener::bind("127.0.0.1:0").unwrap(), world.address.clone());
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming() {
            let (client, server) = (client.unwrap(), TcpStream::connect(&server).unwrap());
            for (from, to) in [(&client, &server), (&server, &client)] {
                copy_delayed(from.try_clone().unwrap(), to.try_clone().unwrap(), round_trip / 2);
            }
        }
    });
    format!("http://{address}")
}

#[test]
fn events_that_are_left_do_not_starve_those_behind_them() {
    let world = World::new();
    world.run_with_input(&["register", "--scheme", "github", "--source", "a", "-"], WEBHOOK_SECRET);
    // No client wants these.
    world.send(&["--count", "3000"]);
    world.send(&["--scheme", "github", "--source", "a", "--type", "push"]);
    world.wait_until_stored(3001);
    let server = distant(&world, Duration::from_millis(100));
    let args = ["listen", "--source", "a", "-n1", "--format", "json"];
    let mut command = world.command(&args);
    let child = command.env("WWPROXY_SERVER", server).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = child.unwrap();
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
            panic!("the event was not delivered");
        }
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(next_event(&mut BufReader::new(child.stdout.take().unwrap()))["source"], "a");
    world.wait_until_stored(3000);
}

#[test]
fn a_wrong_source_of_an_app_that_is_registered_later_is_an_error() {
    let world = World::new();
    world.run(&["unregister"]);
    let (mut child, mut messages) = listen(&world, &["--source", "defalt", "--exit-after-idle", "20s"]);
    line_with(&mut messages, "waiting for events");
    world.run_with_input(&["register", "-"], WEBHOOK_SECRET);
    world.post("{}");
    line_with(&mut messages, "no source of the app matches --source 'defalt'; did you mean 'default'?");
    assert_eq!(child.wait().unwrap().code(), Some(2));
    assert_eq!(world.status()["stored"], 1);
}

/// A listener that is connected, and its stderr.
fn listen(world: &World, args: &[&str]) -> (Child, BufReader<ChildStderr>) {
    let mut command = world.command(&[&["listen"], args].concat());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut messages = BufReader::new(child.stderr.take().unwrap());
    line_with(&mut messages, "app my-bot: events to ");
    (child, messages)
}

/// Reads lines until one has this text.
fn line_with(messages: &mut impl BufRead, text: &str) -> String {
    loop {
        let mut line = String::new();
        assert_ne!(messages.read_line(&mut line).unwrap(), 0, "no line with {text}");
        if line.contains(text) {
            return line;
        }
    }
}

/// The exit code and the stderr of a command.
fn ended(world: &World, args: &[&str]) -> (Option<i32>, String) {
    let output = world.command(args).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_typo_in_a_type_is_reported_with_the_first_event_and_at_the_end() {
    let world = World::new();
    for _ in 0..3 {
        world.post(r#"{"type":"message-created"}"#);
    }
    world.post(r#"{"type":"space-deleted"}"#);
    world.post(r#"{"type":"reaction-added"}"#);
    let args = ["listen", "--type", "mesage-created", "--type", "reaction-*", "--exit-after-idle", "1s"];
    let (code, messages) = ended(&world, &[&args[..], &["--leave-unmatched"]].concat());
    assert_eq!(code, Some(0), "{messages}");
    let left: Vec<_> = messages.lines().filter(|line| line.contains("left event")).collect();
    assert_eq!(left.len(), 1, "{messages}");
    for says in ["of type message-created on the server: no --type matches", "`mesage-created` is near it"] {
        assert!(left[0].contains(says), "{messages}");
    }
    assert_eq!(messages.lines().last(), Some("wwproxy: 1 taken, 0 kept, 4 left, 0 skipped"), "{messages}");
    assert_eq!(world.status()["stored"], 4);

    world.post(r#"{"type":"reaction-added"}"#);
    let (code, messages) = ended(&world, &args);
    assert_eq!(code, Some(0), "{messages}");
    let skipped: Vec<_> = messages.lines().filter(|line| line.contains("skipped event")).collect();
    assert_eq!(skipped.len(), 1, "{messages}");
    for says in ["it is acknowledged", "`mesage-created` is near it", "--leave-unmatched"] {
        assert!(skipped[0].contains(says), "{messages}");
    }
    let summary = "wwproxy: 1 taken, 0 kept, 4 skipped: 3 × message-created, 1 × space-deleted";
    assert_eq!(messages.lines().last(), Some(summary), "{messages}");
    assert_eq!(world.status()["stored"], 0);
}

#[test]
fn a_typo_in_a_route_is_reported() {
    let world = World::new();
    world.post(r#"{"type":"message-created"}"#);
    let (code, messages) = ended(&world, &["listen", "--route", "mesage-*=9", "--exit-after-idle", "1s"]);
    assert!(
        code == Some(0) && messages.contains("no --route matches (`mesage-*` is near it; a typo?)"),
        "{messages}"
    );
}

#[test]
fn on_filter_error_decides_about_failed_filters() {
    let world = World::new();
    let outcome = |how: &[&str]| {
        world.post(r#"{"type":"a","n":"x"}"#);
        let args = ["listen", "--filter", ".n + 1 > 0", "--exit-after-idle", "1s", "--format", "data"];
        let output = world.command(&[&args, how].concat()).output().unwrap();
        let messages = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && messages.contains("the filter fails on event"), "{messages}");
        (output.stdout.len(), messages.lines().last().unwrap().to_owned(), world.status()["stored"].clone())
    };
    let summary = |text: &str| format!("wwproxy: {text}");
    assert_eq!(outcome(&[]), (21, summary("1 taken, 0 kept, 0 skipped"), 0.into()));
    let drop = ["--on-filter-error", "drop"];
    assert_eq!(outcome(&drop), (0, summary("0 taken, 0 kept, 1 skipped: 1 × a"), 0.into()));
    let leave = ["--on-filter-error", "leave"];
    assert_eq!(outcome(&leave), (0, summary("0 taken, 0 kept, 1 left, 0 skipped"), 1.into()));
}

#[test]
fn a_wrong_filter_is_reported_with_its_place() {
    let world = World::new();
    let (code, messages) = ended(&world, &["listen", "--filter", ".type == = 1"]);
    assert_eq!(code, Some(2), "{messages}");
    assert!(messages.contains("this is not a jq filter: at character 10, expected: "), "{messages}");
    assert!(!messages.contains("Parse") && !messages.contains("File"), "{messages}");
}

#[test]
fn a_filter_accepts_the_json_that_jq_accepts() {
    let world = World::new();
    let deep = format!("{{\"ok\":1,\"deep\":{}{}}}", "[".repeat(2000), "]".repeat(2000));
    for body in [r#"{"ok":1,"s":"\ud800"}"#, r#"{"ok":0,"ok":1}"#, r#"{"ok":1,"n":1e999}"#, &deep] {
        world.post(body);
        let (code, messages) = ended(&world, &["listen", "--filter", ".ok == 1", "-n1"]);
        assert!(code == Some(0) && !messages.contains("fails"), "{body}: {messages}");
    }
}

#[test]
fn a_listener_that_skips_events_warns_once_about_other_clients() {
    let world = World::new();
    // The first one is alone when it starts. It checks again at its first event that does not match.
    let (mut first, mut first_messages) = listen(&world, &["--type", "a"]);
    let (mut second, second_messages) = listen(&world, &["--type", "b", "--leave-unmatched"]);
    for _ in 0..20 {
        world.post(r#"{"type":"c"}"#);
    }
    let warning = line_with(&mut first_messages, "warning: ");
    assert!(warning.contains("2 clients are connected to my-bot"), "{warning}");
    assert!(warning.contains("acknowledges") && warning.contains("--leave-unmatched"), "{warning}");
    world.wait_until_stored(0);
    for child in [&mut first, &mut second] {
        crate::world::interrupt(child);
        assert!(child.wait().unwrap().success());
    }
    for mut messages in [first_messages, second_messages] {
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut messages, &mut rest).unwrap();
        assert!(!rest.contains("warning: ") && rest.contains(" taken, "), "{rest}");
    }
    // A listener that handles all events does not warn.
    let (mut one, _) = listen(&world, &["-n1"]);
    let (mut other, messages) = listen(&world, &["--exit-after-idle", "500ms"]);
    assert!(other.wait().unwrap().success());
    assert!(!messages.lines().any(|line| line.unwrap().contains("warning")));
    world.post("{}");
    assert!(one.wait().unwrap().success());
}

#[test]
fn an_app_that_is_not_registered_is_reported() {
    let world = World::new();
    world.run(&["unregister"]);
    let says = "my-bot is not registered on http://";
    for args in [&["status"][..], &["get"], &["get", "--max", "1"]] {
        let (code, messages) = ended(&world, args);
        assert!(
            code == Some(0) && messages.contains(says) && messages.contains("wwproxy register"),
            "{args:?}: {messages}"
        );
    }
    let (code, messages) = ended(&world, &["listen", "--require-registered"]);
    assert!(code == Some(4) && messages.contains(says), "{messages}");

    let (mut waiting, mut messages) = listen(&world, &["-n1"]);
    assert!(line_with(&mut messages, says).contains("waiting"));
    world.run_with_input(&["register", "-"], crate::world::WEBHOOK_SECRET);
    world.post("{}");
    assert!(waiting.wait().unwrap().success());
    let (code, messages) = ended(&world, &["listen", "--require-registered", "--exit-after-idle", "100ms"]);
    assert!(code == Some(0) && !messages.contains(says), "{messages}");
}

#[test]
fn listen_reports_its_target() {
    let world = World::new();
    for (args, target) in [
        (&[][..], "events to stdout"),
        (&["--forward-to", "http://u:hunter2@127.0.0.1:9/x?key=hunter2"], "events to http://127.0.0.1:9/x"),
        (&["--exec", "./handle.sh"], "events to the command `./handle.sh`"),
    ] {
        let args = [&["listen", "--exit-after-idle", "100ms"], args].concat();
        let (code, messages) = ended(&world, &args);
        assert!(code == Some(0) && messages.contains(&format!("app my-bot: {target}\n")), "{messages}");
        assert!(
            !messages.contains("hunter2") && messages.ends_with("wwproxy: 0 taken, 0 kept, 0 skipped\n"),
            "{messages}"
        );
    }
}
