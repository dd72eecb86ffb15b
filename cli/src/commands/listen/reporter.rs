//! Reports of the connection, of events and of their counts: messages, the status line, the ready file.

use std::{
    fmt::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use wwproxy_sdk::{EventId, EventMessage, State};

use super::{
    counts::{Counts, KeptEvents},
    disposition::Disposition,
    ready::ReadyFile,
    skipped::Skipped,
};
use crate::{
    log_limit::LogLimit,
    output::{counted, describe_error, seconds},
    progress::Progress,
};

/// Shared by the connection, which reports its state, and by the worker, which counts events.
#[derive(Clone)]
pub(crate) struct Reporter {
    progress: Progress,
    inner: Arc<Mutex<Inner>>,
    changed: Arc<Notify>,
}

#[derive(Default)]
struct Inner {
    server: String,
    /// What follows from skipping an event, and how to avoid it.
    skip_advice: &'static str,
    /// What the summary says about skipped events.
    skip_summary: Option<&'static str>,
    /// The line that describes the app and its targets, until it is printed.
    about: Option<String>,
    ready_file: Option<ReadyFile>,
    /// The time of the connection, if there is one.
    connected: Option<Instant>,
    was_connected: bool,
    protocol: Protocol,
    counts: Counts,
    /// Events that their target did not accept and that are kept on the server.
    kept: KeptEvents,
    kept_undecodable: KeptEvents,
    /// Events that do not match and are left on the server.
    left: KeptEvents,
    skipped: Skipped,
    skips: LogLimit,
    leaves: LogLimit,
    filter_errors: LogLimit,
    undecodable: LogLimit,
    any_unmatched: bool,
    sources_checked: bool,
}

/// The protocol of the connection.
#[derive(Default, PartialEq, Eq)]
enum Protocol {
    /// That of version 0.1, without nacks.
    #[default]
    Legacy,
    V2,
}

impl Reporter {
    /// `about` is printed after the first connection.
    pub(crate) fn new(server: &str, about: String, ready_file: Option<ReadyFile>) -> Self {
        let inner = Inner { server: server.to_owned(), about: Some(about), ready_file, ..Inner::default() };
        let reporter =
            Self { progress: Progress::new(), inner: Arc::new(Mutex::new(inner)), changed: Arc::default() };
        reporter.progress.set("connecting");
        reporter
    }

    /// Sets what is said about skipped events: how the first one could have been left, and after the last one.
    pub(super) fn advise_on_skipped(&self, (first, summary): (&'static str, Option<&'static str>)) {
        let mut inner = self.lock();
        (inner.skip_advice, inner.skip_summary) = (first, summary);
    }

    pub(crate) fn progress(&self) -> &Progress {
        &self.progress
    }

    pub(crate) fn print_message(&self, text: &str) {
        self.progress.print_message(text);
    }

    /// Reports a change of the connection.
    pub(crate) fn set_state(&self, state: &State) {
        let mut inner = self.lock();
        match state {
            State::Connected { v2, missed, .. } => {
                inner.connected = Some(Instant::now());
                inner.protocol = if *v2 { Protocol::V2 } else { Protocol::Legacy };
                inner.was_connected = true;
                self.print_message(&format!("ready: connected to {}", inner.server));
                if let Some(about) = inner.about.take() {
                    self.print_message(&about);
                }
                if *missed > 0 {
                    let missed = counted(*missed, "event of that time is", "events of that time are");
                    self.print_message(&format!("{missed} missing: the server has removed them"));
                }
                if let Some(Err(error)) = inner.ready_file.take().map(|file| file.create()) {
                    self.print_message(&describe_error(&error));
                }
            }
            State::Reconnecting { error, delay, .. } => {
                inner.connected = None;
                let why = describe_error(&anyhow::Error::new(error.clone()));
                self.print_message(&format!("{why}; retrying in {}", seconds(*delay)));
            }
            State::Undecodable { id, error, .. } => {
                inner.kept_undecodable.add(id);
                if inner.undecodable.count(Instant::now()) {
                    self.print_message(&error.to_string());
                }
            }
            _ => {}
        }
        self.progress.set(&inner.line());
        self.changed.notify_waiters();
    }

    /// Counts the outcome of an event.
    pub(crate) fn count(&self, count: impl FnOnce(&mut Counts)) {
        let mut inner = self.lock();
        count(&mut inner.counts);
        self.progress.set(&inner.line());
    }

    /// Counts the outcome of an event that is settled for good.
    pub(super) fn count_settled(&self, id: &EventId, count: impl FnOnce(&mut Counts)) {
        let mut inner = self.lock();
        inner.kept.remove(id);
        inner.left.remove(id);
        drop(inner);
        self.count(count);
    }

    /// Counts an event that its target did not accept and that is kept on the server.
    pub(super) fn count_kept(&self, id: &EventId) {
        let mut inner = self.lock();
        inner.kept.add(id);
        self.progress.set(&inner.line());
    }

    /// Counts an event that is not handled, and reports the first one. Without a reason it has been reported already.
    pub(super) fn count_unmatched(
        &self,
        event: &EventMessage,
        kind: &str,
        disposition: Disposition,
        why: Option<&str>,
    ) {
        let mut inner = self.lock();
        let (id, now) = (&event.id, Instant::now());
        if disposition == Disposition::Skip {
            inner.counts.skipped += 1;
            inner.skipped.count(kind);
            if let Some(why) = why.filter(|_| inner.skips.count(now)) {
                self.print_message(&format!(
                    "skipped event {id} of type {kind}: {why}; it is acknowledged{}",
                    inner.skip_advice
                ));
            }
        } else if inner.left.add(id)
            && let Some(why) = why.filter(|_| inner.leaves.count(now))
        {
            let legacy = match inner.protocol {
                Protocol::V2 => "",
                Protocol::Legacy => {
                    " (this server has version 0.1: it delivers the event again only after this connection ends)"
                }
            };
            self.print_message(&format!("left event {id} of type {kind} on the server{legacy}: {why}"));
        }
        inner.any_unmatched = true;
        self.progress.set(&inner.line());
        self.changed.notify_waiters();
    }

    /// Reports the first event on which the filter fails.
    pub(super) fn report_filter_error(&self, event: &EventMessage, disposition: Disposition, why: &str) {
        let outcome = match disposition {
            Disposition::Handle => "delivered",
            Disposition::Skip => "skipped",
            Disposition::Leave => "left on the server",
        };
        if self.lock().filter_errors.count(Instant::now()) {
            let id = &event.id;
            self.print_message(&format!(
                "the filter fails on event {id} ({why}); it is {outcome}, see --on-filter-error"
            ));
        }
    }

    /// Waits until counts may be reported.
    pub(super) async fn next_report(&self) {
        let due = {
            let inner = self.lock();
            let Inner { skips, leaves, filter_errors, undecodable, .. } = &*inner;
            [skips, leaves, filter_errors, undecodable].iter().filter_map(|limit| limit.due()).min()
        };
        match due {
            Some(due) => tokio::time::sleep_until(due.into()).await,
            None => std::future::pending().await,
        }
    }

    /// Reports the events that were counted since the last report.
    pub(super) fn report_counts(&self) {
        let mut inner = self.lock();
        let Inner { skips, leaves, filter_errors, undecodable, .. } = &mut *inner;
        for (limit, what) in [
            (skips, "were skipped"),
            (leaves, "were left on the server"),
            (filter_errors, "could not be filtered"),
            (undecodable, "cannot be decoded"),
        ] {
            if let Some(count) = limit.take(Instant::now()) {
                self.print_message(&format!("{count} more events {what}"));
            }
        }
    }

    pub(super) async fn first_connection(&self) {
        self.wait_until(|inner| inner.was_connected).await;
    }

    pub(super) async fn first_unmatched(&self) {
        self.wait_until(|inner| inner.any_unmatched).await;
    }

    /// Ends the wait of [`Self::sources_checked`].
    pub(super) fn set_sources_checked(&self) {
        self.lock().sources_checked = true;
        self.changed.notify_waiters();
    }

    /// Waits until the names of `--source` are checked.
    pub(super) async fn sources_checked(&self) {
        self.wait_until(|inner| inner.sources_checked).await;
    }

    async fn wait_until(&self, condition: impl Fn(&Inner) -> bool) {
        loop {
            let changed = self.changed.notified();
            if condition(&self.lock()) {
                return;
            }
            changed.await;
        }
    }

    /// Waits until no event has arrived for this time over an open connection.
    pub(crate) async fn idle_for(&self, limit: Option<Duration>, last: Instant) {
        loop {
            let changed = self.changed.notified();
            let connected = self.lock().connected;
            match connected {
                Some(since) => {
                    tokio::select! { () = until(since.max(last), limit) => return, () = changed => {} }
                }
                None => changed.await,
            }
        }
    }

    /// Removes the status line, and prints a summary if there ever was a connection.
    pub(crate) fn print_summary(&self) {
        self.progress.set("");
        let inner = self.lock();
        if inner.was_connected {
            if let Some(advice) = inner.skip_summary.filter(|_| inner.counts.skipped > 0) {
                self.print_message(advice);
            }
            self.print_message(&inner.summary());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }
}

impl Inner {
    fn line(&self) -> String {
        let Counts { handled, skipped, retried, dropped, dead, saved } = self.counts;
        let mut line =
            if self.connected.is_some() { "waiting for events" } else { "reconnecting" }.to_owned();
        for (count, what) in [
            (handled, "handled"),
            (skipped, "skipped"),
            (self.kept.count(), "kept"),
            (self.left.count(), "left"),
            (retried, "retried"),
            (dropped, "dropped"),
            (dead, "dead"),
            (saved, "saved"),
        ] {
            if count > 0 || what == "handled" {
                // Writing to a string cannot fail.
                let _ = write!(line, " · {count} {what}");
            }
        }
        line
    }

    /// Such as `366 taken, 1 dropped, 2 kept, 3 skipped: 3 × message-created`. Dropped, saved and left events are shown if there are any.
    fn summary(&self) -> String {
        let Counts { handled, skipped, dropped, dead, saved, .. } = self.counts;
        let counts = [
            (handled, "taken", true),
            (dropped, "dropped", false),
            (dead, "dead", false),
            (saved, "saved", false),
            (self.kept_undecodable.count(), "undecodable", false),
            (self.kept.count(), "kept", true),
            (self.left.count(), "left", false),
            (skipped, "skipped", true),
        ];
        let shown = counts.iter().filter(|(count, _, always)| *always || *count > 0);
        let shown: Vec<_> = shown.map(|(count, what, _)| format!("{count} {what}")).collect();
        shown.join(", ") + &self.skipped.list()
    }
}

/// Waits until the limit has passed since a time; forever without a limit.
async fn until(since: Instant, limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit.saturating_sub(since.elapsed())).await,
        None => std::future::pending().await,
    }
}
