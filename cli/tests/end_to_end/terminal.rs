//! The output on a terminal, which `script` (util-linux) emulates.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    process::{Child, Command, Stdio},
};

use crate::{
    target::{CannedResponse, Target},
    world::{WEBHOOK_SECRET, World},
};

/// The command in a terminal of its own, whose screen is the child's stdout and whose keyboard is its stdin.
pub(crate) fn terminal(world: &World, args: &[&str]) -> Command {
    let inner = world.command(args);
    let quoted = |text: &std::ffi::OsStr| format!("'{}'", text.to_str().unwrap().replace('\'', "'\\''"));
    let line: Vec<_> = std::iter::once(inner.get_program()).chain(inner.get_args()).map(quoted).collect();
    // Without `exec`, `sh` would wait for the command and report its own interruption by Ctrl-C.
    let line = format!("exec {}", line.join(" "));
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--command", &line, "/dev/null"]).env("TERM", "xterm");
    command.env_remove("NO_COLOR");
    for (name, value) in inner.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

/// What the child shows until it ends, which must succeed.
pub(crate) fn screen(mut child: Child) -> String {
    let mut screen = String::new();
    child.stdout.take().unwrap().read_to_string(&mut screen).unwrap();
    assert!(child.wait().unwrap().success(), "{screen}");
    screen
}

#[test]
fn events_and_responses_are_shown_on_a_terminal() {
    let (world, target) = (World::new(), Target::new(&[CannedResponse::Status(500)]));
    world.post("{\"type\":\"message-created\"}");
    let args = ["listen", "--forward-to", &target.address, "--max-events", "1"];
    let colourful = screen(terminal(&world, &args).spawn().unwrap());
    let plain = console_text(&colourful);
    let lines: Vec<_> = plain.lines().filter(|line| line.contains("message-created")).collect();
    assert_eq!(lines.len(), 3, "{plain}");
    let url = format!("POST http://{}/", target.address);
    assert!(lines[0].ends_with("--> default, 26 B"), "{plain}");
    assert!(lines[1].contains(&format!("<-- 500 {url} ")) && lines[1].contains("ms, again in "), "{plain}");
    assert!(lines[2].contains(&format!("<-- 204 {url} ")) && lines[2].ends_with("ms"), "{plain}");
    assert!(plain.contains("waiting for events · 1 handled · 1 retried"), "{plain}");
    assert!(colourful.contains("\u{1b}[31m<--") && colourful.contains("\u{1b}[32m<--"), "{colourful:?}");

    world.post("{\"type\":\"message-created\"}");
    let screen = screen(terminal(&world, &args).env("NO_COLOR", "1").spawn().unwrap());
    assert!(screen.contains("<-- 204") && !screen.contains("\u{1b}[3"), "{screen:?}");
}

#[test]
fn schemes_are_a_table_on_a_terminal() {
    let world = World::new();
    let table = console_text(&screen(terminal(&world, &["schemes"]).spawn().unwrap()));
    let line = |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
    let words = |line: String| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(line("NAME")), ["NAME", "ALGORITHM", "COVERS", "TOLERANCE", "ANSWER", "CHALLENGE"]);
    assert_eq!(words(line("slack")), ["slack", "hmac-sha256", "body", "300", "s", "201", "answered"]);
    assert_eq!(words(line("telegram")), ["telegram", "token", "nothing", "-", "201", "-"]);

    let page = console_text(&screen(terminal(&world, &["schemes", "stripe"]).spawn().unwrap()));
    for part in [
        "signed     timestamp, body",
        "At Stripe",
        "Template",
        "Example, for the secret",
        "Stripe-Signature: t=",
    ] {
        assert!(page.contains(part), "{page}");
    }
}

#[test]
fn a_body_is_indented_on_a_terminal() {
    let world = World::new();
    world.post("{\"type\":\"a\",\"n\":1.50,\"list\":[]}");
    let shown = console_text(&screen(terminal(&world, &["listen", "-n1"]).spawn().unwrap()));
    assert!(shown.contains("{\n  \"type\": \"a\",\n  \"n\": 1.50,\n  \"list\": []\n}\n"), "{shown}");
}

#[test]
fn unsafe_characters_do_not_reach_the_terminal() {
    let world = World::new();
    let is_unsafe =
        |c| matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let evil: String = ('\u{200e}'..='\u{2069}').filter(|c| is_unsafe(*c)).collect();
    let body = format!("{{\"type\":\"t{evil}\",\"text\":\"a{evil}b\"}}");
    let folder = tempfile::tempdir().unwrap();
    let named = folder.path().join(format!("x{evil}.json"));
    fs::write(&named, format!("{{\"id\":\"1\",\"data\":{body}}}")).unwrap();
    let named = named.to_str().unwrap();
    let commands = [
        &["listen", "-n1"][..],
        &["listen", "-n1", "--format", "json"],
        &["listen", "-n1", "--exec", "true"],
        &["get"],
        &["replay", named, "--exec", "true"],
        &["replay", named, "--route", "other=9"],
        &["listen", "--format", named],
    ];
    for args in commands {
        world.post(&body);
        let mut child = terminal(&world, args).spawn().unwrap();
        let mut screen = String::new();
        child.stdout.take().unwrap().read_to_string(&mut screen).unwrap();
        child.wait().unwrap();
        assert!(!screen.contains(is_unsafe), "{args:?}: {screen:?}");
        assert!(screen.contains("202e") || screen.contains(&" ".repeat(13)), "{args:?}: {screen:?}");
    }
}

#[test]
fn unregister_asks_before_deleting_events() {
    let world = World::new();
    let unregister = |args: &[&str], answer: &str| {
        let mut child = terminal(&world, &[&["unregister"], args].concat()).spawn().unwrap();
        let mut keys = child.stdin.take().unwrap();
        writeln!(keys, "{answer}").unwrap();
        let mut screen = String::new();
        child.stdout.take().unwrap().read_to_string(&mut screen).unwrap();
        (child.wait().unwrap().code(), screen)
    };
    world.post("{}");
    for no in ["", "n", "nonsense"] {
        let (code, screen) = unregister(&[], no);
        assert!(
            code == Some(1)
                && screen.contains(
                    "its 1 source, consumers and all its events, history included (pending: default 1)?"
                ),
            "{screen}"
        );
        assert!(screen.contains("nothing was deleted"), "{screen}");
        assert_eq!(world.status()["stored"], 1);
    }
    assert_eq!(unregister(&[], "y").0, Some(0));
    assert_eq!(world.status()["registration"], serde_json::Value::Null);

    // The source is lost also without events. Without a source, and with --yes, nothing is asked.
    world.run_with_input(&["register", "-"], WEBHOOK_SECRET);
    assert!(
        unregister(&[], "y")
            .1
            .contains("1 source, consumers and all its events, history included (none pending)?")
    );
    assert!(!unregister(&[], "").1.contains("delete its"));
    world.run_with_input(&["register", "-"], WEBHOOK_SECRET);
    world.post("{}");
    let (code, screen) = unregister(&["--yes"], "");
    assert!(code == Some(0) && !screen.contains("delete its"), "{screen}");
}

#[test]
fn login_asks_for_missing_values_with_echo_off_for_the_secret() {
    let world = World::new();
    let mut command = terminal(&world, &["login", "--profile", "asked"]);
    let address = world
        .command(&[])
        .get_envs()
        .find(|(name, _)| *name == "WWPROXY_SERVER")
        .unwrap()
        .1
        .unwrap()
        .to_owned();
    for name in ["WWPROXY_SERVER", "APPID", "SECRET"] {
        command.env_remove(name);
    }
    let mut child = command.spawn().unwrap();
    let (mut keys, mut seen) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    let mut shown = String::new();
    for (question, answer) in
        [("Server: ", address.to_str().unwrap()), ("App id: ", "my-bot"), ("App secret: ", &world.app_secret)]
    {
        let mut bytes = Vec::new();
        while !bytes.ends_with(question.as_bytes()) {
            let next = seen.fill_buf().unwrap();
            assert!(!next.is_empty(), "{shown}{}", String::from_utf8_lossy(&bytes));
            bytes.push(next[0]);
            seen.consume(1);
        }
        shown += &String::from_utf8(bytes).unwrap();
        writeln!(keys, "{answer}").unwrap();
    }
    seen.read_to_string(&mut shown).unwrap();
    assert!(child.wait().unwrap().success(), "{shown}");
    assert!(shown.contains("saved as profile asked") && !shown.contains(&world.app_secret), "{shown}");
    assert!(!fs::read_to_string(world.profiles()).unwrap().contains(WEBHOOK_SECRET));
    assert!(fs::read_to_string(world.profiles()).unwrap().contains(&world.app_secret));
}

/// The text of a screen without escape sequences.
pub(crate) fn console_text(screen: &str) -> String {
    let mut text = String::new();
    let mut chars = screen.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' if chars.next_if_eq(&'[').is_some() => {
                while chars.next().is_some_and(|c| !c.is_ascii_alphabetic()) {}
            }
            '\r' if chars.peek() != Some(&'\n') => text.push('\n'),
            '\r' => {}
            c => text.push(c),
        }
    }
    text
}
