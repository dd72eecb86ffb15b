//! The operator's end of the control socket. Commands are sent to the running server, or executed on the store itself.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use serde::de::DeserializeOwned;
use wwproxy_protocol::{AppId, text};

use super::{Command, Outcome, Stored};
use crate::{
    Settings,
    identity::{Apps, Builtin, DEFAULT_TOKEN_LIFETIME, TokenKey, TokenKeyError},
    proxy::Proxy,
    store::{Limits, OpenError, SqliteStore, Store},
};

/// How much longer to wait than the server's own timeout, so that the server reports it first.
#[cfg(unix)]
const TRANSFER: Duration = Duration::from_secs(15);
/// How long to wait for a server that has the store open without a control socket, because it is starting or draining.
const SERVER_TIMEOUT: Duration = Duration::from_secs(15);
/// How long to wait between attempts to reach such a server.
const SERVER_PAUSE: Duration = Duration::from_millis(100);

/// The operator's access to the store in a folder.
#[derive(Debug)]
pub struct Operator {
    folder: PathBuf,
    on_wait: fn(&Path),
}

/// What the store has of an app, and whether a server reported it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inspection {
    /// What the store has.
    pub stored: Stored,
    /// Whether a running server answered. Otherwise the store was opened.
    pub server_runs: bool,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// There is no store.
    #[error(
        "there is no store in {0}: name the server's with --store file:DIR, or use --store memory: if it has none"
    )]
    NoStore(PathBuf),
    /// The server cannot be reached.
    #[error("the server of the store in {0} cannot be reached: run this as the server's user or as root")]
    Unreachable(PathBuf, #[source] io::Error),
    /// The server's answer is not valid.
    #[error("the server of the store in {0} gave no valid answer: use the wwproxy-server of its release")]
    Answer(PathBuf),
    /// The server rejected the command.
    #[error("{0}")]
    Refused(String),
    /// The store belongs to another user, whose server could not open files that this user creates.
    #[error("no server runs on the store in {0}, which belongs to another user: run this as that user")]
    OtherUser(PathBuf),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The store cannot be used.
    #[error("the store cannot be used: run this again")]
    Runtime(#[source] io::Error),
    /// The system's random number generator failed.
    #[error(transparent)]
    Random(#[from] TokenKeyError),
}

impl Operator {
    /// Accesses the store in this folder. A command that must wait for a server calls `on_wait` with the folder first.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>, on_wait: fn(&Path)) -> Self {
        Self { folder: folder.into(), on_wait }
    }

    /// Returns what the store has of an app.
    pub fn inspect(&self, app: &AppId) -> Result<Inspection, ControlError> {
        let (stored, server_runs) = self.run(&Command::Inspect { app: app.clone() })?;
        Ok(Inspection { stored, server_runs })
    }

    /// Ends the app's registration and deletes its events. Returns what was deleted.
    pub fn purge(&self, app: &AppId) -> Result<Stored, ControlError> {
        self.run(&Command::Purge { app: app.clone() }).map(|(stored, _)| stored)
    }

    /// Makes a running server check the tokens of its open connections. Returns whether a server runs.
    pub fn recheck_tokens(&self) -> Result<bool, ControlError> {
        Ok(self.send(&Command::RecheckTokens)?.is_some())
    }

    /// Writes a copy of the store to a file, which must not exist. The path must be absolute: the server has another directory.
    pub fn backup(&self, file: &Path) -> Result<(), ControlError> {
        self.run(&Command::Backup { file: file.to_owned() }).map(|((), _)| ())
    }

    /// Sends the command to the server, or executes it on the store if no server runs. Also returns whether a server runs. Waits
    /// for a server that is starting or draining: it has the store open without a socket. A folder without a store is an error,
    /// since opening it would create one.
    fn run<T: DeserializeOwned>(&self, command: &Command) -> Result<(T, bool), ControlError> {
        match SqliteStore::exists(&self.folder) {
            Ok(true) => {}
            Ok(false) => return Err(ControlError::NoStore(self.folder.clone())),
            Err(error) => return Err(ControlError::Unreachable(self.folder.clone(), error)),
        }
        let deadline = Instant::now() + SERVER_TIMEOUT;
        let mut waits = false;
        let (outcome, server_runs) = loop {
            if let Some(outcome) = self.send(command)? {
                break (outcome, true);
            }
            match self.execute(command) {
                Err(ControlError::Store(OpenError::Locked(_))) if Instant::now() < deadline => {
                    if !waits {
                        (self.on_wait)(&self.folder);
                        waits = true;
                    }
                    thread::sleep(SERVER_PAUSE);
                }
                executed => break (executed?, false),
            }
        };
        match outcome {
            Outcome::Result(result) => match serde_json::from_value(result) {
                Ok(result) => Ok((result, server_runs)),
                Err(_) => Err(ControlError::Answer(self.folder.clone())),
            },
            // The text is untrusted, and is printed on a terminal.
            Outcome::Error(error) => Err(ControlError::Refused(text::sanitize(&error))),
        }
    }

    /// Executes the command on the store itself.
    fn execute(&self, command: &Command) -> Result<Outcome, ControlError> {
        if !is_own(&self.folder).map_err(ControlError::Runtime)? {
            return Err(ControlError::OtherUser(self.folder.clone()));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(ControlError::Runtime)?.block_on(async {
            let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&self.folder, no_limits()).await?);
            // No client is served, so there are no apps and no valid tokens.
            let identity = Builtin::new(Apps::new(""), TokenKey::random()?, DEFAULT_TOKEN_LIFETIME);
            let proxy = Proxy::new(Arc::clone(&store), Arc::new(identity), &Settings::default());
            let outcome = command.clone().execute(&proxy).await;
            match store.close().await {
                Ok(()) => Ok(outcome),
                Err(error) => Ok(Outcome::Error(error.to_string())),
            }
        })
    }
}

/// The server's limits are not known here; with lower ones the store would drop events that the server keeps.
fn no_limits() -> Limits {
    const LONG: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
    Limits {
        max_pending_events: u64::MAX,
        max_pending_bytes: u64::MAX,
        retention: LONG,
        history: LONG,
        max_history_bytes: u64::MAX,
        dedupe_window: LONG,
        consumer_idle_expiry: LONG,
        ..Limits::default()
    }
}

#[cfg(unix)]
fn is_own(folder: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    Ok(folder.metadata()?.uid() == rustix::process::geteuid().as_raw())
}

#[cfg(not(unix))]
fn is_own(_folder: &Path) -> io::Result<bool> {
    Ok(true)
}

#[cfg(unix)]
impl Operator {
    /// Sends the command to the server. `None` if no server listens.
    fn send(&self, command: &Command) -> Result<Option<Outcome>, ControlError> {
        use std::os::unix::{fs::FileTypeExt, net::UnixStream};

        use super::{Answer, Request, SOCKET_NAME, VERSION, address::with_address};

        let failed = |error| ControlError::Unreachable(self.folder.clone(), error);
        let is_absent = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
        };
        match self.folder.join(SOCKET_NAME).symlink_metadata() {
            Ok(file) if file.file_type().is_socket() => {}
            // Connecting would follow a link.
            Ok(_) => return Err(failed(io::Error::other(format!("{SOCKET_NAME} is not a socket")))),
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(failed(error)),
        }
        let mut stream = match with_address(&self.folder, SOCKET_NAME, |path| UnixStream::connect(path)) {
            Err(error) if is_absent(&error) => return Ok(None),
            connected => connected.map_err(failed)?,
        };
        let request = Request { version: VERSION, command: command.clone() };
        let mut line = serde_json::to_vec(&request).expect("texts have a JSON form");
        line.push(b'\n');
        let answer = exchange(&mut stream, &line, command.timeout() + TRANSFER).map_err(failed)?;
        match serde_json::from_slice(&answer) {
            Ok(Answer { version: VERSION, outcome }) => Ok(Some(outcome)),
            _ => Err(ControlError::Answer(self.folder.clone())),
        }
    }
}

#[cfg(not(unix))]
impl Operator {
    /// This system has no control socket.
    #[expect(clippy::unnecessary_wraps, clippy::unused_self, reason = "as on Unix")]
    fn send(&self, _command: &Command) -> Result<Option<Outcome>, ControlError> {
        Ok(None)
    }
}

/// Sends a line and reads the answer, which is a line.
#[cfg(unix)]
fn exchange(
    stream: &mut std::os::unix::net::UnixStream,
    line: &[u8],
    timeout: Duration,
) -> io::Result<Vec<u8>> {
    use std::io::{BufRead, BufReader, Read, Write};

    /// The longest answer, in bytes.
    const MAX_ANSWER: u64 = 1 << 20;

    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    stream.write_all(line)?;
    let mut answer = Vec::new();
    BufReader::new(stream.take(MAX_ANSWER)).read_until(b'\n', &mut answer)?;
    Ok(answer)
}
