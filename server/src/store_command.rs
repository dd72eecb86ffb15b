//! `wwproxy-server store …`: the operator's commands for the files of the store.

use std::{
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::bail;
use wwproxy_protocol::text::sanitize;
use wwproxy_server::{
    config::{Config, StoreAddress, StoreCommand},
    store::maintenance::{self, AppInfo, Report, StoreInfo},
};

use crate::{
    admin::{Usage, operator},
    log::print_line,
};

/// How often the progress is written to a terminal.
const PROGRESS_PERIOD: Duration = Duration::from_millis(200);

pub(crate) fn run(config: &Config, command: &StoreCommand) -> anyhow::Result<()> {
    match command {
        StoreCommand::Backup { file } => backup(&store(config, None)?, file),
        StoreCommand::Info { path, json } => info(&store(config, path.as_deref())?, *json),
        StoreCommand::Check { path } => check(&store(config, path.as_deref())?),
        StoreCommand::Recover { from, to } => recover(from, to),
    }
}

/// The folder or file that the command reads.
fn store(config: &Config, path: Option<&Path>) -> anyhow::Result<PathBuf> {
    match (path, config.store_address()?) {
        (Some(path), _) => Ok(path.to_owned()),
        (None, StoreAddress::File(folder)) => Ok(folder),
        (None, StoreAddress::Memory) => {
            Err(Usage::new("a store in memory has no files: name one with --store file:DIR").into())
        }
    }
}

fn backup(folder: &Path, file: &Path) -> anyhow::Result<()> {
    // The server has another working directory.
    let file = std::path::absolute(file)?;
    if file.symlink_metadata().is_ok() {
        bail!("{} exists already: name a new file", file.display());
    }
    operator(folder).backup(&file)?;
    eprintln!("The store is copied to {}. The file has secrets and bodies: keep it private.", file.display());
    Ok(())
}

fn info(path: &Path, json: bool) -> anyhow::Result<()> {
    let info = maintenance::info(path)?;
    if json {
        print_line(&serde_json::to_string(&info)?)?;
        return Ok(());
    }
    print_line(&format!("format\t{}", info.format))?;
    print_line(&format!("server\t{}", if info.server_runs { "running" } else { "stopped" }))?;
    for (name, bytes) in &info.files {
        print_line(&format!("file\t{name}\t{bytes} bytes"))?;
    }
    print_events(&info)?;
    info.apps.iter().try_for_each(print_app)
}

fn print_events(info: &StoreInfo) -> anyhow::Result<()> {
    let (events, bytes) =
        info.apps.iter().fold((0, 0), |(events, bytes), app| (events + app.events, bytes + app.bytes));
    let [oldest, newest] = [&info.oldest, &info.newest].map(|time| time.as_deref().unwrap_or("-"));
    print_line(&format!("events\t{events}\t{bytes} bytes\toldest {oldest}\tnewest {newest}"))?;
    Ok(())
}

fn print_app(app: &AppInfo) -> anyhow::Result<()> {
    let AppInfo { app: name, events, bytes, sources, consumers } = app;
    let (name, sources) = (sanitize(name), sanitize(&sources.join(", ")));
    print_line(&format!("app\t{name}\t{events} events\t{bytes} bytes\tsources {sources}"))?;
    for consumer in consumers {
        let (consumer_name, pending, bytes) =
            (sanitize(&consumer.consumer), consumer.pending, consumer.pending_bytes);
        let (dead, dropped) = (consumer.dead, consumer.dropped);
        print_line(&format!(
            "consumer\t{name}\t{consumer_name}\t{pending} pending\t{bytes} bytes\t{dead} dead\t{dropped} dropped"
        ))?;
    }
    Ok(())
}

fn check(path: &Path) -> anyhow::Result<()> {
    let mut printer = Printer::new();
    let checked = maintenance::check(path, &mut printer);
    printer.finish()?;
    let checked = checked?;
    if checked.damages > 0 {
        bail!(
            "{} is damaged: {} found. Stop the server, then copy what is whole with `wwproxy-server store recover`, or restore \
             a backup",
            path.display(),
            count(checked.damages, "problem")
        );
    }
    eprintln!("{} is whole, with {}.", path.display(), count(checked.events, "event"));
    Ok(())
}

fn recover(from: &Path, to: &Path) -> anyhow::Result<()> {
    let mut printer = Printer::new();
    let recovered = maintenance::recover(from, to, &mut printer);
    printer.finish()?;
    let recovered = recovered?;
    let (events, to) = (count(recovered.events, "event"), to.display());
    match recovered.left_out {
        0 => eprintln!("{events} copied to {to}, nothing is left out."),
        left_out => eprintln!(
            "{events} copied to {to}; what is left out is on stdout, in {}.",
            count(left_out, "line")
        ),
    }
    Ok(())
}

fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Prints what is damaged on stdout, and the progress on stderr if that is a terminal.
struct Printer {
    progress: Option<Instant>,
    error: Option<io::Error>,
}

impl Printer {
    fn new() -> Self {
        Self { progress: io::stderr().is_terminal().then(Instant::now), error: None }
    }

    /// Ends the line of the progress. Fails if something could not be printed.
    fn finish(&mut self) -> io::Result<()> {
        if self.progress.is_some() {
            eprint!("\r\x1b[K");
        }
        self.error.take().map_or(Ok(()), Err)
    }
}

impl Report for Printer {
    fn damaged(&mut self, what: &str) {
        if let Err(error) = print_line(&sanitize(what)) {
            self.error.get_or_insert(error);
        }
    }

    fn progress(&mut self, done: u64, last: u64) {
        if self.progress.is_some_and(|at| at.elapsed() >= PROGRESS_PERIOD) {
            self.progress = Some(Instant::now());
            // The terminal may be gone.
            let _ = write!(io::stderr(), "\r\x1b[Kevent {done} of {last}");
        }
    }
}
