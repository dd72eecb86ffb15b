//! `wwproxy status`

use wwproxy_sdk::{Client, SourceStatus, sanitize};

use crate::{
    error::NotRegistered,
    output::{print_data, print_message},
};

/// Print the state of the app's sources, consumers and events as JSON
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  wwproxy status --json | jq .stored
  wwproxy status --json | jq -r '.sources[].name'")]
pub(crate) struct Status {
    /// Print it on one line
    #[arg(long)]
    json: bool,
}

impl Status {
    pub(crate) async fn run(self, client: &Client) -> anyhow::Result<()> {
        let status = client.status().await?;
        let print = if self.json { serde_json::to_string } else { serde_json::to_string_pretty };
        print_data(&(print(&status)? + "\n")).await?;
        if !status.is_registered() {
            print_message(&NotRegistered::new(client).to_string());
        }
        status.sources.iter().flatten().for_each(warn_of_problems);
        Ok(())
    }
}

/// Warns about a source that is invalid, or whose webhooks are not verified.
pub(crate) fn warn_of_problems(source: &SourceStatus) {
    if let Some(reason) = &source.invalid {
        let (name, reason) = (&source.name, sanitize(reason));
        print_message(&format!(
            "warning: source {name} receives nothing, register it again or delete it: {reason}"
        ));
    }
    if !source.verified {
        print_message(&format!(
            "warning: source {} is unverified: everyone who knows its hook's URL can post events",
            source.name
        ));
    }
}
