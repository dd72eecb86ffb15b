//! The open events of a consumer: those at or below its position that are leased, wait for a retry, or are dead.

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
    pub(super) state: State,
    pub(super) reason: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Leased {
        number: u64,
        since: Instant,
        until: Instant,
    },
    /// Redelivered at this time.
    Delayed(Instant),
    /// Redelivered next.
    Ready,
    Dead,
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

    fn to_row(&self, seq: Seq) -> StoredOpen {
        let (state, delayed_until) = match self.state {
            State::Leased { .. } => (StoredState::Leased, None),
            State::Delayed(at) => (StoredState::Retry, Some(at)),
            State::Ready => (StoredState::Retry, None),
            State::Dead => (StoredState::Dead, None),
        };
        StoredOpen {
            seq,
            size: self.size,
            attempt: self.attempt,
            state,
            delayed_until,
            reason: self.reason.clone(),
        }
    }
}

/// Open events by seq, with an index of those that are due later and of those that are due now.
#[derive(Debug, Default)]
pub(super) struct OpenEvents {
    events: BTreeMap<Seq, Open>,
    /// When a lease expires or a delay ends.
    timers: BTreeSet<(Instant, Seq)>,
    ready: BTreeSet<Seq>,
    /// Open events that are not dead, and how many of them are leased.
    unsettled: Total,
    leased: u64,
}

impl OpenEvents {
    pub(super) fn insert(&mut self, seq: Seq, open: Open) {
        match open.state {
            State::Leased { until, .. } => {
                self.timers.insert((until, seq));
                self.leased += 1;
            }
            State::Delayed(at) => drop(self.timers.insert((at, seq))),
            State::Ready => drop(self.ready.insert(seq)),
            State::Dead => {}
        }
        if open.state != State::Dead {
            self.unsettled = self.unsettled.plus(open.size);
        }
        self.events.insert(seq, open);
    }

    pub(super) fn remove(&mut self, seq: Seq) -> Option<Open> {
        let open = self.events.remove(&seq)?;
        match open.state {
            State::Leased { until, .. } => {
                self.timers.remove(&(until, seq));
                self.leased -= 1;
            }
            State::Delayed(at) => drop(self.timers.remove(&(at, seq))),
            State::Ready => drop(self.ready.remove(&seq)),
            State::Dead => {}
        }
        if open.state != State::Dead {
            self.unsettled = self.unsettled.minus(Total::default().plus(open.size));
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

    /// Removes an event whose lease has expired or whose delay has ended.
    pub(super) fn remove_due(&mut self, now: Instant) -> Option<(Seq, Open)> {
        let &(_, seq) = self.timers.first().filter(|(at, _)| *at <= now)?;
        Some((seq, self.remove(seq)?))
    }

    /// The first event to be redelivered, and its size.
    pub(super) fn first_ready(&self) -> Option<(Seq, u32)> {
        let seq = *self.ready.first()?;
        Some((seq, self.events.get(&seq)?.size))
    }

    /// When the next lease expires or the next delay ends.
    pub(super) fn next_timer(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// The events that are not dead.
    pub(super) fn unsettled(&self) -> Total {
        self.unsettled
    }

    pub(super) fn leased(&self) -> u64 {
        self.leased
    }

    pub(super) fn dead(&self) -> u64 {
        self.events.len() as u64 - self.unsettled.count
    }

    /// The row of an event, if it is open.
    pub(super) fn row(&self, seq: Seq) -> Option<StoredOpen> {
        self.events.get(&seq).map(|open| open.to_row(seq))
    }
}
