//! The command line: its global flags and its commands.

use clap::{Args as _, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use wwproxy_sdk::Client;

use crate::{
    access::Access,
    commands::{
        completions::Completions, consumers::Consumers, get::Get, listen::Listen, login::Login,
        logout::Logout, man::Man, profile::Profile, refusals::Refusals, register::Register, replay::Replay,
        schemes::Schemes, send::Send, sign::Sign, sources::Sources, status::Status, tail::Tail, token::Token,
        unregister::Unregister, verify::Verify,
    },
    error::UsageError,
};

const AFTER_HELP: &str = "\
Secrets and tokens are safer in the environment than in flags: everyone who can list processes
sees flags.

Exit codes:
  0  success (also: a signal stopped listen or get, or the reader of their stdout closed the pipe)
  1  failed
  2  usage error
  3  the credentials were rejected
  4  the app is not registered (send, listen --require-registered), the source or the consumer does
     not exist (sources, consumers, --consumer), or the path is unknown to the server
  5  the server is unreachable or unavailable, or its certificate is not trusted

Example:
  export WWPROXY_SERVER=https://proxy.example.com APPID=my.bot SECRET=...
  wwproxy register - < webhook-secret.txt
  wwproxy listen | while read -r event; do echo \"$event\"; done";

/// Receive webhooks without a public URL.
///
/// A wwproxy server receives an app's webhooks on a public address, verifies and stores them. This command registers the app
/// there and fetches the events from behind a firewall.
// No Debug: it holds secrets.
#[derive(Parser)]
#[command(name = "wwproxy", version, after_help = AFTER_HELP, max_term_width = 100)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) access: Access,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The command to run.
#[derive(Subcommand)]
pub(crate) enum Command {
    Login(Login),
    Logout(Logout),
    Profile(Profile),
    Register(Box<Register>),
    Sources(Sources),
    Refusals(Refusals),
    Consumers(Consumers),
    Unregister(Unregister),
    Get(Get),
    Listen(Box<Listen>),
    Replay(Replay),
    Status(Status),
    Send(Box<Send>),
    Tail(Tail),
    Schemes(Schemes),
    Sign(Box<Sign>),
    Verify(Box<Verify>),
    Token(Token),
    Completions(Completions),
    Man(Man),
}

impl Args {
    /// The definition of the command line. The flags of the server and the credentials are hidden in the help of commands without.
    pub(crate) fn definition() -> clap::Command {
        let access = Access::augment_args(clap::Command::new("access"));
        let hidden: Vec<_> = access.get_arguments().map(|flag| flag.clone().hide(true)).collect();
        let hide = |command: clap::Command, name| {
            command.mut_subcommand(name, |offline| offline.args(hidden.clone()))
        };
        ["schemes", "sign", "verify", "completions", "man"].into_iter().fold(Self::command(), hide)
    }

    /// Parses the arguments of the process.
    pub(crate) fn read() -> Result<Self, clap::Error> {
        let mut matches = Self::definition().try_get_matches()?;
        Self::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut Self::definition()))
    }

    /// Runs the chosen command.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let Self { access, command } = self;
        match command {
            Command::Login(login) => login.run(access).await,
            Command::Logout(logout) => logout.run(&access),
            Command::Profile(profile) => profile.run().await,
            Command::Register(register) => register.run(&client(&access)?).await,
            Command::Sources(sources) => sources.run(&client(&access)?).await,
            Command::Refusals(refusals) => refusals.run(&client(&access)?).await,
            Command::Consumers(consumers) => consumers.run(&client(&access)?).await,
            Command::Unregister(unregister) => unregister.run(&client(&access)?).await,
            Command::Get(get) => get.run(&client(&access)?).await,
            Command::Listen(listen) => listen.run(access).await,
            Command::Replay(replay) => replay.run(access).await,
            Command::Status(status) => status.run(&client(&access)?).await,
            Command::Send(send) => send.run(access).await,
            Command::Schemes(schemes) => schemes.run().await,
            Command::Sign(_) | Command::Verify(_) if access.has_credential_flags() => Err(UsageError(
                "this command needs no credentials of the app; give the webhook secret with --webhook-secret-file".into(),
            )
            .into()),
            Command::Sign(sign) => sign.run().await,
            Command::Verify(verify) => verify.run().await,
            Command::Tail(tail) => tail.run(&client(&access)?).await,
            Command::Token(token) => token.run(&client(&access)?).await,
            Command::Completions(completions) => completions.run(Self::definition()).await,
            Command::Man(man) => man.run(Self::definition()).await,
        }
    }
}

fn client(access: &Access) -> anyhow::Result<Client> {
    let http = access.http()?;
    access.client(http)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clap_accepts_the_definition_of_the_command_line() {
        Args::definition().debug_assert();
    }
}
