//! Measures a wwproxy server, as `BENCHMARKS.md` tells.
//!
//! Senders and readers run in one thread, so that they take one processor at most; the server runs in a
//! process of its own.

mod account;
mod latency;
mod null_store;
mod plot;
mod receive;
mod scenario;
mod send;
mod serve;
mod target;

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
    scenario::{Apps, Backlog, Fairness, Growth, Idle, Ingest, Live},
    target::{Setup, Target},
};

/// Measures a wwproxy server: events a second, latency, memory, and what a long backlog costs
///
/// Prints tables in Markdown. Latencies are in milliseconds. Fails where an event that was accepted is missing or out
/// of order.
#[derive(Debug, Parser)]
#[command(name = "wwproxy-bench", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    bench: Bench,
    #[command(subcommand)]
    command: Command,
}

/// Where it is measured.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// Where stores are put while they are measured: on the disk that is meant
    #[arg(long, global = true, value_name = "DIR", default_value = ".")]
    folder: PathBuf,
    /// Draw plots into this folder
    #[arg(long, global = true, value_name = "DIR")]
    plots: Option<PathBuf>,
    /// Measure the server that runs there, instead of starting one; `ingest`, `live` and `backlog` can
    #[arg(long, global = true, value_name = "HOST:PORT", requires = "app")]
    address: Option<String>,
    /// An app of that server. It is registered anew, and its events are taken
    #[arg(long, global = true, value_name = "ID")]
    app: Option<AppId>,
    /// What the app gets its tokens with
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
    /// Everything, one after the other
    All {
        /// With little of everything: to see that it works, not for its numbers
        #[arg(long)]
        short: bool,
    },
    /// Serve as the server under measurement
    #[command(hide = true)]
    Serve {
        /// Keep nothing
        #[arg(long)]
        ceiling: bool,
        /// Flags of wwproxy-server
        #[arg(last = true)]
        flags: Vec<OsString>,
    },
}

/// A little of everything, as `all --short` does it.
const SHORT: [&str; 7] = [
    "ingest --senders 1,16 --seconds 1 --rounds 1",
    "live --rates 100,300 --seconds 1",
    "backlog --events 5000",
    "growth --events 5000 --apps 1,100 --seconds 1 --rounds 1",
    "idle --sockets 200",
    "apps --apps 500",
    "fairness --rate 500 --seconds 0.3 --backlog 10000 --rounds 1",
];
const LONG: [&str; 7] = ["ingest", "live", "backlog", "growth", "idle", "apps", "fairness"];

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match &cli.command {
        Command::Serve { ceiling, flags } => serve::serve(*ceiling, flags),
        command => measure(&cli.bench, command),
    };
    match done {
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

/// What a report was made with, but for the secret: reports are shown around.
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
        Command::All { .. } | Command::Serve { .. } => unreachable!("these are not scenarios"),
    }
}

/// A queue may be as long as it is here.
const NO_LIMITS: [&str; 4] = ["--max-queued-events", "1000000000", "--max-queued-bytes", "1000GiB"];

impl Bench {
    /// The server that is to be measured, with one app.
    async fn target(&self) -> anyhow::Result<Target> {
        match (&self.address, &self.app) {
            (Some(address), Some(app)) => {
                let secret = self.app_secret.as_deref().context("--address needs --app-secret")?;
                Target::running(address, app, secret).await
            }
            _ => self.start(1).await,
        }
    }

    /// A server with so many apps.
    async fn start(&self, apps: usize) -> anyhow::Result<Target> {
        Target::start(Setup { folder: &self.folder, ceiling: false, apps, flags: &NO_LIMITS }).await
    }

    /// One that keeps nothing.
    async fn ceiling(&self, apps: usize) -> anyhow::Result<Target> {
        Target::start(Setup { folder: &self.folder, ceiling: true, apps, flags: &[] }).await
    }

    fn draw(&self, name: &str, plot: &Plot<'_>) -> anyhow::Result<()> {
        let Some(folder) = &self.plots else { return Ok(()) };
        fs::create_dir_all(folder)?;
        let path = Path::new(folder).join(name).with_extension("svg");
        fs::write(&path, plot.svg()).with_context(|| format!("{} cannot be written", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_tells_its_options_but_no_secret() {
        let line = |words: &str| command_line(words.split(' ').map(str::to_owned), Some("hush"));
        for (words, told) in [
            ("bench ingest --senders 1,16", "`wwproxy-bench ingest --senders 1,16`"),
            ("bench live --app-secret hush --app a", "`wwproxy-bench live --app-secret *** --app a`"),
            ("bench live --app-secret=hush", "`wwproxy-bench live --app-secret=***`"),
        ] {
            assert_eq!(line(words), told);
        }
    }
}
