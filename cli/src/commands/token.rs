//! `wwproxy token`

use wwproxy_sdk::{Client, sanitize};

use crate::output::{Output, require_stdout};

/// Print a token of the app, for use in other tools
#[derive(clap::Args)]
#[command(after_help = "Example:\n  curl -H \"Authorization: Bearer $(wwproxy token)\" ...")]
pub(crate) struct Token;

impl Token {
    pub(crate) async fn run(self, client: &Client) -> anyhow::Result<()> {
        require_stdout("the token cannot be printed")?;
        let token = client.token().await?;
        // A valid token has only header characters, which this keeps; that of a hostile server may have others.
        let line = sanitize(token.expose()) + "\n";
        // A reader that closes the pipe is no error.
        Output::stdout().write(line.as_bytes()).await.map(drop)
    }
}
