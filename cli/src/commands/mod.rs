//! One file a command: its arguments, and what it does.

pub(crate) mod completions;
pub(crate) mod get;
pub(crate) mod listen;
pub(crate) mod login;
pub(crate) mod logout;
pub(crate) mod man;
pub(crate) mod profile;
pub(crate) mod register;
pub(crate) mod replay;
pub(crate) mod send;
pub(crate) mod status;
pub(crate) mod tail;
pub(crate) mod token;
pub(crate) mod unregister;

use wwproxy_sdk::Client;

use crate::{
    access::Access,
    args::{Args, Command},
};

/// Runs the command that was asked for.
pub(crate) async fn run(Args { access, command }: Args) -> anyhow::Result<()> {
    match command {
        Command::Login(login) => login.run(access).await,
        Command::Logout(logout) => logout.run(&access),
        Command::Profile(profile) => profile.run().await,
        Command::Register(register) => register.run(&client(&access)?).await,
        Command::Unregister(unregister) => unregister.run(&client(&access)?).await,
        Command::Get(get) => get.run(&client(&access)?).await,
        Command::Listen(listen) => listen.run(access).await,
        Command::Replay(replay) => replay.run(access).await,
        Command::Status(status) => status.run(&client(&access)?).await,
        Command::Send(send) => send.run(access).await,
        Command::Tail(tail) => tail.run(&client(&access)?).await,
        Command::Completions(completions) => completions.run().await,
        Command::Man(man) => man.run().await,
        Command::Token(token) => token.run(&client(&access)?).await,
    }
}

fn client(access: &Access) -> anyhow::Result<Client> {
    let http = access.http()?;
    access.client(http)
}
