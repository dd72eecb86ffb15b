//! The program: parse the flags, build the server, serve until a signal, drain.

mod admin;
mod log;
mod signals;
mod store_command;

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
#[cfg(unix)]
use wwproxy_server::control::ControlListener;
use wwproxy_server::{
    Server, Settings,
    config::{Command, Config, Identity, LogFormat, StoreAddress},
    open_files,
};

/// The exit code of a usage error, the same as clap's.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let config = match Config::try_parse() {
        Ok(config) => config,
        Err(error) => return refuse(&error),
    };
    let result = match &config.command {
        Some(Command::App(command)) => admin::run(&config, command),
        Some(Command::Store(command)) => store_command::run(&config, command),
        None => serve(&config),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if config.command.is_none() && config.log == LogFormat::Json {
                tracing::error!(error = format!("{error:#}"), "the server could not start");
            } else {
                eprintln!("wwproxy-server: {error:#}");
            }
            if error.is::<admin::Usage>() { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
        }
    }
}

/// Reports flags that cannot be parsed, and prints help or version.
fn refuse(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() || !log::is_json_wanted() {
        error.exit();
    }
    log::start(LogFormat::Json, tracing::Level::INFO);
    tracing::error!(error = error.to_string().trim_end(), "the command line is not valid");
    ExitCode::from(USAGE)
}

#[tokio::main]
async fn serve(config: &Config) -> anyhow::Result<()> {
    log::start(config.log, config.log_level);
    // First, so that a signal while the store opens is not lost.
    let stop = signals::stop_signal()?;
    let settings = config.settings()?;
    let settings =
        Settings { max_connections: open_files::fit_connections(settings.max_connections), ..settings };
    let store = config.open_store().await?;
    let identity = config.identity_provider()?;
    let listener = config.listen.bind().await.with_context(|| {
        format!("cannot listen on {}: choose another address with --listen", config.listen)
    })?;
    let (address, store_address) = (listener.local_addr()?, config.store_address()?);
    let server = with_control(Server::new(store, identity, settings.clone()), &store_address);
    log::announce(config, address, &store_address);
    log::log_start(config, &settings, address, &store_address);
    warn_without_apps(config);
    server.serve(listener, stop).await;
    Ok(())
}

/// Adds the control socket, if the store has a folder. If that fails, the server works, but the operator's commands do not.
#[cfg(unix)]
fn with_control(server: Server, store: &StoreAddress) -> Server {
    let StoreAddress::File(folder) = store else { return server };
    match ControlListener::bind(folder) {
        Ok(listener) => server.with_control(listener),
        Err(error) => {
            tracing::warn!(
                %error, folder = %folder.display(),
                "there is no control socket: before a command such as `app remove` the server must be stopped"
            );
            server
        }
    }
}

#[cfg(not(unix))]
fn with_control(server: Server, _store: &StoreAddress) -> Server {
    server
}

/// Warns about a credentials file that is missing or has no apps, which is probably a wrong path.
fn warn_without_apps(config: &Config) {
    let Some(apps) = config.apps().ok().filter(|_| config.identity == Identity::Builtin) else { return };
    if apps.list().is_ok_and(|apps| apps.is_empty()) {
        let state = if apps.path().exists() { "has no apps" } else { "does not exist" };
        tracing::warn!(
            file = %apps.path().display(),
            "the credentials file {state}, so clients get 401 and senders get 404 or 503: name the right file with --apps, or \
             add an app with `wwproxy-server app add ID`"
        );
    }
}
