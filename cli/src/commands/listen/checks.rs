//! Checks of the server's status: is the app registered, which sources has it, and are other clients connected?

use std::{future::pending, time::Duration};

use tokio::time::sleep;
use wwproxy_sdk::{Client, Error, SourceStatus, Status};

use super::reporter::Reporter;
use crate::{
    commands::register::own_hook, error::NotRegistered, output::describe_error, selection::Selection,
};

/// How many hooks are shown.
const MAX_HOOKS: usize = 5;
/// How often the status is requested to check the names of `--source`, if the request fails.
const MAX_STATUS_TRIES: u32 = 3;
/// The delay between these requests.
const STATUS_RETRY_DELAY: Duration = Duration::from_secs(1);

/// The options of `listen` that the checks depend on.
pub(super) struct Checks<'a> {
    pub(super) selection: &'a Selection,
    /// Whether events that do not match are acknowledged.
    pub(super) skips: bool,
    pub(super) require_registered: bool,
    /// The name of the consumer.
    pub(super) consumer: &'a str,
}

impl Checks<'_> {
    /// Reports an app that is not registered, and the hooks of one that is. A `--source` that the app does not have is an error. If this
    /// client skips events, warns once if other clients are connected.
    /// Checks after the first connection, and what could not be checked then, again at the first event that does not match. Returns
    /// only errors.
    pub(super) async fn run(&self, client: &Client, reporter: &Reporter) -> anyhow::Error {
        reporter.first_connection().await;
        let (mut checked, mut warned) = (self.selection.is_any_source(), false);
        match self.status(client).await {
            Ok(status) => {
                if let Err(error) = self.check_registration(client, reporter, &status) {
                    return error;
                }
                checked |= status.is_registered();
                warned = self.warn(client, reporter, &status);
            }
            Err(error) if self.require_registered => return error.into(),
            Err(error) => self.report_unchecked(reporter, error),
        }
        reporter.set_sources_checked();
        if !checked || self.skips && !warned {
            reporter.first_unmatched().await;
            match self.status(client).await {
                Ok(status) => {
                    if !checked && let Err(error) = self.selection.check_sources(&status) {
                        return error.into();
                    }
                    if !warned {
                        self.warn(client, reporter, &status);
                    }
                }
                Err(error) if !checked => self.report_unchecked(reporter, error),
                Err(_) => {}
            }
        }
        pending().await
    }

    /// Requests the status: several times, if the names of `--source` depend on it.
    async fn status(&self, client: &Client) -> Result<Status, Error> {
        let mut tries = if self.selection.is_any_source() { 1 } else { MAX_STATUS_TRIES };
        loop {
            tries -= 1;
            match client.status().await {
                Err(error) if tries > 0 && error.is_transient() => sleep(STATUS_RETRY_DELAY).await,
                result => return result,
            }
        }
    }

    /// Reports that the status is not known. Without `--source` nothing depends on it: older servers have no status endpoint, and other
    /// errors are reported by the connection, too.
    fn report_unchecked(&self, reporter: &Reporter, error: Error) {
        if !self.selection.is_any_source() {
            let why = describe_error(&error.into());
            reporter.print_message(&format!("warning: the names of --source could not be checked: {why}"));
        }
    }

    fn check_registration(
        &self,
        client: &Client,
        reporter: &Reporter,
        status: &Status,
    ) -> anyhow::Result<()> {
        if !status.is_registered() {
            let error = NotRegistered::new(client);
            if self.require_registered {
                return Err(error.into());
            }
            reporter.print_message(&format!("{error}; waiting for events"));
            return Ok(());
        }
        self.selection.check_sources(status)?;
        let Some(sources) = &status.sources else { return Ok(()) };
        let selected = sources.iter().filter(|source| self.selection.selects_source(source.name.as_str()));
        reporter.print_message(&format!("webhooks to {}", hooks(client, selected)));
        Ok(())
    }

    /// Warns if another client is connected. Returns whether it did.
    fn warn(&self, client: &Client, reporter: &Reporter, status: &Status) -> bool {
        let consumers = status.consumers.iter().flatten();
        let consumer = consumers.clone().find(|consumer| consumer.name.as_str() == self.consumer);
        // A server of version 0.1 has one consumer only.
        let clients = consumer.map_or(status.clients, |consumer| consumer.clients);
        if !self.skips || clients < 2 {
            return false;
        }
        let app = client.app_id();
        reporter.print_message(&format!(
            "warning: {clients} clients are connected to {app}, and each event goes to one of them: this client acknowledges events \
             that do not match, and the others never get them; --leave-unmatched leaves them on the server, and a --consumer of its \
             own gets all events"
        ));
        true
    }
}

/// The hooks of these sources, of which the first few are listed.
fn hooks<'a>(client: &Client, sources: impl Iterator<Item = &'a SourceStatus>) -> String {
    let mut hooks: Vec<_> =
        sources.map(|source| source.hook.clone().unwrap_or_else(|| own_hook(client, &source.name))).collect();
    let more = hooks.len().saturating_sub(MAX_HOOKS);
    hooks.truncate(MAX_HOOKS);
    let more = if more == 0 { String::new() } else { format!(" and {more} more, see `wwproxy sources`") };
    hooks.join(", ") + &more
}
