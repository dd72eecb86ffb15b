//! The command line of wwproxy: receive webhooks without a public URL.
//!
//! Data goes to stdout, talk to stderr; what the exit codes mean stands in `wwproxy --help`.

mod access;
mod args;
mod ask;
mod commands;
mod filter;
mod format;
mod output;
mod profiles;
mod progress;
mod saved;
mod secret;
mod selection;
mod stop;
mod target;

use std::process::ExitCode;

use clap::Parser;

use crate::{args::Args, output::say};

fn main() -> ExitCode {
    let args = Args::parse();
    let result = runtime().and_then(|runtime| {
        let result = runtime.block_on(commands::run(args));
        // A write to a pipe that nobody reads keeps its thread; it must not keep the process.
        runtime.shutdown_background();
        result
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&output::sentence(&error));
            ExitCode::from(args::exit_code(&error))
        }
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}
