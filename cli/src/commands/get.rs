//! `wwproxy get`: the stored events as one JSON object.
//!
//! `GET /webhooks/{appId}` would take the events before they are printed. So they are leased, printed,
//! and acknowledged only when they have been written: what cannot be written is handed back.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::{io::Stdout, select};
use wwproxy_sdk::{Client, LeaseOptions, LeasedEvent, Receipt};

use crate::{
    output::{Output, say, shown},
    stop::Stop,
};

/// How many events are leased at once.
const LEASE_EVENTS: u32 = 100;
/// How long one request waits for events: a server waits no longer than a minute.
const MAX_WAIT: Duration = Duration::from_secs(50);

/// Print the stored events as one JSON object, `{"<id>":<body>,...}`, and take them from the server
///
/// Events are taken from the server only after they were written: a failed write loses none.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  wwproxy get --max 10 > events.json\n  wwproxy get --wait 30s --max 1\n  wwproxy get --keep | jq"
)]
pub(crate) struct Get {
    /// Print so many at most; all that are stored where not said
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max: Option<u32>,
    /// Wait so long for a first event, such as `30s`
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    wait: Option<Duration>,
    /// Print them and take none: they stay on the server, and go out once more
    #[arg(long)]
    keep: bool,
}

impl Get {
    pub(crate) async fn run(self, client: &Client) -> anyhow::Result<()> {
        let stop = Stop::on_signals()?;
        let mut printing =
            Printing { client, output: Output::stdout(), keep: self.keep, printed: 0, held: Vec::new() };
        let result = select! {
            result = printing.all(self.max, self.wait) => result,
            // Perhaps in the middle of a write that nobody takes: nothing more is written, and what is held is handed back.
            () = stop.wait() => Ok(false),
        };
        let end: &[u8] = match (&result, printing.printed) {
            (Ok(false), _) | (Err(_), 0) => b"",
            (Ok(true), 0) => b"{}\n",
            // Also after an error: what was printed stays one JSON object.
            _ => b"}\n",
        };
        let ended = printing.output.write(end).await;
        printing.release().await;
        result.and(ended).map(drop)
    }
}

struct Printing<'a> {
    client: &'a Client,
    output: Output<Stdout>,
    keep: bool,
    printed: u64,
    /// Leased, and not to be taken: not printed in full, or to be kept. Released at the end only, as they would come at once
    /// again.
    held: Vec<Receipt>,
}

impl Printing<'_> {
    /// Prints until nothing is stored any more, or as many as wanted. `false`: nobody reads any more.
    async fn all(&mut self, max: Option<u32>, wait: Option<Duration>) -> anyhow::Result<bool> {
        let first = self.lease(max.map_or(LEASE_EVENTS, |max| max.min(LEASE_EVENTS)), wait).await?;
        if first.is_empty() {
            return Ok(true);
        }
        // What comes while these are printed is left to the next call, or this one would not end while it comes.
        let max = match max {
            Some(max) => u64::from(max),
            None => first.len() as u64 + self.stored().await?,
        };
        let mut events = first;
        while !events.is_empty() {
            if !self.print(events).await? {
                return Ok(false);
            }
            let left = u32::try_from(max.saturating_sub(self.printed)).unwrap_or(u32::MAX);
            events = if left == 0 { Vec::new() } else { self.lease(left.min(LEASE_EVENTS), None).await? };
        }
        Ok(true)
    }

    /// How many events nobody has yet.
    async fn stored(&self) -> anyhow::Result<u64> {
        let status = self.client.status().await?;
        Ok(status.stored.saturating_sub(status.leased))
    }

    /// Leases events, waiting for a first one as long as is wanted, which may be longer than a server waits at once.
    async fn lease(&self, max: u32, wait: Option<Duration>) -> anyhow::Result<Vec<LeasedEvent>> {
        let start = Instant::now();
        loop {
            let left = wait.unwrap_or_default().saturating_sub(start.elapsed());
            let events = self.client.lease(LeaseOptions::new().max(max).wait(left.min(MAX_WAIT))).await?;
            if !events.is_empty() || left <= MAX_WAIT {
                return Ok(events);
            }
        }
    }

    async fn print(&mut self, events: Vec<LeasedEvent>) -> anyhow::Result<bool> {
        let text = text(&events, self.printed == 0, self.output.terminal);
        let count = events.len();
        // Whatever ends the writing, these are handed back.
        let held = self.held.len();
        self.held.extend(events.into_iter().map(|event| event.receipt));
        if !self.output.write(&text).await? {
            return Ok(false);
        }
        self.printed += count as u64;
        if !self.keep {
            let receipts = self.held.split_off(held);
            let settled = self
                .client
                .ack(receipts)
                .await
                .context("the last events were printed but will come again")?;
            if !settled.stale.is_empty() {
                say(&format!("{} events were printed too late and will come again", settled.stale.len()));
            }
        }
        Ok(true)
    }

    async fn release(&mut self) {
        if self.held.is_empty() {
            return;
        }
        if let Err(error) = self.client.release(self.held.drain(..)).await {
            say(&format!("events could not be handed back and come again when their lease ends: {error}"));
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
        text.extend_from_slice(&shown(&event.body, terminal));
    }
    text
}
