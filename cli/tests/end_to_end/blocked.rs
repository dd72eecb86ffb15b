//! A filter that does not end, and output that no process reads: signals work all the same.

use std::{
    io::{Read, Write, pipe},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    exec::exited,
    target::Target,
    world::{World, interrupt, signal},
};

/// How many bytes fill a pipe (Linux, pipe(7)).
const PIPE_BYTES: usize = 64 * 1024;
/// A filter that does not end on events with `"n":1`, and uses no memory meanwhile.
const ENDLESS: &str = "if .n == 1 then last(range(1000000000000)) else true end";
/// How long anything here may take before it counts as never.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn an_event_on_which_the_filter_does_not_end_is_treated_as_one_on_which_it_fails() {
    let world = World::new();
    world.post("{\"n\":1}");
    world.post("{\"n\":2}");
    let args = ["listen", "--filter", ENDLESS, "--on-filter-error", "drop", "-n1", "--format", "data"];
    let output = world.command(&args).output().unwrap();
    let talk = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{talk}");
    assert_eq!(output.stdout, b"{\"n\":2}\n", "{talk}");
    assert!(talk.contains("(it takes longer than 10 s); it is skipped, see --on-filter-error"), "{talk}");
    assert_eq!(world.status()["stored"], 0);
}

#[test]
fn one_signal_ends_a_command_whose_filter_does_not_end() {
    let world = World::new();
    world.post("{\"n\":1}");
    let (mut listen, _output) = world.listen(&["--filter", ENDLESS]);
    world.wait_until("leased", 1);
    interrupt(&listen);
    assert!(exited(&mut listen).success());
    assert_eq!((&world.status()["stored"], &world.status()["leased"]), (&1.into(), &0.into()));
}

#[test]
fn signals_end_a_command_that_cannot_write_to_stderr() {
    let world = World::new();
    let (mut reader, mut stderr) = pipe().unwrap();
    stderr.write_all(&vec![b'x'; PIPE_BYTES]).unwrap();
    let mut listen = world.command(&["listen"]).stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
    world.wait_until("clients", 1);
    assert_eq!(signalled_until_ended(&mut listen), Some(130));
    let mut talk = String::new();
    reader.read_to_string(&mut talk).unwrap();
    assert_eq!(talk.len(), PIPE_BYTES, "it was blocked: {talk}");
}

#[test]
fn one_signal_ends_a_command_with_a_target_whose_stdout_is_not_read() {
    let (world, target) = (World::new(), Target::new(&[]));
    let (reader, mut stdout) = pipe().unwrap();
    stdout.write_all(&vec![b'x'; PIPE_BYTES]).unwrap();
    world.post("{}");
    let args = ["listen", "--forward-to", &target.address, "--format", "json"];
    let mut listen = world.command(&args).stdout(stdout).stderr(Stdio::null()).spawn().unwrap();
    world.wait_until_stored(0);
    interrupt(&listen);
    assert!(exited(&mut listen).success());
    drop(reader);
}

/// Repeats the signal, as two that come at once are one, and returns the exit code.
fn signalled_until_ended(child: &mut Child) -> Option<i32> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        if start.elapsed() > PATIENCE {
            child.kill().unwrap();
        }
        signal(child, "TERM");
        thread::sleep(Duration::from_millis(100));
    }
}
