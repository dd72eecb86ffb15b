//! The clients of `docs/clients`, run against the built server.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
};

use futures_util::{SinkExt, StreamExt};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc::{self, UnboundedReceiver},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{Request, Response},
        http::HeaderValue,
    },
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
    /// Starts a client of `docs/clients` with an app's address and credentials.
    fn start(program: &str, file: &str, app: &App) -> Self {
        Self::start_with(program, file, &app.address, [&app.id, &app.app_secret], &[])
    }

    fn start_with(
        program: &str,
        file: &str,
        address: &str,
        [app, secret]: [&str; 2],
        more: &[(&str, &str)],
    ) -> Self {
        let folder = TempDir::new().unwrap();
        let copy = folder.path().join(file);
        fs::copy(format!("{}/../docs/clients/{file}", env!("CARGO_MANIFEST_DIR")), &copy).unwrap();
        let modules = Path::new(LIBRARIES).join("node_modules");
        std::os::unix::fs::symlink(modules, folder.path().join("node_modules")).unwrap();
        let mut command = with_libraries(program);
        command.arg(copy).env("WWPROXY_SERVER", format!("http://{address}"));
        command.env("APPID", app).env("SECRET", secret).envs(more.iter().copied());
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
async fn the_clients_in_the_documents_read_a_consumer_and_settle_by_the_outcome() {
    let server = Server::start(&[]);
    for (program, file, needs) in
        [("node", "consumer.mjs", ["-e", "fetch"]), ("python3", "consumer.py", ["-c", "import json"])]
    {
        if !available(program, needs) {
            continue;
        }
        let app = server.app(program).await;
        app.typed_source().await;
        app.post_typed("push", "{}").await;
        app.post_typed("issues", "not JSON").await;
        app.post_typed("issues", r#"{"action":"opened"}"#).await;
        app.post_typed("issues", r#"{"action":"opened","issue":{"title":"leak"}}"#).await;
        let mut client = Client::start(program, file, &app);
        client.expect(" issues.opened leak").await;
        eventually("one event is dead, one is delayed, one is acknowledged", async || {
            let audit = app.consumer("audit").await;
            ["dead", "pending", "leased"].map(|name| audit[name].clone()) == [json!(1), json!(1), json!(0)]
        })
        .await;
        assert_eq!(app.gauge("stored").await, 4, "of default");
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

#[tokio::test]
async fn the_websocket_clients_in_the_documents_read_a_consumer_or_history() {
    let server = Server::start(&[]);
    for (program, file, needs) in [
        ("node", "websocket.mjs", ["-e", "require('ws')"]),
        ("python3", "websocket.py", ["-c", "import websockets"]),
    ] {
        if !available(program, needs) {
            continue;
        }
        let app = server.app(program).await;
        app.typed_source().await;
        app.new_consumer("audit", json!({"types": ["issues"]})).await;
        for kind in ["push", "issues"] {
            app.post_typed(kind, "{}").await;
        }
        let start = |query| {
            let credentials = [&app.id[..], &app.app_secret];
            Client::start_with(program, file, &app.address, credentials, &[("QUERY", query)])
        };
        let mut client = start("consumer=audit&window=8");
        client.expect("github issues {}").await;
        eventually("audit has settled its event", async || app.consumer("audit").await["pending"] == 0).await;
        let mut client = start("since=1h&window=8");
        client.expect("github push {}").await;
        client.expect("github issues {}").await;
        assert_eq!(app.gauge("stored").await, 2, "of default");
    }
}

#[tokio::test]
async fn the_websocket_clients_in_the_documents_leave_an_event_of_an_unknown_encoding() {
    for (program, file, needs) in [
        ("node", "websocket.mjs", ["-e", "require('ws')"]),
        ("python3", "websocket.py", ["-c", "import websockets"]),
    ] {
        if !available(program, needs) {
            continue;
        }
        let newer = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = newer.local_addr().unwrap().to_string();
        let mut client = Client::start_with(program, file, &address, ["my-bot", "secret"], &[]);
        let mut socket = timeout(DEADLINE, accept(&newer)).await.unwrap();
        for event in [
            r#"{"type":"event","id":"unknown","encoding":"cbor","data":"?"}"#,
            r#"{"type":"event","id":"known","encoding":"json","data":"readable"}"#,
        ] {
            socket.send(Message::text(event)).await.unwrap();
        }
        let line = timeout(DEADLINE, client.lines.recv()).await.unwrap().unwrap();
        assert!(line.contains("known") && line.contains("readable"), "{line}");
        let reason = "unknown encoding cbor";
        let nack = json!({"type": "event_nack", "id": "unknown", "delayMs": 60000, "reason": reason});
        for expected in [nack, json!({"type": "event_ack", "id": "known"})] {
            let message = timeout(DEADLINE, socket.next()).await.unwrap().unwrap().unwrap();
            assert_eq!(serde_json::from_str::<Value>(message.to_text().unwrap()).unwrap(), expected);
        }
    }
}

/// Issues a token to a client, and accepts its websocket.
#[expect(clippy::result_large_err, reason = "the type of tungstenite's callback")]
async fn accept(server: &TcpListener) -> WebSocketStream<TcpStream> {
    let (mut stream, _) = server.accept().await.unwrap();
    let mut request = Vec::new();
    while !request.ends_with(b"grant_type=client_credentials") {
        assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0, "{}", request.escape_ascii());
    }
    let token = r#"{"access_token":"t","token_type":"bearer","expires_in":60}"#;
    let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", token.len());
    stream.write_all(format!("{head}{token}").as_bytes()).await.unwrap();
    drop(stream);
    let (stream, _) = server.accept().await.unwrap();
    let choose = |_: &Request, mut response: Response| {
        response.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("wwproxy.v2"));
        Ok(response)
    };
    accept_hdr_async(stream, choose).await.unwrap()
}

/// Posts a webhook of an unverified source.
async fn post(app: &App, body: &'static [u8]) {
    empty(app.bare_hook().body(body).send().await.unwrap(), 201).await;
}
