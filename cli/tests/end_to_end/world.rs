//! A real server with one app, a sender of its webhooks, and its command line.

use std::{
    env,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::PathBuf,
    process::{Child, ChildStderr, ChildStdout, Command, Output, Stdio},
    sync::LazyLock,
    time::{Duration, Instant},
};

use serde_json::Value;
use wwproxy_sdk::{Client, Error, LeaseOptions, LeasedEvent, Secret, SourceSettings, sign_watson_work};

const APP: &str = "my-bot";
pub(crate) const WEBHOOK_SECRET: &str = "webhook-s3cret";
/// The deadline of each wait.
const PATIENCE: Duration = Duration::from_secs(30);

/// The server's binary, of the same build as the command line's.
static SERVER: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = PathBuf::from(env!("CARGO_BIN_EXE_wwproxy"));
    let folder = folder.parent().expect("a binary is in a folder");
    let mut build = Command::new(env!("CARGO"));
    build.args([
        "build",
        "--quiet",
        "--package",
        "wwproxy-server",
        "--bin",
        "wwproxy-server",
        "--target-dir",
    ]);
    build.arg(folder.parent().expect("a build folder is in the target folder"));
    if folder.ends_with("release") {
        build.arg("--release");
    }
    assert!(build.status().unwrap().success(), "the server does not build");
    folder.join("wwproxy-server")
});

pub(crate) struct World {
    folder: tempfile::TempDir,
    pub(crate) address: String,
    pub(crate) app_secret: String,
    server: Option<Child>,
    /// More flags of the server.
    flags: &'static [&'static str],
}

impl World {
    /// Starts a server with a registered app.
    pub(crate) fn new() -> Self {
        Self::with_flags(&[])
    }

    /// Starts a server with these flags and a registered app.
    pub(crate) fn with_flags(flags: &'static [&'static str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let apps = folder.path().join("apps.toml");
        let added = Command::new(&*SERVER).args(["app", "add", APP, "--apps"]).arg(apps).output().unwrap();
        assert!(added.status.success());
        let app_secret = String::from_utf8(added.stdout).unwrap().trim().to_owned();
        let mut world = Self { folder, address: "127.0.0.1:0".into(), app_secret, server: None, flags };
        world.start();
        world.run_with_input(&["register", "-"], WEBHOOK_SECRET);
        world
    }

    /// Starts the server, on the same address as before.
    pub(crate) fn start(&mut self) {
        let mut server = Command::new(&*SERVER)
            .args(["--listen", &self.address, "--log-level", "error", "--store"])
            .arg(format!("file:{}", self.folder.path().join("store").display()))
            .arg("--apps")
            .arg(self.folder.path().join("apps.toml"))
            .args(self.flags)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let (_, rest) = line.split_once("http://").expect("the server says where it listens");
        rest.split(',').next().unwrap().clone_into(&mut self.address);
        self.server = Some(server);
    }

    /// Kills the server.
    pub(crate) fn kill(&mut self) {
        let mut server = self.server.take().expect("the server runs");
        server.kill().unwrap();
        server.wait().unwrap();
    }

    /// Posts a signed webhook, which must be stored.
    pub(crate) fn post(&self, body: &str) {
        self.post_to("", body);
    }

    /// Posts a webhook with a query.
    pub(crate) fn post_to(&self, query: &str, body: &str) {
        let signature = sign_watson_work(&Secret::new(WEBHOOK_SECRET), body.as_bytes());
        let token = format!("X-OUTBOUND-TOKEN: {signature}");
        let answer = self.deliver(&format!("/hook/{APP}{query}"), &[&token], body);
        assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    }

    /// Posts a request to a hook, with each header as a line, and returns the whole answer.
    pub(crate) fn deliver(&self, path: &str, headers: &[&str], body: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let length = format!("Content-Length: {}", body.len());
        let request = format!("POST {path} HTTP/1.1");
        let framing = ["Host: proxy", &length, "Connection: close", "", body];
        let lines = [&[request.as_str()], headers, &framing].concat();
        stream.write_all(lines.join("\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// The address of a hook of the app.
    pub(crate) fn hook(&self, source: &str) -> String {
        format!("http://{}/hook/{APP}/{source}", self.address)
    }

    /// Registers a source.
    pub(crate) fn put_source(&self, name: &str, settings: &SourceSettings) {
        self.with_client(async |client| client.put_source(&name.parse().unwrap(), settings).await.map(drop));
    }

    /// Leases the stored events, with their metadata.
    pub(crate) fn lease(&self) -> Vec<LeasedEvent> {
        self.with_client(async |client| Ok(client.lease(LeaseOptions::new().max(1000)).await?.events))
    }

    fn with_client<T>(&self, call: impl AsyncFnOnce(Client) -> Result<T, Error>) -> T {
        let client = Client::builder(format!("http://{}", self.address));
        let client = client.app_id(APP).app_secret(self.app_secret.as_str()).build().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(call(client)).unwrap()
    }

    /// The file of the profiles.
    pub(crate) fn profiles(&self) -> PathBuf {
        self.folder.path().join("profiles.toml")
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wwproxy"));
        command
            .args(args)
            .env("WWPROXY_SERVER", format!("http://{}", self.address))
            .env("APPID", APP)
            .env("SECRET", &self.app_secret)
            .env("NO_PROXY", "*")
            .env("WWPROXY_CONFIG_DIR", self.folder.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs a command, which must succeed, and returns its stdout.
    pub(crate) fn run(&self, args: &[&str]) -> String {
        done(self.command(args).output().unwrap())
    }

    pub(crate) fn run_with_input(&self, args: &[&str], input: &str) -> String {
        let mut command = self.command(args);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        done(child.wait_with_output().unwrap())
    }

    /// Runs `wwproxy send`, which must succeed, and returns its stderr.
    pub(crate) fn send(&self, args: &[&str]) -> String {
        let mut command = self.command(&["send"]);
        let output = command.args(args).env("WEBHOOK_SECRET", WEBHOOK_SECRET).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stderr).unwrap()
    }

    pub(crate) fn status(&self) -> Value {
        serde_json::from_str(&self.run(&["status"])).unwrap()
    }

    /// Waits until this number of events is stored.
    pub(crate) fn wait_until_stored(&self, events: u64) {
        self.wait_until("stored", events);
    }

    /// Waits until a member of the status has this value.
    pub(crate) fn wait_until(&self, what: &str, count: u64) {
        let start = Instant::now();
        while self.status()[what] != count {
            assert!(start.elapsed() < PATIENCE, "still {}, not {count} {what}", self.status());
        }
    }

    /// Starts `wwproxy listen`, and returns its stdout.
    pub(crate) fn listen(&self, args: &[&str]) -> (Child, BufReader<ChildStdout>) {
        let args: Vec<_> = ["listen"].into_iter().chain(args.iter().copied()).collect();
        let mut child = self.command(&args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        (child, output)
    }
}

impl World {
    /// Starts `wwproxy listen`, and returns its stderr.
    pub(crate) fn listen_with_messages(&self, args: &[&str]) -> (Child, Messages) {
        let args: Vec<_> = ["listen"].into_iter().chain(args.iter().copied()).collect();
        let mut child = self.command(&args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let messages = Messages(BufReader::new(child.stderr.take().unwrap()));
        (child, messages)
    }
}

/// The stderr of a running command.
pub(crate) struct Messages(BufReader<ChildStderr>);

impl Messages {
    /// The next line that contains this.
    pub(crate) fn next_with(&mut self, text: &str) -> String {
        loop {
            let mut line = String::new();
            assert_ne!(self.0.read_line(&mut line).unwrap(), 0, "it ended without the message: {text}");
            if line.contains(text) {
                return line;
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.server.is_some() {
            self.kill();
        }
    }
}

/// Sends SIGINT, as Ctrl-C does.
pub(crate) fn interrupt(child: &Child) {
    signal(child, "INT");
}

/// Sends a signal, named as in `kill`.
pub(crate) fn signal(child: &Child, name: &str) {
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
}

/// The next event that is printed.
pub(crate) fn next_event(output: &mut impl BufRead) -> Value {
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line:?}"))
}

fn done(output: Output) -> String {
    let messages = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{}: {messages}", output.status);
    String::from_utf8(output.stdout).unwrap()
}
