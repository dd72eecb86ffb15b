//! The cursor of a consumer: its position, and the exceptions at or below it. A state machine in memory without I/O.
//!
//! The position is the last event that was leased or skipped. An event at or below it that is not settled is *open*: leased, to be
//! retried, or dead. What the database must know of a change is collected in [`Changes`]: a lease and its acknowledgement between
//! two flushes cancel out.
//!
//! Events that returned to their place (the lease expired, or the event did not reach a client) are leased first, in order of arrival.
//! Nacked events that are due alternate with fresh ones, so that neither starve.

mod ahead;
mod moves;
mod open;
mod retire;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use self::{
    ahead::Ahead,
    open::{Open, OpenEvents, State},
};
pub(super) use self::{ahead::Count, moves::Place};
use super::{
    Seq,
    app_log::{Entry, Total},
    changes::{Changes, Outcome, Pending, StoredOpen, StoredState},
};
use crate::store::MAX_LEASE;

/// An event that was leased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Leased {
    pub(super) seq: Seq,
    pub(super) attempt: u32,
    /// How often the event was replayed.
    pub(super) replay: u32,
    /// The number of the lease, which its receipt has.
    pub(super) number: u64,
}

/// How many events to lease, and for how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    pub(super) max_events: usize,
    pub(super) max_bytes: u64,
    pub(super) time: Duration,
    pub(super) now: Instant,
}

/// The cursor of one consumer.
#[derive(Debug)]
pub(super) struct Cursor {
    /// The last event that was leased or skipped.
    position: Seq,
    /// The app's total without the stored events after the position, except the open ones. Only used without a filter.
    passed: Total,
    /// Matching events after the position, a part of the log.
    fresh: VecDeque<Entry>,
    /// The log was read up to here.
    scanned: Seq,
    /// Only used with a filter.
    ahead: Ahead,
    open: OpenEvents,
    /// The last leased event was a nacked one: a fresh one is next.
    leased_nacked: bool,
    max_attempts: u32,
    /// Events that were dropped before they were settled.
    dropped: u64,
    pending: Pending,
}

impl Cursor {
    pub(super) fn new(position: Seq, passed: Total, max_attempts: u32) -> Self {
        Self {
            position,
            passed,
            fresh: VecDeque::new(),
            scanned: position,
            ahead: Ahead::default(),
            open: OpenEvents::default(),
            leased_nacked: false,
            max_attempts,
            dropped: 0,
            pending: Pending::default(),
        }
    }

    /// Restores an open event at open. A lease ended with the process that held it, and its attempt counts.
    pub(super) fn restore(&mut self, row: &StoredOpen) {
        let state = match row.state {
            StoredState::Dead => State::Dead,
            StoredState::Settled => State::Settled,
            StoredState::Leased if self.is_exhausted(row.attempt) => State::Dead,
            StoredState::Leased => State::Returned,
            StoredState::Retry => row.nacked_until.map_or(State::Returned, State::Nacked),
        };
        self.pending.stored(row.seq);
        let open = Open { size: row.size, attempt: row.attempt, replay: row.replay, state, reason: None };
        self.open.insert(row.seq, open);
    }

    pub(super) fn set_max_attempts(&mut self, max_attempts: u32) {
        self.max_attempts = max_attempts;
    }

    /// Where the log is to be read on from, if fresh events are needed.
    pub(super) fn wants_fresh(&self, max_events: usize) -> Option<Seq> {
        (self.fresh.len() < max_events).then_some(self.scanned)
    }

    /// Adds what was read from the log after `from`, up to `scanned`. Ignored if the log was read by another lease meanwhile.
    pub(super) fn add_fresh(&mut self, from: Seq, scanned: Seq, matching: impl IntoIterator<Item = Entry>) {
        if self.scanned == from {
            // An open event above the position was dead when the cursor was moved back.
            self.fresh.extend(matching.into_iter().filter(|entry| self.open.get(entry.seq).is_none()));
            self.scanned = scanned;
            self.skip();
        }
    }

    /// The log was read to its end. Without fresh events the cursor has passed all of it, whatever was removed before it was read.
    pub(super) fn reached_end(&mut self, total: Total) {
        if self.fresh.is_empty() {
            self.passed = total;
            self.ahead.none(self.scanned);
        }
    }

    /// Moves the position over events that the filter skips.
    fn skip(&mut self) {
        if self.fresh.is_empty() && self.position < self.scanned {
            self.move_to(self.scanned);
        }
    }

    /// Leases events: returned ones in order of seq, then nacked ones that are due in turn with fresh ones.
    pub(super) fn lease(&mut self, request: &Request, mut number: impl FnMut() -> u64) -> Vec<Leased> {
        self.run_timers(request.now);
        let (mut leased, mut bytes) = (Vec::new(), 0);
        while leased.len() < request.max_events {
            let Some((open, size)) = self.next(request.now) else { break };
            bytes += u64::from(size);
            if bytes > request.max_bytes && !leased.is_empty() {
                break;
            }
            let (seq, attempt, replay) = match open.and_then(|seq| Some((seq, self.open.remove(seq)?))) {
                Some((seq, open)) => {
                    self.leased_nacked |= open.state != State::Returned;
                    (seq, open.attempt + 1, open.replay)
                }
                None => (self.next_fresh(), 1, 0),
            };
            let number = number();
            let state = State::Leased { number, since: request.now, until: request.now + request.time };
            self.open.insert(seq, Open { size, attempt, replay, state, reason: None });
            self.pending.touch(seq);
            leased.push(Leased { seq, attempt, replay, number });
        }
        self.skip();
        leased
    }

    /// The event that is leased next, with its size: an open one, or `None` for the first fresh one.
    fn next(&self, now: Instant) -> Option<(Option<Seq>, u32)> {
        let fresh = self.fresh.front().map(|entry| (None, entry.size));
        let open = |(seq, size)| (Some(seq), size);
        let nacked = || self.open.first_nacked(now).map(open);
        let first = self.open.first_returned().map(open);
        first.or_else(|| if self.leased_nacked { fresh.or_else(nacked) } else { nacked().or(fresh) })
    }

    fn next_fresh(&mut self) -> Seq {
        self.leased_nacked = false;
        let Some(entry) = self.fresh.pop_front() else { return self.position };
        self.move_to(entry.seq);
        self.passed = self.passed.plus(entry.size);
        self.ahead.pass(entry.size);
        entry.seq
    }

    /// Takes leases back whose events did not reach a client: the attempt does not count.
    pub(super) fn undo(&mut self, leased: &[Leased]) {
        for lease in leased {
            if let Some(open) = self.open.remove_leased(lease.seq, lease.number) {
                let open = Open { attempt: open.attempt - 1, state: State::Returned, ..open };
                self.open.insert(lease.seq, open);
                self.pending.touch(lease.seq);
            }
        }
    }

    /// Acknowledges a leased event. Returns whether the lease was current.
    pub(super) fn ack(&mut self, seq: Seq, number: u64, now: Instant) -> bool {
        let Some(open) = self.current(seq, number, now) else { return false };
        let took = open.took(now);
        self.pending.settle(seq, Outcome { attempt: open.attempt, what: "acked", reason: None, took });
        self.keep_above(seq, open);
        true
    }

    /// Rejects a leased event, which is dead from now on.
    pub(super) fn reject(&mut self, seq: Seq, number: u64, reason: Option<String>, now: Instant) -> bool {
        let Some(open) = self.current(seq, number, now) else { return false };
        self.bury(seq, &open, "rejected", reason, now);
        true
    }

    /// Releases a leased event: it is redelivered after the delay, without one it returns to its place. If it has no attempts left,
    /// it is dead.
    pub(super) fn release(
        &mut self,
        seq: Seq,
        number: u64,
        delay: Option<Duration>,
        reason: Option<String>,
        now: Instant,
    ) -> bool {
        let Some(open) = self.current(seq, number, now) else { return false };
        let state = delay.map_or(State::Returned, |delay| State::Nacked(now + delay));
        self.retry(seq, &open, "released", state, reason, now);
        true
    }

    /// Lets a lease run for this time from now on.
    pub(super) fn extend(&mut self, seq: Seq, number: u64, time: Duration, now: Instant) -> bool {
        let Some(mut open) = self.current(seq, number, now) else { return false };
        if let State::Leased { since, until, .. } = &mut open.state {
            *until = (now + time).min(*since + MAX_LEASE);
        }
        self.open.insert(seq, open);
        true
    }

    /// Makes an event that cannot be read dead, so that it does not block others. `missing`: it was removed, and is forgotten.
    pub(super) fn quarantine(&mut self, seq: Seq, number: u64, missing: bool, now: Instant) {
        let Some(open) = self.open.remove_leased(seq, number) else { return };
        if missing {
            self.pending
                .settle(seq, Outcome { attempt: open.attempt, what: "missing", reason: None, took: 0 });
        } else {
            self.bury(seq, &open, "damaged", Some("the stored event is damaged".to_owned()), now);
        }
    }

    /// When the next lease expires or the next delay ends.
    pub(super) fn next_timer(&self) -> Option<Instant> {
        self.open.next_timer()
    }

    /// Events that are not settled, of an app with this total.
    pub(super) fn unsettled(&self, total: Total) -> Total {
        let (ahead, open) = (total.minus(self.passed), self.open.unsettled());
        Total { count: ahead.count + open.count, bytes: ahead.bytes + open.bytes }
    }

    /// How many events are leased, and how many are dead.
    pub(super) fn leased_and_dead(&mut self, now: Instant) -> (u64, u64) {
        self.run_timers(now);
        (self.open.leased(), self.open.dead())
    }

    /// Whether the database must learn something.
    pub(super) fn is_changed(&self) -> bool {
        self.pending.is_changed()
    }

    /// Takes what the database must learn. If that fails, [`Cursor::restore_changes`] takes it back.
    pub(super) fn take_changes(&mut self) -> Changes {
        let Self { pending, open, .. } = self;
        let changes = pending.take(self.position, self.passed, |seq| open.take_row(seq));
        Changes { dropped: self.dropped, ..changes }
    }

    pub(super) fn restore_changes(&mut self, mut changes: Changes) {
        for row in &mut changes.rows {
            self.open.restore_reason(row);
        }
        self.pending.restore(changes);
    }

    /// Ends the leases that have expired.
    pub(super) fn run_timers(&mut self, now: Instant) {
        while let Some((seq, open)) = self.open.remove_expired(now) {
            let reason = Some("the lease expired".to_owned());
            self.retry(seq, &open, "expired", State::Returned, reason, now);
        }
    }

    fn retry(
        &mut self,
        seq: Seq,
        open: &Open,
        what: &'static str,
        state: State,
        reason: Option<String>,
        now: Instant,
    ) {
        if self.is_exhausted(open.attempt) {
            let reason = reason.or_else(|| Some(attempts_failed(open.attempt)));
            return self.bury(seq, open, what, reason, now);
        }
        let took = open.took(now);
        self.pending.retry(seq, Outcome { attempt: open.attempt, what, reason: reason.clone(), took });
        self.open.insert(seq, Open { state, reason, ..*open });
    }

    fn bury(&mut self, seq: Seq, open: &Open, what: &'static str, reason: Option<String>, now: Instant) {
        let took = open.took(now);
        self.pending.record(seq, Outcome { attempt: open.attempt, what, reason: reason.clone(), took });
        self.pending.settled_from(seq);
        self.open.insert(seq, Open { state: State::Dead, reason, ..*open });
    }

    fn is_exhausted(&self, attempt: u32) -> bool {
        self.max_attempts > 0 && attempt >= self.max_attempts
    }

    /// Takes a leased event out if this lease is current.
    fn current(&mut self, seq: Seq, number: u64, now: Instant) -> Option<Open> {
        self.run_timers(now);
        self.open.remove_leased(seq, number)
    }
}

/// The reason of a dead event whose client gave none.
fn attempts_failed(attempts: u32) -> String {
    if attempts == 1 { "1 attempt failed".to_owned() } else { format!("{attempts} attempts failed") }
}
