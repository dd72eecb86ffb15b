//! `--exec`: the environment of commands, and when they are killed.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    terminal::terminal,
    world::{World, signal},
};

/// The deadline of each wait.
const PATIENCE: Duration = Duration::from_secs(30);

/// The environment of a command for an event with these headers. `replay` is started by `launcher`, with the changes of `set`.
fn environment_by(
    launcher: &[&str],
    headers: &Value,
    kind: &str,
    set: impl FnOnce(&mut Command),
) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let event = json!({"id": "1", "attempt": 1, "headers": headers, "data": {"type": kind}});
    fs::write(folder.path().join("event.json"), event.to_string()).unwrap();
    let program = [launcher, &[env!("CARGO_BIN_EXE_wwproxy")]].concat();
    let mut command = Command::new(program[0]);
    command.args(&program[1..]).args([
        "replay",
        "event.json",
        "--max-attempts",
        "1",
        "--exec",
        "env > env; cat > body",
    ]);
    command.current_dir(&folder).env("WWPROXY_CONFIG_DIR", folder.path());
    set(&mut command);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(fs::read_to_string(folder.path().join("body")).unwrap(), event["data"].to_string());
    let environment = fs::read_to_string(folder.path().join("env")).unwrap();
    environment.lines().map(str::to_owned).collect()
}

fn environment(headers: &Value, kind: &str, set: impl FnOnce(&mut Command)) -> Vec<String> {
    environment_by(&[], headers, kind, set)
}

#[test]
fn a_command_inherits_no_secret() {
    let environment = environment(&json!([]), "t", |command| {
        for name in ["SECRET", "WWPROXY_TOKEN", "WEBHOOK_SECRET", "SECRET_FILE", "WWPROXY_HEADER_OLD"] {
            command.env(name, "hunter2");
        }
        command.env("MY_OWN", "kept");
    });
    assert!(environment.contains(&"MY_OWN=kept".into()), "{environment:?}");
    assert!(!environment.iter().any(|line| line.contains("hunter2")), "{environment:?}");
}

#[test]
fn each_header_line_has_its_own_variable() {
    let headers = json!([["x-a", "1"], ["x_a", "2"], ["x-a", "3"]]);
    let environment = environment(&headers, "t", |_| {});
    for line in ["WWPROXY_HEADER_X_A=1", "WWPROXY_HEADER_Xx5fA=2", "WWPROXY_HEADER_X_A_n2=3"] {
        assert!(environment.contains(&line.into()), "{environment:?}");
    }
    assert!(!environment.iter().any(|line| line.starts_with("WWPROXY_TRUNCATED=")), "{environment:?}");
}

#[test]
fn variables_that_do_not_fit_are_omitted() {
    let long = "v".repeat(200_000);
    let headers = json!([["long", long], ["short", "1"]]);
    let environment = environment(&headers, &long, |_| {});
    assert!(environment.contains(&"WWPROXY_TRUNCATED=1".into()));
    assert!(environment.contains(&"WWPROXY_HEADER_SHORT=1".into()));
    assert!(environment.iter().all(|line| line.len() < 100_000), "other variables are not cut");
}

#[test]
fn a_small_argument_limit_omits_optional_variables() {
    // All fit into the usual 2 MiB. With this stack the limit is a quarter of it, 512 KiB.
    let launcher = ["sh", "-c", "ulimit -S -s 2048; exec \"$@\"", "sh"];
    let headers: Vec<_> = (0..4).map(|n| json!([format!("h{n}"), "v".repeat(100_000)])).collect();
    let environment = environment_by(&launcher, &json!(headers), "t", |command| {
        command.env("INHERITED_1", "v".repeat(100_000)).env("INHERITED_2", "v".repeat(100_000));
    });
    assert!(environment.contains(&"WWPROXY_TRUNCATED=1".into()));
    assert!(environment.contains(&"WWPROXY_EVENT_ID=1".into()));
}

/// A command that only SIGKILL ends, with a child of the same kind.
fn stubborn(folder: &Path) -> String {
    let pids = folder.join("pids");
    let ignore = "trap \"\" HUP INT TERM";
    format!(
        "{ignore}; sh -c '{ignore}; while :; do sleep 1; done' & echo $$ $! > {0}.new; mv {0}.new {0}; \
         while :; do sleep 1; done",
        pids.display()
    )
}

/// The process ids that the command has written.
fn started(folder: &Path) -> Vec<String> {
    let start = Instant::now();
    loop {
        if let Ok(pids) = fs::read_to_string(folder.join("pids")) {
            return pids.split_whitespace().map(str::to_owned).collect();
        }
        assert!(start.elapsed() < PATIENCE, "the command does not start");
        thread::sleep(Duration::from_millis(10));
    }
}

fn wait_until_ended(pids: &[String]) {
    let start = Instant::now();
    for pid in pids {
        let running = || {
            let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            !state.is_empty() && !state.contains(") Z ")
        };
        while running() {
            assert!(start.elapsed() < PATIENCE, "{pid} still runs");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn commands_are_killed_on_each_signal_even_sigkill() {
    let world = World::new();
    world.post("{}");
    for (signals, code) in [
        (&["TERM"][..], Some(0)),
        (&["HUP"], Some(0)),
        (&["INT", "TERM"], Some(130)),
        (&["KILL"], None),
        (&["QUIT"], None),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (mut listen, _output) = world.listen(&["--exec", &stubborn(folder.path())]);
        let pids = started(folder.path());
        for name in signals {
            signal(&listen, name);
        }
        assert_eq!(exited(&mut listen).code(), code, "{signals:?}");
        wait_until_ended(&pids);
        assert_eq!(world.status()["stored"], 1, "{signals:?}");
    }
}

/// Waits until the command has ended.
pub(crate) fn exited(listen: &mut Child) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = listen.try_wait().unwrap() {
            return status;
        }
        assert!(start.elapsed() < PATIENCE, "it does not end");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn commands_are_killed_when_the_terminal_is_closed() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    world.post("{}");
    let command = stubborn(folder.path());
    let mut screen = terminal(&world, &["listen", "--exec", &command]).stdout(Stdio::null()).spawn().unwrap();
    let pids = started(folder.path());
    screen.kill().unwrap();
    screen.wait().unwrap();
    wait_until_ended(&pids);
    world.wait_until("leased", 0);
}

#[test]
fn a_failed_command_is_killed_with_its_children_a_successful_one_is_not() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    world.post("{}");
    let script = format!(
        "cd {}; sleep 300 < /dev/null > /dev/null 2>&1 & echo $! >> pids; test -e ok || {{ touch ok; exit 1; }}",
        folder.path().display()
    );
    world.run(&["listen", "--exec", &script, "--max-events", "1"]);
    let pids = started(folder.path());
    wait_until_ended(&pids[..1]);
    // Under load the shell may not have executed `sleep` yet. A killed process is gone, or a zombie.
    let start = Instant::now();
    loop {
        let state = fs::read_to_string(format!("/proc/{}/stat", pids[1])).expect("the command's child runs");
        if state.contains("(sleep) S ") {
            break;
        }
        assert!(!state.contains(") Z ") && start.elapsed() < PATIENCE, "{state}");
        thread::sleep(Duration::from_millis(10));
    }
    assert!(Command::new("kill").arg(&pids[1]).status().unwrap().success());
}

#[test]
fn an_ignored_hangup_stays_ignored() {
    let world = World::new();
    let listen = world.command(&["listen", "--max-events", "1", "--format", "data"]);
    let mut command = Command::new("sh");
    // As `nohup` does.
    command.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]).arg(listen.get_program()).args(listen.get_args());
    for (name, value) in listen.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("ready"), "{line}");
    signal(&child, "HUP");
    world.post("{\"n\":1}");
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b"{\"n\":1}\n"[..]));
}
