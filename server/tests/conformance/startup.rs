//! Startup: listen addresses, units of flags, the log, and errors.

use std::{process::Output, sync::Arc};

use serde_json::Value;

use crate::common::{Home, Server, empty, eventually};

/// Starts a server with an in-memory store at this address.
fn start_at(listen: &str, flags: &[&str]) -> Server {
    let home = Arc::new(Home::new());
    let mut command = home.command();
    command.args(["--store", "memory:", "--listen", listen]).args(flags);
    Server::launch(home, command)
}

#[tokio::test]
async fn a_port_listens_on_loopback_and_colon_port_on_all_addresses() {
    for (listen, host) in [("0", "127.0.0.1"), (":0", "[::]")] {
        let server = start_at(listen, &[]);
        let (bound, port) = server.address.rsplit_once(':').unwrap();
        // A machine without IPv6 has no [::].
        assert!(bound == host || (listen == ":0" && bound == "0.0.0.0"), "{listen}: {bound}");
        let health = server.http.get(format!("http://127.0.0.1:{port}/healthz"));
        empty(health.send().await.unwrap(), 200).await;
    }
}

#[tokio::test]
async fn size_flags_accept_short_and_decimal_units() {
    for (size, limit) in [("2k", 2048), ("2KB", 2000), ("2KiB", 2048)] {
        let server = Server::start(&["--max-body", size]);
        let app = server.app("bot").await;
        let body = |length: usize| format!("[\"{}\"]", "x".repeat(length - 4));
        app.post(body(limit)).await;
        crate::common::problem(app.hook(body(limit + 1)).send().await.unwrap(), 413).await;
    }
}

#[test]
fn without_home_store_and_apps_must_be_given() {
    let home = Home::new();
    for arguments in [&["--listen", "127.0.0.1:0"][..], &["--listen", "127.0.0.1:0", "--store", "memory:"]] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_wwproxy-server"));
        let ended = command.env_clear().args(arguments).output().unwrap();
        let error = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(1), "{arguments:?}: {error}");
        for named in ["HOME", "--store", "--apps"] {
            assert!(error.contains(named), "{arguments:?}: {error}");
        }
    }
    let relative = home.command().env("HOME", "here").args(["--listen", "127.0.0.1:0"]).output().unwrap();
    assert_eq!(relative.status.code(), Some(1), "a relative HOME is rejected: {relative:?}");
}

#[test]
fn buffers_that_no_webhook_of_the_largest_size_fits_into_are_refused() {
    for (buffered, body, is_refused) in
        [("1MiB", "8MiB", true), ("8191", "8KiB", true), ("8KiB", "8KiB", false)]
    {
        let mut command = Home::new().command();
        // A file is no folder for a store, so the server does not start in any case.
        let ended = command
            .args([
                "--listen",
                "127.0.0.1:0",
                "--store",
                &format!("file:{}", env!("CARGO_BIN_EXE_wwproxy-server")),
            ])
            .args(["--max-buffered-bytes", buffered, "--max-body", body])
            .output()
            .unwrap();
        let error = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(1), "{error}");
        let names_both = error.contains("--max-buffered-bytes") && error.contains("--max-body");
        assert_eq!(names_both, is_refused, "{buffered}, {body}: {error}");
    }
}

/// Parses a JSON log.
fn json_lines(log: &[u8]) -> Vec<Value> {
    let lines = String::from_utf8(log.to_vec()).unwrap();
    let parse =
        |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line} in\n{lines}"));
    lines.lines().map(parse).collect()
}

#[tokio::test]
async fn startup_logs_version_addresses_store_identity_and_limits() {
    let home = Arc::new(Home::new());
    let flags = ["--public-url", "https://hooks.example", "--max-body", "1M", "--lease", "90s"];
    let server = Server::start_in(&home, &flags);
    eventually("the startup is logged", async || server.log().contains("shutdown_grace")).await;
    let log = server.log();
    for value in [
        env!("CARGO_PKG_VERSION"),
        &server.address,
        "https://hooks.example",
        &format!("file:{}", home.store().display()),
        "identity=builtin",
        "max_body=1048576",
        "lease=1m 30s",
        "max_clients_per_app=256",
    ] {
        assert!(log.contains(value), "{value} in\n{log}");
    }
}

#[tokio::test]
async fn startup_logs_platform_and_trusted_proxies_and_warns_of_a_proxy_network_of_all_addresses() {
    let flags = [
        ["--identity", "watsonwork"],
        ["--platform-url", "https://platform.example/base"],
        ["--allow-app", "one,two"],
        ["--trusted-proxy", "0.0.0.0/0,10.0.0.0/8"],
    ];
    let server = Server::start(flags.as_flattened());
    eventually("the startup is logged", async || server.log().contains("shutdown_grace")).await;
    let log = server.log();
    for value in
        ["platform_url=\"https://platform.example/base\"", "allowed_apps=\"one,two\"", "0.0.0.0/0,10.0.0.0/8"]
    {
        assert!(log.contains(value), "{value} in\n{log}");
    }
    let warnings: Vec<_> = log.lines().filter(|line| line.contains("is a trusted proxy")).collect();
    assert!(
        warnings.len() == 1 && warnings[0].contains("WARN") && warnings[0].contains("network=0.0.0.0/0"),
        "{warnings:?}"
    );
}

#[tokio::test]
async fn with_log_json_every_line_of_stdout_and_stderr_is_json() {
    let mut server = start_at(":0", &["--log", "json"]);
    let greeting: Value = serde_json::from_str(&server.greeting).unwrap();
    assert_eq!(greeting["store"], "memory:");
    assert_eq!(greeting["identity"], "builtin");
    server.signal("TERM");
    assert!(server.exited().await.success());
    eventually("the shutdown is logged", async || server.log().contains("stopped")).await;
    let lines = json_lines(server.log().as_bytes());
    let mut warnings = lines.iter().filter(|line| line["level"] == "WARN");
    let message =
        |line: &Value| line["fields"]["message"].as_str().unwrap_or_default().contains("credentials file");
    assert!(warnings.any(message), "{lines:?}");
}

#[test]
fn with_log_json_startup_errors_are_json() {
    let last_error = |ended: Output, code: i32| {
        assert_eq!(ended.status.code(), Some(code), "{ended:?}");
        let last = json_lines(&ended.stderr).pop().unwrap();
        assert_eq!(last["level"], "ERROR", "{last}");
        last["fields"]["error"].as_str().unwrap().to_owned()
    };
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ended =
        Home::new().command().args(["--log", "json", "--store", "memory:", "--listen", &address]).output();
    assert!(last_error(ended.unwrap(), 1).contains(&address));
    for (flags, environment) in
        [(&["--log=json", "--lease", "soon"][..], "text"), (&["--lease", "soon"], "json")]
    {
        let ended = Home::new().command().args(flags).env("WWPROXY_LOG", environment).output();
        assert!(last_error(ended.unwrap(), 2).contains("--lease"));
    }
}

#[tokio::test]
async fn a_credentials_file_that_is_missing_or_has_no_apps_is_a_warning_on_any_address() {
    let empty_home = Arc::new(Home::new());
    std::fs::write(empty_home.apps(), "# no apps yet\n").unwrap();
    for (server, state) in [
        (start_at("0.0.0.0:0", &[]), "does not exist"),
        (start_at("0", &[]), "does not exist"),
        (Server::start_in(&empty_home, &[]), "has no apps"),
    ] {
        eventually("the warning is logged", async || server.log().contains(state)).await;
        let log = server.log();
        let warning = log.lines().find(|line| line.contains(state)).unwrap();
        let file = server.home.apps().display().to_string();
        for part in ["WARN", &file, "credentials file", "--apps", "`wwproxy-server app add ID`"] {
            assert!(warning.contains(part), "{part} in {warning}");
        }
        assert!(log.contains(&format!("apps_file={file} apps=0\n")), "{log}");
    }

    let home = Arc::new(Home::new());
    home.add_app("bot");
    home.add_app("other");
    let mut command = home.command();
    command.args(["--store", "memory:", "--listen", "0.0.0.0:0"]);
    let mut server = Server::launch(home, command);
    server.signal("TERM");
    server.exited().await;
    eventually("the whole log is read", async || server.log().contains("stopped")).await;
    let log = server.log();
    assert!(!log.contains("credentials file") && log.contains(" apps=2\n"), "{log}");
}
