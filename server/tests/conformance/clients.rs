//! The clients of `docs/clients`, run against the built server.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
};

use reqwest::Method;
use tempfile::TempDir;
use tokio::{
    sync::mpsc::{self, UnboundedReceiver},
    time::timeout,
};

use crate::common::{App, DEADLINE, Home, Server, empty, eventually};

/// A running client, killed when dropped.
struct Client {
    process: Child,
    lines: UnboundedReceiver<String>,
    /// The folder of a JavaScript client: modules are looked up beside it.
    _folder: TempDir,
}

impl Client {
    /// Starts a client of `docs/clients`.
    fn start(program: &str, file: &str, app: &App) -> Self {
        let folder = TempDir::new().unwrap();
        let copy = folder.path().join(file);
        fs::copy(format!("{}/../docs/clients/{file}", env!("CARGO_MANIFEST_DIR")), &copy).unwrap();
        let modules = Path::new(LIBRARIES).join("node_modules");
        std::os::unix::fs::symlink(modules, folder.path().join("node_modules")).unwrap();
        let mut command = with_libraries(program);
        command.arg(copy).env("WWPROXY_SERVER", format!("http://{}", app.address));
        command.env("APPID", &app.id).env("SECRET", &app.app_secret);
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let (send, lines) = mpsc::unbounded_channel();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        Self { process, lines, _folder: folder }
    }

    async fn expect(&mut self, end: &str) {
        let line = timeout(DEADLINE, self.lines.recv()).await.unwrap().expect("the client runs");
        assert!(line.ends_with(end), "{line}");
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // It may have ended before.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The folder of `tests/libraries/install`.
const LIBRARIES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/libraries");

/// A program that finds the installed libraries, except that a JavaScript module does not look in `NODE_PATH`.
fn with_libraries(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("NODE_PATH", format!("{LIBRARIES}/node_modules"));
    command.env("PYTHONPATH", format!("{LIBRARIES}/python"));
    command
}

/// Whether a program runs with these arguments, which load what a client needs. In CI it must.
fn available(program: &str, arguments: [&str; 2]) -> bool {
    let output = with_libraries(program).args(arguments).output();
    let succeeds = output.as_ref().is_ok_and(|output| output.status.success());
    assert!(succeeds || env::var_os("CI").is_none(), "`{program} {}` fails: {output:?}", arguments.join(" "));
    if !succeeds {
        eprintln!("skipped: `{program} {}` fails; tests/libraries/install may help", arguments.join(" "));
    }
    succeeds
}

#[tokio::test]
async fn the_clients_in_the_documents_lease_and_acknowledge_events() {
    let server = Server::start(&[]);
    for (program, file, needs) in
        [("node", "lease.mjs", ["-e", "fetch"]), ("python3", "lease.py", ["-c", "import json"])]
    {
        if !available(program, needs) {
            continue;
        }
        let app = server.app(program).await;
        app.post(r#"{"type":"first"}"#).await;
        let mut client = Client::start(program, file, &app);
        client.expect(" first").await;
        app.post(r#"{"type":"second"}"#).await;
        client.expect(" second").await;
        eventually("both events are acknowledged", async || app.gauge("stored").await == 0).await;
    }
}

#[tokio::test]
async fn the_websocket_clients_in_the_documents_decode_each_encoding_and_reconnect() {
    let home = Arc::new(Home::new());
    let start = |address: &str| {
        let mut command = home.command();
        let store = format!("file:{}", home.store().display());
        command.args(["--store", &store, "--listen", address, "--allow-unverified"]);
        Server::launch(Arc::clone(&home), command)
    };
    for (program, file, needs, printed) in [
        ("node", "websocket.mjs", ["-e", "require('ws')"], ["{ n: 1 }", "a=1&b=2", "<Buffer 00 ff>"]),
        ("python3", "websocket.py", ["-c", "import websockets"], ["{'n': 1}", "'a=1&b=2'", r"b'\x00\xff'"]),
    ] {
        if !available(program, needs) {
            continue;
        }
        let mut server = start("127.0.0.1:0");
        let app = server.new_app(program).await;
        let source = app.request(Method::PUT, "").body(r#"{"scheme":"none"}"#);
        empty(source.send().await.unwrap(), 201).await;
        post(&app, br#"{"n":1}"#).await;
        let mut client = Client::start(program, file, &app);
        client.expect(printed[0]).await;
        post(&app, b"a=1&b=2").await;
        client.expect(printed[1]).await;
        eventually("the events are acknowledged", async || app.gauge("stored").await == 0).await;
        server.signal("TERM"); // not SIGKILL, after which an acknowledged event may be redelivered
        server.exited().await;
        let server = start(&app.address);
        let app = server.known_app(&app.id, &app.app_secret, &app.token);
        post(&app, b"\x00\xff").await;
        client.expect(printed[2]).await;
        eventually("the last event is acknowledged", async || app.gauge("stored").await == 0).await;
    }
}

/// Posts a webhook of an unverified source.
async fn post(app: &App, body: &'static [u8]) {
    empty(app.bare_hook().body(body).send().await.unwrap(), 201).await;
}
