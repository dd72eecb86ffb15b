//! The command line of wwproxy: receive webhooks without a public URL.
//!
//! Data goes to stdout, messages to stderr. `wwproxy --help` documents the exit codes.

mod access;
mod args;
mod commands;
mod duration;
mod error;
mod event_file;
mod filter;
mod format;
mod log_limit;
mod output;
mod private;
mod process_group;
mod profiles;
mod progress;
mod prompt;
mod scheme;
mod secret;
mod selection;
mod shutdown;
mod stdin;
mod table;
mod target;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use wwproxy_sdk::sanitize;

use crate::{args::Args, output::print_message};

fn main() -> ExitCode {
    let args = match Args::read() {
        Ok(args) => args,
        Err(error) => return usage_error(&error),
    };
    let result = runtime().and_then(|runtime| {
        let result = runtime.block_on(args.run());
        // A write to a full pipe blocks its thread; it must not block the exit of the process.
        runtime.shutdown_background();
        result
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_message(&output::describe_error(&error));
            ExitCode::from(error::exit_code(&error))
        }
    }
}

/// Prints the help or a usage error. Errors are sanitized: they quote arguments, which may be file names that others chose.
fn usage_error(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        error.exit();
    }
    let text = error.render().to_string();
    let lines: String = text.lines().map(|line| sanitize(line) + "\n").collect();
    // If stderr is closed, the exit code still reports the error.
    let _ = io::stderr().write_all(lines.as_bytes());
    ExitCode::from(2)
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}
