//! Benchmarks of a wwproxy server; `BENCHMARKS.md` describes them.
//!
//! The load generator (senders and clients) runs in one thread, so that it uses at most one core. The server under test
//! runs in its own process.

mod latency;
mod ledger;
mod null_store;
mod plot;
mod receive;
mod scenario;
mod send;
mod serve;
mod server;

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use wwproxy_protocol::AppId;

use self::{
    plot::Plot,
    scenario::{Apps, Backlog, Fairness, Growth, Idle, Ingest, Live, Verify},
    server::{ServerOptions, TestServer},
};

/// Benchmarks a wwproxy server: throughput, latency percentiles, memory, recovery time, fairness and verification
///
/// Prints Markdown tables. Latencies are in milliseconds. Fails if an accepted event is lost or delivered out of order.
#[derive(Debug, Parser)]
#[command(name = "wwproxy-bench", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    bench: Bench,
    #[command(subcommand)]
    command: Command,
}

/// Options of all benchmarks.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// Folder for the stores under test; choose the disk that is to be measured
    #[arg(long, global = true, value_name = "DIR", default_value = ".")]
    folder: PathBuf,
    /// Write plots (SVG) into this folder
    #[arg(long, global = true, value_name = "DIR")]
    plots: Option<PathBuf>,
    /// A wwproxy-bench of another version, whose server is measured in turns with this one; only for `ingest` and `backlog`
    #[arg(long, global = true, value_name = "PROGRAM", conflicts_with = "address")]
    beside: Option<PathBuf>,
    /// Measure a running server instead of starting one; only for `ingest`, `live` and `backlog`
    #[arg(long, global = true, value_name = "HOST:PORT", requires = "app")]
    address: Option<String>,
    /// An app of the running server; its registration is replaced and its events are consumed
    #[arg(long, global = true, value_name = "ID")]
    app: Option<AppId>,
    /// The app secret of that app
    #[arg(long, global = true, value_name = "SECRET", env = "WWPROXY_APP_SECRET", hide_env_values = true)]
    app_secret: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Ingest(Ingest),
    Live(Live),
    Backlog(Backlog),
    Growth(Growth),
    Idle(Idle),
    Apps(Apps),
    Fairness(Fairness),
    Verify(Verify),
    /// Run all benchmarks, one after the other
    All {
        /// Small runs: a smoke test, not for its figures
        #[arg(long)]
        short: bool,
    },
    /// Run as the server under test
    #[command(hide = true)]
    Serve {
        /// Use the null store, which discards every event
        #[arg(long)]
        ceiling: bool,
        /// Flags of wwproxy-server
        #[arg(last = true)]
        flags: Vec<OsString>,
    },
}

/// The benchmarks of `all --short`.
const SHORT: [&str; 8] = [
    "ingest --senders 1,16 --seconds 1 --rounds 1",
    "live --rates 100,300 --seconds 1",
    "backlog --events 5000",
    "growth --events 5000 --apps 1,100 --seconds 1 --rounds 1",
    "idle --sockets 200",
    "apps --apps 500",
    "fairness --rate 500 --seconds 0.3 --backlog 10000 --rounds 1",
    "verify --rounds 2",
];
const LONG: [&str; 8] = ["ingest", "live", "backlog", "growth", "idle", "apps", "fairness", "verify"];

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        Command::Serve { ceiling, flags } => serve::serve(*ceiling, flags),
        command => measure(&cli.bench, command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wwproxy-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn measure(bench: &Bench, command: &Command) -> anyhow::Result<()> {
    let words = env::args_os().map(|word| word.to_string_lossy().into_owned());
    println!("{}\n", command_line(words, bench.app_secret.as_deref()));
    let Command::All { short } = command else { return run(bench, command).await };
    for line in if *short { SHORT } else { LONG } {
        println!("\n`wwproxy-bench {line}`\n");
        let words = std::iter::once("wwproxy-bench").chain(line.split(' '));
        run(bench, &Cli::try_parse_from(words)?.command).await.with_context(|| line.to_owned())?;
    }
    Ok(())
}

/// The command line to print above a report, with the secret redacted.
fn command_line(words: impl Iterator<Item = String>, secret: Option<&str>) -> String {
    let mut line = String::from("`wwproxy-bench");
    for word in words.skip(1) {
        line.push(' ');
        match secret.and_then(|secret| word.strip_suffix(secret)) {
            Some(before @ ("" | "--app-secret=")) => line.extend([before, "***"]),
            _ => line.push_str(&word),
        }
    }
    line.push('`');
    line
}

async fn run(bench: &Bench, command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Ingest(ingest) => ingest.run(bench).await,
        Command::Live(live) => live.run(bench).await,
        Command::Backlog(backlog) => backlog.run(bench).await,
        Command::Growth(growth) => growth.run(bench).await,
        Command::Idle(idle) => idle.run(bench).await,
        Command::Apps(apps) => apps.run(bench).await,
        Command::Fairness(fairness) => fairness.run(bench).await,
        Command::Verify(verify) => verify.run(),
        Command::All { .. } | Command::Serve { .. } => {
            unreachable!("handled by the callers")
        }
    }
}

/// Queue limits that no benchmark reaches.
const UNLIMITED: [&str; 4] = ["--max-queued-events", "1000000000", "--max-queued-bytes", "1000GiB"];

impl Bench {
    /// Returns the server under test with one app: the running one, or a new one.
    async fn server(&self) -> anyhow::Result<TestServer> {
        self.server_with(1).await
    }

    /// Returns the server under test: the running one with one app, or a new one with this number of apps.
    async fn server_with(&self, apps: usize) -> anyhow::Result<TestServer> {
        match (&self.address, &self.app) {
            (Some(address), Some(app)) => {
                let secret = self.app_secret.as_deref().context("--address needs --app-secret")?;
                TestServer::connect(address, app, secret).await
            }
            _ => self.start(apps).await,
        }
    }

    /// Starts a server with this number of apps.
    async fn start(&self, apps: usize) -> anyhow::Result<TestServer> {
        self.start_program(None, apps).await
    }

    /// Starts the server of the other version, if there is one.
    async fn start_beside(&self, apps: usize) -> anyhow::Result<Option<TestServer>> {
        match &self.beside {
            Some(program) => Ok(Some(self.start_program(Some(program), apps).await?)),
            None => Ok(None),
        }
    }

    async fn start_program(&self, program: Option<&Path>, apps: usize) -> anyhow::Result<TestServer> {
        let (folder, flags) = (&self.folder, &UNLIMITED);
        TestServer::start(ServerOptions { folder, ceiling: false, program, apps, flags }).await
    }

    /// Starts a server with the null store.
    async fn ceiling(&self, apps: usize) -> anyhow::Result<TestServer> {
        TestServer::start(ServerOptions {
            folder: &self.folder,
            ceiling: true,
            program: None,
            apps,
            flags: &[],
        })
        .await
    }

    fn draw(&self, name: &str, plot: &Plot<'_>) -> anyhow::Result<()> {
        let Some(folder) = &self.plots else { return Ok(()) };
        fs::create_dir_all(folder)?;
        let path = Path::new(folder).join(name).with_extension("svg");
        fs::write(&path, plot.svg()).with_context(|| format!("cannot write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_printed_command_line_redacts_the_secret() {
        let line = |words: &str| command_line(words.split(' ').map(str::to_owned), Some("hush"));
        for (words, printed) in [
            ("bench ingest --senders 1,16", "`wwproxy-bench ingest --senders 1,16`"),
            ("bench live --app-secret hush --app a", "`wwproxy-bench live --app-secret *** --app a`"),
            ("bench live --app-secret=hush", "`wwproxy-bench live --app-secret=***`"),
        ] {
            assert_eq!(line(words), printed);
        }
    }
}
