//! One file a command.

mod get;
mod listen;
mod register;
mod status;
mod token;
mod unregister;

use crate::args::{Args, Command};

/// Runs the command that was asked for.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let client = args.server.client()?;
    match args.command {
        Command::Register { webhook_secret } => register::run(&client, webhook_secret).await,
        Command::Unregister => unregister::run(&client).await,
        Command::Get { max } => get::run(&client, max).await,
        Command::Listen { max_events, window } => listen::run(&client, max_events, window).await,
        Command::Status { json } => status::run(&client, json).await,
        Command::Token => token::run(&client).await,
    }
}
