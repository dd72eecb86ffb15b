//! The server under test: a child process, or a server that is already running.

use std::{
    ffi::OsString,
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use parking_lot::Mutex;
use reqwest::Method;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};
use wwproxy_protocol::{
    AppId, Secret,
    api::{self, Status},
    hex,
};

/// The app secret of every app of a started server.
const APP_SECRET: &str = "bench-app-secret";
/// The webhook secret of every app.
const WEBHOOK_SECRET: &str = "bench-webhook-secret";
/// The unit of CPU time in `/proc`: `USER_HZ`, the same on every Linux.
const TICKS_PER_SECOND: u32 = 100;
/// Version 0.1 begins a checkpoint this late.
const CHECKPOINT_DELAY: Duration = Duration::from_secs(5);
/// A server is idle if it uses at most one tick of CPU time in this interval.
const IDLE_INTERVAL: Duration = Duration::from_millis(200);
/// The limit for a checkpoint to complete, also on a slow disk.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How many apps are registered concurrently.
const CONCURRENT_REGISTRATIONS: usize = 256;

/// A server and its registered apps.
#[derive(Debug)]
pub(crate) struct TestServer {
    /// Such as `127.0.0.1:4711`.
    pub(crate) address: String,
    pub(crate) apps: Vec<Arc<App>>,
    process: Option<Process>,
    http: reqwest::Client,
}

/// How a server is ended before a restart.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shutdown {
    /// SIGTERM.
    Term,
    /// SIGKILL.
    Kill,
}

/// A registered app.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) id: AppId,
    pub(crate) token: String,
    pub(crate) webhook_secret: Secret,
}

/// How to start a server.
#[derive(Debug, Clone)]
pub(crate) struct ServerOptions<'a> {
    /// The parent of the store's folder.
    pub(crate) folder: &'a Path,
    /// Whether to use the null store.
    pub(crate) ceiling: bool,
    /// The `wwproxy-bench` whose server is started. `None`: this one.
    pub(crate) program: Option<&'a Path>,
    pub(crate) apps: usize,
    /// Flags of `wwproxy-server`.
    pub(crate) flags: &'a [&'a str],
}

#[derive(Debug)]
struct Process {
    child: Mutex<Child>,
    home: TempDir,
    ceiling: bool,
    program: PathBuf,
    flags: Vec<String>,
}

/// Resource usage of the server's process.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ResourceUsage {
    pub(crate) cpu: Duration,
    /// Resident set size, in bytes.
    pub(crate) rss: u64,
    /// Space of the store's files on disk, in bytes.
    pub(crate) disk: u64,
}

impl TestServer {
    /// Starts a server and registers the apps.
    pub(crate) async fn start(options: ServerOptions<'_>) -> anyhow::Result<Self> {
        let home = tempfile::Builder::new().prefix("wwproxy-bench-").tempdir_in(options.folder)?;
        let ids = (0..options.apps).map(|n| format!("app-{n}").parse()).collect::<Result<Vec<AppId>, _>>()?;
        fs::write(home.path().join("apps.toml"), credentials(&ids))?;
        let flags = options.flags.iter().map(ToString::to_string).collect();
        let program = options.program.map_or_else(std::env::current_exe, |program| Ok(program.to_owned()))?;
        let (child, address) = spawn(&program, home.path(), options.ceiling, &flags)?;
        let process = Process { child: Mutex::new(child), home, ceiling: options.ceiling, program, flags };
        let mut server = Self { address, apps: Vec::new(), process: Some(process), http: http_client()? };
        for ids in ids.chunks(CONCURRENT_REGISTRATIONS) {
            let registered = ids.iter().map(|id| server.register(id, APP_SECRET));
            for app in futures_util::future::join_all(registered).await {
                server.apps.push(Arc::new(app?));
            }
        }
        Ok(server)
    }

    /// Connects to a running server and replaces the registration of one of its apps.
    pub(crate) async fn connect(address: &str, app: &AppId, secret: &str) -> anyhow::Result<Self> {
        let mut server =
            Self { address: address.into(), apps: Vec::new(), process: None, http: http_client()? };
        let app = server.register(app, secret).await?;
        server.apps.push(Arc::new(app));
        Ok(server)
    }

    async fn register(&self, id: &AppId, secret: &str) -> anyhow::Result<App> {
        let url = |path: &str| format!("http://{}{path}", self.address);
        let token = self.http.post(url(api::path::TOKEN)).basic_auth(id, Some(secret));
        let token = token.form(&[("grant_type", "client_credentials")]).send().await?.error_for_status()?;
        let token: serde_json::Value = token.json().await?;
        let token =
            token["access_token"].as_str().context("the token response has no access_token")?.to_owned();
        let registration = serde_json::json!({"secret": WEBHOOK_SECRET});
        let put = self.http.put(url(&api::path::webhooks(id))).bearer_auth(&token).json(&registration);
        put.send().await?.error_for_status()?;
        Ok(App { id: id.clone(), token, webhook_secret: Secret::new(WEBHOOK_SECRET) })
    }

    /// Ends the server and starts it on the same store. Returns the time until it is ready.
    pub(crate) async fn restart(&mut self, how: Shutdown) -> anyhow::Result<Duration> {
        let Some(process) = &self.process else {
            bail!("a running server given with --address cannot be restarted")
        };
        end(&process.child, how);
        let started = std::time::Instant::now();
        let (child, address) = spawn(&process.program, process.home.path(), process.ceiling, &process.flags)?;
        *process.child.lock() = child;
        self.address = address;
        self.http.get(format!("http://{}/readyz", self.address)).send().await?.error_for_status()?;
        Ok(started.elapsed())
    }

    /// Kills the server; requests may be in flight.
    pub(crate) fn kill(&self) {
        if let Some(process) = &self.process {
            end(&process.child, Shutdown::Kill);
        }
    }

    /// Waits until the server has completed its checkpoint and is idle, so that the checkpoint does not disturb the next
    /// run. No requests may be in flight.
    pub(crate) async fn wait_until_idle(&self) -> anyhow::Result<()> {
        // The null store has no checkpoint.
        if self.process.as_ref().is_none_or(|process| !process.ceiling) {
            sleep(CHECKPOINT_DELAY).await;
        }
        let idle = async {
            let mut before = self.usage().cpu;
            loop {
                sleep(IDLE_INTERVAL).await;
                let cpu = self.usage().cpu;
                if cpu.saturating_sub(before) <= Duration::from_secs(1) / TICKS_PER_SECOND {
                    break;
                }
                before = cpu;
            }
        };
        timeout(IDLE_TIMEOUT, idle).await.context("the server does not become idle")
    }

    /// Returns the status of the app's queue.
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

    /// Reads the resource usage: zeros without `/proc`, and for a server given with `--address`.
    pub(crate) fn usage(&self) -> ResourceUsage {
        self.process.as_ref().and_then(Process::usage).unwrap_or_default()
    }
}

impl Process {
    fn usage(&self) -> Option<ResourceUsage> {
        let pid = self.child.lock().id();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // utime and stime are the 12th and 13th field after the process name, which may contain spaces and brackets.
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let ticks: u32 = fields.get(11)?.parse::<u32>().ok()? + fields.get(12)?.parse::<u32>().ok()?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: u64 = resident.trim().strip_suffix(" kB")?.parse().ok()?;
        let files = ["log.sqlite", "log.sqlite-wal", "events.redb", "events.journal"]
            .map(|name| fs::metadata(self.home.path().join("store").join(name)));
        Some(ResourceUsage {
            cpu: Duration::from_secs(1) * ticks / TICKS_PER_SECOND,
            rss: kib << 10,
            disk: files.iter().flatten().map(on_disk).sum(),
        })
    }
}

#[cfg(unix)]
fn on_disk(file: &fs::Metadata) -> u64 {
    /// The unit of `st_blocks`, independent of the file system.
    const BLOCK_BYTES: u64 = 512;
    std::os::unix::fs::MetadataExt::blocks(file) * BLOCK_BYTES
}

#[cfg(not(unix))]
fn on_disk(file: &fs::Metadata) -> u64 {
    file.len()
}

impl Drop for Process {
    fn drop(&mut self) {
        end(&self.child, Shutdown::Kill);
    }
}

/// Ends the process, if it has not ended already, and waits for it.
fn end(child: &Mutex<Child>, how: Shutdown) {
    let mut child = child.lock();
    let _ = match how {
        Shutdown::Term => Command::new("kill").args(["-TERM", &child.id().to_string()]).status().map(drop),
        Shutdown::Kill => child.kill(),
    };
    let _ = child.wait();
}

/// Starts this program as a server, and returns the process and its address.
fn spawn(program: &Path, home: &Path, ceiling: bool, flags: &Vec<String>) -> anyhow::Result<(Child, String)> {
    let mut command = Command::new(program);
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
    let stdout = child.stdout.take().context("stdout is not piped")?;
    BufReader::new(stdout).read_line(&mut address)?;
    if address.is_empty() {
        // The server inherits stderr, so its error message is there.
        bail!("the server did not start");
    }
    Ok((child, address.trim_end().to_owned()))
}

/// The content of a credentials file, in the format of `wwproxy-server app add`.
fn credentials(ids: &[AppId]) -> String {
    let hash = hex(&Sha256::digest(APP_SECRET));
    let mut file = String::new();
    for id in ids {
        let _ = writeln!(file, "[apps.{id}]\nsecret-sha256 = \"{hash}\"");
    }
    file
}

fn http_client() -> anyhow::Result<reqwest::Client> {
    // Fails if a provider is installed already, which is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(reqwest::Client::builder().no_proxy().build()?)
}
