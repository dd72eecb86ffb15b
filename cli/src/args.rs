//! Flags, environment and exit codes.

use std::fmt;

use clap::{Parser, Subcommand};
use wwproxy_sdk::{Client, Error, ErrorKind};

const AFTER_HELP: &str = "\
The environment is safer than flags for the secret and the token: flags are seen by everyone who can list processes.

Exit codes:
  0  done (also: listen was stopped, or its output was closed)
  1  failed
  2  wrong usage
  3  the credentials were refused
  4  the app is not registered, or the server does not know it
  5  the server cannot be reached, or cannot serve now

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
    pub(crate) server: ServerArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Whom to talk to, and as whom.
#[derive(clap::Args)]
#[command(next_help_heading = "Server and credentials")]
pub(crate) struct ServerArgs {
    /// The server's address, such as `https://proxy.example.com`
    #[arg(long, global = true, env = "WWPROXY_SERVER", value_name = "URL")]
    server: Option<String>,
    /// The app's id
    #[arg(long, global = true, env = "APPID", value_name = "ID")]
    app_id: Option<String>,
    /// The app's secret, which tokens are fetched with; safer in the environment
    #[arg(long, global = true, env = "SECRET", hide_env_values = true, value_name = "SECRET")]
    secret: Option<String>,
    /// A ready token, used instead of the app's secret; safer in the environment
    #[arg(long, global = true, env = "WWPROXY_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
}

/// What to do.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Register the app's webhook secret, so that its webhooks are taken
    #[command(after_help = "Example:\n  wwproxy register - < webhook-secret.txt")]
    Register {
        /// The secret that the sender signs webhooks with; `-` reads it from stdin, which keeps it from the process list
        #[arg(value_name = "WEBHOOK-SECRET")]
        webhook_secret: String,
    },
    /// End the app's registration and delete its stored events
    #[command(after_help = "Example:\n  wwproxy unregister")]
    Unregister,
    /// Print the stored events as one JSON object, `{"<id>":<body>,...}`, and take them from the server
    ///
    /// Events are taken from the server only after they were written: a failed write loses none.
    #[command(after_help = "Example:\n  wwproxy get --max 10 > events.json")]
    Get {
        /// Print so many at most; all that are stored where not said
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        max: Option<u32>,
    },
    /// Print events as they come, one JSON object a line, until stopped
    ///
    /// Each event is acknowledged after its line was written and flushed, so that none is lost; one may come twice. Reconnects
    /// by itself for ever. SIGINT and SIGTERM stop it.
    #[command(after_help = "Example:\n  wwproxy listen | jq --unbuffered .data")]
    Listen {
        /// Stop after so many events
        #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        max_events: Option<u64>,
        /// How many events may be on their way at once; 64 where not said, 1 for strictly one at a time
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
        window: Option<u32>,
    },
    /// Print the state of the app's registration and queue as JSON
    #[command(after_help = "Example:\n  wwproxy status --json | jq .stored")]
    Status {
        /// On one line
        #[arg(long)]
        json: bool,
    },
    /// Print a token of the app, for other tools
    #[command(after_help = "Example:\n  curl -H \"Authorization: Bearer $(wwproxy token)\" ...")]
    Token,
}

impl ServerArgs {
    /// A client for them, or what is missing.
    pub(crate) fn client(self) -> anyhow::Result<Client> {
        let given = |value: Option<String>| value.filter(|value| !value.is_empty());
        let missing = |what| Usage(format!("give {what} (flag or environment variable); see wwproxy --help"));
        let server =
            given(self.server).ok_or_else(|| missing("the server's address: --server or WWPROXY_SERVER"))?;
        let app_id = given(self.app_id).ok_or_else(|| missing("the app's id: --app-id or APPID"))?;
        let builder = Client::builder(server).app_id(app_id);
        let builder = match (given(self.token), given(self.secret)) {
            (Some(token), _) => builder.token(token),
            (None, Some(secret)) => builder.app_secret(secret),
            (None, None) => {
                return Err(missing(
                    "the app's secret, --secret or SECRET, or a token, --token or WWPROXY_TOKEN",
                )
                .into());
            }
        };
        Ok(builder.build()?)
    }
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

/// What the help says of exit codes.
pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
    if error.downcast_ref::<Usage>().is_some() {
        return 2;
    }
    match error.downcast_ref::<Error>().map(Error::kind) {
        Some(ErrorKind::Usage) => 2,
        Some(ErrorKind::Refused) => 3,
        Some(ErrorKind::NotRegistered) => 4,
        Some(ErrorKind::Unreachable | ErrorKind::Unavailable | ErrorKind::Disconnected) => 5,
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
