//! `wwproxy send --challenge`: the checks of a hook by which senders find out that it belongs to the receiver.

use std::fs;

use wwproxy_sdk::scheme::{Scheme, presets};

use crate::{
    send::{register, text},
    target::{CannedResponse, Target},
    world::World,
};

#[test]
fn a_challenge_is_sent_and_its_response_checked() {
    let world = World::new();
    assert!(world.send(&["--challenge"]).contains("answered the challenge"));
    assert_eq!(world.status()["stored"], 0);
    let target = Target::new(&[CannedResponse::Status(200)]);
    let ended =
        world.command(&["send", "--challenge", "--to", &target.address]).env("WEBHOOK_SECRET", "s").output();
    assert_eq!(ended.unwrap().status.code(), Some(1));
}

#[test]
fn the_challenge_of_each_sender_is_answered() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let token = folder.path().join("token");
    fs::write(&token, "verify&me\n").unwrap();
    let challenge = |scheme: &Scheme, secret: &str, more: &[&str]| {
        let mut send = world.command(&["send", "--challenge", "--scheme", scheme.name()]);
        if scheme.has_challenge_secret() {
            send.arg("--challenge-secret-file").arg(&token);
        }
        let output = send.args(more).env("WEBHOOK_SECRET", secret).output().unwrap();
        (output.status.code().unwrap(), text(output.stderr))
    };
    let mut answered = 0;
    for scheme in presets().map(|preset| &preset.scheme).filter(|scheme| scheme.has_challenge()) {
        if scheme.learns_secret() {
            let (code, messages) = challenge(scheme, "hunter2", &["--to", "3000"]);
            assert!(code == 2 && messages.contains("sources arm"), "{messages}");
            continue;
        }
        let secret = register(&world, scheme);
        let (code, messages) = challenge(scheme, &secret, &["--source", scheme.name()]);
        assert!(code == 0 && messages.contains("answered the challenge"), "{}: {messages}", scheme.name());
        answered += 1;

        // An app that accepts everything does not pass.
        let target = Target::new(&[CannedResponse::Status(202)]);
        let (code, messages) = challenge(scheme, &secret, &["--to", &target.address]);
        assert_eq!(code, 1, "{}: {messages}", scheme.name());
    }
    assert_eq!(answered, 11);
    assert_eq!(world.status()["stored"], 0);
    let github = Scheme::preset("github").unwrap();
    let (code, messages) = challenge(&github, "hunter2", &["--to", "3000"]);
    assert!(code == 2 && messages.contains("github sends no challenge"), "{messages}");
}

#[test]
fn a_challenge_keeps_the_query_of_the_destination() {
    let (world, folder, target) = (World::new(), tempfile::tempdir().unwrap(), Target::new(&[]));
    fs::write(folder.path().join("token"), "verify").unwrap();
    let token = folder.path().join("token");
    let to = format!("{}/hooks?own=1", target.address);
    let challenge = ["send", "--scheme", "meta", "--challenge", "--to", &to, "--challenge-secret-file"];
    let mut challenge = world.command(&challenge);
    assert!(!challenge.arg(token).env("WEBHOOK_SECRET", "s").output().unwrap().status.success());
    let path = target.next().path;
    assert!(path.starts_with("/hooks?own=1&hub."), "{path}");
}
