//! The proxy as a program: parse, build, serve until a signal, drain.

use std::{io::Write, process::ExitCode};

use anyhow::Context;
use clap::Parser;
use wwproxy_server::{
    Server, Settings,
    config::{AppCommand, Command, Config, LogFormat},
    open_files,
};

fn main() -> ExitCode {
    let config = Config::parse();
    let done = match &config.command {
        Some(Command::App(command)) => manage_apps(&config, command),
        None => serve(&config),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wwproxy-server: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn serve(config: &Config) -> anyhow::Result<()> {
    start_log(config);
    let settings = config.settings();
    let settings =
        Settings { max_connections: open_files::fit_connections(settings.max_connections), ..settings };
    let store = config.open_store()?;
    let identity = config.identity_provider()?;
    let listener = config.listen.bind().await.with_context(|| {
        format!("cannot listen on {}: choose another address with --listen", config.listen)
    })?;
    let stop = stop_signal()?;
    let (address, store_address) = (listener.local_addr()?, config.store_address()?);
    // Whoever started the server need not read it.
    let _ =
        say(&format!("listening on http://{address}, store {store_address}, identity {}", config.identity));
    Server::new(store, identity, settings).serve(listener, stop).await;
    Ok(())
}

fn manage_apps(config: &Config, command: &AppCommand) -> anyhow::Result<()> {
    let apps = config.apps()?;
    match command {
        AppCommand::Add { id } => {
            let secret = apps.add(id)?;
            eprintln!("The secret of the app {id}, shown this once:");
            say(secret.expose())
                .context("the secret could not be printed: remove the app and add it again")?;
        }
        AppCommand::List => {
            for id in apps.list()? {
                say(id.as_str())?;
            }
        }
        AppCommand::Remove { id } => apps.remove(id)?,
    }
    Ok(())
}

/// A line on stdout.
fn say(line: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

fn start_log(config: &Config) {
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(config.log_level);
    match config.log {
        LogFormat::Text => log.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => log.json().init(),
    }
}

/// Done at SIGTERM or SIGINT.
#[cfg(unix)]
fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Done at Ctrl-C.
#[cfg(not(unix))]
fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    Ok(async {
        // Without the signal there is nothing to stop the server but ending the process.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}
