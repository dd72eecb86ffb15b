//! Handles events that match: saves them, hands them to their target, acknowledges and reports them.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::{io::Stdout, select, sync::Mutex};
use wwproxy_sdk::{Delivery, EventMessage};

use super::{failed_tries::FailedTries, failure::OnFailure, reporter::Reporter, throttled::Throttled};
use crate::{
    event_file::EventFolder,
    format::{self, Format},
    output::{Output, seconds},
    progress::Progress,
    selection::Selection,
    shutdown::Shutdown,
    target::{Offer, OfferOutcome, Origin, Policy, Routes, Target, TryOutcome},
};

/// The redelivery delay of an event that its target did not accept.
const KEEP_DELAY: Duration = Duration::from_secs(60);

/// Handles events.
pub(super) struct Worker {
    pub(super) routes: Routes,
    pub(super) policy: Policy,
    pub(super) on_failure: OnFailure<EventFolder>,
    pub(super) selection: Selection,
    /// Whether events that do not match stay on the server, as those of other sources do. Otherwise they are acknowledged.
    pub(super) leave_unmatched: bool,
    /// Whether other clients can share the events. If not, those of other sources are acknowledged as well.
    pub(super) is_shared: bool,
    pub(super) save: Option<EventFolder>,
    pub(super) printer: Printer,
    pub(super) reporter: Reporter,
    pub(super) shutdown: Shutdown,
    pub(super) failed_tries: FailedTries,
    pub(super) throttled: Throttled,
}

/// The outcome of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EventOutcome {
    /// It was printed, or its target accepted it.
    Done,
    /// Its target did not accept it, and it was acknowledged.
    Failed,
    /// Its target did not accept it, and it will be redelivered.
    Kept,
    /// Its target asked for a delay: the server redelivers it after that.
    Throttled,
    /// A signal stopped it: it will be redelivered.
    Stopped,
    /// Stdout is closed, or was not read until the end of the grace period.
    OutputClosed,
}

impl Worker {
    /// Handles an event that matches. After an error `listen` ends, and the event is not acknowledged.
    pub(super) async fn handle(&self, delivery: Delivery) -> anyhow::Result<EventOutcome> {
        let event = delivery.event();
        let target = self.routes.target(event);
        if let Some(folder) = &self.save {
            folder.save(event)?;
        }
        let handled = match target {
            Some(target) => self.offer(&delivery, target).await?,
            None => self.print(&delivery).await?,
        };
        match handled {
            EventOutcome::Done => self.reporter.count_settled(&event.id, |counts| counts.handled += 1),
            EventOutcome::Failed => self.reporter.count_settled(&event.id, |counts| match self.on_failure {
                OnFailure::Save(_) => counts.saved += 1,
                OnFailure::Dead => counts.dead += 1,
                OnFailure::Drop | OnFailure::Keep => counts.dropped += 1,
            }),
            EventOutcome::Throttled => self.reporter.count(|counts| counts.retried += 1),
            EventOutcome::Kept | EventOutcome::Stopped | EventOutcome::OutputClosed => {}
        }
        Ok(handled)
    }

    /// Writes and flushes an event, then acknowledges it.
    async fn print(&self, delivery: &Delivery) -> anyhow::Result<EventOutcome> {
        if !self.printer.print_event(delivery.event()).await? {
            // The event is not acknowledged, and is redelivered.
            return Ok(EventOutcome::OutputClosed);
        }
        self.ack(delivery).await;
        Ok(EventOutcome::Done)
    }

    async fn offer(&self, delivery: &Delivery, target: &Target) -> anyhow::Result<EventOutcome> {
        let event = delivery.event();
        if !self.printer.print_arrival(event).await? {
            return Ok(EventOutcome::OutputClosed);
        }
        let again = |delay: Duration| format!(", again in {}", seconds(delay));
        let failed = async |tried: &TryOutcome, delay: Duration| {
            self.reporter.count(|counts| counts.retried += 1);
            self.failed(event, tried, &again(delay)).await;
        };
        let earlier_tries = self.throttled.take(&event.id);
        let offer = Offer { event, origin: Origin::Server, earlier_tries };
        let (outcome, last, tries) = match self.policy.offer(target, offer, &self.shutdown, failed).await {
            OfferOutcome::Stopped => return Ok(EventOutcome::Stopped),
            OfferOutcome::Accepted { last, tries } => {
                self.ack(delivery).await;
                ("accepted", last, tries)
            }
            OfferOutcome::GivenUp { last, tries } => {
                let outcome = self.give_up(delivery, &last).await?;
                self.report_given_up(event, &last, outcome);
                (outcome, last, tries)
            }
            OfferOutcome::Throttled { last, tries, delay } => {
                self.failed(event, &last, &again(delay)).await;
                self.return_later(delivery, &last, tries, delay).await;
                return Ok(EventOutcome::Throttled);
            }
        };
        if !self.printer.print_outcome(event, &last, tries, outcome).await? {
            return Ok(EventOutcome::OutputClosed);
        }
        Ok(match outcome {
            "accepted" => EventOutcome::Done,
            "kept" => EventOutcome::Kept,
            _ => EventOutcome::Failed,
        })
    }

    /// Prints or reports a failed try that is followed by another one.
    async fn failed(&self, event: &EventMessage, tried: &TryOutcome, what_next: &str) {
        self.printer.print_failed_try(event, tried, what_next).await;
        self.report(event, tried, what_next);
    }

    /// Reports a failed try on stderr, unless stdout shows each try.
    fn report(&self, event: &EventMessage, tried: &TryOutcome, what_next: &str) {
        if self.printer.format != Format::Pretty
            && let Some(line) = self.failed_tries.line(&event.id, tried, what_next, Instant::now())
        {
            self.reporter.print_message(&line);
        }
    }

    /// Reports an event that was given up on stderr, unless stdout shows it.
    fn report_given_up(&self, event: &EventMessage, last: &TryOutcome, outcome: &str) {
        if self.printer.format != Format::Pretty
            && let Some(line) = self.failed_tries.given_up_line(&event.id, last, outcome, Instant::now())
        {
            self.reporter.print_message(&line);
        }
    }

    /// Returns a throttled event to the server, so that it does not block others.
    async fn return_later(&self, delivery: &Delivery, last: &TryOutcome, tries: u32, delay: Duration) {
        self.throttled.remember(delivery.id(), tries);
        self.reporter.count_kept(delivery.id());
        // If the connection is lost, the server has released the event already.
        let _ = delivery.release(delay, Some(last.reason())).await;
    }

    async fn give_up(&self, delivery: &Delivery, last: &TryOutcome) -> anyhow::Result<&'static str> {
        Ok(match &self.on_failure {
            OnFailure::Keep => {
                self.reporter.count_kept(delivery.id());
                // If the connection is lost, the server has released the event already.
                let _ = delivery.release(KEEP_DELAY, Some(last.reason())).await;
                "kept"
            }
            OnFailure::Dead => {
                if delivery.reject(last.reason()).await.is_err() {
                    self.report_unsettled(delivery, "rejected");
                }
                "dead"
            }
            OnFailure::Drop => {
                self.ack(delivery).await;
                "dropped"
            }
            OnFailure::Save(folder) => {
                folder.save(delivery.event())?;
                self.ack(delivery).await;
                "saved"
            }
        })
    }

    pub(super) async fn ack(&self, delivery: &Delivery) {
        if delivery.ack().await.is_err() {
            self.report_unsettled(delivery, "acknowledged");
        }
    }

    fn report_unsettled(&self, delivery: &Delivery, how: &str) {
        let id = delivery.id();
        self.reporter.print_message(&format!(
            "the connection broke before event {id} was {how}; it will be redelivered"
        ));
    }
}

/// Prints events on stdout in the chosen format.
pub(super) struct Printer {
    format: Format,
    output: Mutex<Output<Stdout>>,
    progress: Progress,
    shutdown: Shutdown,
}

impl Printer {
    pub(super) fn new(format: Format, progress: Progress, shutdown: Shutdown) -> Self {
        Self { format, output: Mutex::new(Output::stdout()), progress, shutdown }
    }

    /// Prints an event without a target. `false`, here and below: stdout is closed, or is not read until the end of the grace period.
    async fn print_event(&self, event: &EventMessage) -> anyhow::Result<bool> {
        let terminal = self.output.lock().await.terminal;
        self.write(&format::event(event, self.format, terminal)).await
    }

    /// Prints an event that is handed to a target.
    async fn print_arrival(&self, event: &EventMessage) -> anyhow::Result<bool> {
        match self.format {
            Format::Pretty => self.write(format::arrival_line(event).as_bytes()).await,
            Format::Json | Format::Data | Format::Raw => Ok(true),
        }
    }

    /// Prints a failed try that is followed by another one.
    async fn print_failed_try(&self, event: &EventMessage, tried: &TryOutcome, what_next: &str) {
        if self.format == Format::Pretty {
            // If stdout is closed, the write of the outcome reports it.
            let _ = self.write(format::result_line(event, tried, what_next).as_bytes()).await;
        }
    }

    /// Prints the outcome of an event that was handed to a target.
    async fn print_outcome(
        &self,
        event: &EventMessage,
        last: &TryOutcome,
        tries: u32,
        outcome: &str,
    ) -> anyhow::Result<bool> {
        match self.format {
            Format::Pretty => {
                let outcome = if last.accepted { String::new() } else { format!(", {outcome}") };
                self.write(format::result_line(event, last, &outcome).as_bytes()).await
            }
            Format::Json => {
                let took = u64::try_from(last.took.as_millis()).unwrap_or(u64::MAX);
                let more: [(&str, Value); 4] = [
                    ("outcome", outcome.into()),
                    ("answer", last.answer.as_str().into()),
                    ("tries", tries.into()),
                    ("ms", took.into()),
                ];
                self.line(&format::object(event, &more)).await
            }
            Format::Data | Format::Raw if last.accepted => self.print_event(event).await,
            Format::Data | Format::Raw => Ok(true),
        }
    }

    async fn line(&self, json: &[u8]) -> anyhow::Result<bool> {
        let mut line = Vec::with_capacity(json.len() + 1);
        format::push_line(&mut line, json, self.output.lock().await.terminal);
        self.write(&line).await
    }

    async fn write(&self, text: &[u8]) -> anyhow::Result<bool> {
        let write = async {
            let mut output = self.output.lock().await;
            let _hidden = self.progress.hidden();
            output.write(text).await
        };
        select! {
            biased;
            written = write => written,
            () = self.shutdown.grace_expired() => Ok(false),
        }
    }
}
