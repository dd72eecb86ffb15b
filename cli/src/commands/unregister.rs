//! `wwproxy unregister`

use anyhow::{Context as _, anyhow};
use wwproxy_sdk::{AppId, Client, Error, Status};

use crate::{
    output::{counted, print_message},
    prompt::{self, Prompt},
};

/// End the app's registration: delete all its sources and its stored events
#[derive(clap::Args)]
#[command(after_help = "\
Deletes all sources of the app and its stored events. `wwproxy sources delete NAME` deletes one
source and keeps the stored events.

Example:
  wwproxy unregister --yes")]
pub(crate) struct Unregister {
    /// Do not ask for confirmation. Without a terminal it never asks
    #[arg(short, long)]
    yes: bool,
}

impl Unregister {
    pub(crate) async fn run(self, client: &Client) -> anyhow::Result<()> {
        let status = client.status().await;
        if !self.yes && prompt::is_interactive() {
            let status = status
                .as_ref()
                .map_err(Error::clone)
                .context("cannot check whether events are stored; use --yes to skip the check")?;
            let sources = sources_of(status);
            let named = if sources > 0 {
                format!("{} and its ", counted(sources as u64, "source", "sources"))
            } else {
                String::new()
            };
            let question = format!(
                "Unregister {} and delete its {named}stored events ({})?",
                client.app_id(),
                status.stored
            );
            let asks = status.stored > 0 || sources > 0;
            if asks && !Prompt::new()?.confirm(&question).await? {
                return Err(anyhow!("{} is still registered; nothing was deleted", client.app_id()));
            }
        }
        client.unregister().await?;
        print_message(&outcome(client.app_id(), status.ok().as_ref()));
        Ok(())
    }
}

/// Describes what was deleted, from the status before. Older servers have no status.
fn outcome(app: &AppId, status: Option<&Status>) -> String {
    let Some(status) = status else {
        return format!("unregistered {app} and deleted its stored events, if there were any");
    };
    let deleted = counted(status.stored, "stored event was deleted", "stored events were deleted");
    match (status.is_registered(), status.stored) {
        (false, 0) => format!("{app} was not registered"),
        (false, _) => format!("{app} was not registered; {deleted}"),
        (true, _) => match sources_of(status) {
            0 | 1 => format!("unregistered {app}; {deleted}"),
            sources => format!("unregistered {app} and deleted its {sources} sources; {deleted}"),
        },
    }
}

/// The number of sources. Servers of version 0.1 know none.
fn sources_of(status: &Status) -> usize {
    status.sources.as_ref().map_or(0, Vec::len)
}
