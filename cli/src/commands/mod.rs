//! One file a command: its arguments, and what it does.

pub(crate) mod get;
pub(crate) mod listen;
pub(crate) mod register;
pub(crate) mod status;
pub(crate) mod token;
pub(crate) mod unregister;

use crate::args::{Args, Command};

/// Runs the command that was asked for.
pub(crate) async fn run(Args { access, command }: Args) -> anyhow::Result<()> {
    match command {
        Command::Register(register) => register.run(&access.client()?).await,
        Command::Unregister(unregister) => unregister.run(&access.client()?).await,
        Command::Get(get) => get.run(&access.client()?).await,
        Command::Listen(listen) => listen.run(&access.client()?).await,
        Command::Status(status) => status.run(&access.client()?).await,
        Command::Token(token) => token.run(&access.client()?).await,
    }
}
