//! What the commands read and write: stdin, files, and help.

use std::{fs, io::Write as _, process::Stdio};

use serde_json::{Value, json};

use super::{Folder, SECRET, ended, sign, verify};

/// Runs a command with this input.
fn with_input(folder: &Folder, args: &[&str], input: &str, code: i32) -> (String, String) {
    let mut command = folder.wwproxy(args);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A command that does not read it may have ended.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    ended(child.wait_with_output().unwrap(), code)
}

#[test]
fn stdin_is_read_once() {
    let folder = Folder::new();
    folder.file("secret", SECRET);
    let secret = ["--webhook-secret-file", "secret"];
    let stdin_secret = ["--webhook-secret-file", "-"];
    let github = ["--scheme", "github"];
    let register = ["register", "--server", "http://127.0.0.1:1", "--app-id", "bot"];
    let send = ["send", "--to", "127.0.0.1:1", "--scheme", "github"];
    for (args, first, second) in [
        ([&["sign"], &github[..], &secret, &["-H", "@-"]].concat(), "BODY-FILE", "-H @-"),
        ([&["sign"], &github[..], &stdin_secret, &["-"]].concat(), "--webhook-secret-file", "BODY-FILE"),
        ([&["verify"], &github[..], &stdin_secret, &["-H", "@-"]].concat(), "--webhook-secret-file", "-H @-"),
        ([&send[..], &stdin_secret, &["--data", "@-"]].concat(), "--webhook-secret-file", "--data"),
        ([&send[..], &stdin_secret, &["--data", "-"]].concat(), "--webhook-secret-file", "--data"),
        (
            [&register[..], &["--secret-file", "-", "--scheme", "github", "-"]].concat(),
            "--secret-file",
            "WEBHOOK-SECRET",
        ),
        (
            [&register[..], &["--token", "t", "--scheme", "github"], &stdin_secret, &stdin_secret].concat(),
            "--webhook-secret-file",
            "--webhook-secret-file",
        ),
        (
            [&register[..], &["--token", "t", "--scheme", "meta", "--challenge-secret-file", "-", "-"]]
                .concat(),
            "WEBHOOK-SECRET",
            "--challenge-secret-file",
        ),
    ] {
        let (out, messages) = with_input(&folder, &args, "a: hunter\n", 2);
        assert!(messages.contains(&format!("not for {first} and for {second}")), "{args:?}: {messages}");
        assert!(out.is_empty(), "{out}");
    }
    let template =
        r#"{"algorithm":"hmac-sha256","signature":"header:X-Sig","encoding":"hex","content":"{body}"}"#;
    let (_, messages) =
        with_input(&folder, &[&["sign", "--template", "-"], &stdin_secret[..]].concat(), template, 2);
    assert!(messages.contains("not for --template and for --webhook-secret-file"), "{messages}");
}

#[test]
fn what_cannot_be_verified_is_no_invalid_webhook() {
    let folder = Folder::new();
    folder.file("body", "{}");
    folder.file("secret", SECRET);
    for (args, says) in [
        (verify("github", &["missing"]), "cannot read missing"),
        (verify("github", &["--event", "missing"]), "cannot read missing"),
        (verify("github", &["-H", "@missing", "body"]), "cannot read missing"),
        (verify("square", &["body"]), "give --url"),
        (
            vec!["verify", "--scheme", "github", "--webhook-secret-file", "missing", "body"],
            "secret from missing",
        ),
        (verify("github", &["--secret", "x", "body"]), "--webhook-secret-file"),
    ] {
        let (_, messages) = folder.run(2, &args);
        assert!(messages.contains(says), "{args:?}: {messages}");
    }
    // A body of Stripe has an id and data, too.
    folder.file("event", r#"{"id":"evt_1","object":"event","data":{"object":{}}}"#);
    let (_, messages) = folder.run(2, &verify("stripe", &["--event", "event"]));
    assert!(messages.contains("is not an event file"), "{messages}");
    let (report, _) = folder.run(1, &verify("slack", &["--json", "body"]));
    let report: Value = serde_json::from_str(&report).unwrap();
    assert!(report["signed"].as_str().unwrap().contains("timestamp"), "{report}");
}

#[test]
fn a_saved_event_without_a_source_is_of_watson_work() {
    let folder = Folder::new();
    folder.file("body", "{\n \"type\":\"a\"}");
    let headers = sign(&folder, "watsonwork", &["body"]);
    let headers: Vec<_> = headers.lines().map(|line| line.split_once(": ").unwrap()).collect();
    let event =
        |body: &str| format!(r#"{{"id":"7","attempt":1,"headers":{},"data":{body}}}"#, json!(headers));
    folder.file("event", event("{\n \"type\":\"a\"}"));
    let args = ["verify", "--webhook-secret-file", "secret", "--event", "event"];
    let (_, messages) = folder.run(0, &args);
    assert!(messages.contains("verified as of Watson Work"), "{messages}");
    // As `listen --format json` writes it.
    folder.file("event", event("{  \"type\":\"a\"}"));
    let (_, messages) = folder.run(1, &args);
    assert!(messages.contains("`listen --save` keeps every byte"), "{messages}");
}

#[test]
fn the_body_is_written_to_a_private_file() {
    let folder = Folder::new();
    folder.file("body", r#"{"webhookTimestamp":0}"#);
    for scheme in ["github", "linear"] {
        let out = folder.0.path().join(scheme);
        sign(&folder, scheme, &["--body-out", scheme, "body"]);
        assert!(fs::read_to_string(&out).unwrap().starts_with(r#"{"webhookTimestamp":"#));
        #[cfg(unix)]
        assert_eq!(
            std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&out).unwrap().permissions()) & 0o777,
            0o600
        );
    }
}

#[test]
fn the_help_of_offline_commands_has_no_flags_of_the_server() {
    let folder = Folder::new();
    for (command, has) in [("sign", false), ("verify", false), ("schemes", false), ("send", true)] {
        let (help, _) = folder.run(0, &[command, "--help"]);
        assert_eq!(help.contains("--server"), has, "{help}");
        assert_eq!(help.contains("--token-file"), has, "{help}");
    }
}
