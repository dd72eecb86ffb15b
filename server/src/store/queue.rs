//! One app's queue: which event is next, who has which, until when. No I/O, no clock, no bodies.
//!
//! An event is in one of three places. *Fresh* ones have never been handed out. *Held* ones are
//! leased, or released with a delay, until a point in time. *Returned* ones were held and wait to go
//! out again. Events are taken from the front, so everything held or returned came before
//! everything fresh: handing out the returned first keeps the order of arrival.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use super::sequence::Seq;

/// An event of the queue: its number and how many bytes it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) seq: Seq,
    pub(super) size: u32,
}

/// One event leased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) seq: Seq,
    pub(super) attempt: u32,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    fresh: VecDeque<Slot>,
    returned: BTreeMap<Seq, Returned>,
    held: BTreeMap<Seq, Held>,
    /// When each held event comes back.
    due: BTreeSet<(Instant, Seq)>,
    leased: usize,
    bytes: u64,
    dropped: u64,
}

#[derive(Debug, Clone, Copy)]
struct Returned {
    size: u32,
    attempts: u32,
}

#[derive(Debug)]
struct Held {
    event: Returned,
    until: Instant,
    /// Which lease has it, or `None` for one that was released with a delay.
    lease: Option<u64>,
}

impl Queue {
    /// Adds an event that came after all others.
    pub(super) fn push(&mut self, slot: Slot) {
        debug_assert!(self.fresh.back().is_none_or(|last| last.seq < slot.seq));
        self.bytes += u64::from(slot.size);
        self.fresh.push_back(slot);
    }

    /// Takes events from the front under one lease, up to `max_bytes` but at least one.
    pub(super) fn lease(
        &mut self,
        now: Instant,
        max_events: usize,
        max_bytes: u64,
        time: Duration,
        lease: u64,
    ) -> Vec<Taken> {
        self.bring_back(now);
        let mut taken = Vec::new();
        let mut bytes = 0;
        while taken.len() < max_events {
            let Some(next) = self.front() else { break };
            bytes += u64::from(next.size);
            if bytes > max_bytes && !taken.is_empty() {
                break;
            }
            let (seq, mut event) = self.pop_front().expect("there is a front");
            event.attempts += 1;
            taken.push(Taken { seq, attempt: event.attempts });
            self.hold(seq, Held { event, until: now + time, lease: Some(lease) });
        }
        taken
    }

    /// Deletes an event that this lease has. `false` where the lease has ended.
    pub(super) fn ack(&mut self, now: Instant, seq: Seq, lease: u64) -> bool {
        let Some(held) = self.end_lease(now, seq, lease) else { return false };
        self.bytes -= u64::from(held.event.size);
        true
    }

    /// Hands back an event that this lease has. `false` where the lease has ended.
    pub(super) fn release(&mut self, now: Instant, seq: Seq, lease: u64, delay: Duration) -> bool {
        let Some(held) = self.end_lease(now, seq, lease) else { return false };
        if delay.is_zero() {
            self.returned.insert(seq, held.event);
        } else {
            self.hold(seq, Held { event: held.event, until: now + delay, lease: None });
        }
        true
    }

    /// Undoes a lease that nobody came to know of: it does not count as an attempt.
    pub(super) fn undo(&mut self, now: Instant, seq: Seq, lease: u64) {
        if let Some(held) = self.end_lease(now, seq, lease) {
            let attempts = held.event.attempts - 1;
            self.returned.insert(seq, Returned { attempts, ..held.event });
        }
    }

    /// When the next held event comes back.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(until, _)| *until)
    }

    /// Takes the oldest event out to make room: one that nobody has, where there is one.
    pub(super) fn evict_oldest(&mut self, now: Instant) -> Option<Slot> {
        self.bring_back(now);
        let slot = if let Some((seq, event)) = self.pop_front() {
            Slot { seq, size: event.size }
        } else {
            let (&seq, _) = self.held.first_key_value()?;
            let held = self.unhold(seq).expect("it was just there");
            Slot { seq, size: held.event.size }
        };
        self.bytes -= u64::from(slot.size);
        self.dropped += 1;
        Some(slot)
    }

    /// Puts back what [`evict_oldest`](Self::evict_oldest) took, as nothing came of it.
    pub(super) fn restore(&mut self, slot: Slot) {
        self.bytes += u64::from(slot.size);
        self.dropped -= 1;
        self.returned.insert(slot.seq, Returned { size: slot.size, attempts: 0 });
    }

    /// The events older than this number that nobody has.
    pub(super) fn older_than(&mut self, now: Instant, floor: Seq) -> Vec<Slot> {
        self.bring_back(now);
        let returned = self.returned.range(..floor).map(|(&seq, event)| Slot { seq, size: event.size });
        returned.chain(self.fresh.iter().copied().take_while(|slot| slot.seq < floor)).collect()
    }

    /// Takes an event out that was dropped for its age. `false` where it has gone meanwhile.
    pub(super) fn forget(&mut self, slot: Slot) -> bool {
        let found = if self.fresh.front() == Some(&slot) {
            self.fresh.pop_front();
            true
        } else {
            self.returned.remove(&slot.seq).is_some() || self.unhold(slot.seq).is_some()
        };
        if found {
            self.bytes -= u64::from(slot.size);
            self.dropped += 1;
        }
        found
    }

    /// The numbers of all events.
    pub(super) fn all(&self) -> Vec<Seq> {
        let fresh = self.fresh.iter().map(|slot| slot.seq);
        self.returned.keys().copied().chain(self.held.keys().copied()).chain(fresh).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.fresh.len() + self.returned.len() + self.held.len()
    }

    pub(super) fn leased(&self) -> usize {
        self.leased
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Counts drops of events that never stood here, or that an earlier life of the store counted.
    pub(super) fn add_dropped(&mut self, dropped: u64) {
        self.dropped += dropped;
    }

    pub(super) fn oldest(&self) -> Option<Seq> {
        let firsts = [
            self.fresh.front().map(|slot| slot.seq),
            self.returned.first_key_value().map(|(&seq, _)| seq),
            self.held.first_key_value().map(|(&seq, _)| seq),
        ];
        firsts.into_iter().flatten().min()
    }

    /// Moves held events whose time has come to the returned ones.
    pub(super) fn bring_back(&mut self, now: Instant) {
        while let Some(&(until, seq)) = self.due.first() {
            if until > now {
                break;
            }
            let held = self.unhold(seq).expect("what is due is held");
            self.returned.insert(seq, held.event);
        }
    }

    fn front(&self) -> Option<Slot> {
        let returned = self.returned.first_key_value();
        returned.map(|(&seq, event)| Slot { seq, size: event.size }).or(self.fresh.front().copied())
    }

    fn pop_front(&mut self) -> Option<(Seq, Returned)> {
        self.returned.pop_first().or_else(|| {
            let Slot { seq, size } = self.fresh.pop_front()?;
            Some((seq, Returned { size, attempts: 0 }))
        })
    }

    fn hold(&mut self, seq: Seq, held: Held) {
        self.leased += usize::from(held.lease.is_some());
        self.due.insert((held.until, seq));
        self.held.insert(seq, held);
    }

    fn unhold(&mut self, seq: Seq) -> Option<Held> {
        let held = self.held.remove(&seq)?;
        self.due.remove(&(held.until, seq));
        self.leased -= usize::from(held.lease.is_some());
        Some(held)
    }

    fn end_lease(&mut self, now: Instant, seq: Seq, lease: u64) -> Option<Held> {
        self.bring_back(now);
        if self.held.get(&seq)?.lease == Some(lease) { self.unhold(seq) } else { None }
    }
}
