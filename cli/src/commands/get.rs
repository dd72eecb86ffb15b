//! `wwproxy get`: the stored events as one JSON object.
//!
//! `GET /webhooks/{appId}` would take the events before they are printed. So they are leased, printed,
//! and acknowledged only when they have been written: what cannot be written is handed back.

use std::{collections::HashSet, time::Duration};

use anyhow::Context as _;
use tokio::{
    io::{AsyncWrite, Stdout},
    select,
    time::{Instant, sleep},
};
use wwproxy_sdk::{Client, Error, EventId, LeaseOptions, LeasedEvent, Receipt};

use crate::{
    error::NotRegistered,
    output::{Output, escape_json, print_message},
    shutdown::Shutdown,
};

/// How many events are leased at once.
const LEASE_EVENTS: u32 = 100;
/// How many receipts are handed back at once: as many as a server takes in one request.
const RECEIPTS_AT_ONCE: usize = 1000;
/// How long one request waits for events: a server waits no longer.
const MAX_WAIT: Duration = Duration::from_secs(50);
/// The shortest time between two questions to a server that answers at once though it should wait.
const PAUSE: Duration = Duration::from_secs(1);

/// Print the stored events as one JSON object, `{"<id>":<body>,...}`, and take them from the server
///
/// Events are taken from the server only after they were written: a failed write loses none. Where --max is not given, those are
/// printed that were stored when it began, so that it ends also while more come.
#[derive(clap::Args)]
#[command(after_help = "\
Events are read by lease and ack, so that none is lost on the way. A bare GET (poll) is at most once: use it only where
losing an event does not matter.

Examples:
  wwproxy get --max 10 > events.json
  wwproxy get --wait 5m --max 1
  wwproxy get --keep | jq 'map(.type)'")]
pub(crate) struct Get {
    /// Print so many at most; all that are stored where not said
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max: Option<u32>,
    /// Where nothing is stored, wait so long for a first event, such as `30s` or `2h`
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    wait: Option<Duration>,
    /// Leave the events on the server: they are handed back once they are printed
    #[arg(long)]
    keep: bool,
}

impl Get {
    pub(crate) async fn run(self, client: &Client) -> anyhow::Result<()> {
        let shutdown = Shutdown::on_signal()?;
        let mut printer = Printer {
            client,
            output: Output::stdout(),
            shutdown: &shutdown,
            keep: self.keep,
            printed: 0,
            seen: HashSet::new(),
            unsettled: Vec::new(),
        };
        let result = printer.print_all(self.max, self.wait.unwrap_or_default()).await;
        let end: &[u8] = match (&result, printer.printed) {
            (Ok(false), _) | (Err(_), 0) => b"",
            (Ok(true), 0) => b"{}\n",
            // Also after an error: what was printed stays one JSON object.
            _ => b"}\n",
        };
        let ended = if end.is_empty() { Ok(false) } else { printer.write(end).await };
        printer.release().await;
        result.and(ended).map(drop)
    }
}

/// Prints events and settles them.
struct Printer<'a, W = Stdout> {
    client: &'a Client,
    output: Output<W>,
    shutdown: &'a Shutdown,
    keep: bool,
    printed: u32,
    /// What was printed and is to be handed back: it may come again before that, when its lease ends.
    seen: HashSet<EventId>,
    unsettled: Vec<Receipt>,
}

impl<W: AsyncWrite + Unpin> Printer<'_, W> {
    /// Prints until nothing is stored any more, or as many as wanted. `false`: nobody reads any more.
    async fn print_all(&mut self, max: Option<u32>, wait: Duration) -> anyhow::Result<bool> {
        let status = select! {
            () = self.shutdown.requested() => return Ok(true),
            status = self.client.status() => status.map_err(explain)?,
        };
        if status.registration.is_none() {
            print_message(&NotRegistered::new(self.client).to_string());
        }
        let max = max.unwrap_or_else(|| {
            // Of what comes while waiting, as much as comes at once.
            let least = if wait.is_zero() { 0 } else { LEASE_EVENTS };
            u32::try_from(status.stored).unwrap_or(u32::MAX).max(least)
        });
        let until = Instant::now() + wait;
        while self.printed < max {
            let wait = if self.printed == 0 {
                until.saturating_duration_since(Instant::now())
            } else {
                Duration::ZERO
            };
            let options =
                LeaseOptions::new().max(LEASE_EVENTS.min(max - self.printed)).wait(wait.min(MAX_WAIT));
            let asked = Instant::now();
            let events = select! {
                // The server takes back what it cannot answer any more.
                () = self.shutdown.requested() => return Ok(true),
                events = self.client.lease(options) => events.map_err(explain)?,
            };
            if events.is_empty() {
                if wait.is_zero() {
                    break;
                }
                let early = PAUSE.min(wait).saturating_sub(asked.elapsed());
                select! { () = self.shutdown.requested() => return Ok(true), () = sleep(early) => continue }
            }
            let before = self.printed;
            if !self.print(events).await? {
                return Ok(false);
            }
            if self.printed == before || self.shutdown.is_requested() {
                break;
            }
        }
        Ok(true)
    }

    /// Prints and settles what was leased. `false`: nobody reads any more.
    async fn print(&mut self, mut events: Vec<LeasedEvent>) -> anyhow::Result<bool> {
        let receipts: Vec<_> = events.iter().map(|event| event.receipt.clone()).collect();
        if self.keep {
            self.unsettled.extend(receipts.iter().cloned());
            events.retain(|event| self.seen.insert(event.id.clone()));
        }
        let text = text(&events, self.printed == 0, self.output.terminal);
        match self.write(&text).await {
            Ok(true) => {}
            failed => {
                self.unsettled.extend(receipts.into_iter().filter(|_| !self.keep));
                return failed;
            }
        }
        self.printed = self.printed.saturating_add(u32::try_from(events.len()).unwrap_or(u32::MAX));
        if !self.keep {
            let settled = self.client.ack(receipts).await;
            let settled = settled.context("the last events were printed but will come again")?;
            if !settled.stale.is_empty() {
                print_message(&format!(
                    "{} events were printed too late and will come again",
                    settled.stale.len()
                ));
            }
        }
        Ok(true)
    }

    /// Writes. `false`: nobody reads any more, or not before the end that was asked for.
    async fn write(&mut self, text: &[u8]) -> anyhow::Result<bool> {
        select! {
            biased;
            written = self.output.write(text) => written,
            () = self.shutdown.grace_expired() => Ok(false),
        }
    }

    /// Hands back what is still unsettled.
    async fn release(&mut self) {
        while !self.unsettled.is_empty() {
            let some = self.unsettled.drain(..self.unsettled.len().min(RECEIPTS_AT_ONCE));
            if let Err(error) = self.client.release(some).await {
                print_message(&format!(
                    "events could not be handed back and come again when their lease ends: {error}"
                ));
                return;
            }
        }
    }
}

/// The events as members of one object.
fn text(events: &[LeasedEvent], first: bool, terminal: bool) -> Vec<u8> {
    let mut text = Vec::new();
    for (n, event) in events.iter().enumerate() {
        text.push(if first && n == 0 { b'{' } else { b',' });
        text.extend_from_slice(serde_json::Value::from(event.id.as_str()).to_string().as_bytes());
        text.push(b':');
        text.extend_from_slice(&escape_json(&event.body, terminal));
    }
    text
}

/// A server that says nothing but that it has no such path is no wwproxy server.
fn explain(error: Error) -> anyhow::Error {
    let legacy = matches!(error.status(), Some(404 | 405)) && error.detail().is_none();
    let error = anyhow::Error::new(error);
    if legacy {
        error.context(
            "the server cannot lease events, as older proxies cannot; read them with `wwproxy listen`",
        )
    } else {
        error
    }
}
