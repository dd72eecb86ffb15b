//! What the person and the scripts around are told while events come.

use std::{
    fmt::Write as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;
use wwproxy_sdk::State;

use super::{ready::ReadyFile, until};
use crate::{output::sentence, progress::Progress};

/// Shared by the connection, which tells its state, and by what handles events, which counts.
#[derive(Clone)]
pub(crate) struct Talk {
    progress: Progress,
    told: Arc<Mutex<Told>>,
    changed: Arc<Notify>,
}

struct Told {
    server: String,
    ready_file: Option<ReadyFile>,
    /// Since when there is a connection, if there is one.
    connected: Option<Instant>,
    counts: Counts,
}

/// What became of events.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) handled: u64,
    pub(crate) skipped: u64,
    pub(crate) retried: u64,
    pub(crate) failed: u64,
}

impl Talk {
    pub(crate) fn new(server: &str, ready_file: Option<ReadyFile>) -> Self {
        let told = Told { server: server.to_owned(), ready_file, connected: None, counts: Counts::default() };
        let talk =
            Self { progress: Progress::new(), told: Arc::new(Mutex::new(told)), changed: Arc::default() };
        talk.progress.set("connecting");
        talk
    }

    pub(crate) fn progress(&self) -> &Progress {
        &self.progress
    }

    pub(crate) fn say(&self, text: &str) {
        self.progress.say(text);
    }

    /// The connection came up, or went.
    pub(crate) fn state(&self, state: &State) {
        let mut told = self.lock();
        match state {
            State::Connected { .. } => {
                told.connected = Some(Instant::now());
                self.say(&format!("ready: connected to {}", told.server));
                if let Some(Err(error)) = told.ready_file.take().map(|file| file.create()) {
                    self.say(&sentence(&error));
                }
            }
            State::Reconnecting { error, delay, .. } => {
                told.connected = None;
                let why = sentence(&anyhow::Error::new(error.clone()));
                self.say(&format!("{why}; trying again in {:.1} s", delay.as_secs_f32()));
            }
            _ => {}
        }
        self.progress.set(&told.line());
        self.changed.notify_waiters();
    }

    /// Counts what became of an event.
    pub(crate) fn count(&self, count: impl FnOnce(&mut Counts)) {
        let mut told = self.lock();
        count(&mut told.counts);
        self.progress.set(&told.line());
    }

    /// Waits until nothing came for so long over a connection that could have brought it.
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

    /// Nothing more is told.
    pub(crate) fn end(&self) {
        self.progress.set("");
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Told {
    fn line(&self) -> String {
        let Counts { handled, skipped, retried, failed } = self.counts;
        let mut line =
            if self.connected.is_some() { "waiting for events" } else { "reconnecting" }.to_owned();
        for (count, what) in
            [(handled, "handled"), (skipped, "skipped"), (retried, "retried"), (failed, "failed")]
        {
            if count > 0 || what == "handled" {
                // Writing to a string cannot fail.
                let _ = write!(line, " · {count} {what}");
            }
        }
        line
    }
}
