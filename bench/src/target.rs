//! The server that is measured: one started for it, or one that runs already.

use std::{
    ffi::OsString,
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, bail};
use reqwest::Method;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};
use wwproxy_protocol::{
    AppId, Secret,
    api::{self, Status},
};

/// What every app of a started server gets its token with.
const APP_SECRET: &str = "bench-app-secret";
/// What every app's webhooks are signed with.
const WEBHOOK_SECRET: &str = "bench-webhook-secret";
/// The kernel counts CPU time in so many ticks a second (`USER_HZ`, the same on every Linux).
const TICKS_A_SECOND: u32 = 100;
/// How long at most a server waits before it files what it has stored: `LINGER` in its `store/redb/pending.rs`.
const LINGER: Duration = Duration::from_secs(5);
/// At rest is a server that uses no more than one tick of CPU time in so long.
const QUIET: Duration = Duration::from_millis(200);
/// Filing takes less, on a slow disk too.
const REST_TIMEOUT: Duration = Duration::from_secs(30);
/// How many apps are registered at once.
const REGISTERING: usize = 256;

/// Where a server is, and which apps it has.
#[derive(Debug)]
pub(crate) struct Target {
    /// Such as `127.0.0.1:4711`.
    pub(crate) address: String,
    pub(crate) apps: Vec<Arc<App>>,
    process: Option<Process>,
    http: reqwest::Client,
}

/// How a server ends before it is started again.
#[derive(Debug, Clone, Copy)]
pub(crate) enum End {
    Stop,
    Kill,
}

/// An app that is registered.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) id: AppId,
    pub(crate) token: String,
    pub(crate) webhook_secret: Secret,
}

/// How to start a server.
#[derive(Debug, Clone)]
pub(crate) struct Setup<'a> {
    /// The folder in which it gets one for its store.
    pub(crate) folder: &'a Path,
    /// Whether it keeps nothing.
    pub(crate) ceiling: bool,
    pub(crate) apps: usize,
    /// Flags of `wwproxy-server`.
    pub(crate) flags: &'a [&'a str],
}

#[derive(Debug)]
struct Process {
    child: Mutex<Child>,
    home: TempDir,
    ceiling: bool,
    flags: Vec<String>,
}

/// What the system says of the server's process.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    pub(crate) cpu: Duration,
    /// What is in memory of it, in bytes.
    pub(crate) memory: u64,
    /// The store's file, in bytes on disk.
    pub(crate) file: u64,
}

impl Target {
    /// Starts a server with so many registered apps.
    pub(crate) async fn start(setup: Setup<'_>) -> anyhow::Result<Self> {
        let home = tempfile::Builder::new().prefix("wwproxy-bench-").tempdir_in(setup.folder)?;
        let ids = (0..setup.apps).map(|n| format!("app-{n}").parse()).collect::<Result<Vec<AppId>, _>>()?;
        fs::write(home.path().join("apps.toml"), credentials(&ids))?;
        let flags = setup.flags.iter().map(ToString::to_string).collect();
        let (child, address) = spawn(home.path(), setup.ceiling, &flags)?;
        let process = Process { child: Mutex::new(child), home, ceiling: setup.ceiling, flags };
        let mut target = Self { address, apps: Vec::new(), process: Some(process), http: http_client()? };
        for ids in ids.chunks(REGISTERING) {
            let registered = ids.iter().map(|id| target.register(id, APP_SECRET));
            for app in futures_util::future::join_all(registered).await {
                target.apps.push(Arc::new(app?));
            }
        }
        Ok(target)
    }

    /// A server that runs already, and one of its apps, which is registered anew.
    pub(crate) async fn running(address: &str, app: &AppId, secret: &str) -> anyhow::Result<Self> {
        let mut target =
            Self { address: address.into(), apps: Vec::new(), process: None, http: http_client()? };
        let app = target.register(app, secret).await?;
        target.apps.push(Arc::new(app));
        Ok(target)
    }

    async fn register(&self, id: &AppId, secret: &str) -> anyhow::Result<App> {
        let url = |path: &str| format!("http://{}{path}", self.address);
        let token = self.http.post(url(api::path::TOKEN)).basic_auth(id, Some(secret));
        let token = token.form(&[("grant_type", "client_credentials")]).send().await?.error_for_status()?;
        let token: serde_json::Value = token.json().await?;
        let token = token["access_token"].as_str().context("a token was expected")?.to_owned();
        let registration = serde_json::json!({"secret": WEBHOOK_SECRET});
        let put = self.http.put(url(&api::path::webhooks(id))).bearer_auth(&token).json(&registration);
        put.send().await?.error_for_status()?;
        Ok(App { id: id.clone(), token, webhook_secret: Secret::new(WEBHOOK_SECRET) })
    }

    /// Ends the server that way and starts it on the same store. Says how long it took until it could store.
    pub(crate) async fn restart(&mut self, how: End) -> anyhow::Result<Duration> {
        let Some(process) = &self.process else { bail!("only a server that was started can be restarted") };
        end(&process.child, how);
        let began = std::time::Instant::now();
        let (child, address) = spawn(process.home.path(), process.ceiling, &process.flags)?;
        *process.child.lock().unwrap_or_else(PoisonError::into_inner) = child;
        self.address = address;
        self.http.get(format!("http://{}/readyz", self.address)).send().await?.error_for_status()?;
        Ok(began.elapsed())
    }

    /// Kills the server, also while something is asked of it.
    pub(crate) fn kill(&self) {
        if let Some(process) = &self.process {
            end(&process.child, End::Kill);
        }
    }

    /// Waits until the server has filed what it stored, so that this is not done in what is measured next. Nothing
    /// may be asked of it meanwhile.
    pub(crate) async fn rest(&self) -> anyhow::Result<()> {
        // The ceiling has nothing to file.
        if self.process.as_ref().is_none_or(|process| !process.ceiling) {
            sleep(LINGER).await;
        }
        let resting = async {
            let mut before = self.usage().cpu;
            loop {
                sleep(QUIET).await;
                let cpu = self.usage().cpu;
                if cpu.saturating_sub(before) <= Duration::from_secs(1) / TICKS_A_SECOND {
                    break;
                }
                before = cpu;
            }
        };
        timeout(REST_TIMEOUT, resting)
            .await
            .context("the server does not come to rest, though nobody asks for anything")
    }

    /// The state of the app's queue.
    pub(crate) async fn status(&self, app: &App) -> anyhow::Result<Status> {
        Ok(serde_json::from_str(&self.get(app, &api::path::status(&app.id)).await?)?)
    }

    pub(crate) async fn get(&self, app: &App, path: &str) -> anyhow::Result<String> {
        self.request(Method::GET, app, path, String::new()).await
    }

    pub(crate) async fn post(&self, app: &App, path: &str, body: String) -> anyhow::Result<String> {
        self.request(Method::POST, app, path, body).await
    }

    async fn request(&self, method: Method, app: &App, path: &str, body: String) -> anyhow::Result<String> {
        let request =
            self.http.request(method, format!("http://{}{path}", self.address)).bearer_auth(&app.token);
        Ok(request.body(body).send().await?.error_for_status()?.text().await?)
    }

    /// What it uses, as far as this system tells: zeros for a server that was not started here.
    pub(crate) fn usage(&self) -> Usage {
        self.process.as_ref().and_then(Process::usage).unwrap_or_default()
    }
}

impl Process {
    fn usage(&self) -> Option<Usage> {
        let pid = self.child.lock().unwrap_or_else(PoisonError::into_inner).id();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // After the name in brackets, which may hold anything: user and system time are 12th and 13th.
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let ticks: u32 = fields.get(11)?.parse::<u32>().ok()? + fields.get(12)?.parse::<u32>().ok()?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: u64 = resident.trim().strip_suffix(" kB")?.parse().ok()?;
        let files = ["events.redb", "events.journal"]
            .map(|name| fs::metadata(self.home.path().join("store").join(name)));
        Some(Usage {
            cpu: Duration::from_secs(1) * ticks / TICKS_A_SECOND,
            memory: kib << 10,
            file: files.iter().flatten().map(on_disk).sum(),
        })
    }
}

#[cfg(unix)]
fn on_disk(file: &fs::Metadata) -> u64 {
    /// In which a file's blocks are counted, whatever those of the file system are.
    const BLOCK_BYTES: u64 = 512;
    std::os::unix::fs::MetadataExt::blocks(file) * BLOCK_BYTES
}

#[cfg(not(unix))]
fn on_disk(file: &fs::Metadata) -> u64 {
    file.len()
}

impl Drop for Process {
    fn drop(&mut self) {
        end(&self.child, End::Kill);
    }
}

/// Waits until it has ended. It may have before.
fn end(child: &Mutex<Child>, how: End) {
    let mut child = child.lock().unwrap_or_else(PoisonError::into_inner);
    let _ = match how {
        End::Stop => Command::new("kill").args(["-TERM", &child.id().to_string()]).status().map(drop),
        End::Kill => child.kill(),
    };
    let _ = child.wait();
}

/// Starts this program as a server, and gives its address.
fn spawn(home: &Path, ceiling: bool, flags: &Vec<String>) -> anyhow::Result<(Child, String)> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("serve");
    if ceiling {
        command.arg("--ceiling");
    }
    let store: OsString = if ceiling {
        "memory:".into()
    } else {
        [OsString::from("file:"), home.join("store").into()].into_iter().collect()
    };
    command.arg("--").arg("--store").arg(store).arg("--apps").arg(home.join("apps.toml"));
    command.args(["--listen", "127.0.0.1:0", "--log-level", "error"]).args(flags);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut address = String::new();
    let stdout = child.stdout.take().context("the server has an output")?;
    BufReader::new(stdout).read_line(&mut address)?;
    if address.is_empty() {
        // Why stands on stderr, which is this program's.
        bail!("the server did not start");
    }
    Ok((child, address.trim_end().to_owned()))
}

/// A credentials file, as `wwproxy-server app add` writes it.
fn credentials(ids: &[AppId]) -> String {
    let mut hash = String::new();
    for byte in Sha256::digest(APP_SECRET) {
        let _ = write!(hash, "{byte:02x}");
    }
    let mut file = String::new();
    for id in ids {
        let _ = writeln!(file, "[apps.{id}]\nsecret-sha256 = \"{hash}\"");
    }
    file
}

fn http_client() -> anyhow::Result<reqwest::Client> {
    // The first one that is installed stays.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(reqwest::Client::builder().no_proxy().build()?)
}
