//! Sources of several senders: registered, listed, rotated, armed and deleted; and what they refuse.

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    process::Stdio,
};

use serde_json::Value;
use wwproxy_sdk::{Secret, SourceSettings, sign_watson_work};

use crate::{
    get::{accept_path, answer},
    terminal::{console_text, screen, terminal},
    world::World,
};

/// Posts a webhook of GitHub, signed with this secret, and returns the status line of the answer.
fn github(world: &World, secret: &str, body: &str) -> String {
    let signature = sign_watson_work(&Secret::new(secret), body.as_bytes());
    let signature = format!("X-Hub-Signature-256: sha256={signature}");
    let headers = ["X-GitHub-Event: push", signature.as_str()];
    let answer = world.deliver("/hook/my-bot/repo", &headers, body);
    answer.lines().next().unwrap().to_owned()
}

/// The sources, as `wwproxy sources` prints them without a terminal.
fn sources(world: &World) -> Vec<Value> {
    world.run(&["sources"]).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_secret_is_rotated_without_a_refused_webhook() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let register = ["register", "--scheme", "github", "--source", "repo"];
    let old = world.run(&[&register[..], &["--generate-secret"]].concat());
    let file = folder.path().join("old.txt");
    fs::write(&file, &old).unwrap();
    let old = old.trim();
    assert!(github(&world, old, "{\"n\":1}").contains(" 201 "));

    // Both are accepted until the new one is registered alone.
    let both = ["--webhook-secret-file", file.to_str().unwrap(), "--generate-secret"];
    let new = world.run(&[&register[..], &both].concat());
    let new = new.trim();
    assert!(github(&world, old, "{\"n\":2}").contains(" 201 "));
    assert!(github(&world, new, "{\"n\":3}").contains(" 201 "));
    assert_eq!(sources(&world)[1]["secrets"], 2);

    world.run_with_input(&[&register[..], &["-"]].concat(), new);
    assert!(github(&world, old, "{\"n\":4}").contains(" 401 "));
    assert!(github(&world, new, "{\"n\":5}").contains(" 201 "));
    assert_eq!(world.status()["stored"], 4);
}

#[test]
fn sources_are_listed_shown_and_deleted() {
    let world = World::new();
    world.run_with_input(&["register", "--scheme", "github", "--source", "repo", "-"], "s3cret");
    world.run_with_input(&["register", "--scheme", "gitlab-token", "--source", "lab", "-"], "s3cret");
    github(&world, "s3cret", "{}");
    github(&world, "wrong", "{}");

    let all = sources(&world);
    let names: Vec<_> = all.iter().map(|source| source["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["default", "lab", "repo"]);
    assert!(all[2]["hook"].as_str().unwrap().ends_with("/hook/my-bot/repo"), "{all:?}");
    assert!(all[2]["lastAccepted"].is_string() && all[2]["lastRefused"].is_string(), "{all:?}");
    assert_eq!(world.status()["sources"][2]["scheme"], "github");
    let shown: Value = serde_json::from_str(&world.run(&["sources", "show", "lab"])).unwrap();
    assert_eq!((&shown["covers"], &shown["verified"]), (&"nothing".into(), &true.into()));
    assert!(!world.run(&["sources"]).contains("s3cret"));

    let table = screen(terminal(&world, &["sources"]).spawn().unwrap());
    let lines: Vec<_> = table.lines().collect();
    assert!(lines[0].starts_with("NAME     SCHEME        VERIFIES      SECRETS  ACCEPTED"), "{table}");
    assert!(lines[2].starts_with("lab      gitlab-token  not the body  1        -         -"), "{table}");
    assert!(lines[3].contains(" ago ") && lines[3].ends_with("/hook/my-bot/repo"), "{table}");
    let page = screen(terminal(&world, &["sources", "show", "repo"]).spawn().unwrap());
    assert!(page.contains("\nlast refused   2") && page.contains("\nverifies       body"), "{page}");

    let delete = |args: &[&str], answer: &str| {
        let mut child = terminal(&world, &[&["sources", "delete", "repo"], args].concat()).spawn().unwrap();
        writeln!(child.stdin.take().unwrap(), "{answer}").unwrap();
        let mut screen = String::new();
        child.stdout.take().unwrap().read_to_string(&mut screen).unwrap();
        (child.wait().unwrap().code(), screen)
    };
    let (code, asked) = delete(&[], "n");
    assert!(code == Some(1) && asked.contains("Delete source repo of my-bot (github)"), "{asked}");
    assert_eq!(sources(&world).len(), 3);
    let (code, asked) = delete(&["--yes"], "");
    assert!(code == Some(0) && !asked.contains("Delete source"), "{asked}");
    assert!(github(&world, "s3cret", "{}").contains(" 404 "));
    assert_eq!(world.status()["stored"], 1, "its events stay");
    world.run(&["sources", "delete", "lab"]);
    assert_eq!(sources(&world).len(), 1);
    for action in ["show", "delete", "arm"] {
        let output = world.command(&["sources", action, "lab"]).output().unwrap();
        assert_eq!(output.status.code(), Some(4), "{action}");
        assert!(String::from_utf8(output.stderr).unwrap().contains("no source of this name"), "{action}");
    }
}

#[test]
fn unregister_names_and_deletes_all_sources() {
    let world = World::new();
    world.run(&["register", "--scheme", "github", "--source", "repo", "--generate-secret"]);
    let mut child = terminal(&world, &["unregister"]).spawn().unwrap();
    writeln!(child.stdin.take().unwrap(), "y").unwrap();
    let shown = screen(child);
    assert!(
        shown.contains("Unregister my-bot and delete its 2 sources, consumers and all its events, history included (none pending)?"),
        "{shown}"
    );
    assert!(shown.contains("unregistered my-bot and deleted its 2 sources"), "{shown}");
    let output = world.command(&["sources"]).output().unwrap();
    assert!(output.stdout.is_empty() && output.status.success());
    assert!(String::from_utf8(output.stderr).unwrap().contains("my-bot has no source"));
}

#[test]
fn a_source_of_another_sender_is_replaced_after_a_question() {
    let world = World::new();
    for (answer, code, scheme) in [("n", 1, "watsonwork"), ("y", 0, "github")] {
        let args = ["register", "--scheme", "github", "--generate-secret"];
        let mut child = terminal(&world, &args).spawn().unwrap();
        writeln!(child.stdin.take().unwrap(), "{answer}").unwrap();
        let mut screen = String::new();
        child.stdout.take().unwrap().read_to_string(&mut screen).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code), "{screen}");
        assert!(
            screen.contains("Replace source default of my-bot, for watsonwork, by one for github? [y/N]"),
            "{screen}"
        );
        assert_eq!(sources(&world)[0]["scheme"], scheme);
    }
}

#[test]
fn a_source_without_verification_needs_the_operators_consent() {
    let world = World::new();
    let output = world.command(&["register", "--scheme", "none", "--source", "open"]).output().unwrap();
    let messages = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && messages.contains("--allow-unverified"), "{messages}");
}

/// Starts `wwproxy sources arm`, waits until it is armed, runs `handshake`, and returns stdout and stderr.
fn arm(world: &World, args: &[&str], handshake: impl FnOnce()) -> (String, String) {
    let mut command = world.command(&[&["sources", "arm"], args].concat());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let mut messages = Vec::new();
    while !messages.ends_with(b"Ctrl-C stops waiting\n") {
        let mut byte = [0];
        stderr.read_exact(&mut byte).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&messages)));
        messages.push(byte[0]);
    }
    handshake();
    stderr.read_to_end(&mut messages).unwrap();
    let messages = String::from_utf8(messages).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{messages}");
    (String::from_utf8(output.stdout).unwrap(), messages)
}

#[test]
fn asana_and_notion_set_their_secret_while_the_source_is_armed() {
    let world = World::new();
    let accepted = |source: &str, header: &str, secret: &str, prefix: &str| {
        let signature = sign_watson_work(&Secret::new(secret), b"{}");
        let header = format!("{header}: {prefix}{signature}");
        world.deliver(&format!("/hook/my-bot/{source}"), &[&header], "{}").contains(" 20")
    };
    let secret = "b537207f20cbfa02357cf448134da559e8bd39d61597dcd5631b8012eae53e81";
    world.run(&["register", "--scheme", "asana", "--source", "asana"]);
    let hook_secret = format!("X-Hook-Secret: {secret}");
    let handshake = || world.deliver("/hook/my-bot/asana", &[&hook_secret], "");
    assert!(handshake().starts_with("HTTP/1.1 401 "), "it is not armed");
    let (stdout, messages) = arm(&world, &["asana"], || {
        let answer = handshake();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains(secret), "{answer}");
    });
    assert!(stdout.is_empty() && messages.contains("the handshake took place"), "{messages}");
    assert!(!messages.contains(secret), "{messages}");
    assert!(accepted("asana", "X-Hook-Signature", secret, ""));
    assert!(handshake().starts_with("HTTP/1.1 401 "), "only one handshake is accepted");

    world.run(&["register", "--scheme", "notion", "--source", "notion"]);
    let token = "secret_tMrlL1qK5vuQAh1b6cZGhFChZTSYJlce98V0pYn7yBl";
    let handshake = |token: &str| {
        let body = format!("{{\"verification_token\":\"{token}\"}}");
        let answer = world.deliver("/hook/my-bot/notion", &["Content-Type: application/json"], &body);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    };
    let (stdout, _) = arm(&world, &["notion"], || handshake(token));
    assert_eq!(stdout, format!("{token}\n"));
    assert!(accepted("notion", "X-Notion-Signature", token, "sha256="));
    // A second subscription has a token of its own.
    let second = token.replace('1', "2");
    let (stdout, _) = arm(&world, &["notion", "--again"], || handshake(&second));
    assert_eq!(stdout, format!("{second}\n"));
    for token in [token, &second] {
        assert!(accepted("notion", "X-Notion-Signature", token, "sha256="));
    }
}

#[test]
fn a_source_without_room_for_a_secret_cannot_be_armed() {
    let world = World::new();
    let settings = SourceSettings {
        scheme: "asana".into(),
        secrets: (0..4).map(|n| Secret::new(format!("hunter{n}"))).collect(),
        ..SourceSettings::default()
    };
    world.put_source("asana", &settings);
    let output = world.command(&["sources", "arm", "asana"]).output().unwrap();
    let messages = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{messages}");
    assert!(messages.contains("has 4 secrets already") && messages.contains("register"), "{messages}");
}

#[test]
fn refusals_say_which_check_failed_and_what_to_do() {
    let world = World::new();
    let none = world.command(&["refusals"]).output().unwrap();
    assert!(none.status.success() && none.stdout.is_empty());
    assert!(String::from_utf8(none.stderr).unwrap().contains("no webhook of my-bot was refused"));

    world.run_with_input(&["register", "--scheme", "github", "--source", "repo", "-"], "s3cret");
    world.deliver("/hook/my-bot/repo", &["X-Evil-Name: hunter2"], "{\"hunter2\":1}");
    for _ in 0..3 {
        github(&world, "wrong", "{\"hunter2\":2}");
    }
    world.deliver("/hook/my-bot", &[], "{}");
    world.deliver("/hook/my-bot/rep", &[], "{}");

    let output = world.command(&["refusals"]).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let messages = String::from_utf8(output.stderr).unwrap();
    let refusals: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let shown: Vec<_> = refusals
        .iter()
        .map(|refusal| (refusal["source"].as_str().unwrap(), refusal["check"].as_str().unwrap()))
        .collect();
    let expected = [("repo", "header"), ("repo", "signature"), ("default", "header"), ("rep", "source")];
    assert_eq!(shown, expected);
    assert_eq!((&refusals[1]["count"], &refusals[1]["status"]), (&3.into(), &401.into()));
    assert!(!printed.contains("hunter2") && !messages.contains("hunter2"), "{printed}{messages}");
    assert!(messages.contains("wwproxy: signature: ") && messages.contains("`wwproxy verify`"), "{messages}");
    assert!(messages.contains("wwproxy: source: correct the hook's URL"), "{messages}");
    assert_eq!(world.run(&["refusals", "--source", "repo"]).lines().count(), 2);
    assert_eq!(world.run(&["refusals", "--source", "rep"]).lines().count(), 1);
    let gone = world.command(&["refusals", "--source", "gone"]).output().unwrap();
    let messages = String::from_utf8(gone.stderr).unwrap();
    assert!(
        gone.status.code() == Some(4) && messages.matches("no source of this name").count() == 1,
        "{messages}"
    );

    let shown = console_text(&screen(terminal(&world, &["refusals", "--source", "repo"]).spawn().unwrap()));
    assert!(shown.contains(" repo 401 header: header X-Hub-Signature-256 is missing\n"), "{shown}");
    assert!(shown.contains("(3 times, the last one)\n    13 bytes, SHA-256 "), "{shown}");
    assert!(shown.contains("x-evil-name"), "{shown}");
}

#[test]
fn a_signal_after_the_question_says_that_the_source_may_be_registered() {
    let world = World::new();
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = format!("http://{}", proxy.local_addr().unwrap());
    let register =
        ["register", "--server", &server, "--token", "t", "--scheme", "github", "--generate-secret"];
    let mut child = terminal(&world, &register).spawn().unwrap();
    let mut keyboard = child.stdin.take().unwrap();
    let other = r#"{"name":"default","scheme":"stripe","covers":"body","verified":true,"secrets":1}"#;
    answer(&proxy, "/sources/default ", other);
    writeln!(keyboard, "y").unwrap();
    let unanswered = accept_path(&proxy, "/sources/default ");
    // Ctrl-C
    keyboard.write_all(b"\x03").unwrap();
    let mut screen = String::new();
    child.stdout.take().unwrap().read_to_string(&mut screen).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{screen}");
    assert!(screen.contains("may be in force") && screen.contains("stopped before the server"), "{screen}");
    drop(unanswered);
}
