//! One app's queue: the order of events, their leases, and their redelivery when a lease ends (visibility timeout).
//! No clock, no bodies, and no I/O but that of a long [`Backlog`].
//!
//! An event is in one of three places. *Fresh* ones have never been leased. *Held* ones are leased until a
//! point in time, or were nacked by a client and are available from a point in time on. *Returned* ones
//! had a lease that expired or was released.
//!
//! Returned events are leased first, which keeps the order of arrival. Nacked events then alternate with fresh
//! ones, so that events that no client wants do not starve those behind them.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{backlog::Backlog, sequence::Seq, spill::Spill};

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
    fresh: Backlog,
    /// The last event that was added.
    last: Seq,
    returned: BTreeMap<Seq, Returned>,
    held: BTreeMap<Seq, Held>,
    /// When each lease expires.
    due: BTreeSet<(Instant, Seq)>,
    /// The held events that were nacked.
    nacked: BTreeSet<Seq>,
    /// When each nacked event is available. They are leased in this order.
    turns: BTreeSet<(Instant, Seq)>,
    /// Whether the last leased event was a nacked one: then a fresh one is next.
    leased_nacked: bool,
    leased: usize,
    bytes: u64,
    dropped: u64,
    /// Somebody asked for events since it was last to rest.
    awake: bool,
}

#[derive(Debug, Clone, Copy)]
struct Returned {
    size: u32,
    attempts: u32,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    event: Returned,
    until: Instant,
    /// The lease, or `None` if it was nacked.
    lease: Option<u64>,
}

/// An event that made room for another, and what was known of it.
#[derive(Debug)]
pub(super) struct Evicted {
    pub(super) slot: Slot,
    attempts: u32,
    held: Option<Held>,
}

impl Queue {
    /// An empty one, of which what is far from its ends may go there.
    pub(super) fn new(spill: Option<Arc<Spill>>) -> Self {
        Self { fresh: Backlog::new(spill), ..Self::default() }
    }

    /// Adds an event that came after all others.
    pub(super) fn push(&mut self, slot: Slot) {
        debug_assert!(self.last < slot.seq);
        self.last = slot.seq;
        self.bytes += u64::from(slot.size);
        self.fresh.push(slot);
    }

    /// Lets go of memory where nobody asked for events since this was called last.
    pub(super) fn rest(&mut self) {
        if !std::mem::take(&mut self.awake) {
            self.fresh.rest();
        }
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
        self.awake = true;
        self.bring_back(now);
        let mut taken = Vec::new();
        let mut bytes = 0;
        while taken.len() < max_events {
            let Some(next) = self.next(now) else { break };
            bytes += u64::from(next.size);
            if bytes > max_bytes && !taken.is_empty() {
                break;
            }
            let (seq, mut event) = self.pop_next(now).expect("there is a next event");
            event.attempts += 1;
            taken.push(Taken { seq, attempt: event.attempts });
            self.hold(seq, Held { event, until: now + time, lease: Some(lease) });
        }
        taken
    }

    /// Accepts an event that this lease has: it is to be deleted. `false` where the lease has ended.
    pub(super) fn ack(&mut self, now: Instant, seq: Seq, lease: u64) -> bool {
        let Some(held) = self.end_lease(now, seq, lease) else { return false };
        self.bytes -= u64::from(held.event.size);
        true
    }

    /// Returns an event of this lease to its place in the order. `false` if the lease has ended.
    pub(super) fn release(&mut self, now: Instant, seq: Seq, lease: u64) -> bool {
        let Some(held) = self.end_lease(now, seq, lease) else { return false };
        self.returned.insert(seq, held.event);
        true
    }

    /// Makes an event of this lease available again after the delay. `false` if the lease has ended.
    pub(super) fn nack(&mut self, now: Instant, seq: Seq, lease: u64, delay: Duration) -> bool {
        let Some(held) = self.end_lease(now, seq, lease) else { return false };
        self.hold(seq, Held { event: held.event, until: now + delay, lease: None });
        true
    }

    /// Undoes a lease that nobody came to know of: it does not count as an attempt.
    pub(super) fn undo(&mut self, now: Instant, seq: Seq, lease: u64) {
        if let Some(held) = self.end_lease(now, seq, lease) {
            let attempts = held.event.attempts - 1;
            self.returned.insert(seq, Returned { attempts, ..held.event });
        }
    }

    /// When the next held event is available.
    pub(super) fn next_due(&self) -> Option<Instant> {
        [self.due.first(), self.turns.first()].into_iter().flatten().map(|(until, _)| *until).min()
    }

    /// Takes the oldest event out to make room: one that nobody has, where there is one.
    pub(super) fn evict_oldest(&mut self, now: Instant) -> Option<Evicted> {
        self.bring_back(now);
        let returned = self.returned.first_key_value().map(|(&seq, _)| seq);
        let in_order = returned.or_else(|| self.fresh.front().map(|slot| slot.seq));
        let leased = || self.held.first_key_value().map(|(&seq, _)| seq);
        let oldest = [in_order, self.nacked.first().copied()].into_iter().flatten().min().or_else(leased)?;
        let held = self.unhold(oldest);
        let event = match held {
            Some(held) => held.event,
            None => self.returned.pop_first().or_else(|| self.pop_fresh())?.1,
        };
        self.bytes -= u64::from(event.size);
        self.dropped += 1;
        let slot = Slot { seq: oldest, size: event.size };
        Some(Evicted { slot, attempts: event.attempts, held })
    }

    /// Puts back what [`evict_oldest`](Self::evict_oldest) took, as nothing came of it.
    pub(super) fn restore(&mut self, evicted: &Evicted) {
        let Evicted { slot, attempts, held } = *evicted;
        self.bytes += u64::from(slot.size);
        self.dropped -= 1;
        match held {
            Some(held) => self.hold(slot.seq, held),
            None => drop(self.returned.insert(slot.seq, Returned { size: slot.size, attempts })),
        }
    }

    /// The available events older than this number.
    pub(super) fn older_than(&mut self, now: Instant, floor: Seq) -> io::Result<Vec<Slot>> {
        self.bring_back(now);
        let returned = self.returned.range(..floor).map(|(&seq, event)| Slot { seq, size: event.size });
        let nacked = self.nacked.range(..floor).filter_map(|&seq| {
            let held = self.held.get(&seq).filter(|held| held.until <= now)?;
            Some(Slot { seq, size: held.event.size })
        });
        Ok(returned.chain(nacked).chain(self.fresh.below(floor)?).collect())
    }

    /// Takes an event out that was dropped for its age. `false` where it has gone meanwhile.
    pub(super) fn forget(&mut self, slot: Slot) -> bool {
        let found = self.remove(slot.seq);
        self.dropped += u64::from(found);
        found
    }

    /// The numbers of all events.
    pub(super) fn all(&self) -> io::Result<Vec<Seq>> {
        let fresh = self.fresh.below(Seq::MAX)?;
        let known = self.returned.keys().chain(self.held.keys()).copied();
        Ok(known.chain(fresh.iter().map(|slot| slot.seq)).collect())
    }

    /// Becomes an empty one.
    pub(super) fn clear(&mut self) {
        let fresh = std::mem::take(&mut self.fresh);
        *self = Self { fresh, ..Self::default() };
        self.fresh.clear();
    }

    /// Whether it is as good as a new one.
    pub(super) fn is_idle(&self) -> bool {
        self.len() == 0 && self.dropped == 0
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

    /// Counts drops of events that never stood here, or that the store counted before it was closed.
    pub(super) fn add_dropped(&mut self, dropped: u64) {
        self.dropped += dropped;
    }

    pub(super) fn oldest(&self) -> Option<Seq> {
        let firsts = [
            self.fresh.first(),
            self.returned.first_key_value().map(|(&seq, _)| seq),
            self.held.first_key_value().map(|(&seq, _)| seq),
        ];
        firsts.into_iter().flatten().min()
    }

    /// Makes events whose lease has expired available for redelivery: from held to returned.
    pub(super) fn bring_back(&mut self, now: Instant) {
        while let Some(&(until, seq)) = self.due.first() {
            if until > now {
                break;
            }
            let held = self.unhold(seq).expect("what is due is held");
            self.returned.insert(seq, held.event);
        }
    }

    /// Takes an event out, wherever it is.
    fn remove(&mut self, seq: Seq) -> bool {
        let held = self.unhold(seq).map(|held| held.event).or_else(|| self.returned.remove(&seq));
        let size = held.map(|event| event.size).or_else(|| self.fresh.remove(seq).map(|slot| slot.size));
        self.bytes -= u64::from(size.unwrap_or_default());
        size.is_some()
    }

    /// The event that is leased next.
    fn next(&mut self, now: Instant) -> Option<Slot> {
        if let Some((&seq, event)) = self.returned.first_key_value() {
            return Some(Slot { seq, size: event.size });
        }
        match self.next_nacked(now) {
            Some(seq) => Some(Slot { seq, size: self.held.get(&seq)?.event.size }),
            None => self.fresh.front(),
        }
    }

    fn pop_next(&mut self, now: Instant) -> Option<(Seq, Returned)> {
        if let Some(returned) = self.returned.pop_first() {
            return Some(returned);
        }
        let nacked = self.next_nacked(now);
        self.leased_nacked = nacked.is_some();
        match nacked {
            Some(seq) => Some((seq, self.unhold(seq)?.event)),
            None => self.pop_fresh(),
        }
    }

    /// The nacked event that is available for the longest time, unless it is the turn of a fresh one.
    fn next_nacked(&self, now: Instant) -> Option<Seq> {
        let (_, seq) = self.turns.first().filter(|(since, _)| *since <= now)?;
        (!self.leased_nacked || self.fresh.len() == 0).then_some(*seq)
    }

    fn pop_fresh(&mut self) -> Option<(Seq, Returned)> {
        let Slot { seq, size } = self.fresh.pop_front()?;
        Some((seq, Returned { size, attempts: 0 }))
    }

    fn hold(&mut self, seq: Seq, held: Held) {
        if held.lease.is_some() {
            self.leased += 1;
            self.due.insert((held.until, seq));
        } else {
            self.nacked.insert(seq);
            self.turns.insert((held.until, seq));
        }
        self.held.insert(seq, held);
    }

    fn unhold(&mut self, seq: Seq) -> Option<Held> {
        let held = self.held.remove(&seq)?;
        if held.lease.is_some() {
            self.leased -= 1;
            self.due.remove(&(held.until, seq));
        } else {
            self.nacked.remove(&seq);
            self.turns.remove(&(held.until, seq));
        }
        Some(held)
    }

    fn end_lease(&mut self, now: Instant, seq: Seq, lease: u64) -> Option<Held> {
        self.bring_back(now);
        if self.held.get(&seq)?.lease == Some(lease) { self.unhold(seq) } else { None }
    }
}
