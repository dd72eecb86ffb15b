//! `register` with a scheme, `sources` and `refusals`, against a fake server over a real port.

#[path = "sources/arm.rs"]
mod arm;
#[path = "../../sdk/tests/common/mod.rs"]
mod common;
#[path = "sources/replace.rs"]
mod replace;

use std::{
    fs,
    process::{Output, Stdio},
};

use common::{FakeServer, Reply, Request, platform};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, process::Command};

fn wwproxy(server: &FakeServer, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wwproxy"));
    command
        .args(args)
        .env_clear()
        .env("WWPROXY_SERVER", &server.url)
        .env("APPID", "bot")
        .env("SECRET", "app-hunter2")
        .env("WWPROXY_CONFIG_DIR", "/nonexistent")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn run(server: &FakeServer, args: &[&str]) -> Output {
    wwproxy(server, args).output().await.unwrap()
}

/// A server with a token endpoint. The closure answers all other requests.
async fn server(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> FakeServer {
    FakeServer::start(move |request, own| {
        platform(request, own, 3600, || 1).unwrap_or_else(|| answer(request))
    })
    .await
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Stderr of a command with this exit code. Neither stdout nor stderr has a secret.
fn messages(output: &Output, code: i32) -> String {
    let messages = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{messages}");
    assert!(!messages.contains("hunter2") && !text(&output.stdout).contains("hunter2"), "{messages}");
    messages
}

fn status(name: &str, scheme: &str) -> Value {
    json!({
        "name": name, "scheme": scheme, "covers": "body", "verified": scheme != "none", "secrets": 1,
        "lastAccepted": null, "lastRefused": null,
    })
}

/// The body of the last request that registers a source.
fn registered(server: &FakeServer) -> Value {
    let put = server.requests().into_iter().rfind(|request| request.line.starts_with("PUT ")).unwrap();
    assert_eq!(put.line, "PUT /webhooks/bot/sources/repo");
    serde_json::from_str(&put.body).unwrap()
}

fn is_registration(request: &Request) -> bool {
    request.line.starts_with("PUT ")
}

#[tokio::test]
async fn a_source_is_registered_with_a_secret_from_file_stdin_and_environment() {
    let server = server(|request| match request.line.as_str() {
        "PUT /webhooks/bot/sources/repo" => Reply::status(201),
        "GET /webhooks/bot/sources/repo" => {
            let mut status = status("repo", "github");
            status["hook"] = "https://hooks.example.com/hook/bot/repo".into();
            Reply::json(200, status)
        }
        _ => Reply::status(500),
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret.txt");
    fs::write(&file, "hook-hunter2\n").unwrap();
    let file = file.to_str().unwrap();
    let github = ["register", "--scheme", "github", "--source", "repo"];
    let expected = json!({"scheme": "github", "secrets": ["hook-hunter2"]});

    let output = run(&server, &[&github[..], &["--webhook-secret-file", file]].concat()).await;
    let said = messages(&output, 0);
    assert!(said.contains("its webhooks go to https://hooks.example.com/hook/bot/repo\n"), "{said}");
    assert!(said.contains("at GitHub") && said.contains("Payload URL"), "{said}");
    assert!(output.stdout.is_empty());
    assert_eq!(registered(&server), expected);

    for last in [&["-"][..], &["--webhook-secret-file", "-"]] {
        let mut child =
            wwproxy(&server, &[&github[..], last].concat()).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"hook-hunter2\n").await.unwrap();
        messages(&child.wait_with_output().await.unwrap(), 0);
        assert_eq!(registered(&server), expected);
    }
    for (name, value) in [("WEBHOOK_SECRET", "hook-hunter2\n"), ("WEBHOOK_SECRET_FILE", file)] {
        messages(&wwproxy(&server, &github).env(name, value).output().await.unwrap(), 0);
        assert_eq!(registered(&server), expected);
    }
    assert_eq!(server.requests().into_iter().filter(is_registration).count(), 5);
}

#[tokio::test]
async fn each_flag_sets_its_member() {
    let server = server(|request| match request.line.as_str() {
        "PUT /webhooks/bot/sources/repo" => Reply::status(201),
        "GET /webhooks/bot/sources" => Reply::json(200, json!({"sources": []})),
        _ => Reply::status(404),
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &str| {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (secret, verify) = (write("secret", "hunter2-a\n"), write("verify", "hunter2-v\n"));
    let template =
        r#"{"algorithm":"hmac-sha256","signature":"header:X-Sig","encoding":"hex","content":"{body}"}"#;
    let template_file = write("template", &format!("{template}\n"));
    let secret_flags = ["--webhook-secret-file", &secret];
    for (flags, expected) in [
        (
            &["--scheme", "slack", "--tolerance", "60"][..],
            json!({"scheme": "slack", "secrets": ["hunter2-a"], "tolerance": 60}),
        ),
        (
            &["--scheme", "square", "--url", "https://a.example/x"],
            json!({"scheme": "square", "secrets": ["hunter2-a"], "url": "https://a.example/x"}),
        ),
        (
            &["--scheme", "meta", "--challenge-secret-file", &verify],
            json!({"scheme": "meta", "secrets": ["hunter2-a"], "challengeSecret": "hunter2-v"}),
        ),
        (
            &["--template", &template_file],
            json!({
                "scheme": "template", "secrets": ["hunter2-a"],
                "template": serde_json::from_str::<Value>(template).unwrap(),
            }),
        ),
        (
            &["--webhook-secret-file", &verify, "--scheme", "jira"],
            json!({"scheme": "jira", "secrets": ["hunter2-a", "hunter2-v"]}),
        ),
        (&[], json!({"scheme": "watsonwork", "secrets": ["hunter2-a"]})),
    ] {
        let args = [&["register", "--source", "repo"], &secret_flags[..], flags].concat();
        let said = messages(&run(&server, &args).await, 0);
        // The server does not say where the hook is: it is below the address that is used.
        assert!(said.contains(&format!("its webhooks go to {}/hook/bot/repo\n", server.url)), "{said}");
        assert_eq!(registered(&server), expected);
    }
    // Without a signature, or with one whose secret comes later, no secret is read.
    for (scheme, says) in [("none", "warning: nothing is verified"), ("asana", "`wwproxy sources arm repo`")]
    {
        let mut register = wwproxy(&server, &["register", "--source", "repo", "--scheme", scheme]);
        let said = messages(&register.env("WEBHOOK_SECRET", "hunter2").output().await.unwrap(), 0);
        assert!(said.contains(says), "{said}");
        assert_eq!(registered(&server), json!({"scheme": scheme, "secrets": []}));
    }
}

#[tokio::test]
async fn a_missing_verify_token_is_warned_of() {
    let server = server(|request| match request.line.as_str() {
        line if line.starts_with("PUT") => Reply::status(201),
        _ => Reply::json(200, status("default", "meta")),
    })
    .await;
    let mut register = wwproxy(&server, &["register", "--scheme", "meta", "-"]);
    let mut child = register.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"hunter2").await.unwrap();
    let said = messages(&child.wait_with_output().await.unwrap(), 0);
    assert!(said.contains("warning") && said.contains("--challenge-secret-file"), "{said}");
}

#[tokio::test]
async fn wrong_input_is_a_usage_error_before_anything_is_sent() {
    let server = server(|_| Reply::status(500)).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret.txt");
    fs::write(&file, "hunter2").unwrap();
    let file = file.to_str().unwrap();
    let given = ["--webhook-secret-file", file];
    let too_many = [given; 5].concat();
    let bad_template = folder.path().join("template.json");
    fs::write(&bad_template, r#"{"algorithm":"md5"}"#).unwrap();
    let bad_template = bad_template.to_str().unwrap();
    for (args, says) in [
        (&["--scheme", "gihub", "--generate-secret"][..], "'github'"),
        (&["--scheme", "github"], "--generate-secret"),
        (&["--scheme", "github", "--source", "a/b", "--generate-secret"], "1 to 64"),
        (&["--scheme", "stripe"], "Stripe shows"),
        (&["--scheme", "stripe", "--generate-secret"], "Workbench"),
        (&["--scheme", "slack", "--generate-secret"], "Signing Secret"),
        (&["--scheme", "shopify", "--generate-secret"], "Client secret"),
        (&["--scheme", "discord", "--generate-secret"], "Public Key"),
        (&["--scheme", "notion", "--generate-secret"], "arm it"),
        (&["--scheme", "none", "--generate-secret"], "no secret"),
        (&["--scheme", "github", "hunter2"], "everyone who can list processes"),
        (&["--source", "repo", "hunter2"], "everyone who can list processes"),
        (&["--scheme", "template", given[0], given[1]], "--template FILE"),
        (&["--template", bad_template, given[0], given[1]], "\"algorithm\""),
        (&["--scheme", "github", "--template", bad_template, given[0], given[1]], "leave out one"),
        (&["--scheme", "square", given[0], given[1]], "/hook/bot"),
        (&["--scheme", "github", "--url", "https://a.example", given[0], given[1]], "--url does not belong"),
        (&["--scheme", "github", "--tolerance", "9", given[0], given[1]], "--tolerance needs"),
        (&["--scheme", "slack", "--tolerance", "0", given[0], given[1]], "1..="),
        (
            &["--scheme", "slack", "--challenge-secret-file", file, given[0], given[1]],
            "--challenge-secret-file does not belong",
        ),
        (&["--scheme", "standard-webhooks", given[0], given[1]], "the webhook secret cannot be used"),
        (&["--scheme", "none", given[0], given[1]], "does not belong to the scheme none"),
        (&["--scheme", "standard-webhooks", given[0], given[1]], "standard-webhooks takes"),
        (&["--scheme", "gitlab", given[0], given[1]], "GitLab shows it at: project or group"),
        (&too_many, "at most 4"),
    ] {
        let args = [&["register"], args].concat();
        let output = run(&server, &args).await;
        let said = messages(&output, 2);
        assert!(said.contains(says) && output.stdout.is_empty(), "{args:?}: {said}");
    }
    assert!(server.requests().is_empty(), "{:?}", server.requests());
}

#[tokio::test]
async fn flags_are_accepted_before_an_action() {
    let server = server(|request| match request.line.as_str() {
        "GET /webhooks/bot/sources/a" => Reply::json(200, status("a", "meta")),
        _ => Reply::status(404),
    })
    .await;
    for args in [
        &["sources", "--app-id", "bot", "show", "a"][..],
        &["sources", "--json", "show", "a"],
        &["--app-id", "bot", "sources", "show", "a", "--json"],
    ] {
        let output = run(&server, args).await;
        messages(&output, 0);
        let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(shown["hook"], format!("{}/hook/bot/a", server.url), "{args:?}");
    }
}

#[tokio::test]
async fn a_server_without_sources_is_named_as_too_old() {
    const STATUS: &str = r#"{"registration":{"scheme":"watsonwork"},"stored":0,"leased":0,"dropped":0,"storedBytes":0,"oldestAgeMs":null,"clients":0}"#;
    let server = server(|request| match request.line.as_str() {
        "PUT /webhooks/bot" => Reply::status(201),
        "GET /webhooks/bot/status" => Reply::json(200, STATUS),
        "DELETE /webhooks/bot" => Reply::status(200),
        _ => Reply::status(404),
    })
    .await;
    let mut register = wwproxy(&server, &["register"]);
    let said = messages(&register.env("WEBHOOK_SECRET", "hunter2").output().await.unwrap(), 0);
    let what = "registered source default of bot for watsonwork with 1 secret: that of WEBHOOK_SECRET";
    assert_eq!(said, format!("wwproxy: {what}; its webhooks go to {}/hook/bot\n", server.url));
    assert_eq!(text(&run(&server, &["status", "--json"]).await.stdout), format!("{STATUS}\n"));
    let said = messages(&run(&server, &["unregister"]).await, 0);
    assert_eq!(said, "wwproxy: unregistered bot; 0 stored events were deleted\n");
    for args in [
        &["register", "--scheme", "github", "--generate-secret"][..],
        &["sources"],
        &["sources", "show", "a"],
        &["sources", "arm", "a"],
        &["sources", "delete", "a"],
        &["refusals"],
    ] {
        let output = run(&server, args).await;
        let said = messages(&output, 4);
        assert!(said.contains("too old") && output.stdout.is_empty(), "{args:?}: {said}");
    }
}

#[tokio::test]
async fn an_app_with_a_source_other_than_default_is_registered() {
    let status = json!({
        "registration": null, "stored": 0, "leased": 0, "dropped": 0, "storedBytes": 0, "oldestAgeMs": null,
        "clients": 0, "sources": [status("a", "none")],
    });
    let server = server(move |_| Reply::json(200, &status)).await;
    let output = run(&server, &["status"]).await;
    let said = messages(&output, 0);
    assert!(said.contains("warning: source a is unverified") && !said.contains("not registered"), "{said}");
    let said = messages(&run(&server, &["unregister"]).await, 0);
    assert_eq!(said, "wwproxy: unregistered bot; 0 stored events were deleted\n");
}

#[tokio::test]
async fn send_checks_a_hook_of_meta_without_a_webhook_secret_and_names_the_source_of_a_refusal() {
    let server = server(|request| match request.line.split_once("hub.challenge=") {
        Some((hook, rest)) if hook.starts_with("GET /hook/bot/meta?") => {
            Reply::json(200, rest.split(['&', ' ']).next().unwrap())
        }
        _ => Reply::status(404),
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("verify-token.txt");
    fs::write(&token, "verify-hunter2").unwrap();
    let args =
        ["send", "--scheme", "meta", "--challenge", "--challenge-secret-file", token.to_str().unwrap()];
    let output = run(&server, &[&args[..], &["--source", "meta"]].concat()).await;
    assert!(messages(&output, 0).contains("answered the challenge"));

    let suggestion = "--source NAME sends to another";
    let said = messages(&run(&server, &args).await, 4);
    assert!(said.contains("404") && said.contains(suggestion), "{said}");
    let said = messages(&run(&server, &[&args[..], &["--source", "other"]].concat()).await, 4);
    assert!(!said.contains(suggestion), "{said}");
}
