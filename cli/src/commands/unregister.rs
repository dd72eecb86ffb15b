//! `wwproxy unregister`

use anyhow::{Context as _, anyhow};
use wwproxy_sdk::{AppId, Client, Error, Status};

use super::consumers::count;
use crate::{
    output::{counted, print_message},
    prompt::{self, Prompt},
};

/// End the app's registration: delete all its sources, its consumers and its events
#[derive(clap::Args)]
#[command(after_help = "\
Deletes all sources and consumers of the app and all its events, history included. `wwproxy sources
delete NAME` deletes one source and keeps the events.

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
            let question = question(client.app_id(), status);
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

fn question(app: &AppId, status: &Status) -> String {
    let sources = sources_of(status) as u64;
    let named = |end: &str| match sources {
        0 => String::new(),
        _ => format!("{}{end} ", counted(sources, "source", "sources")),
    };
    match pending(status) {
        Some(pending) => format!(
            "Unregister {app} and delete its {}consumers and all its events, history included ({pending})?",
            named(",")
        ),
        None => {
            format!("Unregister {app} and delete its {}stored events ({})?", named(" and its"), status.stored)
        }
    }
}

/// What each consumer has not settled. `None`: the server knows no consumers, so that it has only one and no history.
fn pending(status: &Status) -> Option<String> {
    let consumers = status.consumers.as_ref()?;
    let pending = consumers.iter().filter(|consumer| consumer.pending != Some(0));
    let pending: Vec<_> =
        pending.map(|consumer| format!("{} {}", consumer.name, count(consumer.pending))).collect();
    Some(if pending.is_empty() {
        "none pending".to_owned()
    } else {
        format!("pending: {}", pending.join(", "))
    })
}

/// Describes what was deleted, from the status before. Older servers have no status.
fn outcome(app: &AppId, status: Option<&Status>) -> String {
    let Some(status) = status else {
        return format!("unregistered {app} and deleted its stored events, if there were any");
    };
    let deleted = match pending(status) {
        Some(pending) => {
            format!("its consumers and all its events, history included, were deleted ({pending})")
        }
        None => counted(status.stored, "stored event was deleted", "stored events were deleted"),
    };
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
