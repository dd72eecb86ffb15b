//! Profiles: their file, its mode, and their precedence.

#[path = "../../sdk/tests/common/mod.rs"]
mod common;

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Output};

use common::{FakeServer, Reply, platform};
use tokio::process::Command;

const STATUS: &str =
    r#"{"registration":null,"stored":1,"leased":0,"dropped":0,"storedBytes":9,"oldestAgeMs":5,"clients":0}"#;

/// A server that accepts every app.
async fn server() -> FakeServer {
    FakeServer::start(|request, own| {
        platform(request, own, 3600, || 1).unwrap_or_else(|| match &*request.line {
            line if line.ends_with("/status") => Reply::json(200, STATUS),
            _ => Reply::status(404),
        })
    })
    .await
}

fn wwproxy(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wwproxy"));
    command.args(args).env_clear().env("WWPROXY_CONFIG_DIR", folder).env("NO_PROXY", "*");
    command.stdin(std::process::Stdio::null());
    command
}

async fn run(folder: &Path, args: &[&str]) -> Output {
    wwproxy(folder, args).output().await.unwrap()
}

fn all(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8(text).unwrap()
}

fn login<'a>(url: &'a str, app: &'a str) -> [&'a str; 7] {
    ["login", "--server", url, "--app-id", app, "--secret", "hunter2"]
}

#[tokio::test]
async fn login_checks_credentials_and_saves_a_private_profile() {
    let (fake, folder) = (server().await, tempfile::tempdir().unwrap());
    let folder = &folder.path().join("new");
    let output = run(folder, &login(&fake.url, "bot")).await;
    assert!(output.status.success(), "{}", all(&output));
    assert!(all(&output).contains("saved as profile default") && !all(&output).contains("hunter2"));
    let file = folder.join("profiles.toml");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(folder).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(run(folder, &["status"]).await.status.success());
    assert_eq!(fake.count("GET /webhooks/bot/status"), 2);

    let output = run(folder, &[&login(&fake.url, "other")[..], &["--profile", "second"]].concat()).await;
    assert!(output.status.success());
    let listed = run(folder, &["profile", "list"]).await;
    assert_eq!(all(&listed), format!("* default  {0}  bot\n  second  {0}  other\n", fake.url));
    assert!(run(folder, &["profile", "use", "second"]).await.status.success());
    run(folder, &["status"]).await;
    run(folder, &["status", "--profile", "default"]).await;
    assert_eq!((fake.count("GET /webhooks/other/status"), fake.count("GET /webhooks/bot/status")), (2, 3));
    let output = run(folder, &["logout"]).await;
    assert!(output.status.success() && all(&output).contains("there is no default profile now"));
    assert!(!fs::read_to_string(&file).unwrap().contains("other"));
    assert_eq!(run(folder, &["status"]).await.status.code(), Some(2), "there is no default profile");
    let unknown = run(folder, &["status", "--profile", "nobody"]).await;
    assert!(
        unknown.status.code() == Some(2) && all(&unknown).contains("there is default;"),
        "{}",
        all(&unknown)
    );
}

/// A server whose metadata names the token endpoint of another one.
async fn server_of_platform(endpoint: String) -> FakeServer {
    FakeServer::start(move |request, own| match &*request.line {
        "GET /.well-known/oauth-authorization-server" => {
            Reply::json(200, format!(r#"{{"issuer":"{own}","token_endpoint":"{endpoint}"}}"#))
        }
        line if line.ends_with("/status") => Reply::json(200, STATUS),
        _ => Reply::status(404),
    })
    .await
}

#[tokio::test]
async fn a_token_endpoint_on_another_host_must_be_given_and_is_saved() {
    let (elsewhere, folder) = (server().await, tempfile::tempdir().unwrap());
    let endpoint = format!("{}/oauth/token", elsewhere.url);
    let fake = server_of_platform(endpoint.clone()).await;
    let refused = run(folder.path(), &login(&fake.url, "bot")).await;
    assert!(
        !refused.status.success() && all(&refused).contains(&format!("of another origin, {endpoint};")),
        "{}",
        all(&refused)
    );
    assert!(elsewhere.requests().is_empty() && !folder.path().join("profiles.toml").exists());

    let given = [&login(&fake.url, "bot")[..], &["--token-endpoint", &endpoint]].concat();
    let output = run(folder.path(), &given).await;
    assert!(output.status.success(), "{}", all(&output));
    assert!(all(&output).contains(&format!("its tokens come from {endpoint}")), "{}", all(&output));
    assert!(run(folder.path(), &["status"]).await.status.success());
    assert_eq!(elsewhere.count("POST /oauth/token"), 2);

    // The saved endpoint is not used for another server.
    let other = server_of_platform(endpoint.clone()).await;
    let status = ["status", "--server", &other.url, "--secret", "other"];
    assert!(!run(folder.path(), &status).await.status.success());
    assert_eq!(elsewhere.count("POST /oauth/token"), 2);
    let mut command = wwproxy(folder.path(), &status);
    assert!(command.env("WWPROXY_TOKEN_ENDPOINT", &endpoint).output().await.unwrap().status.success());
    assert_eq!(elsewhere.count("POST /oauth/token"), 3);
}

#[tokio::test]
async fn credentials_of_a_profile_are_sent_to_its_own_server_only() {
    let (fake, other, folder) = (server().await, server().await, tempfile::tempdir().unwrap());
    for credential in ["--secret", "--token"] {
        let login = ["login", "--server", &fake.url, "--app-id", "bot", credential, "hunter2"];
        assert!(run(folder.path(), &login).await.status.success());
        for args in [&["status"][..], &["status", "--profile", "default"], &["get"], &["listen"]] {
            let mut by_variable = wwproxy(folder.path(), args);
            by_variable.env("WWPROXY_SERVER", &other.url);
            let by_flag = wwproxy(folder.path(), &[args, &["--server", &other.url]].concat());
            for mut command in [by_variable, by_flag] {
                let output = command.output().await.unwrap();
                assert_eq!(output.status.code(), Some(2), "{args:?}: {}", all(&output));
                assert!(all(&output).contains(&format!("the profile is for {}, and", fake.url)));
                assert!(!all(&output).contains("hunter2"), "{}", all(&output));
            }
        }
    }
    assert!(other.requests().is_empty(), "{:?}", other.requests());

    for same in [format!("{}/", fake.url), fake.url.to_uppercase()] {
        let output = run(folder.path(), &["status", "--server", &same]).await;
        assert!(output.status.success(), "{same}: {}", all(&output));
    }
    let given = ["status", "--server", &other.url, "--token", "other"];
    assert!(run(folder.path(), &given).await.status.success());
    let requests = other.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].header("authorization"), Some("Bearer other"));
}

#[tokio::test]
async fn a_discovered_token_endpoint_is_saved() {
    let (fake, folder) = (server().await, tempfile::tempdir().unwrap());
    let output = run(folder.path(), &login(&fake.url, "bot")).await;
    let says = format!("its tokens come from {}/oauth/token", fake.url);
    assert!(all(&output).contains(&says), "{}", all(&output));
    assert!(run(folder.path(), &["status"]).await.status.success());
    assert_eq!(fake.count("GET /.well-known/oauth-authorization-server"), 1);
    let listed = all(&run(folder.path(), &["profile", "list", "--json"]).await);
    assert!(listed.contains(&format!(r#""tokenEndpoint":"{}/oauth/token""#, fake.url)), "{listed}");
}

#[tokio::test]
async fn http_to_another_machine_must_be_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let server = "http://no-such-host.invalid";
    let status = ["status", "--server", server, "--app-id", "bot", "--token", "t"];
    let send = ["send", "--server", server, "--app-id", "bot", "--type", "message-created"];
    let refused = run(folder.path(), &status).await;
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        all(&refused).contains("--allow-http") && all(&refused).contains("unencrypted"),
        "{}",
        all(&refused)
    );
    let mut posted = wwproxy(folder.path(), &send);
    let posted = posted.env("WEBHOOK_SECRET", "w").output().await.unwrap();
    assert!(posted.status.code() == Some(2) && all(&posted).contains("--allow-http"), "{}", all(&posted));

    // If allowed, only the unknown host is an error.
    let allowed = run(folder.path(), &[&status[..], &["--allow-http"]].concat()).await;
    assert!(allowed.status.code() == Some(5) && all(&allowed).contains("no such host"), "{}", all(&allowed));
    for (value, code) in [("1", 5), ("true", 5), ("0", 2), ("", 2), ("maybe", 2)] {
        let mut command = wwproxy(folder.path(), &status);
        let output = command.env("WWPROXY_ALLOW_HTTP", value).output().await.unwrap();
        assert_eq!(output.status.code(), Some(code), "{value}: {}", all(&output));
    }
    let profile = format!(
        "default = 'a'\n[profiles.a]\nserver = '{server}'\napp_id = 'bot'\ntoken = 't'\nallow_http = "
    );
    let path = folder.path().join("profiles.toml");
    for (value, code) in [("true", 5), ("false", 2), ("'yes'", 2)] {
        fs::write(&path, format!("{profile}{value}\n")).unwrap();
        assert_eq!(run(folder.path(), &["status"]).await.status.code(), Some(code), "{value}");
    }
}

#[tokio::test]
async fn unchanged_profiles_and_comments_are_preserved() {
    let (fake, folder) = (server().await, tempfile::tempdir().unwrap());
    let kept =
        "# mine\ndefault   = 'a' # why\n\n[profiles.a]   # first\nserver=\"http://h\"\nown = [1,\n 2]\n";
    let real = folder.path().join("real.toml");
    fs::write(&real, kept).unwrap();
    std::os::unix::fs::symlink(&real, folder.path().join("profiles.toml")).unwrap();
    let warned = run(folder.path(), &[&login(&fake.url, "bot")[..], &["--profile", "b"]].concat()).await;
    assert!(all(&warned).contains("chmod 600"), "{}", all(&warned));
    let text = fs::read_to_string(&real).unwrap();
    assert!(text.starts_with(kept) && text.contains("[profiles.b]"), "{text}");
    assert_eq!(fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(folder.path().join("profiles.toml").is_symlink());
    run(folder.path(), &["logout", "--profile", "b"]).await;
    assert_eq!(fs::read_to_string(&real).unwrap(), kept);
}

#[tokio::test]
async fn login_replaces_values_and_preserves_comments_and_crlf() {
    let (fake, folder) = (server().await, tempfile::tempdir().unwrap());
    let path = folder.path().join("profiles.toml");
    let text = |app: &str, url: &str| {
        format!(
            "default = 'a'  # mine\r\n\r\n[profiles.a]\r\n# where\r\nserver = {url}   # there\r\napp_id={app}# who\r\nsecret = \"hunter2\"\r\n"
        )
    };
    fs::write(&path, text("'old'", "'http://127.0.0.1:1'")).unwrap();
    assert!(run(folder.path(), &login(&fake.url, "bot")[..]).await.status.success());
    assert!(
        run(folder.path(), &[&login(&fake.url, "bot")[..], &["--profile", "a"]].concat())
            .await
            .status
            .success()
    );
    let written = fs::read_to_string(&path).unwrap();
    let expected = text("\"bot\"", &format!("{:?}", fake.url));
    assert!(written.starts_with(&expected), "{written:?}\n{expected:?}");
    assert!(!written.replace("\r\n", "").contains('\n'), "{written:?}");
}

#[tokio::test]
async fn inline_tables_are_preserved_and_other_types_are_rejected() {
    let (fake, folder) = (server().await, tempfile::tempdir().unwrap());
    let path = folder.path().join("profiles.toml");
    fs::write(&path, "profiles = { a = { app_id = 'x' } } # inline\n").unwrap();
    assert!(run(folder.path(), &login(&fake.url, "bot")).await.status.success());
    assert!(fs::read_to_string(&path).unwrap().contains("a = { app_id = 'x' }"));
    assert!(run(folder.path(), &["status"]).await.status.success());
    for wrong in ["profiles = 3\n", "default = 'default'\n[profiles]\ndefault = 3\n"] {
        fs::write(&path, wrong).unwrap();
        let output = run(folder.path(), &login(&fake.url, "bot")).await;
        assert!(output.status.code() == Some(2) && all(&output).contains("not a table"), "{}", all(&output));
        assert_eq!(fs::read_to_string(&path).unwrap(), wrong);
    }
    fs::write(&path, "default = 'a'\n[profiles.a]\nserver = 7\n").unwrap();
    let output = run(folder.path(), &["status"]).await;
    assert!(
        output.status.code() == Some(2) && all(&output).contains("server of profile a is not a string"),
        "{}",
        all(&output)
    );
}

#[tokio::test]
async fn a_dangling_link_to_the_profiles_is_preserved() {
    let (fake, folder) = (server().await, tempfile::tempdir().unwrap());
    let (link, between) = (folder.path().join("profiles.toml"), folder.path().join("between"));
    std::os::unix::fs::symlink("between", &link).unwrap();
    std::os::unix::fs::symlink("real.toml", &between).unwrap();
    assert!(run(folder.path(), &login(&fake.url, "bot")).await.status.success());
    assert!(link.is_symlink() && between.is_symlink());
    assert!(fs::read_to_string(folder.path().join("real.toml")).unwrap().contains("bot"));
}

#[tokio::test]
async fn a_lock_file_that_is_a_link_is_not_followed() {
    let (fake, folder) = (server().await, tempfile::tempdir().unwrap());
    let elsewhere = folder.path().join("elsewhere");
    std::os::unix::fs::symlink(&elsewhere, folder.path().join("profiles.lock")).unwrap();
    let output = run(folder.path(), &login(&fake.url, "bot")).await;
    assert_eq!(output.status.code(), Some(1), "{}", all(&output));
    assert!(all(&output).contains("profiles.lock; it must not be a symbolic link"), "{}", all(&output));
    assert!(!elsewhere.exists() && !folder.path().join("profiles.toml").exists());
}

#[tokio::test]
async fn rejected_credentials_and_invalid_files_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let refusing = FakeServer::start(|_, _| Reply::status(401)).await;
    assert_eq!(run(folder.path(), &login(&refusing.url, "bot")).await.status.code(), Some(3));
    assert!(!folder.path().join("profiles.toml").exists());
    assert_eq!(
        run(folder.path(), &["login", "--app-id", "bot"]).await.status.code(),
        Some(2),
        "no terminal to ask on"
    );

    let broken = "default = \"a\"\n[profiles.a]\nsecret = \"hunter2\n";
    fs::write(folder.path().join("profiles.toml"), broken).unwrap();
    let fake = server().await;
    for args in [&login(&fake.url, "bot")[..], &["status"], &["profile", "list"], &["logout"]] {
        let output = run(folder.path(), args).await;
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(all(&output).contains("profiles.toml is not valid TOML at line 3"), "{}", all(&output));
        assert!(!all(&output).contains("hunter2"));
    }
    assert_eq!(fs::read_to_string(folder.path().join("profiles.toml")).unwrap(), broken);
}

#[tokio::test]
async fn flags_override_the_environment_which_overrides_a_profile() {
    let (fake, folder) = (server().await, tempfile::tempdir().unwrap());
    assert!(run(folder.path(), &login(&fake.url, "profile")).await.status.success());
    let asked = |app: &str| fake.count(&format!("GET /webhooks/{app}/status"));
    let mut by_environment = wwproxy(folder.path(), &["status"]);
    assert!(by_environment.env("APPID", "environment").output().await.unwrap().status.success());
    let mut by_flag = wwproxy(folder.path(), &["status", "--app-id", "flag"]);
    assert!(by_flag.env("APPID", "environment").output().await.unwrap().status.success());
    let mut by_nothing = wwproxy(folder.path(), &["status"]);
    assert!(by_nothing.env("APPID", "").output().await.unwrap().status.success());
    assert_eq!((asked("environment"), asked("flag"), asked("profile")), (1, 1, 2));
    for flag in ["--app-id", "--secret", "--server"] {
        let output = run(folder.path(), &["status", flag, ""]).await;
        assert_eq!(output.status.code(), Some(2), "an empty flag is a mistake: {}", all(&output));
    }

    let mut empty = wwproxy(folder.path(), &["status"]);
    for name in
        ["WWPROXY_PROFILE", "WWPROXY_SERVER", "WWPROXY_CA_CERT", "SECRET", "SECRET_FILE", "WWPROXY_TOKEN"]
    {
        empty.env(name, "");
    }
    assert!(empty.output().await.unwrap().status.success(), "an empty variable counts as unset");
    for (name, value) in [("WWPROXY_PROFILE", "a/b"), ("WWPROXY_PROFILE", "nobody"), ("WWPROXY_SERVER", "x")]
    {
        let output = wwproxy(folder.path(), &["status"]).env(name, value).output().await.unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", all(&output));
    }
    let mut named = wwproxy(folder.path(), &["status", "--profile", "default"]);
    let named = all(&named.env("APPID", "environment").env("SECRET", "hunter2").output().await.unwrap());
    assert!(named.contains("APPID of the environment overrides profile default"), "{named}");
    assert!(!named.contains("SECRET of"), "the same one: {named}");

    let token = |fake: &FakeServer| {
        fake.requests().pop().unwrap().header("authorization").unwrap_or_default().to_owned()
    };
    let mut command = wwproxy(folder.path(), &["status"]);
    command.env("WWPROXY_TOKEN", "environment").output().await.unwrap();
    assert_eq!(token(&fake), "Bearer environment");
    command = wwproxy(folder.path(), &["status", "--token", "flag"]);
    command.env("WWPROXY_TOKEN", "environment").output().await.unwrap();
    assert_eq!(token(&fake), "Bearer flag");
    command = wwproxy(folder.path(), &["status", "--secret", "flag"]);
    command.env("WWPROXY_TOKEN", "environment").output().await.unwrap();
    assert_eq!(token(&fake), "Bearer token-1", "fetched with the flag's secret");
    let file = folder.path().join("token");
    fs::write(&file, "file\n").unwrap();
    run(folder.path(), &["status", "--token-file", file.to_str().unwrap()]).await;
    assert_eq!(token(&fake), "Bearer file");
    let both = run(folder.path(), &["status", "--token", "a", "--secret-file", "b"]).await;
    assert_eq!(both.status.code(), Some(2));
}

#[tokio::test]
async fn concurrent_logins_are_all_saved() {
    let (fake, folder) = (server().await, tempfile::tempdir().unwrap());
    let names: Vec<String> = (0..8).map(|n| format!("p{n}")).collect();
    let children: Vec<_> = names
        .iter()
        .map(|name| {
            wwproxy(folder.path(), &[&login(&fake.url, "bot")[..], &["--profile", name]].concat()).spawn()
        })
        .collect();
    for child in children {
        assert!(child.unwrap().wait().await.unwrap().success());
    }
    let listed = all(&run(folder.path(), &["profile", "list"]).await);
    assert!(names.iter().all(|name| listed.contains(&format!(" {name}  "))), "{listed}");
}
