//! Operations: health, and what the program itself says.

use crate::common::{Home, Server, empty};

#[tokio::test]
async fn healthz_and_readyz_need_no_token_and_tell_nothing_else() {
    let server = Server::start(&[]);
    for path in ["/healthz", "/readyz"] {
        let response = server.get(path).await;
        let names: Vec<_> = response.headers().keys().map(|name| name.as_str().to_owned()).collect();
        assert!(names.iter().all(|name| ["content-length", "date"].contains(&name.as_str())), "{names:?}");
        empty(response, 200).await;
        empty(server.http.head(server.url(path)).send().await.unwrap(), 200).await;
    }
}

#[tokio::test]
async fn on_start_one_line_tells_address_store_and_identity() {
    let server = Server::start(&[]);
    assert_eq!(
        server.greeting,
        format!("listening on http://{}, store memory:, identity builtin", server.address)
    );
    assert!(!server.address.ends_with(":0"), "port 0 works: {}", server.address);
    let home = std::sync::Arc::new(Home::new());
    let server = Server::start_in(&home, &[]);
    let store = format!(", store file:{}, ", home.store().display());
    assert!(server.greeting.contains(&store), "{}", server.greeting);
}

#[test]
fn an_address_that_is_taken_is_a_clear_error() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ended = Home::new().command().args(["--store", "memory:", "--listen", &address]).output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1));
    assert!(said.contains(&address) && said.contains("--listen"), "{said}");
    assert!(ended.stdout.is_empty() && !said.contains("panicked"), "{said}");
}

#[test]
fn flags_that_mean_nothing_are_a_clear_error() {
    for flags in [
        ["--lease", "soon"],
        ["--lease", "10y"],
        ["--max-body", "8MX"],
        ["--max-body", "16000000000G"],
        ["--max-buffered-bytes", "16000000000G"],
        ["--store", "redis:"],
        ["--identity", "ldap"],
        ["--overflow", "panic"],
        ["--max-queued-events", "0"],
        ["--platform-url", "nonsense"],
        ["--public-url", "proxy.example.com"],
        ["--public-url", "https://proxy.example.com/?a=b"],
        ["--trusted-proxy", "proxy.example.com"],
        ["--trusted-proxy", "10.0.0.0/8,10.0.0.1/8"],
        ["--what", "x"],
    ] {
        let mut command = Home::new().command();
        command.args(["--listen", "127.0.0.1:0", "--store", "memory:"]);
        if flags[0] == "--platform-url" {
            command.args(["--identity", "watsonwork"]);
        }
        let ended = if flags[0] == "--store" {
            Home::new().command().args(flags).output().unwrap()
        } else {
            command.args(flags).output().unwrap()
        };
        let said = String::from_utf8(ended.stderr).unwrap();
        assert!(!ended.status.success() && !said.contains("panicked"), "{flags:?}: {said}");
        let what = if flags[0] == "--platform-url" { "platform" } else { flags[0] };
        assert!(said.contains(what), "{flags:?}: {said}");
    }
}

#[test]
fn apps_are_added_listed_and_removed() {
    let home = Home::new();
    assert_eq!(home.app_command(&["list"]).stdout, b"");
    let secret = home.add_app("my.bot");
    home.add_app("another");
    assert!(secret.len() >= 32, "{secret}");
    assert_eq!(home.app_command(&["list"]).stdout, b"another\nmy.bot\n");
    let file = std::fs::read_to_string(home.apps()).unwrap();
    assert!(!file.contains(&secret), "the file keeps only a hash: {file}");
    home.remove_app("another");
    assert_eq!(home.app_command(&["list"]).stdout, b"my.bot\n");
    for refused in [["add", "my.bot"], ["remove", "another"], ["add", "a/b"], ["add", ""]] {
        let ended = home.app_command(&refused);
        assert!(
            !ended.status.success() && !ended.stderr.is_empty() && ended.stdout.is_empty(),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn settings_may_stand_in_the_environment() {
    let home = std::sync::Arc::new(Home::new());
    let mut command = home.command();
    command
        .env("WWPROXY_STORE", "memory:")
        .env("WWPROXY_LISTEN", "127.0.0.1:0")
        .env("WWPROXY_MAX_QUEUED_EVENTS", "1");
    let server = Server::launch(home, command);
    let app = server.app("bot").await;
    app.post("{}").await;
    crate::common::problem(app.hook("[]").send().await.unwrap(), 503).await;
}
