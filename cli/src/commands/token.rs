//! `wwproxy token`

use wwproxy_sdk::Client;

use crate::output::Output;

/// Print a token of the app, for other tools
#[derive(clap::Args)]
#[command(after_help = "Example:\n  curl -H \"Authorization: Bearer $(wwproxy token)\" ...")]
pub(crate) struct Token;

impl Token {
    pub(crate) async fn run(self, client: &Client) -> anyhow::Result<()> {
        let token = client.token().await?;
        // A reader that is gone wants no token.
        Output::stdout().write(format!("{}\n", token.expose()).as_bytes()).await.map(drop)
    }
}
