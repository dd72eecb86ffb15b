//! `wwproxy sign` and `wwproxy verify`: the built command, without a server.

#[path = "offline/input.rs"]
mod input;

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::SystemTime,
};

use serde_json::{Value, json};
use wwproxy_sdk::scheme::{Scheme, presets};

const SECRET: &str = "hunter2";
const URL: &str = "https://hooks.example.test/x?a=1";
/// A private key of P-256, made for this test: PKCS#8 in base64.
const P256_KEY: &str = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgMXsFDETkwt7XnFjkAzEVrVG0CSfQok33gbFYX80dovyh\
    RANCAAT19UZvXFffGDofCReoM2swo8+iT9Nb04ioV4O6p6+fNFZzsENQd6LowO4kx0hEI5OyLX5MORoo8aJAw4CpuZeO";

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Writes a file, and returns its path.
    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn wwproxy(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wwproxy"));
        command.args(args).env_clear().current_dir(self.0.path()).stdin(Stdio::null());
        command
    }

    /// Runs a command, which must end with this code. No output may have a secret of the folder, except for the headers of `sign`: the
    /// signature of some senders is the secret.
    fn run(&self, code: i32, args: &[&str]) -> (String, String) {
        let (out, messages) = ended(self.wwproxy(args).output().unwrap(), code);
        let secrets = ["secret", "other"].map(|name| fs::read_to_string(self.0.path().join(name)));
        for secret in secrets.into_iter().flatten() {
            let secret = secret.trim();
            assert!(!messages.contains(secret), "{messages}");
            assert!(args[0] == "sign" || !out.contains(secret), "{out}");
        }
        (out, messages)
    }
}

fn ended(output: Output, code: i32) -> (String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (out, messages) = (text(output.stdout), text(output.stderr));
    assert_eq!(output.status.code(), Some(code), "{out}{messages}");
    assert!(!out.contains(SECRET) && !messages.contains(SECRET), "{out}{messages}");
    (out, messages)
}

/// The file of the secret that signs, and that of the one to verify with.
fn secret_files(folder: &Folder, scheme: &Scheme) -> (PathBuf, PathBuf) {
    let private = match scheme.name() {
        "discord" => "11".repeat(32),
        "sendgrid" => P256_KEY.to_owned(),
        "asana" | "notion" => SECRET.to_owned(),
        _ => {
            let secret = scheme.generate_secret().unwrap().expose().to_owned();
            let file = folder.file("secret", secret);
            return (file.clone(), file);
        }
    };
    let file = folder.file("secret", private + "\n");
    if ["asana", "notion"].contains(&scheme.name()) {
        return (file.clone(), file);
    }
    let path = file.to_str().unwrap();
    let (key, _) =
        folder.run(0, &["sign", "--scheme", scheme.name(), "--webhook-secret-file", path, "--public-key"]);
    (file, folder.file("public", key))
}

#[test]
fn what_is_signed_is_valid_for_each_sender() {
    let folder = Folder::new();
    for preset in presets() {
        let (name, scheme) = (preset.name.as_str(), &preset.scheme);
        let sample =
            scheme.sample_types().first().map(|kind| scheme.sample(kind, SystemTime::now()).unwrap());
        let body = sample.map(|sample| sample.body);
        let body = match name {
            "gitea-form" => "payload=%7B%7D".to_owned(),
            _ => body.unwrap_or_else(|| r#"{"a":1}"#.to_owned()),
        };
        folder.file("body", &body);
        folder.file("signed", &body);
        let (private, registered) = secret_files(&folder, scheme);
        let (private, registered) = (private.to_str().unwrap(), registered.to_str().unwrap());
        let common = ["--scheme", name, "--url", URL, "--webhook-secret-file"];
        let sign = [&["sign"], &common[..], &[private, "--type", "push", "--body-out", "signed", "body"]];
        let (headers, messages) = folder.run(0, &sign.concat());
        assert_eq!(messages, "", "{name}");
        folder.file("headers", headers);
        let verify = [&["verify"], &common[..], &[registered, "-H", "@headers", "--json", "signed"]];
        let (outcome, messages) = folder.run(0, &verify.concat());
        let outcome: Value = serde_json::from_str(&outcome).unwrap();
        assert_eq!(
            (&outcome["valid"], &outcome["secret"], &*messages),
            (&true.into(), &1.into(), ""),
            "{name}"
        );
        assert_eq!(outcome["covers"], json!(scheme.covers()), "{name}");

        let other = folder.file("other", "bm90IHRoZSByaWdodCBzZWNyZXQgYXQgYWxsIC4uLi4=");
        let verify = [&["verify"], &common[..], &[other.to_str().unwrap(), "-H", "@headers", "signed"]];
        let (report, _) = folder.run(1, &verify.concat());
        assert!(report.starts_with("not valid: "), "{name}: {report}");
    }
}

/// The arguments of `verify` with the secret, and further ones.
fn verify<'a>(scheme: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["verify", "--scheme", scheme, "--webhook-secret-file", "secret"], more].concat()
}

/// Signs a body, and writes its headers to the file `headers`.
fn sign(folder: &Folder, scheme: &str, more: &[&str]) -> String {
    folder.file("secret", SECRET);
    let args = [&["sign", "--scheme", scheme, "--webhook-secret-file", "secret"], more].concat();
    let (headers, _) = folder.run(0, &args);
    folder.file("headers", &headers);
    headers
}

#[test]
fn the_report_says_what_was_signed_and_by_which_secret() {
    let folder = Folder::new();
    folder.file("body", r#"{"action":"opened"}"#);
    sign(&folder, "github", &["--type", "issues.opened", "--id", "7-a", "body"]);
    folder.file("other", "another");
    let two = ["verify", "--scheme", "github", "--webhook-secret-file", "other"];
    let two = [&two[..], &["--webhook-secret-file", "secret", "-H", "@headers", "body"]].concat();
    let (report, messages) = folder.run(0, &two);
    assert!(report.starts_with("valid: signed with secret 2 of 2\n"), "{report}");
    for line in
        ["signed    body", "covers    the body", "type      issues.opened", "id        7-a (not signed)"]
    {
        assert!(report.contains(line), "{report}");
    }
    assert!(
        report.contains("19 bytes, SHA-256 d592421cfe150deec6c49b8989cc99478e39c7f8cdd4c36f5b1c4cfeff394e24")
    );
    assert_eq!(messages, "");
}

#[test]
fn the_check_that_failed_is_named() {
    let folder = Folder::new();
    folder.file("body", "{}");
    sign(&folder, "slack", &["--time", "1764363600", "body"]);
    folder.file("changed", "{ }");
    folder.file("longer", "{}\n");
    folder.file("short", "whsec_");
    let cases: [(&str, Vec<&str>, &str, &str); 8] = [
        ("header", verify("slack", &["body"]), "X-Slack-Signature is missing", ""),
        (
            "header",
            verify("slack", &["-H", "@headers", "-H", "x-slack-signature: a", "body"]),
            "more than once",
            "",
        ),
        ("encoding", verify("slack", &["-H", "X-Slack-Signature: a", "body"]), "begins with v0=", ""),
        ("timestamp", verify("slack", &["-H", "@headers", "--at", "1764363961", "body"]), "361 s old", ""),
        (
            "timestamp",
            verify("slack", &["-H", "@headers", "--at", "1764363602", "--tolerance", "1", "body"]),
            "2 s old, the tolerance is 1 s",
            "",
        ),
        (
            "signature",
            verify("slack", &["-H", "@headers", "--at", "1764363600", "changed"]),
            "does not match",
            "",
        ),
        (
            "signature",
            verify("slack", &["-H", "@headers", "--at", "1764363600", "longer"]),
            "does not match",
            "hint: it is valid without the white space",
        ),
        (
            "secret",
            vec!["verify", "--scheme", "gitlab", "--webhook-secret-file", "short", "-H", "@webhook", "body"],
            "it is empty",
            "",
        ),
    ];
    folder.file(
        "webhook",
        "webhook-id: 7\nwebhook-timestamp: 1764363600\nwebhook-signature: v1,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
    );
    for (check, args, detail, hint) in cases {
        let args = if check == "secret" { [&args[..], &["--at", "1764363600"]].concat() } else { args };
        let (report, messages) = folder.run(1, &args);
        assert!(report.contains(&format!("check     {check}\n")) && report.contains(detail), "{report}");
        assert!(messages.contains(detail) && messages.contains(hint), "{messages}");
        let (outcome, _) = folder.run(1, &[&args[..], &["--json"]].concat());
        let outcome: Value = serde_json::from_str(&outcome).unwrap();
        assert_eq!((&outcome["valid"], &outcome["check"]), (&false.into(), &check.into()), "{outcome}");
    }
    // The expected signature is never shown.
    let headers = fs::read_to_string(folder.0.path().join("headers")).unwrap();
    let signature = headers.lines().last().unwrap().split("v0=").nth(1).unwrap();
    let wrong = format!("X-Slack-Signature: v0={}", "0".repeat(64));
    let time = "X-Slack-Request-Timestamp: 1764363600";
    let (report, messages) =
        folder.run(1, &verify("slack", &["-H", time, "-H", &wrong, "--at", "1764363600", "body"]));
    assert!(report.contains("check     signature\n"), "{report}");
    assert!(!report.contains(signature) && !messages.contains(signature), "{report}");
}

#[test]
fn a_saved_event_is_verified_as_of_its_arrival() {
    let folder = Folder::new();
    let body = "{ \"n\": 1.0,\r\n \"s\":\"ü\" }\n";
    folder.file("body", body);
    let headers = sign(&folder, "slack", &["--time", "1764363600", "body"]);
    let headers: Vec<_> = headers.lines().map(|line| line.split_once(": ").unwrap()).collect();
    let headers: Vec<_> =
        headers.iter().map(|(name, value)| [name.to_lowercase(), (*value).into()]).collect();
    let event = format!(
        r#"{{"id":"7","attempt":1,"receivedAt":"2025-11-28T21:00:07.000Z","headers":{},"data":{body}}}"#,
        json!(headers)
    );
    folder.file("event.json", event);
    let (report, messages) = folder.run(0, &verify("slack", &["--event", "event.json"]));
    assert!(report.contains("time      2025-11-28T21:00:07Z"), "{report}");
    assert!(
        messages.contains("verified as of 2025-11-28T21:00:07Z, when the server received it"),
        "{messages}"
    );
    let (report, _) = folder.run(1, &verify("slack", &["--event", "event.json", "--at", "now"]));
    assert!(report.contains("s old, the tolerance is 300 s"), "{report}");
    // The scheme by which the server verified it is the default.
    let event = fs::read_to_string(folder.0.path().join("event.json")).unwrap();
    let verified = r#"{"verification":{"scheme":"slack","secret":1,"signed":"body","covers":"body"},"#;
    folder.file("event.json", event.replacen('{', verified, 1));
    folder.run(0, &["verify", "--webhook-secret-file", "secret", "--event", "event.json"]);
    folder.file("event.json", "{}");
    let (_, messages) = folder.run(2, &verify("slack", &["--event", "event.json"]));
    assert!(messages.contains("is not an event file"), "{messages}");
}

#[test]
fn hostile_input_is_bounded_and_shown_without_control_characters() {
    let folder = Folder::new();
    folder.file("body", "{\"type\":\"a\u{202e}\u{9b}b\",\"x\":\"\u{1b}[2J\"}");
    folder.file("secret", "whsec_aHVudGVyMmh1bnRlcjJodW50ZXIyaHVudGVyMg==");
    let args = ["sign", "--scheme", "svix", "--webhook-secret-file", "secret", "--id"];
    let evil = "a\u{1b}[2J\u{202e}";
    let (_, messages) = folder.run(2, &[&args[..], &[evil, "body"]].concat());
    assert!(messages.contains("the delivery id cannot stand in a header"), "{messages}");
    let (headers, _) = folder.run(0, &[&args[..], &["7\u{202e}", "body"]].concat());
    folder.file("headers", headers);
    let (report, messages) = folder.run(0, &verify("svix", &["-H", "@headers", "body"]));
    let is_unsafe = |c| wwproxy_sdk::is_unsafe_to_show(c) && c != '\n';
    assert!(!report.contains(is_unsafe) && !messages.contains(is_unsafe), "{report}");
    let evil = format!("svix-signature: {evil}");
    let (report, messages) = folder.run(1, &verify("svix", &["-H", &evil, "body"]));
    assert!(!report.contains(is_unsafe) && !messages.contains(is_unsafe), "{report}");

    File::create(folder.0.path().join("huge")).unwrap().set_len((64 << 20) + 1).unwrap();
    let (_, messages) = folder.run(2, &verify("svix", &["-H", "@headers", "huge"]));
    assert!(messages.contains("huge is larger than 67108864 bytes"), "{messages}");
    let (_, messages) = folder.run(2, &verify("svix", &["-H", "@huge", "body"]));
    assert!(messages.contains("huge is larger than"), "{messages}");
    folder.file("headers", "no header\n");
    let (_, messages) = folder.run(2, &verify("svix", &["-H", "@headers", "body"]));
    assert!(messages.contains("line 1 of headers is not a header"), "{messages}");
}

#[test]
fn a_template_signs_and_verifies_a_sender_without_a_preset() {
    let folder = Folder::new();
    folder.file("body", "a=1");
    folder.file("secret", SECRET);
    let template = json!({
        "algorithm": "hmac-sha512", "signature": "header:X-Sig", "encoding": "base64",
        "content": "{method} {url} {body}", "id": "header:X-Id",
    });
    let template = folder.file("template", template.to_string());
    let template = ["--template", template.to_str().unwrap(), "--webhook-secret-file", "secret"];
    let request = ["--url", URL, "--method", "PUT"];
    let (headers, _) = folder.run(0, &[&["sign"], &template[..], &request, &["body"]].concat());
    folder.file("headers", &headers);
    assert!(headers.starts_with("Content-Type: application/x-www-form-urlencoded\n"), "{headers}");
    let verify = [&["verify"], &template[..], &request, &["-H", "@headers", "body"]].concat();
    assert!(folder.run(0, &verify).0.contains("signed    method, URL, body"));
    folder.file("template", "{}");
    let (_, messages) = folder.run(2, &verify);
    assert!(messages.contains("\"algorithm\" is missing"), "{messages}");
}

#[test]
fn headers_of_sign_are_read_by_verify_from_stdin() {
    let folder = Folder::new();
    folder.file("body", "{}");
    let headers = sign(&folder, "stripe", &["body"]);
    let mut verify = folder.wwproxy(&verify("stripe", &["-H", "@-", "body"]));
    let mut verify =
        verify.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    verify.stdin.take().unwrap().write_all(headers.as_bytes()).unwrap();
    assert!(ended(verify.wait_with_output().unwrap(), 0).0.starts_with("valid"));
}

#[test]
fn wrong_usage_is_explained() {
    let folder = Folder::new();
    folder.file("secret", SECRET);
    folder.file("body", "{}");
    let secret = ["--webhook-secret-file", "secret"];
    let path = Path::new("body").to_str().unwrap();
    for (args, says) in [
        (&["sign", "--scheme", "githb"][..], "did you mean 'github'?"),
        (&["sign"], "--scheme NAME"),
        (&["sign", "--scheme", "none"], "has no signature"),
        (&["sign", "--scheme", "template"], "--template FILE"),
        (&["sign", "--scheme", "square"], "(give --url)"),
        (&["sign", "--scheme", "linear"], "member webhookTimestamp"),
        (&["sign", "--scheme", "discord"], "32 bytes of its seed in hexadecimal"),
        (&["sign", "--scheme", "github", "--public-key"], "no public keys"),
        (&["sign", "--scheme", "slack", "--time", "1"], "2001 and 2286"),
        (&["verify", "--scheme", "github", "--tolerance", "5"], "signed timestamp"),
        (&["verify", "--scheme", "github", "-H", "no colon"], "NAME: VALUE"),
        (&["verify", "--scheme", "github", "--at", "soon"], "Unix seconds"),
    ] {
        let (out, messages) = folder.run(2, &[args, &secret, &[path]].concat());
        assert!(messages.contains(says) && out.is_empty(), "{args:?}: {messages}");
    }
    let (_, messages) = folder.run(2, &["sign", "--scheme", "github", "body"]);
    assert!(messages.contains("--webhook-secret-file FILE, or WEBHOOK_SECRET"), "{messages}");
    let evil = ["sign", "--scheme", "github", "--webhook-secret-file", "secret", "-H", "A: b\nC: d", "body"];
    let (_, messages) = folder.run(2, &evil);
    assert!(messages.contains("the header a has control characters"), "{messages}");
    let (_, messages) = folder.run(2, &verify("github", &["-H", "@-"]));
    assert!(messages.contains("not for -H @- and for BODY-FILE"), "{messages}");
}
