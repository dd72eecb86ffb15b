//! `register`: generated secrets, and sources that are replaced.

use std::{fs, fs::OpenOptions, process::Stdio};

use serde_json::{Value, json};

use super::{
    common::{FakeServer, Reply},
    is_registration, messages, registered, run, server, status, text, wwproxy,
};

const GITHUB: [&str; 6] = ["register", "--scheme", "github", "--source", "repo", "--generate-secret"];

/// A server with a source of this scheme, which answers a registration with this status.
async fn with_source(scheme: &'static str, answer: u16) -> FakeServer {
    server(move |request| match request.line.as_str() {
        "PUT /webhooks/bot/sources/repo" => Reply::status(answer),
        "GET /webhooks/bot/sources/repo" => Reply::json(200, status("repo", scheme)),
        _ => Reply::status(500),
    })
    .await
}

#[tokio::test]
async fn a_generated_secret_is_printed_and_added_to_the_old_one() {
    let server = with_source("github", 200).await;
    let output = run(&server, &GITHUB).await;
    let secret = text(&output.stdout);
    let secret = secret.strip_suffix('\n').unwrap();
    assert!(secret.len() == 64 && secret.bytes().all(|byte| byte.is_ascii_hexdigit()), "{secret}");
    let said = messages(&output, 0);
    assert!(!said.contains(secret) && said.contains("its former secret is no longer accepted"), "{said}");
    assert_eq!(registered(&server)["secrets"], json!([secret]));

    let folder = tempfile::tempdir().unwrap();
    let old = folder.path().join("old.txt");
    fs::write(&old, "old-hunter2").unwrap();
    let old = old.to_str().unwrap();
    let from_file = [&GITHUB[..], &["--webhook-secret-file", old]].concat();
    for (args, variable, value, origin) in [
        (&from_file[..], "WEBHOOK_SECRET", "other", old),
        (&GITHUB[..], "WEBHOOK_SECRET", "old-hunter2", "WEBHOOK_SECRET"),
        (&GITHUB[..], "WEBHOOK_SECRET_FILE", old, "WEBHOOK_SECRET_FILE"),
    ] {
        let args = [args, &["--json"]].concat();
        let output = wwproxy(&server, &args).env(variable, value).output().await.unwrap();
        let said = messages(&output, 0);
        let secrets = format!("now with 2 secrets: that of {origin} and the generated one; its webhooks");
        assert!(said.contains(&format!("updated source repo of bot (github), {secrets}")), "{said}");
        assert_eq!(said.contains(&format!("note: {variable} is set")), origin == variable, "{said}");
        // The secret that was given may be the former one.
        assert!(!said.contains("no longer accepted"), "{said}");
        let printed = text(&output.stdout);
        let (generated, printed) = printed.split_once('\n').unwrap();
        let object = |line| serde_json::from_str::<Value>(line).unwrap();
        let (generated, printed) = (object(generated), object(printed));
        assert_eq!(printed["secrets"], 2);
        assert_eq!(printed["hook"], format!("{}/hook/bot/repo", server.url));
        let generated = generated["generatedSecret"].as_str().unwrap();
        assert_ne!(generated, secret);
        assert_eq!(registered(&server)["secrets"], json!(["old-hunter2", generated]), "{variable}");
    }
}

#[tokio::test]
async fn nothing_is_registered_if_the_generated_secret_cannot_be_written() {
    let server = with_source("github", 200).await;
    let mut child = wwproxy(&server, &GITHUB).spawn().unwrap();
    drop(child.stdout.take());
    let said = messages(&child.wait_with_output().await.unwrap(), 1);
    assert!(said.contains("nothing was registered") && said.contains("stdout"), "{said}");
    for device in ["/dev/full", "/dev/null"] {
        let device = OpenOptions::new().write(true).open(device).unwrap();
        let child = wwproxy(&server, &GITHUB).stdout(device).spawn().unwrap();
        let output = child.wait_with_output().await.unwrap();
        assert!(messages(&output, 1).contains("nothing was registered"));
    }
    // As a shell does: the runtime of Rust opens /dev/null in place of a closed stdout.
    let line = format!("{} {} >&-", env!("CARGO_BIN_EXE_wwproxy"), GITHUB.join(" "));
    let mut shell = tokio::process::Command::new("sh");
    shell.args(["-c", &line]).env_clear().env("WWPROXY_SERVER", &server.url).env("APPID", "bot");
    shell.env("SECRET", "app-hunter2").env("WWPROXY_CONFIG_DIR", "/nonexistent").stdin(Stdio::null());
    let said = messages(&shell.output().await.unwrap(), 1);
    assert!(said.contains("closed or /dev/null"), "{said}");
    assert!(!server.requests().iter().any(is_registration), "{:?}", server.requests());
}

#[tokio::test]
async fn a_failed_registration_says_whether_the_generated_secret_may_be_in_force() {
    for (answer, code, says) in [
        (400, 1, "is not in force"),
        (403, 3, "is not in force"),
        (500, 5, "may be in force"),
        (503, 5, "may be in force"),
    ] {
        let output = run(&with_source("github", answer).await, &GITHUB).await;
        let said = messages(&output, code);
        assert!(said.contains(says), "{said}");
        assert_eq!(output.stdout.len(), 65, "it was printed before");
        let output = run(&with_source("github", answer).await, &[&GITHUB[..], &["--json"]].concat()).await;
        let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(printed["generatedSecret"].as_str().map(str::len), Some(64), "a complete object");
    }
}

#[tokio::test]
async fn a_source_of_another_sender_is_not_replaced_by_mistake() {
    let server = with_source("stripe", 200).await;
    let output = run(&server, &GITHUB).await;
    let said = messages(&output, 2);
    assert!(said.contains("receives the webhooks of stripe") && said.contains("--replace"), "{said}");
    assert!(said.contains("give another --source NAME to add a source for github"), "{said}");
    assert!(output.stdout.is_empty() && !server.requests().iter().any(is_registration));

    let said = messages(&run(&server, &[&GITHUB[..], &["--replace"]].concat()).await, 0);
    assert!(
        said.contains(
            "replaced source repo of bot: github in place of stripe, with 1 secret: the generated one"
        ),
        "{said}"
    );
}

#[tokio::test]
async fn the_source_of_watson_work_is_updated_like_others() {
    let server = server(|request| match request.line.as_str() {
        "GET /webhooks/bot/sources/default" => {
            let mut status = status("default", "watsonwork");
            status["secrets"] = 3.into();
            Reply::json(200, status)
        }
        "PUT /webhooks/bot" => Reply::status(201),
        _ => Reply::status(500),
    })
    .await;
    let mut register = wwproxy(&server, &["register"]);
    let said = messages(&register.env("WEBHOOK_SECRET", "hunter2").output().await.unwrap(), 0);
    assert!(
        said.contains("updated source default of bot (watsonwork), now with 1 secret: that of"),
        "{said}"
    );
    assert!(said.contains("at least 2 of its 3 former secrets are no longer accepted"), "{said}");
}
