//! `wwproxy unregister`

use anyhow::{Context as _, anyhow};
use wwproxy_sdk::Client;

use crate::{
    output::print_message,
    prompt::{self, Prompt},
};

/// End the app's registration and delete its stored events
#[derive(clap::Args)]
#[command(after_help = "Example:\n  wwproxy unregister --yes")]
pub(crate) struct Unregister {
    /// Do not ask for confirmation. Without a terminal it never asks
    #[arg(short, long)]
    yes: bool,
}

impl Unregister {
    pub(crate) async fn run(self, client: &Client) -> anyhow::Result<()> {
        if !self.yes && prompt::is_interactive() {
            let status = client.status().await;
            let status =
                status.context("cannot check whether events are stored; use --yes to skip the check")?;
            let question =
                format!("Unregister {} and delete its stored events ({})?", client.app_id(), status.stored);
            if status.stored > 0 && !Prompt::new()?.confirm(&question).await? {
                return Err(anyhow!("{} is still registered; nothing was deleted", client.app_id()));
            }
        }
        client.unregister().await?;
        print_message(&format!("unregistered {}; its stored events are deleted", client.app_id()));
        Ok(())
    }
}
