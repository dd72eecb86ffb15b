//! Questions and commands to a cursor other than leasing and settling.
//!
//! A command is first written to the database as a part of [`Changes`], and changes the cursor after the commit.

use std::time::Instant;

use super::{
    Cursor,
    open::{Open, State},
};
use crate::store::{
    log::EventState,
    sqlite::{
        Seq,
        app_log::Total,
        changes::{Changes, StoredState},
    },
};

/// Where an event is for a consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store::sqlite) enum Place {
    /// In this state, leased this number of times.
    At(EventState, u32),
    /// Settled, or before the start of the consumer.
    Settled,
    /// The filter does not let it pass.
    Elsewhere,
}

impl Cursor {
    /// Where an event is. `matches`: the filter lets it pass.
    pub(in crate::store::sqlite) fn place(&self, seq: Seq, matches: bool) -> Place {
        let Some(open) = self.open.get(seq) else {
            return match matches {
                true if seq > self.position => Place::At(EventState::Pending, 0),
                true => Place::Settled,
                false => Place::Elsewhere,
            };
        };
        let state = match open.state {
            State::Leased { .. } => EventState::Leased,
            State::Nacked(_) | State::Returned => EventState::Pending,
            State::Dead => EventState::Dead,
        };
        Place::At(state, open.attempt)
    }

    /// Adds a move to a position to the changes. Returns what of the log before it the cursor has passed: dead events after it included,
    /// since they are not delivered again.
    pub(in crate::store::sqlite) fn plan_seek(
        &self,
        position: Seq,
        passed: Total,
        changes: &mut Changes,
    ) -> Total {
        let (dead, ended): (Vec<_>, Vec<_>) =
            self.open.iter().partition(|(_, open)| open.state == State::Dead);
        let ahead = dead.iter().filter(|(seq, _)| *seq > position);
        let passed = ahead.fold(passed, |passed, (_, open)| passed.plus(open.size));
        (changes.position, changes.passed) = (position, passed);
        changes.rows.retain(|row| row.state == StoredState::Dead);
        changes.deleted.extend(ended.iter().map(|(seq, _)| *seq));
        passed
    }

    /// Moves to a position: leases and retries end.
    pub(in crate::store::sqlite) fn seek(&mut self, position: Seq, passed: Total) {
        let ended: Vec<_> =
            self.open.iter().filter(|(_, open)| open.state != State::Dead).map(|(seq, _)| seq).collect();
        for seq in ended {
            self.open.remove(seq);
            self.pending.touch(seq);
        }
        (self.position, self.scanned, self.passed) = (position, position, passed);
        self.fresh.clear();
        self.ahead.forget();
    }

    /// Whether an event is delivered anyway. `matches`: the filter lets it pass.
    pub(in crate::store::sqlite) fn is_pending(&mut self, seq: Seq, matches: bool, now: Instant) -> bool {
        self.run_timers(now);
        let open = self.open.get(seq);
        open.map_or(matches && seq > self.position, |open| open.state != State::Dead)
    }

    /// Opens a settled or dead event again, which returns to its place.
    pub(in crate::store::sqlite) fn replay(&mut self, seq: Seq, size: u32, replay: u32) {
        self.open.remove(seq);
        self.pending.stored(seq);
        self.open.insert(seq, Open { size, attempt: 0, replay, state: State::Returned, reason: None });
    }
}
