//! `wwproxy tail`: a look at events as they arrive.

use futures_util::StreamExt;
use tokio::select;
use wwproxy_sdk::{Client, ListenOptions, State, Tap, TapItem};

use crate::{
    format::{self, Format},
    output::{Output, describe_error, print_message},
    selection::{OnFilterError, Selected, Selection},
    shutdown::Shutdown,
};

/// Show events as they arrive, without taking any from those who listen
#[derive(clap::Args)]
#[command(after_help = "\
What arrived before stays unseen; what is not read in time is counted and told as a gap. Nothing is acknowledged.

Examples:
  wwproxy tail
  wwproxy tail --type 'message-*' --format data | jq --unbuffered .content")]
pub(crate) struct Tail {
    /// How events are written; pretty on a terminal, else json
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<Format>,
    /// Shutdown after so many events
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_events: Option<u64>,
    #[command(flatten)]
    selection: Selection,
}

impl Tail {
    pub(crate) async fn run(self, client: &Client) -> anyhow::Result<()> {
        let shutdown = Shutdown::on_signal()?;
        let server = client.server().to_owned();
        let options = ListenOptions::new().on_state(move |state| match state {
            State::Connected { .. } => print_message(&format!("ready: looking at {server}")),
            State::Reconnecting { error, delay, .. } => {
                let why = describe_error(&anyhow::Error::new(error.clone()));
                print_message(&format!("{why}; trying again in {:.1} s", delay.as_secs_f32()));
            }
            _ => {}
        });
        let mut tap = client.tap(options);
        let result = select! {
            result = self.show_all(&mut tap) => result,
            () = shutdown.requested() => Ok(()),
        };
        tap.close().await;
        result
    }

    async fn show_all(&self, tap: &mut Tap) -> anyhow::Result<()> {
        let mut output = Output::stdout();
        let format = self.format.unwrap_or_else(Format::default_for_stdout);
        let mut shown = 0;
        while shown < self.max_events.unwrap_or(u64::MAX)
            && let Some(tapped) = tap.next().await
        {
            let event = match tapped? {
                TapItem::Event(event) => event,
                TapItem::Gap { missed: Some(missed), .. } => {
                    print_message(&format!(
                        "{missed} events are not shown: they came faster than they were read"
                    ));
                    continue;
                }
                _ => {
                    print_message("what came while the connection was away is not shown");
                    continue;
                }
            };
            match self.selection.select(&event) {
                Selected::Yes => {}
                Selected::No => continue,
                Selected::FilterFailed(why) => {
                    let delivers = self.selection.on_filter_error == OnFilterError::Deliver;
                    let outcome = if delivers { "shown" } else { "not shown" };
                    print_message(&format!(
                        "the filter fails on event {} ({why}); it is {outcome}",
                        event.id
                    ));
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
