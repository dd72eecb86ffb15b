//! Questions and commands to a cursor other than leasing and settling.
//!
//! A command is first written to the database as a part of [`Changes`], and changes the cursor after the commit.

use std::time::Instant;

use super::{
    Cursor,
    open::{Open, State},
};
use crate::store::{
    EventState,
    sqlite::{
        Seq,
        app_log::Total,
        changes::{Changes, StoredOpen, StoredState},
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
    /// Restores an open event of which only its seq is known: it is redelivered, and its row is written again.
    pub(in crate::store::sqlite) fn restore_damaged(&mut self, seq: Seq, size: u32) {
        let state = StoredState::Retry;
        self.restore(&StoredOpen {
            seq,
            size,
            attempt: 1,
            replay: 0,
            state,
            nacked_until: None,
            reason: None,
        });
        self.pending.touch(seq);
    }

    /// Restores the number of dropped events at open.
    pub(in crate::store::sqlite) fn restore_dropped(&mut self, dropped: u64) {
        self.dropped = dropped;
    }

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
            State::Settled => return if matches { Place::Settled } else { Place::Elsewhere },
        };
        Place::At(state, open.attempt)
    }

    /// Adds a move to a position to the changes. `passed`: what of the log is not ahead of it.
    pub(in crate::store::sqlite) fn plan_seek(&self, position: Seq, passed: Total, changes: &mut Changes) {
        (changes.position, changes.passed) = (position, self.passed_at(position, passed));
        changes.rows.retain(|row| row.state == StoredState::Dead);
        changes.deleted.extend(self.open.not_dead());
    }

    /// Moves to a position: leases and retries end.
    pub(in crate::store::sqlite) fn seek(&mut self, position: Seq, passed: Total) {
        for seq in self.open.not_dead() {
            self.open.remove(seq);
            self.pending.forget(seq);
        }
        self.pending.settled_from(position + 1);
        self.passed = self.passed_at(position, passed);
        (self.position, self.scanned) = (position, position);
        self.fresh.clear();
        self.ahead.forget();
    }

    /// Dead events after the position count as passed, since they are not delivered again.
    fn passed_at(&self, position: Seq, passed: Total) -> Total {
        let dead = self.open.above(position).filter(|(_, open)| open.state == State::Dead);
        dead.fold(passed, |passed, (_, open)| passed.plus(open.size))
    }

    /// Whether an event is delivered anyway. `matches`: the filter lets it pass.
    pub(in crate::store::sqlite) fn is_pending(&mut self, seq: Seq, matches: bool, now: Instant) -> bool {
        self.run_timers(now);
        let open = self.open.get(seq);
        open.map_or(matches && seq > self.position, Open::is_pending)
    }

    /// Opens a settled or dead event again, which returns to its place.
    pub(in crate::store::sqlite) fn replay(&mut self, seq: Seq, size: u32, replay: u32) {
        self.open.remove(seq);
        self.pending.stored(seq);
        self.open.insert(seq, Open { size, attempt: 0, replay, state: State::Returned, reason: None });
    }
}
