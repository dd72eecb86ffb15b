//! What the operator does to apps: `wwproxy-server app …`, with a server and without.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Output, Stdio},
    sync::Arc,
};

use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::time::{Duration, Instant};

use crate::common::{App, Home, Server, empty, eventually, problem};

/// Less than the time to a websocket's first heartbeat (20 s), which would also close it.
const BEFORE_HEARTBEAT: Duration = Duration::from_secs(14);

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Runs a command that must succeed, and gives what it printed.
pub(crate) fn operate(home: &Home, arguments: &[&str]) -> String {
    let done = home.operate(arguments);
    assert!(done.status.success(), "{arguments:?}: {done:?}");
    String::from_utf8(done.stdout).unwrap().trim().to_owned()
}

/// A server on a store in a folder, and an app with three events.
async fn server_with_events() -> (Server, App) {
    let server = Server::start_in(&Arc::new(Home::new()), &[]);
    let app = server.app("bot").await;
    app.post_numbers(0..3).await;
    (server, app)
}

/// Adds an app with the id of an earlier one, which must see nothing of that one.
async fn reuse(server: &Server, earlier: &App) {
    let secret = server.home.operate(&["add", "bot"]);
    assert!(secret.status.success(), "{secret:?}");
    let secret = String::from_utf8(secret.stdout).unwrap().trim().to_owned();
    let app =
        App { secret: "new".into(), ..server.known_app("bot", &secret, &server.token("bot", &secret).await) };
    let status = app.status().await;
    assert_eq!((&status["registration"], &status["stored"]), (&json!(null), &json!(0)), "{status}");
    problem(earlier.hook("[]").send().await.unwrap(), 404).await;
    app.register("new").await;
    problem(earlier.hook("[]").send().await.unwrap(), 401).await;
    app.post("[\"new\"]").await;
    assert_eq!(app.poll_bodies().await, ["[\"new\"]"]);
    problem(earlier.request(Method::GET, "").send().await.unwrap(), 401).await;
}

#[tokio::test]
async fn remove_ends_the_registration_and_purges_while_the_server_runs() {
    let (server, app) = server_with_events().await;
    let other = server.app("other").await;
    other.post("[\"other\"]").await;
    let mut socket = app.listen("?window=1").await;
    socket.event().await;
    let began = Instant::now();
    let done = server.home.operate(&["remove", "bot", "--yes"]);
    assert!(done.status.success() && stderr(&done).contains("3 events"), "{done:?}");
    assert_eq!(socket.close_code().await, 1008);
    assert!(began.elapsed() < BEFORE_HEARTBEAT, "{:?}", began.elapsed());
    problem(app.hook("[]").send().await.unwrap(), 404).await;
    problem(app.request(Method::GET, "").send().await.unwrap(), 401).await;
    reuse(&server, &app).await;
    assert_eq!(other.poll_bodies().await, ["[\"other\"]"]);
    let again = server.home.operate(&["remove", "nosuch", "--yes"]);
    assert!(again.status.code() == Some(1) && stderr(&again).contains("no app nosuch"), "{again:?}");
}

#[tokio::test]
async fn remove_is_durable() {
    let (server, app) = server_with_events().await;
    operate(&server.home, &["remove", "bot", "--yes"]);
    let home = server.kill();
    let server = Server::start_in(&home, &[]);
    reuse(&server, &App { address: server.address.clone(), ..app }).await;
}

#[tokio::test]
async fn remove_works_without_a_server_and_after_a_kill() {
    let (server, app) = server_with_events().await;
    let home = server.kill();
    let done = home.operate(&["remove", "bot", "--yes"]);
    assert!(done.status.success() && stderr(&done).contains("3 events"), "{done:?}");
    let server = Server::start_in(&home, &[]);
    reuse(&server, &App { address: server.address.clone(), ..app }).await;
}

#[tokio::test]
async fn an_app_that_is_only_absent_from_the_file_is_refused_and_purged_by_an_explicit_remove_alone() {
    let (server, app) = server_with_events().await;
    let file = fs::read(server.home.apps()).unwrap();
    fs::write(server.home.apps(), "").unwrap();
    problem(app.request(Method::GET, "/status").send().await.unwrap(), 401).await;
    // No client could take what its senders would store.
    let refused = problem(app.hook("[]").send().await.unwrap(), 503).await;
    assert!(refused.contains("credentials"), "{refused}");
    problem(App { id: "unknown".into(), ..app.clone() }.hook("[]").send().await.unwrap(), 404).await;
    let home = server.kill();
    let server = Server::start_in(&home, &[]);
    let app = App { address: server.address.clone(), ..app };
    problem(app.request(Method::GET, "/status").send().await.unwrap(), 401).await;

    // A new app with its id does not get the events by accident.
    let refused = home.operate(&["add", "bot"]);
    assert_eq!(refused.status.code(), Some(1));
    let error = stderr(&refused);
    assert!(error.contains("3 events") && error.contains("app remove bot"), "{error}");
    assert!(refused.stdout.is_empty() && fs::read(home.apps()).unwrap().is_empty(), "{refused:?}");
    let secret = operate(&home, &["add", "bot", "--keep-events"]);
    let heir = server.known_app("bot", &secret, &server.token("bot", &secret).await);
    assert_eq!(heir.gauge("stored").await, 3);

    fs::write(home.apps(), &file).unwrap();
    assert_eq!(app.gauge("stored").await, 3);
    fs::write(home.apps(), "").unwrap();
    operate(&home, &["remove", "bot", "--yes"]);
    reuse(&server, &app).await;
}

#[tokio::test]
async fn a_registration_that_is_on_its_way_does_not_survive_a_remove() {
    let (server, app) = server_with_events().await;
    let mut slow = app.raw().await;
    let body = r#"{"secret":"old client"}"#;
    let head = format!(
        "PUT {} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\nexpect: 100-continue\r\n\r\n",
        app.path(""),
        app.token,
        body.len()
    );
    slow.send(head).await;
    // Its token was good: the server asks for the body.
    assert_eq!(slow.response().await.status, 100);
    operate(&server.home, &["remove", "bot", "--yes"]);
    slow.send(body).await;
    assert_eq!(slow.response().await.status, 401);
    reuse(&server, &app).await;
}

#[tokio::test]
async fn remove_without_a_terminal_needs_yes() {
    let (server, app) = server_with_events().await;
    let refused = server.home.operate_command(&["remove", "bot"]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(refused.status.code(), Some(2), "a usage error");
    assert!(stderr(&refused).contains("--yes"), "{refused:?}");
    assert_eq!(app.gauge("stored").await, 3);
}

#[tokio::test]
async fn remove_asks_on_a_terminal() {
    let (server, app) = server_with_events().await;
    for (answer, is_removed) in [("n\n", false), ("\n", false), ("yes\n", true)] {
        let inner = server.home.operate_command(&["remove", "bot"]);
        let words: Vec<_> = std::iter::once(inner.get_program())
            .chain(inner.get_args())
            .map(|word| word.to_str().unwrap())
            .collect();
        // `script` of util-linux plays the terminal.
        let mut terminal = std::process::Command::new("script");
        terminal.args(["--quiet", "--return", "--command", &words.join(" "), "/dev/null"]);
        let mut child = terminal.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(answer.as_bytes()).unwrap();
        let done = child.wait_with_output().unwrap();
        let screen = String::from_utf8(done.stdout).unwrap();
        assert!(screen.contains("3 events") && screen.contains("[y/N]"), "{answer:?}: {screen}");
        assert_eq!(done.status.success(), is_removed, "{answer:?}: {screen}");
        let status = app.request(Method::GET, "/status").send().await.unwrap().status();
        assert_eq!(status == StatusCode::UNAUTHORIZED, is_removed, "{answer:?}: {screen}");
    }
}

#[tokio::test]
async fn what_cannot_be_purged_is_said() {
    let server = Server::start(&[]);
    server.app("bot").await;
    let home = &server.home;
    for (store, named) in [(Some(format!("file:{}", home.store().display())), "--store"), (None, "--store")] {
        let mut command = home.command();
        command.args(["app", "remove", "bot", "--yes"]);
        command.args(store.iter().flat_map(|store| ["--store", store]));
        let refused = command.output().unwrap();
        assert!(refused.status.code() == Some(1) && stderr(&refused).contains(named), "{refused:?}");
    }
    assert_eq!(home.app_command(&["list"]).stdout, b"bot\n", "nothing was done by halves");
    let done = home.app_command(&["remove", "bot", "--yes", "--store", "memory:"]);
    assert!(done.status.success() && stderr(&done).contains("cannot be reached"), "{done:?}");
    assert_eq!(home.app_command(&["list"]).stdout, b"");
}

#[tokio::test]
async fn remove_with_the_store_of_another_server_changes_nothing() {
    let (server, app) = server_with_events().await;
    let home = server.kill();
    let remove = |store: &Path, more: &[&str]| {
        let store = format!("file:{}", store.display());
        home.app_command(&[&["remove", "bot", "--yes", "--store", &store], more].concat())
    };
    // A folder without a store.
    let empty = home.apps().with_file_name("empty");
    fs::create_dir(&empty).unwrap();
    let refused = remove(&empty, &[]);
    let error = stderr(&refused);
    assert!(
        refused.status.code() == Some(1) && error.contains("no store") && error.contains("--store"),
        "{error}"
    );
    assert_eq!(fs::read_dir(&empty).unwrap().count(), 0, "nothing is created");
    // A store that has nothing of the app.
    let other = Server::start_in(&Arc::new(Home::new()), &[]).kill();
    let refused = remove(&other.store(), &[]);
    let error = stderr(&refused);
    assert!(
        refused.status.code() == Some(1) && error.contains("--store") && error.contains("--force"),
        "{error}"
    );
    assert_eq!(operate(&home, &["list"]), "bot", "neither removed nor disabled");
    let server = Server::start_in(&home, &[]);
    let app = App { address: server.address.clone(), ..app };
    assert_eq!(app.gauge("stored").await, 3);
    let forced = remove(&other.store(), &["--force"]);
    assert!(forced.status.success(), "{forced:?}");
    assert_eq!(operate(&home, &["list"]), "");
}

#[tokio::test]
async fn rotate_gives_a_new_secret_and_ends_the_old_one_at_once() {
    let home = Arc::new(Home::new());
    let server = Server::start_in(&home, &["--max-clients-per-app", "2"]);
    let app = server.app("bot").await;
    let mut socket = app.listen("").await;
    let mut tap = app.listen("?tap=1").await;
    // It may be refused while the request that looks for it has its place.
    let wait = async {
        let mut answer = None;
        eventually("the lease has a place", async || {
            let response = app.lease_response(json!({"wait_ms": 15_000})).await;
            answer = Some(response).filter(|response| response.status() != StatusCode::TOO_MANY_REQUESTS);
            answer.is_some()
        })
        .await;
        answer.unwrap()
    };
    let began = Instant::now();
    let (waiting, rotated) = tokio::join!(wait, async {
        eventually("the lease waits", async || {
            app.lease_response(json!({"wait_ms": 1})).await.status() == StatusCode::TOO_MANY_REQUESTS
        })
        .await;
        operate(&home, &["rotate", "bot"])
    });
    problem(waiting, 401).await;
    assert_eq!((socket.close_code().await, tap.close_code().await), (1008, 1008));
    assert!(began.elapsed() < BEFORE_HEARTBEAT, "{:?}", began.elapsed());
    problem(app.request(Method::GET, "").send().await.unwrap(), 401).await;
    problem(server.token_response("bot", &app.app_secret).await, 401).await;

    assert_ne!(rotated, app.app_secret);
    app.post("[1]").await;
    let renewed = server.known_app("bot", &rotated, &server.token("bot", &rotated).await);
    assert_eq!(renewed.poll_bodies().await, ["[1]"], "registration and events stay");
    let file = fs::read_to_string(home.apps()).unwrap();
    assert!(!file.contains(&rotated) && file.contains("created"), "{file}");
    assert_eq!(home.operate(&["rotate", "nosuch"]).status.code(), Some(1));
}

#[tokio::test]
async fn disable_refuses_clients_and_senders_and_deletes_nothing() {
    let (server, app) = server_with_events().await;
    let mut socket = app.listen("?window=1").await;
    socket.event().await;
    let disabled = server.home.operate(&["disable", "bot"]);
    assert_eq!(stderr(&disabled), "The app bot is disabled: its clients get 401, its senders 503.\n");
    let disabled = server.home.operate(&["disable", "bot"]);
    assert_eq!(stderr(&disabled), "The app bot was already disabled.\n");
    assert_eq!(operate(&server.home, &["list"]), "bot\tdisabled");
    assert_eq!(socket.close_code().await, 1008);
    problem(app.request(Method::GET, "").send().await.unwrap(), 401).await;
    let right = problem(server.token_response("bot", &app.app_secret).await, 401).await;
    let wrong = problem(server.token_response("bot", "wrong").await, 401).await;
    assert!(right == wrong && right.contains("wrong, or the operator has disabled the app"), "{right}");
    let refused = problem(app.hook("[]").send().await.unwrap(), 503).await;
    assert!(refused.contains("disabled"), "{refused}");

    let home = server.kill();
    let server = Server::start_in(&home, &[]);
    let app = App { address: server.address.clone(), ..app };
    problem(app.hook("[]").send().await.unwrap(), 503).await;
    operate(&home, &["rotate", "bot"]);
    assert_eq!(operate(&home, &["list"]), "bot\tdisabled", "a new secret does not enable it");
    let enabled = home.operate(&["enable", "bot"]);
    assert_eq!(stderr(&enabled), "The app bot is enabled: its clients and senders are accepted again.\n");
    assert_eq!(stderr(&home.operate(&["enable", "bot"])), "The app bot was already enabled.\n");
    assert_eq!(operate(&home, &["list"]), "bot");
    app.post("[3]").await;
    let secret = operate(&home, &["rotate", "bot"]);
    let app = App { token: server.token("bot", &secret).await, ..app };
    assert_eq!(app.gauge("stored").await, 4);
}

#[tokio::test]
async fn enabling_gives_back_the_secret_and_the_tokens() {
    let (server, app) = server_with_events().await;
    operate(&server.home, &["disable", "bot"]);
    operate(&server.home, &["enable", "bot"]);
    assert_eq!(app.poll("").await.len(), 3);
    server.token("bot", &app.app_secret).await;
}

/// The operator's typing error must not be a way around `disable`.
#[tokio::test]
async fn a_disabled_app_stays_so_while_the_credentials_file_is_broken() {
    let (server, app) = server_with_events().await;
    operate(&server.home, &["disable", "bot"]);
    problem(app.hook("[]").send().await.unwrap(), 503).await;
    fs::write(server.home.apps(), "[apps.bot").unwrap();
    problem(app.hook("[]").send().await.unwrap(), 503).await;
    problem(app.request(Method::GET, "").send().await.unwrap(), 503).await;
    empty(server.get("/healthz").await, 200).await;
    // A restart would not know any more that it is disabled.
    let home = server.kill();
    let signed = format!("[apps.bot]\nsecret-sha256 = \"{}\"", "+f".repeat(32));
    for broken in [
        &signed,
        "[apps]\nbot = \"s3cret\"",
        "[apps.bot",
        "[apps.bot]\nsecret-sha256 = \"0\"",
        "[apps.bot]\ndisabled = \"yes\"",
    ] {
        fs::write(home.apps(), broken).unwrap();
        let mut command = home.command();
        command
            .arg("--store")
            .arg(format!("file:{}", home.store().display()))
            .args(["--listen", "127.0.0.1:0"]);
        let refused = command.output().unwrap();
        let error = stderr(&refused);
        assert_eq!(refused.status.code(), Some(1), "{broken}: {error}");
        assert!(
            error.contains(home.apps().to_str().unwrap()) && error.contains("not valid in line"),
            "{error}"
        );
        assert!(!error.contains("s3cret"), "{error}");
    }
}
