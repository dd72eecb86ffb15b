//! The control socket in the store's folder: who may use it, and what it does with what is sent.
#![cfg(unix)]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use serde_json::{Value, json};

use crate::common::{DEADLINE, Home, Server, eventually};

fn socket(home: &Home) -> PathBuf {
    home.store().join("control.sock")
}

/// Sends this and gives the answer.
fn ask(path: &Path, request: impl AsRef<[u8]>) -> Value {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(request.as_ref()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

fn remove(home: &Home) -> std::process::Output {
    home.operate(&["remove", "bot", "--yes"])
}

#[tokio::test]
async fn only_the_servers_user_can_open_it_whatever_the_umask() {
    let home = Arc::new(Home::new());
    fs::create_dir(home.store()).unwrap();
    fs::set_permissions(home.store(), fs::Permissions::from_mode(0o777)).unwrap();
    let server = home.command();
    let mut command = Command::new("sh");
    command.args(["-c", "umask 0; exec \"$@\"", "sh"]).arg(server.get_program()).args(server.get_args());
    command.args(["--store", &format!("file:{}", home.store().display()), "--listen", "127.0.0.1:0"]);
    let mut server = Server::launch(Arc::clone(&home), command);
    let file = fs::symlink_metadata(socket(&home)).unwrap();
    assert!(file.file_type().is_socket());
    assert_eq!(file.mode() & 0o777, 0o600);
    server.signal("TERM");
    assert!(server.exited().await.success());
    assert!(!socket(&home).exists(), "it goes with the server");
}

#[tokio::test]
async fn one_that_a_killed_server_left_is_replaced() {
    let home = Arc::new(Home::new());
    let home = Server::start_in(&home, &[]).kill();
    assert!(socket(&home).exists());
    let server = Server::start_in(&home, &[]);
    server.app("bot").await;
    assert!(remove(&home).status.success());
}

#[tokio::test]
async fn a_planted_link_is_not_followed() {
    let home = Arc::new(Home::new());
    let elsewhere = home.apps().with_file_name("elsewhere");
    fs::create_dir(home.store()).unwrap();
    // One that the server would bind through.
    symlink(&elsewhere, socket(&home)).unwrap();
    let server = Server::start_in(&home, &[]);
    assert!(!elsewhere.exists());
    assert!(fs::symlink_metadata(socket(&home)).unwrap().file_type().is_socket());
    server.app("bot").await;
    let home = server.kill();
    // One that the command would connect through.
    let _listener = UnixListener::bind(&elsewhere).unwrap();
    fs::remove_file(socket(&home)).unwrap();
    symlink(&elsewhere, socket(&home)).unwrap();
    let refused = remove(&home);
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(refused.status.code() == Some(1) && error.contains("not a socket"), "{error}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_path_that_is_too_long_for_a_socket_address_works() {
    let home = Arc::new(Home::new());
    let folder = home.apps().with_file_name("f".repeat(200));
    let store = format!("file:{}", folder.display());
    let mut command = home.command();
    command.args(["--store", &store, "--listen", "127.0.0.1:0"]);
    let server = Server::launch(Arc::clone(&home), command);
    let app = server.app("bot").await;
    app.post("[]").await;
    let done = home.app_command(&["remove", "bot", "--yes", "--store", &store]);
    let error = String::from_utf8(done.stderr).unwrap();
    assert!(done.status.success() && error.contains("1 event "), "{error}");
    crate::common::problem(app.hook("[]").send().await.unwrap(), 404).await;
}

#[tokio::test]
async fn a_request_is_one_line_of_a_known_version_and_command() {
    let home = Arc::new(Home::new());
    let server = Server::start_in(&home, &[]);
    let app = server.app("bot").await;
    app.post("[]").await;
    let path = socket(&home);
    let answer = ask(&path, "{\"version\":1,\"command\":\"inspect\",\"app\":\"bot\"}\n");
    assert_eq!(answer["version"], 1);
    assert_eq!((&answer["result"]["registered"], &answer["result"]["events"]), (&json!(true), &json!(1)));
    for (request, named) in [
        ("{\"version\":7,\"command\":\"inspect\",\"app\":\"bot\"}\n", "version 1"),
        ("{\"version\":1,\"command\":\"explode\"}\n", "explode"),
        ("{\"version\":1,\"command\":\"purge\",\"app\":\"../x\"}\n", "command"),
        ("GET / HTTP/1.1\r\n", "JSON"),
    ] {
        let answer = ask(&path, request);
        assert!(
            answer["error"].as_str().is_some_and(|error| error.contains(named)),
            "{request:.60}: {answer}"
        );
        assert!(answer.get("result").is_none(), "{answer}");
    }
    // Of a longer one it reads no more than 4 KiB.
    let mut long = UnixStream::connect(&path).unwrap();
    long.write_all(&[b'x'; 4096]).unwrap();
    long.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut answer = String::new();
    long.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("4096 bytes"), "{answer}");
    assert_eq!(app.gauge("stored").await, 1);
}

#[tokio::test]
async fn connections_that_say_nothing_do_not_hold_it_up() {
    let home = Arc::new(Home::new());
    let server = Server::start_in(&home, &[]);
    server.app("bot").await;
    let silent: Vec<_> = (0..10).map(|_| UnixStream::connect(socket(&home)).unwrap()).collect();
    assert!(remove(&home).status.success());
    drop(silent);
}

/// Any process that can write to the folder could bind a socket there.
#[test]
fn the_text_of_an_answer_does_not_control_the_terminal() {
    let home = Home::new();
    fs::create_dir(home.store()).unwrap();
    fs::write(home.store().join("log.sqlite"), "").unwrap();
    let listener = UnixListener::bind(socket(&home)).unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        BufReader::new(&stream).read_line(&mut String::new()).unwrap();
        let answer = json!({"version": 1, "error": "a\u{1b}[2Jb\u{202e}c\nd"}).to_string();
        stream.write_all(format!("{answer}\n").as_bytes()).unwrap();
    });
    let refused = remove(&home);
    server.join().unwrap();
    let error = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{error:?}");
    assert_eq!(error, "wwproxy-server: a [2Jb c d\n");
}

#[tokio::test]
async fn there_is_none_without_a_folder() {
    let server = Server::start(&[]);
    assert!(!socket(&server.home).exists());
}

#[tokio::test]
async fn a_command_waits_for_a_server_that_drains() {
    let home = Arc::new(Home::new());
    let mut server = Server::start_in(&home, &[]);
    let app = server.app("bot").await;
    app.post("[]").await;
    // A body that is on its way holds up the drain.
    let mut slow = app.raw().await;
    slow.send("POST /hook/bot HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n")
        .await;
    assert_eq!(slow.response().await.status, 100);
    server.signal("TERM");
    eventually("the socket is gone", async || !socket(&home).exists()).await;
    let mut command = home.operate_command(&["remove", "bot", "--yes"]);
    let mut waiting = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(waiting.stderr.take().unwrap());
    let mut report = String::new();
    stderr.read_line(&mut report).unwrap();
    assert!(report.contains("waiting for the server"), "{report}");
    assert!(waiting.try_wait().unwrap().is_none());
    slow.send("{}").await;
    assert_eq!(slow.response().await.status, 401);
    assert!(server.exited().await.success());
    let mut report = String::new();
    stderr.read_to_string(&mut report).unwrap();
    assert!(waiting.wait().unwrap().success(), "{report}");
    assert!(report.contains("1 event "), "{report}");
}
