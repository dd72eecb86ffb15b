//! How far retention has come.

use std::{
    collections::HashMap,
    time::{Duration, Instant, SystemTime},
};

use super::{Seq, clock::Clock, record::micros};

/// The time between two batches while the writer is idle.
pub(super) const PAUSE: Duration = Duration::from_millis(50);

/// The writer's state of retention.
#[derive(Debug)]
pub(super) struct Retention {
    pub(super) clock: Clock,
    /// When the next batch is due.
    pub(super) due: Instant,
    /// By app: how far its settled events were removed, and those that `default` does not need.
    pub(super) swept: HashMap<i64, [Swept; 2]>,
    /// The app that was swept last: the next search for settled events begins after it, so that no app takes the time of others.
    pub(super) last_app: i64,
    /// When the store was opened.
    pub(super) opened: Instant,
    /// Timelines from this consumer on may be of consumers that are gone.
    pub(super) timelines_from: Option<i64>,
}

/// How far the events of an app were swept.
#[derive(Debug, Default)]
pub(super) struct Swept {
    /// What is left up to this event is not wanted. Lower again once some of it is.
    pub(super) up_to: Seq,
    /// The next event was received at this time: it is too young before.
    pub(super) next_at: i64,
}

impl Retention {
    /// `newest` is the time of the newest event.
    pub(super) fn new(now: Instant, newest: Option<i64>, retention: Duration) -> Self {
        let clock = Clock::new(micros(SystemTime::now()), now, newest, retention);
        Self {
            clock,
            due: now + PAUSE,
            swept: HashMap::new(),
            last_app: 0,
            opened: now,
            timelines_from: Some(0),
        }
    }

    /// Settled events of an app may be anywhere again, since it lost a consumer or one moved.
    pub(super) fn sweep_again(&mut self, app: i64) {
        self.swept.remove(&app);
    }

    /// A consumer is gone, whose timeline is left.
    pub(super) fn purge_timelines(&mut self) {
        self.timelines_from = Some(0);
    }
}
