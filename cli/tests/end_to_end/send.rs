//! `wwproxy send`: webhooks as the platform posts them.

use std::{collections::BTreeSet, fs, process::Stdio};

use serde_json::Value;
use wwproxy_sdk::{
    Secret, SourceSettings,
    scheme::{Scheme, presets},
    sign_watson_work,
};

use crate::{
    target::{CannedResponse, Target},
    world::{WEBHOOK_SECRET, World, interrupt},
};

pub(crate) fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

#[test]
fn samples_are_accepted_and_not_deduplicated() {
    let world = World::new();
    for kind in ["message-created", "space-members-added", "reaction-added", "reaction-removed"] {
        world.send(&["--type", kind]);
    }
    let sent = world.send(&["--count", "20", "--rate", "1000"]);
    assert!(sent.contains("20 sent to http://") && sent.ends_with("/hook/my-bot, 20 accepted\n"), "{sent}");
    // The same body is a new webhook each time.
    world.send(&["--data", "{\"n\": 1.0}", "--count", "2"]);
    world.send(&["--data", "{\"n\": 1.0}"]);
    let printed = world.run(&["get"]);
    let events: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(events.as_object().unwrap().len(), 27);
    let samples = events.as_object().unwrap().values().filter(|event| event["type"] == "message-created");
    let ids: BTreeSet<_> = samples.map(|event| event["messageId"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 21);
    assert_eq!(printed.matches("{\"n\": 1.0}").count(), 3);
}

#[test]
fn an_unknown_type_is_rejected_with_a_suggestion() {
    let world = World::new();
    let output = world.command(&["send", "--type", "mesage-created"]).output().unwrap();
    let messages = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{messages}");
    assert!(messages.contains("'message-created'") && messages.contains("space-deleted"), "{messages}");
    assert!(world.run(&["send", "--help"]).contains("message-annotation-removed"));
}

/// Registers a source of this sender, with the name of its scheme, and returns the secret that signs.
pub(crate) fn register(world: &World, scheme: &Scheme) -> String {
    let secret =
        scheme.generate_secret().map_or_else(|_| "11".repeat(32), |secret| secret.expose().to_owned());
    let secret = Secret::new(secret);
    let registered = scheme.public_key(&secret).map_or_else(|_| secret.clone(), Secret::new);
    let settings = SourceSettings {
        scheme: scheme.name().to_owned(),
        secrets: vec![registered],
        url: scheme.needs_url().then(|| world.hook(scheme.name())),
        challenge_secret: scheme.has_challenge_secret().then(|| Secret::new("verify&me")),
        ..SourceSettings::default()
    };
    world.put_source(scheme.name(), &settings);
    secret.expose().to_owned()
}

#[test]
fn a_sample_of_each_sender_is_accepted_with_its_type() {
    let world = World::new();
    let mut expected = Vec::new();
    for scheme in presets().map(|preset| &preset.scheme) {
        // Each type is verified by a test of the protocol.
        let Some(kind) = scheme.sample_types().pop() else { continue };
        let secret = register(&world, scheme);
        let mut send = world.command(&["send", "--scheme", scheme.name(), "--source", scheme.name()]);
        let output = send.args(["--type", kind]).env("WEBHOOK_SECRET", &secret).output().unwrap();
        assert!(output.status.success(), "{} {kind}: {}", scheme.name(), text(output.stderr));
        // Discord's interactions and Twilio's forms have no type.
        let has_type = !["discord", "twilio"].contains(&scheme.name());
        expected.push((scheme.name().to_owned(), has_type.then(|| kind.to_owned())));
    }
    assert!(expected.len() > 15);
    let events = world.lease();
    let stored = events.iter().map(|event| {
        let origin = event.details.origin.clone();
        (origin.source.to_string(), origin.event_type)
    });
    assert_eq!(stored.collect::<Vec<_>>(), expected);
}

#[test]
fn each_webhook_of_a_series_has_an_id_of_its_own() {
    let world = World::new();
    for (name, body) in [("github", r#"{"action":"opened"}"#), ("svix", r#"{"type":"a"}"#)] {
        let scheme = Scheme::preset(name).unwrap();
        let secret = register(&world, &scheme);
        let send = ["send", "--scheme", name, "--source", name, "--data", body, "--type", "issues.opened"];
        let mut send = world.command(&send);
        let output = send.args(["--count", "3"]).env("WEBHOOK_SECRET", &secret).output().unwrap();
        assert!(output.status.success() && !text(output.stderr).contains("note:"));
    }
    assert_eq!(world.status()["stored"], 6);

    let scheme = Scheme::preset("stripe").unwrap();
    let secret = register(&world, &scheme);
    let send = ["send", "--scheme", "stripe", "--source", "stripe", "--data", r#"{"id":"evt_1"}"#];
    let output = world.command(&send).args(["--count", "3"]).env("WEBHOOK_SECRET", &secret).output().unwrap();
    let messages = text(output.stderr);
    assert!(
        messages.contains("the server stores one of equal ids") && messages.contains("3 accepted"),
        "{messages}"
    );
    assert_eq!(world.status()["stored"], 7);
}

#[test]
fn wrong_flags_of_a_scheme_are_explained() {
    let world = World::new();
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("input");
    fs::write(&input, "hunter2").unwrap();
    for (args, says) in [
        (&["--scheme", "strip"][..], "did you mean 'stripe'?"),
        (&["--scheme", "stripe", "--type", "invoice.payed"], "did you mean 'invoice.paid'?"),
        (&["--scheme", "zoom"], "there are no samples of zoom: give --data or --file"),
        (&["--scheme", "linear", "--data", "{}"], "member webhookTimestamp"),
        (&["--scheme", "discord"], "Ed25519 private key"),
        (&["--scheme", "meta", "--challenge"], "--challenge-secret-file FILE"),
        (&["--scheme", "slack", "--challenge", "--challenge-secret-file", "x"], "no secret of its own"),
        (&["--source", "a/b"], "source"),
        (&["--data", "-", "--webhook-secret-file", "-"], "stdin can be read only once"),
    ] {
        let mut command = world.command(&["send"]);
        command.args(args).env("WEBHOOK_SECRET", "hunter2").stdin(fs::File::open(&input).unwrap());
        let output = command.output().unwrap();
        let messages = text(output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {messages}");
        assert!(messages.contains(says) && !messages.contains("hunter2"), "{args:?}: {messages}");
    }
    assert_eq!(world.status()["stored"], 0);
}

#[test]
fn each_kind_of_refusal_has_its_exit_code() {
    let world = World::new();
    let ended = |args: &[&str], secret: &str| {
        let output = world.command(&["send"]).args(args).env("WEBHOOK_SECRET", secret).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, messages) = ended(&[], "hunter2");
    assert!(code == 3 && messages.contains("401") && !messages.contains("hunter2"), "{code} {messages}");
    let (code, messages) = ended(&["--app-id", "other"], WEBHOOK_SECRET);
    assert!(code == 4 && messages.contains("the hook answered 404 Not Found: "), "{code} {messages}");
    assert_eq!(ended(&["--data", "no json"], WEBHOOK_SECRET).0, 1);
    assert_eq!(ended(&["--to", "http://127.0.0.1:1"], WEBHOOK_SECRET).0, 5);
    assert_eq!(ended(&[], "").0, 2);
    assert_eq!(ended(&["--data", "{}", "--type", "message-created"], WEBHOOK_SECRET).0, 2);
    let target = Target::new(&[CannedResponse::Redirect]);
    assert_eq!(ended(&["--to", &target.address], WEBHOOK_SECRET).0, 1);
}

#[test]
fn a_saved_event_is_sent_again_byte_for_byte() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let body = "{ \"n\": 1.0,\r\n \"s\":\"ü\" }\n";
    world.post_to("?a=1", body);
    let path = folder.path().join("saved");
    world.run(&["listen", "-n1", "--save", path.to_str().unwrap()]);
    let file = fs::read_dir(&path).unwrap().next().unwrap().unwrap().path();
    let file = file.to_str().unwrap();

    // Without a secret it is sent with its original signature, and accepted again.
    let ended = world.command(&["send", "--file", file]).output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    assert!(world.run(&["get"]).contains(body));

    let target = Target::new(&[]);
    let data = format!("@{file}");
    world.send(&["--to", &target.address, "--file", file]);
    world.send(&["--to", &target.address, "--data", &data]);
    let request = target.next();
    assert_eq!((request.body.as_slice(), &*request.path), (body.as_bytes(), "/?a=1"));
    let signature = sign_watson_work(&Secret::new(WEBHOOK_SECRET), body.as_bytes());
    assert_eq!(request.header("x-outbound-token"), Some(&*signature));
    assert_eq!(target.next().body, fs::read(file).unwrap());
}

#[test]
fn a_saved_event_of_another_sender_is_sent_as_that_sender_would() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let scheme = Scheme::preset("github").unwrap();
    let secret = register(&world, &scheme);
    let send = |args: &[&str], secret: &str| {
        let mut send = world.command(&["send", "--source", "github"]);
        let output = send.args(args).env("WEBHOOK_SECRET", secret).output().unwrap();
        assert!(output.status.success(), "{}", text(output.stderr));
    };
    send(&["--scheme", "github", "--type", "issues.opened"], &secret);
    let path = folder.path().join("saved");
    world.run(&["listen", "-n1", "--save", path.to_str().unwrap()]);
    let file = fs::read_dir(&path).unwrap().next().unwrap().unwrap().path();
    let file = file.to_str().unwrap();
    // With its original signature, and signed again: each with an id of its own, otherwise it would be a duplicate.
    send(&["--file", file], "");
    send(&["--file", file], &secret);
    let events = world.lease();
    assert_eq!(events.len(), 2);
    let ids: BTreeSet<_> =
        events.iter().map(|event| event.details.origin.delivery_id.clone().unwrap()).collect();
    assert_eq!(ids.len(), 2);
    for event in &events {
        assert_eq!(event.details.origin.event_type.as_deref(), Some("issues.opened"));
        assert!(!event.details.headers.iter().any(|(name, _)| name.starts_with("x-outbound")));
    }
    // The saved event can be verified offline.
    let mut verify = world.command(&["verify", "--event", file]);
    let output = verify.env("WEBHOOK_SECRET", &secret).output().unwrap();
    assert!(output.status.success() && text(output.stdout).contains("scheme    github"));
}

#[test]
fn a_saved_event_is_stored_again_unless_a_note_says_why_not() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    for (name, stays, stays_signed) in [
        ("github", false, false),
        ("shopify", false, false),
        // The signature covers the id.
        ("svix", true, false),
        ("standard-webhooks", true, false),
        // The id is in the body.
        ("stripe", true, true),
        ("slack", true, true),
    ] {
        let secret = register(&world, &Scheme::preset(name).unwrap());
        let path = folder.path().join(name);
        let send = |args: &[&str], secret: &str| {
            let mut send = world.command(&["send", "--source", name]);
            let output = send.args(args).env("WEBHOOK_SECRET", secret).output().unwrap();
            let messages = text(output.stderr);
            assert!(output.status.success() && messages.contains("1 accepted"), "{messages}");
            messages
        };
        send(&["--scheme", name], &secret);
        world.run(&["listen", "-n1", "--save", path.to_str().unwrap()]);
        let file = fs::read_dir(&path).unwrap().next().unwrap().unwrap().path();
        for (secret, stays) in [("", stays), (&secret, stays_signed)] {
            let messages = send(&["--file", file.to_str().unwrap()], secret);
            assert_eq!(world.run(&["get"]) == "{}\n", stays, "{name}: {messages}");
            assert_eq!(messages.contains("may treat this event as a duplicate"), stays, "{messages}");
            assert_eq!(messages.contains("wwproxy replay"), stays, "{messages}");
        }
    }
    // The id of an alternative of the scheme is replaced, too.
    let event = r#"{"id":"7","attempt":1,"source":"shopify","headers":[["shopify-webhook-id","7"],["shopify-hmac-sha256","x"]],"data":{}}"#;
    let (file, target) = (folder.path().join("event.json"), Target::new(&[]));
    fs::write(&file, event).unwrap();
    let args = ["send", "--scheme", "shopify", "--to", &target.address, "--file", file.to_str().unwrap()];
    assert!(world.command(&args).output().unwrap().status.success());
    let request = target.next();
    assert_ne!(request.header("shopify-webhook-id"), Some("7"));
    assert_eq!(request.header("x-shopify-webhook-id"), None);
}

#[test]
fn custom_headers_are_sent_and_framing_headers_are_rejected() {
    let (world, target) = (World::new(), Target::new(&[]));
    let own = ["--header", "X-Own: a: b", "--header", "content-type:text/plain", "--header", "X-Own: c"];
    world.send(&[&["--to", &target.address], &own[..]].concat());
    let request = target.next();
    assert_eq!(request.header("content-type"), Some("text/plain"));
    assert_eq!(request.headers.iter().filter(|(name, _)| name == "x-own").count(), 2);
    for bad in ["Content-Length: 1", "Transfer-Encoding: chunked", "no colon", "a: b\nc: d", "a b: c"] {
        let ended = world.command(&["send", "--header", bad]).env("WEBHOOK_SECRET", "s").output().unwrap();
        assert_eq!(ended.status.code(), Some(2), "{bad}");
    }
}

#[test]
fn only_permanent_refusals_end_a_series() {
    let world = World::new();
    let ended = |args: &[&str], secret: &str| {
        let output =
            world.command(&["send", "--count", "5"]).args(args).env("WEBHOOK_SECRET", secret).output();
        let output = output.unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, messages) = ended(&["--to", "http://127.0.0.1:1"], "s");
    assert!(code == 5 && messages.contains("cannot be reached"), "{messages}");
    let (code, messages) = ended(&[], "wrong");
    assert!(code == 3 && !messages.contains("sent to"), "{messages}");
    let target = Target::new(&[CannedResponse::Status(503)]);
    let (code, messages) = ended(&["--to", &target.address], "s");
    assert!(code == 5 && messages.contains("5 sent to") && messages.contains("4 accepted"), "{messages}");
}

#[test]
fn a_stopped_series_fails() {
    let (world, target) = (World::new(), Target::new(&[]));
    let args = ["send", "--count", "5", "--rate", "0.001", "--to", &target.address];
    let mut command = world.command(&args);
    let send = command.env("WEBHOOK_SECRET", "s").stderr(Stdio::piped()).spawn().unwrap();
    target.next();
    interrupt(&send);
    let output = send.wait_with_output().unwrap();
    let messages = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && messages.contains("1 accepted, of 5 wanted"), "{messages}");
}

#[test]
fn the_secret_flag_overrides_the_environment() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let file = folder.path().join("secret");
    fs::write(&file, WEBHOOK_SECRET).unwrap();
    let file = file.to_str().unwrap();
    let mut by_flag = world.command(&["send", "--webhook-secret-file", file]);
    assert!(by_flag.env("WEBHOOK_SECRET", "wrong").output().unwrap().status.success());
    let mut by_variable = world.command(&["send"]);
    let output = by_variable.env("WEBHOOK_SECRET", "").env("WEBHOOK_SECRET_FILE", file).output().unwrap();
    assert!(output.status.success());
}

#[test]
fn a_saved_event_keeps_its_source_path_and_query() {
    let (world, folder, target) = (World::new(), tempfile::tempdir().unwrap(), Target::new(&[]));
    let file = folder.path().join("event.json");
    let event = r#"{"id":"7","attempt":1,"source":"github","tail":"/team/a%20b","query":"x=1&own=2","headers":[],"data":{}}"#;
    fs::write(&file, event).unwrap();
    let file = ["--file", file.to_str().unwrap(), "--scheme", "github"];
    for (to, path) in [
        ("", "/team/a%20b?x=1&own=2"),
        ("/hooks?own=1", "/hooks/team/a%20b?own=1&x=1"),
        ("/app/", "/app/hook/my-bot/github/team/a%20b?x=1&own=2"),
    ] {
        world.send(&[&["--to", &format!("{}{to}", target.address)], &file[..]].concat());
        assert_eq!(target.next().path, path, "{to}");
    }
    let secret = register(&world, &Scheme::preset("github").unwrap());
    let output = world.command(&["send"]).args(file).env("WEBHOOK_SECRET", secret).output().unwrap();
    assert!(output.status.success(), "{}", text(output.stderr));
    let events = world.lease();
    let origin = &events[0].details.origin;
    assert_eq!((origin.source.as_str(), origin.tail.as_deref()), ("github", Some("/team/a%20b")));
    assert_eq!(events[0].details.query.as_deref(), Some("x=1&own=2"));
}
