//! The open events of a consumer: those at or below its position that are leased, wait for a retry, or are dead.
//!
//! An event that was dead when the cursor was moved back is open above the position. Once it is replayed and settled it stays there as
//! settled until the position passes it, so that it is not delivered again as a fresh one.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use super::super::{
    Seq,
    app_log::Total,
    changes::{StoredOpen, StoredState},
};

/// An event at or below the position that is not settled.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) size: u32,
    pub(super) attempt: u32,
    pub(super) replay: u32,
    pub(super) state: State,
    /// Until its row is written: the row keeps it.
    pub(super) reason: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Leased {
        number: u64,
        since: Instant,
        until: Instant,
    },
    /// Redelivered from this time on, in turn with fresh events.
    Nacked(Instant),
    /// Redelivered next, in order of seq: the event returned to its place.
    Returned,
    Dead,
    /// Above the position.
    Settled,
}

impl Open {
    /// How long the lease has lasted, in milliseconds.
    pub(super) fn took(&self, now: Instant) -> u32 {
        match self.state {
            State::Leased { since, .. } => {
                u32::try_from(now.saturating_duration_since(since).as_millis()).unwrap_or(u32::MAX)
            }
            _ => 0,
        }
    }

    pub(super) fn is_leased(&self) -> bool {
        matches!(self.state, State::Leased { .. })
    }

    pub(super) fn is_pending(&self) -> bool {
        !matches!(self.state, State::Dead | State::Settled)
    }

    fn stored_state(&self) -> StoredState {
        match self.state {
            State::Leased { .. } => StoredState::Leased,
            State::Nacked(_) | State::Returned => StoredState::Retry,
            State::Dead => StoredState::Dead,
            State::Settled => StoredState::Settled,
        }
    }

    fn take_row(&mut self, seq: Seq) -> StoredOpen {
        let nacked_until = if let State::Nacked(at) = self.state { Some(at) } else { None };
        let state = self.stored_state();
        StoredOpen {
            seq,
            size: self.size,
            attempt: self.attempt,
            replay: self.replay,
            state,
            nacked_until,
            reason: self.reason.take(),
        }
    }
}

/// Open events by seq, with an index of those that are redelivered.
#[derive(Debug, Default)]
pub(super) struct OpenEvents {
    events: BTreeMap<Seq, Open>,
    /// When each lease expires.
    leases: BTreeSet<(Instant, Seq)>,
    /// When each nacked event is due.
    nacked: BTreeSet<(Instant, Seq)>,
    returned: BTreeSet<Seq>,
    settled: BTreeSet<Seq>,
    /// The leased events, and those that wait for their redelivery, in order of arrival: there may be many more dead ones.
    leased: BTreeSet<Seq>,
    waiting: BTreeSet<Seq>,
    /// Open events that are neither dead nor settled.
    unsettled: Total,
}

impl OpenEvents {
    pub(super) fn insert(&mut self, seq: Seq, open: Open) {
        match open.state {
            State::Leased { until, .. } => drop(self.leases.insert((until, seq))),
            State::Nacked(at) => drop(self.nacked.insert((at, seq))),
            State::Returned => drop(self.returned.insert(seq)),
            State::Settled => drop(self.settled.insert(seq)),
            State::Dead => {}
        }
        if open.is_pending() {
            self.unsettled = self.unsettled.plus(open.size);
            let pending = if open.is_leased() { &mut self.leased } else { &mut self.waiting };
            pending.insert(seq);
        }
        self.events.insert(seq, open);
    }

    pub(super) fn get(&self, seq: Seq) -> Option<&Open> {
        self.events.get(&seq)
    }

    /// The events that are not dead.
    pub(super) fn not_dead(&self) -> Vec<Seq> {
        self.leased.iter().chain(&self.waiting).chain(&self.settled).copied().collect()
    }

    pub(super) fn remove(&mut self, seq: Seq) -> Option<Open> {
        let open = self.events.remove(&seq)?;
        match open.state {
            State::Leased { until, .. } => drop(self.leases.remove(&(until, seq))),
            State::Nacked(at) => drop(self.nacked.remove(&(at, seq))),
            State::Returned => drop(self.returned.remove(&seq)),
            State::Settled => drop(self.settled.remove(&seq)),
            State::Dead => {}
        }
        if open.is_pending() {
            self.unsettled = self.unsettled.minus(Total::default().plus(open.size));
            let pending = if open.is_leased() { &mut self.leased } else { &mut self.waiting };
            pending.remove(&seq);
        }
        Some(open)
    }

    /// Removes a leased event if this lease is current.
    pub(super) fn remove_leased(&mut self, seq: Seq, number: u64) -> Option<Open> {
        match self.events.get(&seq)?.state {
            State::Leased { number: current, .. } if current == number => self.remove(seq),
            _ => None,
        }
    }

    /// Removes an event whose lease has expired.
    pub(super) fn remove_expired(&mut self, now: Instant) -> Option<(Seq, Open)> {
        let &(_, seq) = self.leases.first().filter(|(until, _)| *until <= now)?;
        Some((seq, self.remove(seq)?))
    }

    /// The first event that returned to its place, and its size.
    pub(super) fn first_returned(&self) -> Option<(Seq, u32)> {
        self.returned.first().and_then(|seq| self.with_size(*seq))
    }

    /// The nacked event that is due for the longest time, and its size.
    pub(super) fn first_nacked(&self, now: Instant) -> Option<(Seq, u32)> {
        let due = self.nacked.first().filter(|(at, _)| *at <= now);
        due.and_then(|(_, seq)| self.with_size(*seq))
    }

    /// The oldest leased event.
    pub(super) fn first_leased(&self) -> Option<Seq> {
        self.leased.first().copied()
    }

    /// The oldest event that waits for its redelivery.
    pub(super) fn first_waiting(&self) -> Option<Seq> {
        self.waiting.first().copied()
    }

    fn with_size(&self, seq: Seq) -> Option<(Seq, u32)> {
        Some((seq, self.events.get(&seq)?.size))
    }

    /// When the next lease expires or the next nacked event is due.
    pub(super) fn next_timer(&self) -> Option<Instant> {
        [self.leases.first(), self.nacked.first()].into_iter().flatten().map(|(at, _)| *at).min()
    }

    /// Removes a settled event that is not above the position any more.
    pub(super) fn remove_settled(&mut self, position: Seq) -> Option<Seq> {
        let seq = *self.settled.first().filter(|seq| **seq <= position)?;
        self.remove(seq).map(|_| seq)
    }

    /// The events after a position.
    pub(super) fn above(&self, position: Seq) -> impl Iterator<Item = (Seq, &Open)> {
        self.events.range(position + 1..).map(|(seq, open)| (*seq, open))
    }

    /// The events that are neither dead nor settled.
    pub(super) fn unsettled(&self) -> Total {
        self.unsettled
    }

    pub(super) fn leased(&self) -> u64 {
        self.leases.len() as u64
    }

    pub(super) fn dead(&self) -> u64 {
        (self.events.len() - self.settled.len()) as u64 - self.unsettled.count
    }

    fn get_mut(&mut self, seq: Seq) -> Option<&mut Open> {
        self.events.get_mut(&seq)
    }

    /// Takes the row of an event, if it is open. Its reason leaves the memory with it.
    pub(super) fn take_row(&mut self, seq: Seq) -> Option<StoredOpen> {
        self.get_mut(seq).map(|open| open.take_row(seq))
    }

    /// Takes back the reason of a row that was not written.
    pub(super) fn restore_reason(&mut self, row: &mut StoredOpen) {
        if let Some(open) = self.get_mut(row.seq).filter(|open| open.stored_state() == row.state) {
            open.reason = open.reason.take().or_else(|| row.reason.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const DEAD: State = State::Dead;

    fn open(state: State, reason: Option<&str>) -> Open {
        Open { size: 1, attempt: 1, replay: 0, state, reason: reason.map(Into::into) }
    }

    #[test]
    fn a_reason_leaves_the_memory_with_its_row_and_comes_back_if_the_row_was_not_written() {
        let mut events = OpenEvents::default();
        events.insert(7, open(DEAD, Some("bad")));
        let mut row = events.take_row(7).unwrap();
        assert_eq!(row.reason.as_deref(), Some("bad"));
        assert_eq!(events.get(7).unwrap().reason, None);
        events.restore_reason(&mut row);
        assert_eq!(events.take_row(7).unwrap().reason.as_deref(), Some("bad"));
        // A reason is that of its state.
        let mut row = StoredOpen { state: StoredState::Retry, reason: Some("later".into()), ..row };
        events.restore_reason(&mut row);
        assert_eq!(events.take_row(7).unwrap().reason, None);
        assert!(size_of::<Open>() <= 96);
    }

    #[test]
    fn dead_events_do_not_slow_down_the_search_for_pending_ones() {
        let mut events = OpenEvents::default();
        for seq in 0..100_000 {
            events.insert(seq, open(DEAD, None));
        }
        events.insert(100_000, open(State::Returned, None));
        let started = Instant::now();
        for _ in 0..100_000 {
            assert_eq!(events.first_waiting(), Some(100_000));
        }
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        assert_eq!((events.dead(), events.unsettled().count), (100_000, 1));
    }
}
