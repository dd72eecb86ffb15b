//! A store that forgets everything with the process: for tests, and for apps that can afford it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::SystemTime,
};

use tokio::time::Instant;
use wwproxy_protocol::{AppId, Event, Source};

use super::{
    Appended, DedupeKey, Delivery, Lease, Limits, NewEvent, Overflow, Registration, Settled, Settlement,
    Stats, Store, StoreFuture, Tap,
    dedupe::{self, Recent},
    queue::Slot,
    queues::{AppQueue, Queues, lock},
    sequence::{self, Seq, Sequence},
};

/// Bytes that an event's framing counts for, beside its headers and body: about what a
/// [`RedbStore`](super::RedbStore) spends, so that `max_queued_bytes` means the same in both.
const FRAMING: usize = 64;

/// Keeps everything in memory.
#[derive(Debug)]
pub struct MemoryStore {
    limits: Limits,
    queues: Queues,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    registrations: HashMap<AppId, Registered>,
    events: HashMap<Seq, Event>,
    sequence: Sequence,
    recent: Recent,
}

#[derive(Debug)]
struct Registered {
    registration: Arc<Registration>,
    epoch: u128,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let state = State {
            registrations: HashMap::new(),
            events: HashMap::new(),
            sequence: Sequence::after(0),
            recent: Recent::new(limits.dedupe_window, 0),
        };
        Self { limits, queues: Queues::new(None), state: Mutex::new(state) }
    }

    fn drop_old(&self, app: &AppId) {
        let dropped = lock(&self.state).drop_old(&self.queues.app(app), &self.limits);
        self.queues.log_expired(app, dropped);
    }

    fn append_now(
        &self,
        app: &AppId,
        source: &Arc<Source>,
        event: NewEvent,
        dedupe: Option<DedupeKey>,
    ) -> Appended {
        let mut state = lock(&self.state);
        let registered = state.registrations.get(app);
        let Some(registered) = registered.filter(|app| app.registration.has(&event.origin.source, source))
        else {
            return Appended::SourceChanged;
        };
        let key = dedupe.map(|delivery| dedupe::key(&delivery, registered.epoch));
        if key.is_some_and(|key| state.recent.contains(key)) {
            return Appended::Duplicate;
        }
        let size = u32::try_from(event.size() + FRAMING).unwrap_or(u32::MAX);
        let queue = self.queues.app(app);
        self.queues.log_expired(app, state.drop_old(&queue, &self.limits));
        let dropped = queue.lock().dropped();
        let has_room = state.make_room(&queue, size, &self.limits);
        self.queues.log_evicted(app, queue.lock().dropped() - dropped);
        if !has_room {
            return Appended::Full;
        }
        let seq = state.sequence.next();
        let id = sequence::event_id(sequence::new_uuid(seq));
        let event = event.into_event(id.clone(), SystemTime::now());
        queue.taps().show(size, || event.clone());
        state.events.insert(seq, event);
        if let Some(key) = key {
            state.recent.insert(seq, key);
        }
        if let Some(floor) = state.recent.floor() {
            state.recent.forget_below(floor);
        }
        queue.push(Slot { seq, size });
        Appended::Stored(id)
    }
}

impl State {
    /// Drops events whose time is over, and says how many.
    fn drop_old(&mut self, queue: &AppQueue, limits: &Limits) -> u64 {
        let Some(oldest) = SystemTime::now().checked_sub(limits.retention) else { return 0 };
        let mut queue = queue.lock();
        let old = queue.older_than(Instant::now(), sequence::at(oldest)).expect("its queues are in memory");
        for &slot in &old {
            queue.forget(slot);
            self.events.remove(&slot.seq);
        }
        old.len() as u64
    }

    /// Whether an event of this size has room, which `drop-oldest` makes where it can.
    fn make_room(&mut self, queue: &AppQueue, size: u32, limits: &Limits) -> bool {
        if !limits.have_room(0, 0, size) {
            return false;
        }
        let mut queue = queue.lock();
        while !limits.have_room(queue.len(), queue.bytes(), size) {
            let evicted = match limits.overflow {
                Overflow::Reject => None,
                Overflow::DropOldest => queue.evict_oldest(Instant::now()),
            };
            let Some(evicted) = evicted else { return false };
            self.events.remove(&evicted.slot.seq);
        }
        true
    }
}

impl Store for MemoryStore {
    fn put_registration<'a>(&'a self, app: &'a AppId, registration: Registration) -> StoreFuture<'a, ()> {
        let mut state = lock(&self.state);
        let epoch =
            state.registrations.get(app).map_or_else(dedupe::new_epoch, |registered| registered.epoch);
        let registration = Arc::new(registration);
        state.registrations.insert(app.clone(), Registered { registration, epoch });
        done(())
    }

    fn registration<'a>(&'a self, app: &'a AppId) -> StoreFuture<'a, Option<Arc<Registration>>> {
        let state = lock(&self.state);
        done(state.registrations.get(app).map(|registered| Arc::clone(&registered.registration)))
    }

    fn remove_registration<'a>(&'a self, app: &'a AppId) -> StoreFuture<'a, ()> {
        let mut state = lock(&self.state);
        state.registrations.remove(app);
        let queue = self.queues.app(app);
        for seq in queue.lock().all().expect("its queues are in memory") {
            state.events.remove(&seq);
        }
        queue.clear();
        drop(queue);
        self.queues.prune();
        done(())
    }

    fn append<'a>(
        &'a self,
        app: &'a AppId,
        source: Arc<Source>,
        event: NewEvent,
        dedupe: Option<DedupeKey>,
    ) -> StoreFuture<'a, Appended> {
        Box::pin(async move { Ok(self.append_now(app, &source, event, dedupe)) })
    }

    fn lease<'a>(&'a self, app: &'a AppId, lease: Lease) -> StoreFuture<'a, Vec<Delivery>> {
        Box::pin(async move {
            self.drop_old(app);
            let leased = self.queues.lease(app, &lease).await;
            let state = lock(&self.state);
            let delivery = |taken: &super::queue::Taken| {
                let event = state.events.get(&taken.seq)?.clone();
                Some(Delivery { event, attempt: taken.attempt, receipt: leased.receipt(taken.seq) })
            };
            let deliveries = leased.events().iter().filter_map(delivery).collect();
            drop(state);
            leased.keep();
            Ok(deliveries)
        })
    }

    fn settle<'a>(&'a self, app: &'a AppId, settlement: Settlement) -> StoreFuture<'a, Settled> {
        let (settled, deleted) = self.queues.settle(app, settlement);
        let mut state = lock(&self.state);
        for seq in &deleted {
            state.events.remove(seq);
        }
        done(settled)
    }

    fn tap<'a>(&'a self, app: &'a AppId) -> StoreFuture<'a, Option<Tap>> {
        done(self.queues.tap(app))
    }

    fn stats<'a>(&'a self, app: &'a AppId) -> StoreFuture<'a, Stats> {
        self.drop_old(app);
        done(self.queues.stats(app))
    }

    fn ready(&self) -> StoreFuture<'_, ()> {
        done(())
    }

    fn close(&self) -> StoreFuture<'_, ()> {
        done(())
    }
}

fn done<'a, T: Send + 'a>(value: T) -> StoreFuture<'a, T> {
    Box::pin(std::future::ready(Ok(value)))
}
