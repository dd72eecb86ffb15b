//! Flags, environment and exit codes.

use std::fmt;

use clap::{Parser, Subcommand};
use wwproxy_sdk::{Client, Error, ErrorKind};

use crate::{
    access::Access,
    commands::{
        completions::Completions,
        get::Get,
        listen::Listen,
        login::Login,
        logout::Logout,
        man::Man,
        profile::Profile,
        register::Register,
        replay::Replay,
        send::{Refusal, Send},
        status::Status,
        tail::Tail,
        token::Token,
        unregister::Unregister,
    },
};

const AFTER_HELP: &str = "\
The environment is safer than flags for the secret and the token: flags are seen by everyone who can list processes.

Exit codes:
  0  done (also: listen was stopped, or its output was closed)
  1  failed
  2  wrong usage
  3  the credentials were refused
  4  the server does not know the app; with listen --require-registered also: it is not registered
  5  the server cannot be reached, cannot serve now, or its certificate is not trusted

Example:
  export WWPROXY_SERVER=https://proxy.example.com APPID=my.bot SECRET=...
  wwproxy register - < webhook-secret.txt
  wwproxy listen | while read -r event; do echo \"$event\"; done";

/// Receive webhooks without a public URL.
///
/// A wwproxy server takes an app's webhooks on a public address, verifies and stores them; this command registers the
/// app there and fetches them from behind a firewall.
// No Debug: it holds secrets.
#[derive(Parser)]
#[command(name = "wwproxy", version, after_help = AFTER_HELP, max_term_width = 100)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) access: Access,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Subcommand)]
pub(crate) enum Command {
    Login(Login),
    Logout(Logout),
    Profile(Profile),
    Register(Register),
    Unregister(Unregister),
    Get(Get),
    Listen(Box<Listen>),
    Replay(Replay),
    Status(Status),
    Send(Box<Send>),
    Tail(Tail),
    Token(Token),
    Completions(Completions),
    Man(Man),
}

/// The command line or its input cannot be used.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// The app is not registered, so that its webhooks are refused.
#[derive(Debug)]
pub(crate) struct NotRegistered(String);

impl NotRegistered {
    pub(crate) fn new(client: &Client) -> Self {
        let server = client.server().trim_end_matches('/');
        Self(format!(
            "{} is not registered on {server}, so its webhooks are refused; register it with \
             `wwproxy register --webhook-secret-file FILE`",
            client.app_id()
        ))
    }
}

impl fmt::Display for NotRegistered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotRegistered {}

/// What the help says of exit codes.
pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
    if error.downcast_ref::<Usage>().is_some() {
        return 2;
    }
    if error.downcast_ref::<NotRegistered>().is_some() {
        return 4;
    }
    if let Some(refusal) = error.downcast_ref::<Refusal>() {
        return refusal.exit_code();
    }
    match error.downcast_ref::<Error>().map(Error::kind) {
        Some(ErrorKind::Usage) => 2,
        Some(ErrorKind::Refused) => 3,
        Some(ErrorKind::NotRegistered) => 4,
        Some(
            ErrorKind::Unreachable | ErrorKind::Untrusted | ErrorKind::Unavailable | ErrorKind::Disconnected,
        ) => 5,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn exit_codes_survive_context() {
        let refused: anyhow::Result<()> = Err(Usage("x".into()).into());
        assert_eq!(exit_code(&refused.context("more").unwrap_err()), 2);
        let bad_address = Client::builder("x").app_id("bot").token("t").build().context("more");
        assert_eq!(exit_code(&bad_address.unwrap_err()), 2);
        assert_eq!(exit_code(&anyhow::anyhow!("disk full")), 1);
    }
}
