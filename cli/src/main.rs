//! The command line of wwproxy: receive webhooks without a public URL.
//!
//! Data goes to stdout, talk to stderr; what the exit codes mean stands in `wwproxy --help`.

mod access;
mod args;
mod commands;
mod error;
mod event_file;
mod filter;
mod format;
mod output;
mod private;
mod process_group;
mod profiles;
mod progress;
mod prompt;
mod secret;
mod selection;
mod shutdown;
mod target;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;
use wwproxy_sdk::sanitize;

use crate::{args::Args, output::print_message};

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return usage_error(&error),
    };
    let result = runtime().and_then(|runtime| {
        let result = runtime.block_on(args.run());
        // A write to a pipe that nobody reads keeps its thread; it must not keep the process.
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

/// Prints help, or what is wrong with the command line: an argument may be a file's name, which others chose.
fn usage_error(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        error.exit();
    }
    let text = error.render().to_string();
    let lines: String = text.lines().map(|line| sanitize(line) + "\n").collect();
    // Without stderr the exit code is all that can be said.
    let _ = io::stderr().write_all(lines.as_bytes());
    ExitCode::from(2)
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}
