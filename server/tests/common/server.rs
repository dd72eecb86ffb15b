//! A server process, killed when dropped.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use super::{App, Home, eventually, http_client};

/// The webhook secret that apps of [`Server::app`] register.
pub(crate) const WEBHOOK_SECRET: &str = "webhook-secret-k3n9v0";

pub(crate) struct Server {
    child: Child,
    /// The line that the server writes to stdout when it listens.
    pub(crate) greeting: String,
    /// Host and port, such as `127.0.0.1:4711`.
    pub(crate) address: String,
    pub(crate) home: Arc<Home>,
    pub(crate) http: reqwest::Client,
    log: Arc<Mutex<String>>,
}

impl Server {
    /// Starts a server with an in-memory store.
    pub(crate) fn start(flags: &[&str]) -> Self {
        let home = Arc::new(Home::new());
        let mut command = home.command();
        command.args(["--store", "memory:", "--listen", "127.0.0.1:0"]).args(flags);
        Self::launch(home, command)
    }

    /// Starts a server with the file store of this folder, which may exist already.
    pub(crate) fn start_in(home: &Arc<Home>, flags: &[&str]) -> Self {
        let mut command = home.command();
        let store = format!("file:{}", home.store().display());
        command.args(["--store", &store, "--listen", "127.0.0.1:0"]).args(flags);
        Self::launch(Arc::clone(home), command)
    }

    /// Runs the command, and waits until the server listens.
    pub(crate) fn launch(home: Arc<Home>, command: Command) -> Self {
        Self::try_launch(home, command).unwrap_or_else(|log| panic!("the server does not listen: {log}"))
    }

    /// Runs the command, and waits until the server listens. `Err` is its log, if it ended before.
    pub(crate) fn try_launch(home: Arc<Home>, mut command: Command) -> Result<Self, String> {
        let piped = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        let log = Arc::<Mutex<String>>::default();
        let (stderr, lines) = (child.stderr.take().unwrap(), Arc::clone(&log));
        let reader = thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                lines.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        let mut greeting = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut greeting).unwrap();
        let greeting = greeting.trim_end().to_owned();
        let Some(address) = address(&greeting) else {
            // It ends, or has ended.
            child.kill().unwrap();
            child.wait().unwrap();
            reader.join().unwrap();
            return Err(std::mem::take(&mut *log.lock().unwrap()));
        };
        Ok(Self { address, greeting, child, home, http: http_client(), log })
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Adds an app, gets its token and registers it.
    pub(crate) async fn app(&self, id: &str) -> App {
        let app = self.new_app(id).await;
        app.register(WEBHOOK_SECRET).await;
        app
    }

    /// Adds an app and gets its token, without a registration.
    pub(crate) async fn new_app(&self, id: &str) -> App {
        let secret = self.home.add_app(id);
        let token = self.token(id, &secret).await;
        self.known_app(id, &secret, &token)
    }

    /// An app that exists already, with this secret and token.
    pub(crate) fn known_app(&self, id: &str, app_secret: &str, token: &str) -> App {
        App {
            id: id.into(),
            app_secret: app_secret.into(),
            token: token.into(),
            secret: WEBHOOK_SECRET.into(),
            address: self.address.clone(),
            http: self.http.clone(),
        }
    }

    pub(crate) async fn token_response(&self, id: &str, secret: &str) -> reqwest::Response {
        let request = self.http.post(self.url("/oauth/token")).basic_auth(id, Some(secret));
        request.form(&[("grant_type", "client_credentials")]).send().await.unwrap()
    }

    pub(crate) async fn token(&self, id: &str, secret: &str) -> String {
        let answer: serde_json::Value = self.token_response(id, secret).await.json().await.unwrap();
        answer["access_token"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    pub(crate) async fn get(&self, path: &str) -> reqwest::Response {
        self.http.get(self.url(path)).send().await.unwrap()
    }

    /// The process id.
    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// The server's stderr so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Sends SIGKILL, and returns the server's folder.
    pub(crate) fn kill(mut self) -> Arc<Home> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        Arc::clone(&self.home)
    }

    /// Sends a signal, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.process().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    /// Waits for the process to exit, and returns its status.
    pub(crate) async fn exited(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the server exits", async || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The results are ignored: the server may have exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- the server's log\n{}---", self.log());
        }
    }
}

/// The address in the line on stdout, which is JSON with `--log json`.
fn address(greeting: &str) -> Option<String> {
    let url = match serde_json::from_str::<serde_json::Value>(greeting) {
        Ok(greeting) => greeting["listening"].as_str()?.to_owned(),
        Err(_) => greeting.strip_prefix("listening on ")?.split_once(", ")?.0.to_owned(),
    };
    url.strip_prefix("http://").map(Into::into)
}
