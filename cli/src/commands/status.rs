//! `wwproxy status`

use wwproxy_sdk::Client;

use crate::output::Output;

/// Print the state of the app's registration and queue as JSON
#[derive(clap::Args)]
#[command(after_help = "Example:\n  wwproxy status --json | jq .stored")]
pub(crate) struct Status {
    /// On one line
    #[arg(long)]
    json: bool,
}

impl Status {
    pub(crate) async fn run(self, client: &Client) -> anyhow::Result<()> {
        let status = client.status().await?;
        let print = if self.json { serde_json::to_string } else { serde_json::to_string_pretty };
        // A reader that is gone wants no status.
        Output::stdout().write(format!("{}\n", print(&status)?).as_bytes()).await.map(drop)
    }
}
