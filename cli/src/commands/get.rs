//! `wwproxy get`: the stored events as one JSON object.
//!
//! `GET /webhooks/{appId}` removes events before they are printed. So events are leased, printed, and acknowledged after the write.
//! Events that cannot be written are released.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    io::{AsyncWrite, Stdout},
    select,
    time::{Instant, sleep},
};
use wwproxy_sdk::{Client, Consumer, ConsumerName, Error, EventId, LeaseOptions, LeasedEvent, Receipt};

use crate::{
    duration::parse_duration,
    error::NotRegistered,
    output::{Output, counted, escape_json, print_message, require_stdout},
    shutdown::Shutdown,
};

/// The maximum number of events per lease.
const LEASE_EVENTS: u32 = 100;
/// How many receipts are released per request: the limit of the server.
const MAX_RECEIPTS: usize = 1000;
/// How long one lease request waits for events: the limit of the server.
const MAX_WAIT: Duration = Duration::from_secs(50);
/// How many events that cannot be decoded the report names.
const MAX_NAMED: usize = 10;
/// The minimum interval between requests to a server that answers at once although it should wait.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// Print the stored events as one JSON object, `{"<id>":<body>,...}`, and take them from the server
///
/// A body that is JSON is printed byte for byte, text as a JSON string, other bytes as `{"encoding":"base64","data":"…"}`.
/// Events are acknowledged only after they were written: a failed write loses none. Events that this version cannot decode stay on the
/// server: they are reported, and the exit code is 1. Without --max it prints the events that were
/// stored when it started, so that it ends even if more arrive.
#[derive(clap::Args)]
#[command(after_help = "\
Events are read by lease and ack (at least once). A bare GET (poll) is at most once: use it only
if losing an event does not matter.

Examples:
  wwproxy get --max 10 > events.json
  wwproxy get --wait 5m --max 1
  wwproxy get --consumer audit
  wwproxy get --keep | jq 'map(.type)'")]
pub(crate) struct Get {
    /// The maximum number of events; without it all that are stored
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max: Option<u32>,
    /// If nothing is stored, wait this long for a first event, such as `30s` or `2h`
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    wait: Option<Duration>,
    /// Leave the events on the server: release them after printing instead of acknowledging them
    #[arg(long)]
    keep: bool,
    /// Take the events of this consumer, which `wwproxy consumers create` or `listen --create` has made
    #[arg(long, value_name = "NAME", default_value_t, hide_default_value = true)]
    consumer: ConsumerName,
}

impl Get {
    pub(crate) async fn run(self, client: &Client) -> anyhow::Result<()> {
        if !self.keep {
            require_stdout(
                "events would be deleted without being printed; open stdout, or give --keep (`wwproxy listen --exec true` \
                 acknowledges events without printing them)",
            )?;
        }
        let shutdown = Shutdown::on_signal()?;
        let mut printer = Printer {
            client,
            consumer: client.consumer(self.consumer.as_str())?,
            output: Output::stdout(),
            shutdown: &shutdown,
            keep: self.keep,
            printed: 0,
            seen: HashSet::new(),
            undecodable: BTreeMap::new(),
            unsettled: Vec::new(),
        };
        let result = printer.print_all(self.max, self.wait.unwrap_or_default()).await;
        let end: &[u8] = match (&result, printer.printed) {
            (Ok(false), _) | (Err(_), 0) => b"",
            (Ok(true), 0) => b"{}\n",
            // After an error too, so that the output is a complete JSON object.
            _ => b"}\n",
        };
        let ended = if end.is_empty() { Ok(false) } else { printer.write(end).await };
        printer.release().await;
        let result = result.and(ended).map(drop);
        if printer.undecodable.is_empty() {
            return result;
        }
        let left = left_events(&printer.undecodable);
        if result.is_err() {
            print_message(&left);
            return result;
        }
        Err(anyhow::anyhow!(left))
    }
}

/// Prints events and settles them.
struct Printer<'a, W = Stdout> {
    client: &'a Client,
    consumer: Consumer,
    output: Output<W>,
    shutdown: &'a Shutdown,
    keep: bool,
    printed: u32,
    /// With `keep`: the printed events. An event is redelivered if its lease expires before it is released.
    seen: HashSet<EventId>,
    /// Why events cannot be decoded. They are not printed, and stay on the server.
    undecodable: BTreeMap<EventId, String>,
    unsettled: Vec<Receipt>,
}

impl<W: AsyncWrite + Unpin> Printer<'_, W> {
    /// Prints until the queue is empty or the maximum is reached. `false`: stdout is closed.
    async fn print_all(&mut self, max: Option<u32>, wait: Duration) -> anyhow::Result<bool> {
        let status = select! {
            () = self.shutdown.requested() => return Ok(true),
            status = self.client.status() => status.map_err(explain)?,
        };
        if !status.is_registered() {
            print_message(&NotRegistered::new(self.client).to_string());
        }
        let stored = if self.consumer.name().is_default() {
            status.stored
        } else {
            let status = select! {
                () = self.shutdown.requested() => return Ok(true),
                status = self.consumer.status() => status?,
            };
            // Not counted yet: until no more is leased.
            status.pending.unwrap_or(u64::MAX)
        };
        let max = max.unwrap_or_else(|| {
            // Without stored events, what one lease returns while waiting. The server is asked in any case: it may refuse, because the
            // consumer receives no events.
            let least = if wait.is_zero() { 1 } else { LEASE_EVENTS };
            u32::try_from(stored).unwrap_or(u32::MAX).max(least)
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
            let leased = select! {
                // The server releases the events of a response that it cannot write.
                () = self.shutdown.requested() => return Ok(true),
                leased = self.consumer.lease(options) => leased.map_err(explain)?,
            };
            let known = self.undecodable.len();
            self.undecodable.extend(leased.undecodable.into_iter().map(|event| (event.id, event.reason)));
            let events = leased.events;
            if events.is_empty() && self.undecodable.len() > known {
                continue;
            }
            if events.is_empty() {
                if wait.is_zero() {
                    if self.printed == 0 && self.undecodable.is_empty() {
                        self.report_unavailable().await;
                    }
                    break;
                }
                let early = MIN_INTERVAL.min(wait).saturating_sub(asked.elapsed());
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

    /// Reports events that are stored although the server leases none.
    async fn report_unavailable(&self) {
        let stored = async {
            if self.consumer.name().is_default() {
                return self.client.status().await.ok().map(|status| status.stored);
            }
            self.consumer.status().await.ok().and_then(|status| status.pending)
        };
        let stored = select! { () = self.shutdown.requested() => return, stored = stored => stored };
        // After an error there is no report: the lease was answered.
        if let Some(stored) = stored.filter(|stored| *stored > 0) {
            let stored = counted(stored, "event is", "events are");
            print_message(&format!("{stored} stored, leased or delayed: none is available now"));
        }
    }

    /// Prints and settles leased events. `false`: stdout is closed.
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
            let settled = self.consumer.ack(receipts).await;
            let settled = settled.context("the last events were printed but will be redelivered")?;
            if !settled.stale.is_empty() {
                print_message(&format!(
                    "{} events were printed after their lease had expired and will be redelivered",
                    settled.stale.len()
                ));
            }
        }
        Ok(true)
    }

    /// Writes. `false`: stdout is closed, or was not read before the shutdown deadline.
    async fn write(&mut self, text: &[u8]) -> anyhow::Result<bool> {
        select! {
            biased;
            written = self.output.write(text) => written,
            () = self.shutdown.grace_expired() => Ok(false),
        }
    }

    /// Releases the unsettled events.
    async fn release(&mut self) {
        while !self.unsettled.is_empty() {
            let some = self.unsettled.drain(..self.unsettled.len().min(MAX_RECEIPTS));
            if let Err(error) = self.consumer.release(some).await {
                print_message(&format!(
                    "events could not be released and will be redelivered when their lease expires: {error}"
                ));
                return;
            }
        }
    }
}

/// Formats events as members of one JSON object.
fn text(events: &[LeasedEvent], first: bool, terminal: bool) -> Vec<u8> {
    let mut text = Vec::new();
    for (n, event) in events.iter().enumerate() {
        text.push(if first && n == 0 { b'{' } else { b',' });
        text.extend_from_slice(serde_json::Value::from(event.id.as_str()).to_string().as_bytes());
        text.push(b':');
        text.extend_from_slice(&escape_json(event.json_value().as_bytes(), terminal));
    }
    text
}

/// Reports the events that cannot be decoded.
fn left_events(events: &BTreeMap<EventId, String>) -> String {
    let (one, many) = ("event cannot be decoded and stays", "events cannot be decoded and stay");
    let left = counted(events.len() as u64, one, many);
    let named = events.iter().take(MAX_NAMED).map(|(id, reason)| format!("{id} ({reason})"));
    let named = named.collect::<Vec<_>>().join(", ");
    let more = if events.len() > MAX_NAMED { ", …" } else { "" };
    format!("{left} on the server: {named}{more}")
}

/// Adds advice if the server has no lease endpoint: `404` or `405` without a problem document is an older proxy.
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
