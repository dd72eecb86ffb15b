//! What the database has to learn about a consumer, collected between two flushes.

use std::{
    collections::{BTreeSet, HashSet},
    time::Instant,
};

use super::{Seq, app_log::Total};

/// Entries of the timeline that wait for a flush, for each consumer. While the disk fails, further ones are lost.
const MAX_OUTCOMES: usize = 10_000;

/// Attempts of an event that are in the timeline, if the event is delivered again: a client may nack it without end.
const MAX_RETRIES: u32 = 100;

/// The state of an open event in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StoredState {
    Leased,
    Retry,
    Dead,
    Settled,
}

impl StoredState {
    /// The state as its row has it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Leased => "leased",
            Self::Retry => "retry",
            Self::Dead => "dead",
            Self::Settled => "settled",
        }
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        [Self::Leased, Self::Retry, Self::Dead, Self::Settled].into_iter().find(|state| state.name() == name)
    }
}

/// A row of the table `open`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StoredOpen {
    pub(super) seq: Seq,
    pub(super) size: u32,
    pub(super) attempt: u32,
    pub(super) replay: u32,
    pub(super) state: StoredState,
    /// When the event is due, if it was nacked.
    pub(super) nacked_until: Option<Instant>,
    pub(super) reason: Option<String>,
}

/// The outcome of one delivery, for the timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) attempt: u32,
    pub(super) what: &'static str,
    pub(super) reason: Option<String>,
    /// How long the event was leased, in milliseconds.
    pub(super) took: u32,
}

/// One flush of a consumer.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) position: Seq,
    pub(super) passed: Total,
    pub(super) dropped: u64,
    pub(super) rows: Vec<StoredOpen>,
    pub(super) deleted: Vec<Seq>,
    /// Acknowledged first attempts, with the time that each took: one packed row of the timeline.
    pub(super) acked: Vec<(Seq, u32)>,
    pub(super) outcomes: Vec<(Seq, Outcome)>,
    /// Events that are replayed by this very transaction, with the number of the replay.
    pub(super) replayed: Vec<(Seq, u32)>,
}

/// What changed since the last flush.
#[derive(Debug, Default)]
pub(super) struct Pending {
    changed: bool,
    /// Open events whose row is to be written or deleted.
    touched: BTreeSet<Seq>,
    /// Open events that have a row in the database.
    stored: HashSet<Seq>,
    acked: Vec<(Seq, u32)>,
    outcomes: Vec<(Seq, Outcome)>,
    /// The lowest event that was settled or died since retention asked.
    lowest_settled: Option<Seq>,
}

impl Pending {
    /// The event has a row in the database.
    pub(super) fn stored(&mut self, seq: Seq) {
        self.stored.insert(seq);
    }

    /// The row of the event changed.
    pub(super) fn touch(&mut self, seq: Seq) {
        self.touched.insert(seq);
        self.changed = true;
    }

    /// A delivery ended, and the event stays open.
    pub(super) fn record(&mut self, seq: Seq, outcome: Outcome) {
        self.touch(seq);
        if self.outcomes.len() < MAX_OUTCOMES {
            self.outcomes.push((seq, outcome));
        }
    }

    /// A delivery ended, and the event is delivered again.
    pub(super) fn retry(&mut self, seq: Seq, outcome: Outcome) {
        if outcome.attempt <= MAX_RETRIES { self.record(seq, outcome) } else { self.touch(seq) }
    }

    /// The position moved.
    pub(super) fn moved(&mut self) {
        self.changed = true;
    }

    /// The event is not open any more. If no flush wrote its row, none will.
    pub(super) fn forget(&mut self, seq: Seq) {
        self.changed = true;
        self.settled_from(seq);
        if self.stored.contains(&seq) {
            self.touched.insert(seq);
        } else {
            self.touched.remove(&seq);
        }
    }

    /// Retention has to look at events from this one on again.
    pub(super) fn settled_from(&mut self, seq: Seq) {
        self.lowest_settled = Some(self.lowest_settled.map_or(seq, |lowest| lowest.min(seq)));
    }

    pub(super) fn take_lowest_settled(&mut self) -> Option<Seq> {
        self.lowest_settled.take()
    }

    /// The event is settled.
    pub(super) fn settle(&mut self, seq: Seq, outcome: Outcome) {
        self.forget(seq);
        if self.acked.len() + self.outcomes.len() >= MAX_OUTCOMES {
            return;
        }
        if outcome.attempt == 1 && outcome.reason.is_none() {
            self.acked.push((seq, outcome.took));
        } else {
            self.outcomes.push((seq, outcome));
        }
    }

    pub(super) fn is_changed(&self) -> bool {
        self.changed
    }

    /// Takes everything. `row` is the open event of a seq, if it is open.
    pub(super) fn take(
        &mut self,
        position: Seq,
        passed: Total,
        mut row: impl FnMut(Seq) -> Option<StoredOpen>,
    ) -> Changes {
        self.changed = false;
        let mut changes = Changes {
            position,
            passed,
            acked: std::mem::take(&mut self.acked),
            outcomes: std::mem::take(&mut self.outcomes),
            ..Changes::default()
        };
        for seq in std::mem::take(&mut self.touched) {
            if let Some(row) = row(seq) {
                self.stored.insert(seq);
                changes.rows.push(row);
            } else {
                self.stored.remove(&seq);
                changes.deleted.push(seq);
            }
        }
        changes
    }

    /// Takes back what a failed flush did not write. Rows may be in the database or not: both are handled.
    pub(super) fn restore(&mut self, changes: Changes) {
        self.changed = true;
        for seq in changes.rows.iter().map(|row| row.seq).chain(changes.deleted) {
            self.touched.insert(seq);
            self.stored.insert(seq);
        }
        self.acked.splice(0..0, changes.acked);
        self.outcomes.splice(0..0, changes.outcomes);
        self.acked.truncate(MAX_OUTCOMES);
        self.outcomes.truncate(MAX_OUTCOMES);
    }
}
