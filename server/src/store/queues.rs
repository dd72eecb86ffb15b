//! All apps' queues of one process, and the waiting for events.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{sync::Notify, time::Instant};
use wwproxy_protocol::{AppId, api::Receipt};

use super::{
    Lease, Settled, Settlement, Stats,
    queue::{Evicted, Queue, Slot, Taken},
    sequence::{self, Seq},
    spill::Spill,
    tap::{Tap, Taps},
};
use crate::log_limit::LogLimit;

/// How often each reason for dropping events is logged in a minute, over all apps. An app's own number is in its status.
const LOGGED_DROPS: u32 = 1;

/// The queue of each app.
#[derive(Debug)]
pub(super) struct Queues {
    apps: Mutex<HashMap<AppId, Arc<AppQueue>>>,
    /// Where what is in the middle of long queues lies.
    spill: Option<Arc<Spill>>,
    /// The number of the next lease. Starts at random, so that a receipt from before a restart is stale.
    next_lease: AtomicU64,
    evicted: LogLimit,
    expired: LogLimit,
}

#[derive(Debug, Default)]
pub(super) struct AppQueue {
    queue: Mutex<Queue>,
    /// Wakes one that waits for an event. One that leaves events behind wakes the next.
    arrived: Notify,
    taps: Taps,
}

impl Queues {
    /// Without queues yet. They are in memory as a whole where they have no file to spill to.
    pub(super) fn new(spill: Option<Arc<Spill>>) -> Self {
        let start = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
        Self {
            apps: Mutex::default(),
            spill,
            next_lease: AtomicU64::new(start),
            evicted: LogLimit::per_minute(LOGGED_DROPS),
            expired: LogLimit::per_minute(LOGGED_DROPS),
        }
    }

    /// Logs events that were evicted from a full queue, within the rate limit.
    pub(super) fn log_evicted(&self, app: &AppId, events: u64) {
        log_dropped(&self.evicted, app, events, "dropped the oldest events of full queues");
    }

    /// Logs events that were older than the retention, within the rate limit.
    pub(super) fn log_expired(&self, app: &AppId, events: u64) {
        log_dropped(&self.expired, app, events, "dropped events older than the retention");
    }

    pub(super) fn app(&self, app: &AppId) -> Arc<AppQueue> {
        let mut apps = lock(&self.apps);
        match apps.get(app) {
            Some(queue) => Arc::clone(queue),
            None => Arc::clone(apps.entry(app.clone()).or_insert_with(|| self.new_queue())),
        }
    }

    pub(super) fn all(&self) -> Vec<(AppId, Arc<AppQueue>)> {
        lock(&self.apps).iter().map(|(app, queue)| (app.clone(), Arc::clone(queue))).collect()
    }

    fn new_queue(&self) -> Arc<AppQueue> {
        let queue = Mutex::new(Queue::new(self.spill.clone()));
        Arc::new(AppQueue { queue, ..AppQueue::default() })
    }

    /// Forgets the queues that are as good as new and that nobody is at: asked for again they are made again.
    pub(super) fn prune(&self) {
        lock(&self.apps).retain(|_, queue| Arc::strong_count(queue) > 1 || !queue.lock().is_idle());
    }

    /// Leases events, waiting for a first one. What it takes goes back when [`Leased`] is dropped.
    pub(super) async fn lease(&self, app: &AppId, lease: &Lease) -> Leased {
        let queue = self.app(app);
        let number = self.next_lease.fetch_add(1, Ordering::Relaxed);
        let give_up = Instant::now() + lease.wait;
        // However this one stops waiting: when the next event comes back was maybe told to it alone.
        let _pass_on = PassOn(&queue.arrived);
        loop {
            let arrived = queue.arrived.notified();
            let (taken, next_due) = queue.take(lease, number);
            if !taken.is_empty() {
                return Leased { queue: Arc::clone(&queue), lease: number, taken };
            }
            let until = next_due.map_or(give_up, |due| due.min(give_up));
            tokio::select! {
                () = arrived => {}
                () = tokio::time::sleep_until(until) => {
                    if until == give_up {
                        return Leased { queue: Arc::clone(&queue), lease: number, taken };
                    }
                }
            }
        }
    }

    /// Ends leases; the second part are the events to delete.
    pub(super) fn settle(&self, app: &AppId, settlement: Settlement) -> (Settled, Vec<Seq>) {
        let queue = self.app(app);
        let now = Instant::now();
        let mut settled = Settled::default();
        let mut deleted = Vec::with_capacity(settlement.acks.len());
        let mut guard = queue.lock();
        for receipt in settlement.acks {
            match parse(&receipt) {
                Some((seq, lease)) if guard.ack(now, seq, lease) => deleted.push(seq),
                _ => settled.stale.push(receipt),
            }
        }
        for receipt in settlement.releases {
            match parse(&receipt) {
                Some((seq, lease)) if guard.release(now, seq, lease) => settled.released += 1,
                _ => settled.stale.push(receipt),
            }
        }
        for (receipt, delay) in settlement.nacks {
            match parse(&receipt) {
                Some((seq, lease)) if guard.nack(now, seq, lease, delay) => settled.released += 1,
                _ => settled.stale.push(receipt),
            }
        }
        settled.acked = deleted.len();
        drop(guard);
        if settled.released > 0 {
            // Also for a delayed one: who waits has to learn the new time.
            queue.arrived.notify_one();
        }
        (settled, deleted)
    }

    /// Opens a tap on the app's events, or `None` where it has as many as it may.
    pub(super) fn tap(&self, app: &AppId) -> Option<Tap> {
        Tap::open(self.app(app))
    }

    pub(super) fn stats(&self, app: &AppId) -> Stats {
        let queue = self.app(app);
        let mut queue = queue.lock();
        queue.bring_back(Instant::now());
        Stats {
            stored: queue.len(),
            leased: queue.leased(),
            dropped: queue.dropped(),
            bytes: queue.bytes(),
            oldest_age: queue.oldest().map(sequence::age),
        }
    }
}

fn log_dropped(limit: &LogLimit, app: &AppId, events: u64, message: &str) {
    if events > 0
        && let Some(events) = limit.add(events)
    {
        tracing::warn!(events, last = %app, "{message}");
    }
}

impl AppQueue {
    pub(super) fn lock(&self) -> MutexGuard<'_, Queue> {
        lock(&self.queue)
    }

    /// Adds an event that is stored, and wakes one that waits.
    pub(super) fn push(&self, slot: Slot) {
        self.lock().push(slot);
        self.arrived.notify_one();
    }

    /// Puts back an event that made room for nothing, and wakes one that waits.
    pub(super) fn restore(&self, evicted: &Evicted) {
        self.lock().restore(evicted);
        self.arrived.notify_one();
    }

    /// Who looks on.
    pub(super) fn taps(&self) -> &Taps {
        &self.taps
    }

    /// Deletes everything.
    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    fn take(&self, lease: &Lease, number: u64) -> (Vec<Taken>, Option<Instant>) {
        let now = Instant::now();
        let mut queue = self.lock();
        let taken = queue.lease(now, lease.max_events, lease.max_bytes, lease.time, number);
        (taken, queue.next_due())
    }
}

/// Wakes the next one that waits, to look for itself at what is left and at when events come back.
struct PassOn<'a>(&'a Notify);

impl Drop for PassOn<'_> {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// Leased events on their way to a client. Dropped before [`keep`](Self::keep), they go back.
#[derive(Debug)]
pub(super) struct Leased {
    queue: Arc<AppQueue>,
    lease: u64,
    taken: Vec<Taken>,
}

impl Leased {
    pub(super) fn events(&self) -> &[Taken] {
        &self.taken
    }

    /// Takes an event off the lease for good: it turned out not to be there.
    pub(super) fn discard(&mut self, seq: Seq) {
        self.queue.lock().ack(Instant::now(), seq, self.lease);
        self.taken.retain(|taken| taken.seq != seq);
    }

    pub(super) fn receipt(&self, seq: Seq) -> Receipt {
        write(seq, self.lease)
    }

    /// The leases now last until they are settled or run out.
    pub(super) fn keep(mut self) {
        self.taken.clear();
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        if self.taken.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut queue = self.queue.lock();
        for taken in &self.taken {
            queue.undo(now, taken.seq, self.lease);
        }
        drop(queue);
        self.queue.arrived.notify_one();
    }
}

/// The text of a receipt. Each has exactly one.
fn write(seq: Seq, lease: u64) -> Receipt {
    Receipt::new(format!("{seq:x}-{lease:x}"))
}

fn parse(receipt: &Receipt) -> Option<(Seq, u64)> {
    let (seq, lease) = receipt.as_str().split_once('-')?;
    let (seq, lease) = (Seq::from_str_radix(seq, 16).ok()?, u64::from_str_radix(lease, 16).ok()?);
    // Otherwise a sign, upper case or leading zeros would pass.
    (write(seq, lease) == *receipt).then_some((seq, lease))
}

/// A panic elsewhere while holding the lock leaves a queue that is still true: each change is one call.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
