//! Listeners of different sources of one app.

use std::{io::BufRead, thread};

use wwproxy_sdk::SourceSettings;

use crate::world::{World, interrupt};

/// How many events each source gets.
const EVENTS: usize = 10;

/// A server with an app that has only these sources, which verify nothing.
fn world(sources: &[&str]) -> World {
    let world = World::with_flags(&["--allow-unverified"]);
    world.run(&["sources", "delete", "default"]);
    for name in sources {
        world.put_source(name, &SourceSettings { scheme: "none".into(), ..SourceSettings::default() });
    }
    world
}

fn post(world: &World, source: &str) {
    let answer = world.deliver(&format!("/hook/my-bot/{source}"), &[], "{}");
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
}

#[test]
fn two_listeners_of_different_sources_get_all_of_their_events() {
    let world = world(&["shop", "repo"]);
    let max = EVENTS.to_string();
    let listeners = ["shop", "repo"].map(|source| {
        let (child, output) = world.listen(&["--source", source, "--format", "json", "--max-events", &max]);
        (source, child, thread::spawn(move || output.lines().map(Result::unwrap).collect::<Vec<_>>()))
    });
    world.wait_until("clients", 2);
    for _ in 0..EVENTS {
        post(&world, "shop");
        post(&world, "repo");
    }
    for (source, mut child, lines) in listeners {
        assert!(child.wait().unwrap().success());
        let lines = lines.join().unwrap();
        assert_eq!(lines.len(), EVENTS);
        assert!(lines.iter().all(|line| line.contains(&format!("\"source\":\"{source}\""))), "{lines:?}");
    }
    assert_eq!(world.status()["stored"], 0);
}

#[test]
fn a_typo_in_a_source_ends_tail() {
    let world = world(&["shop", "repo"]);
    let output = world.command(&["tail", "--source", "rep0"]).output().unwrap();
    let messages = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && output.stdout.is_empty(), "{messages}");
    assert!(
        messages.contains("no source of the app matches --source 'rep0'; did you mean 'repo'?"),
        "{messages}"
    );
}

#[test]
fn a_typo_in_a_source_ends_listen_before_its_first_event() {
    let world = world(&["shop", "repo"]);
    post(&world, "shop");
    post(&world, "repo");
    let args = ["listen", "--source", "shop", "--source", "rep0", "--exit-after-idle", "10s"];
    let output = world.command(&args).output().unwrap();
    let messages = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && output.stdout.is_empty(), "{messages}");
    let says =
        "no source of the app matches --source 'rep0'; did you mean 'repo'? its sources are repo, shop";
    assert!(messages.contains(says), "{messages}");
    assert_eq!(world.status()["stored"], 2);
    // A pattern that matches no source is the same error.
    assert_eq!(world.command(&["listen", "--source", "sho"]).output().unwrap().status.code(), Some(2));
    world.run(&["listen", "--source", "sh*", "--source", "rep?", "--max-events", "2"]);
}

#[test]
fn the_hooks_of_the_selected_sources_are_reported() {
    let world = world(&["a", "b", "c", "d", "e", "f", "g"]);
    let server = format!("http://{}/hook/my-bot", world.address);
    for (args, hooks) in [
        (
            &[][..],
            format!(
                "{server}/a, {server}/b, {server}/c, {server}/d, {server}/e and 2 more, see `wwproxy sources`\n"
            ),
        ),
        (&["--source", "b"], format!("{server}/b\n")),
    ] {
        let (mut child, mut messages) = world.listen_with_messages(args);
        let line = messages.next_with("webhooks to ");
        assert_eq!(line, format!("wwproxy: webhooks to {hooks}"));
        interrupt(&child);
        assert!(child.wait().unwrap().success());
    }
}

#[test]
fn deliveries_are_shown_as_such_and_not_as_attempts() {
    let world = world(&["shop", "repo"]);
    post(&world, "shop");
    // Leaves the event several times.
    let left = world.command(&["listen", "--source", "repo", "--exit-after-idle", "2s"]).output().unwrap();
    assert!(left.status.success());
    let shown = world.run(&["listen", "--format", "pretty", "--max-events", "1"]);
    assert!(shown.contains(" (delivered ") && shown.contains(" times)"), "{shown}");
    assert!(!shown.contains("attempt"), "{shown}");
}
