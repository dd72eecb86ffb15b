//! Commands whose stdout is closed or cannot be written.

use std::{
    fs::{self, OpenOptions},
    process::{Command, Output},
};

use crate::world::World;

/// Runs a command with a closed stdout, which only a shell can give it.
fn run_closed(world: &World, args: &[&str]) -> Output {
    let command = world.command(args);
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec \"$0\" \"$@\" >&-"]).arg(command.get_program()).args(command.get_args());
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.output().unwrap()
}

fn assert_refused(output: &Output, says: &str) {
    let messages = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{messages}");
    assert!(messages.starts_with("wwproxy: stdout is closed") && messages.contains(says), "{messages}");
}

fn assert_stored(world: &World, events: u64) {
    let status = world.status();
    assert_eq!((&status["stored"], &status["leased"]), (&events.into(), &0.into()));
}

#[test]
fn no_event_is_taken_if_stdout_is_closed() {
    let world = World::new();
    world.post("{}");
    for args in [&["get", "--max", "1"][..], &["get"], &["listen", "--max-events", "1"]] {
        assert_refused(&run_closed(&world, args), "--exec true");
        assert_stored(&world, 1);
    }
    // Some programs open /dev/null like this, such as Python's subprocess: it looks like a closed stdout.
    let null = OpenOptions::new().read(true).write(true).open("/dev/null").unwrap();
    assert_refused(&world.command(&["get"]).stdout(null).output().unwrap(), "--exec true");
    assert_stored(&world, 1);
}

#[test]
fn a_closed_stdout_is_no_error_if_no_event_is_lost() {
    let world = World::new();
    let folder = tempfile::tempdir().unwrap();
    let save = folder.path().join("saved");
    world.post("{\"n\":1}");
    let kept = run_closed(&world, &["get", "--keep"]);
    assert!(kept.status.success(), "{kept:?}");
    assert_stored(&world, 1);
    let saved = run_closed(&world, &["listen", "--max-events", "1", "--save", save.to_str().unwrap()]);
    assert!(saved.status.success(), "{saved:?}");
    assert_eq!(fs::read_dir(&save).unwrap().count(), 1);
    for args in [&["listen", "--max-events", "1", "--exec", "true"][..], &["get"]] {
        world.post("{\"n\":2}");
        // `> /dev/null` of a shell is on purpose, and opened only for writing.
        let null = OpenOptions::new().write(true).open("/dev/null").unwrap();
        assert!(world.command(args).stdout(null).status().unwrap().success(), "{args:?}");
        assert_stored(&world, 0);
    }
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    let world = World::new();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (secret, body) = (file("secret", "hunter2"), file("body", "{}"));
    let flags = ["--scheme", "github", "--webhook-secret-file", &secret];
    let sign = [&["sign"], &flags[..], &["--type", "push", &body]].concat();
    assert_refused(&run_closed(&world, &sign), "headers");
    assert_refused(&run_closed(&world, &["token"]), "token");

    let headers = format!("@{}", file("headers", &world.run(&sign)));
    let verify = [&["verify"], &flags[..], &["-H", &headers, &body]].concat();
    world.run(&verify);
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = world.command(&verify).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "1 means that the webhook is not valid: {output:?}");
}
