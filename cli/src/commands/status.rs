//! `wwproxy status`

use wwproxy_sdk::Client;

use crate::{
    error::NotRegistered,
    output::{Output, escape_json, print_message},
};

/// Print the state of the app's registration and queue as JSON
#[derive(clap::Args)]
#[command(after_help = "Example:\n  wwproxy status --json | jq .stored")]
pub(crate) struct Status {
    /// Print it on one line
    #[arg(long)]
    json: bool,
}

impl Status {
    pub(crate) async fn run(self, client: &Client) -> anyhow::Result<()> {
        let status = client.status().await?;
        let print = if self.json { serde_json::to_string } else { serde_json::to_string_pretty };
        let mut output = Output::stdout();
        let json = print(&status)? + "\n";
        // A closed stdout is no error.
        output.write(&escape_json(json.as_bytes(), output.terminal)).await?;
        if status.registration.is_none() {
            print_message(&NotRegistered::new(client).to_string());
        }
        Ok(())
    }
}
