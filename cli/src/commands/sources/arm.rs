//! `wwproxy sources arm`

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use tokio::{
    select,
    time::{Instant, sleep, timeout_at},
};
use wwproxy_sdk::{ARMED_SECONDS, ArmStatus, Client, Error, SourceName, sanitize};

use super::hook;
use crate::{
    commands::register::steps::Sender,
    output::{print_data, print_message, print_secret},
    shutdown::Shutdown,
    table::to_the_second,
};

/// How often the server is asked whether the handshake took place.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The longest wait: the server disarms a source after this time.
const MAX_WAIT: Duration = Duration::from_secs(ARMED_SECONDS);

/// Wait for the handshake that sets the secret of a source
///
/// Asana and Notion send their secret when a webhook is created. The server accepts it only while the source is armed: for 10
/// minutes, and once. A source that has 4 secrets cannot be armed: register it again with the secrets that are still in use.
#[derive(clap::Args)]
#[command(after_help = "\
Waits until the handshake took place. Exit code 1: it did not take place in time, or the wait was
stopped. For Notion it prints the verification token, which is entered at Notion, and again if it
is called again within the 10 minutes. --again arms the source for another handshake.

Examples:
  wwproxy register --scheme asana --source asana
  wwproxy sources arm asana")]
pub(super) struct Arm {
    /// The name of the source
    #[arg(value_name = "NAME")]
    name: SourceName,
    /// Arm the source for another handshake, even if one took place within the last 10 minutes; its token is discarded
    #[arg(long)]
    again: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

impl Arm {
    pub(super) async fn run(self, client: &Client, as_json: bool) -> anyhow::Result<()> {
        let shutdown = Shutdown::on_signal()?;
        let name = &self.name;
        let scheme = client.source(name).await?.scheme;
        let hook = hook(client, name).await;
        let earlier = if self.again { None } else { Some(client.arm_status(name).await?) };
        let armed = match earlier {
            // To arm it again would discard the token of a handshake that took place.
            Some(status) if status.done && status.token.is_some() => {
                self.report(&status, as_json || self.json).await?;
                print_message(&format!(
                    "the source is not armed: for another handshake run `wwproxy sources arm {name} --again`"
                ));
                return Ok(());
            }
            Some(status) if status.armed_until.is_some() => status,
            _ => client.arm_source(name).await?,
        };
        let until = armed
            .armed_until
            .as_deref()
            .map_or_else(String::new, |until| format!(" until {}", to_the_second(until)));
        print_message(&format!("source {name} is armed{until}; its webhooks go to {hook}"));
        if let Some(sender) = Sender::of(&scheme) {
            for step in sender.steps() {
                print_message(&format!("at {}: {step}", sender.name));
            }
        }
        print_message("waiting for the handshake; Ctrl-C stops waiting");
        let done = select! {
            done = timeout_at(Instant::now() + MAX_WAIT, handshake(client, name)) => done.ok().flatten(),
            () = shutdown.requested() => {
                return Err(anyhow!("stopped waiting; source {name} stays armed{until}"));
            }
        };
        let status = done.transpose()?.ok_or_else(|| {
            anyhow!(
                "source {name} is no longer armed, and no handshake took place; run `wwproxy sources arm {name}`, then create the \
                 webhook at the sender again"
            )
        })?;
        self.report(&status, as_json || self.json).await
    }

    async fn report(&self, status: &ArmStatus, as_json: bool) -> anyhow::Result<()> {
        print_message(&format!(
            "the handshake took place: the server has the secret of source {}, and accepts its webhooks",
            self.name
        ));
        let json = as_json.then(|| serde_json::to_string(status)).transpose()?;
        let Some(token) = &status.token else {
            if let Some(json) = json {
                print_data(&format!("{json}\n")).await?;
            }
            return Ok(());
        };
        if !as_json {
            print_message("enter this verification token at the sender:");
        }
        let written = print_secret(&format!("{}\n", json.unwrap_or_else(|| sanitize(token)))).await;
        written.with_context(|| {
            format!(
                "run `wwproxy sources arm {}` again within 10 minutes to get the verification token",
                self.name
            )
        })
    }
}

/// Waits until the handshake took place. `None`: the source is no longer armed.
async fn handshake(client: &Client, name: &SourceName) -> Option<Result<ArmStatus, Error>> {
    loop {
        sleep(POLL_INTERVAL).await;
        match client.arm_status(name).await {
            Ok(status) if status.done => return Some(Ok(status)),
            Ok(status) if status.armed_until.is_none() => return None,
            Ok(_) => {}
            // The server may be restarting, or the network be away for a moment.
            Err(error) if error.is_transient() => {}
            Err(error) => return Some(Err(error)),
        }
    }
}
