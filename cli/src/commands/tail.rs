//! `wwproxy tail`: shows events as they arrive.

use std::{future::pending, sync::Arc, time::Instant};

use futures_util::StreamExt;
use parking_lot::Mutex;
use tokio::{select, sync::Notify};
use wwproxy_sdk::{Client, ListenOptions, State, Tap, TapItem};

use crate::{
    format::{self, Format},
    log_limit::LogLimit,
    output::{Output, describe_error, print_message, seconds},
    selection::{OnFilterError, Selected, Selection},
    shutdown::Shutdown,
};

/// Show events as they arrive, without taking them from other clients
#[derive(clap::Args)]
#[command(after_help = "\
Events that arrived before are not shown. Events that are not read in time are dropped and
counted. Nothing is acknowledged.

Examples:
  wwproxy tail
  wwproxy tail --type 'message-*' --format data | jq --unbuffered .content")]
pub(crate) struct Tail {
    /// The output format; by default pretty on a terminal, otherwise json
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<Format>,
    /// Stop after this number of events
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_events: Option<u64>,
    #[command(flatten)]
    selection: Selection,
}

impl Tail {
    pub(crate) async fn run(self, client: &Client) -> anyhow::Result<()> {
        let format = Format::for_stdout(self.format)?;
        let shutdown = Shutdown::on_signal()?;
        let server = client.server().to_owned();
        let connected = Arc::new(Notify::new());
        let on_connected = Arc::clone(&connected);
        let undecodable = Mutex::new(LogLimit::default());
        let options = ListenOptions::new().on_state(move |state| match state {
            State::Connected { .. } => {
                print_message(&format!("ready: connected to {server}"));
                on_connected.notify_one();
            }
            State::Reconnecting { error, delay, .. } => {
                let why = describe_error(&anyhow::Error::new(error.clone()));
                print_message(&format!("{why}; retrying in {}", seconds(*delay)));
            }
            State::Undecodable { error, .. } => {
                if let Some(more) = undecodable.lock().admit(Instant::now()) {
                    let more = if more == 0 { String::new() } else { format!(" ({more} more before it)") };
                    print_message(&format!("{error}{more}"));
                }
            }
            _ => {}
        });
        let mut tap = client.tap(options);
        let result = select! {
            result = self.show_all(&mut tap, format) => result,
            error = self.check_sources(client, &connected) => Err(error),
            () = shutdown.requested() => Ok(()),
        };
        tap.close().await;
        result
    }

    /// Checks after the first connection that each `--source` matches a source of the app. Returns only an error.
    async fn check_sources(&self, client: &Client, connected: &Notify) -> anyhow::Error {
        connected.notified().await;
        // Without a status nothing is checked: the tap works.
        if let Ok(status) = client.status().await
            && let Err(error) = self.selection.check_sources(&status)
        {
            return error.into();
        }
        pending().await
    }

    async fn show_all(&self, tap: &mut Tap, format: Format) -> anyhow::Result<()> {
        let mut output = Output::stdout();
        let mut shown = 0;
        let mut filter_errors = LogLimit::default();
        while shown < self.max_events.unwrap_or(u64::MAX)
            && let Some(tapped) = tap.next().await
        {
            let event = match tapped? {
                TapItem::Event(event) => event,
                TapItem::Gap { missed: Some(missed), .. } => {
                    print_message(&format!(
                        "{missed} events are not shown: they arrived faster than they were read"
                    ));
                    continue;
                }
                _ => {
                    print_message("events that arrived while the connection was down are not shown");
                    continue;
                }
            };
            match self.selection.select(&event).await? {
                Selected::Yes => {}
                Selected::No | Selected::OtherSource => continue,
                Selected::FilterFailed(why) => {
                    let delivers = self.selection.on_filter_error == OnFilterError::Deliver;
                    let outcome = if delivers { "shown" } else { "not shown" };
                    if let Some(more) = filter_errors.admit(Instant::now()) {
                        let more =
                            if more == 0 { String::new() } else { format!("; it failed on {more} more") };
                        let id = &event.id;
                        print_message(&format!(
                            "the filter fails on event {id} ({why}); it is {outcome}{more}"
                        ));
                    }
                    if !delivers {
                        continue;
                    }
                }
            }
            if !output.write(&format::event(&event, format, output.terminal)).await? {
                break;
            }
            shown += 1;
        }
        Ok(())
    }
}
