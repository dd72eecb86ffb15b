//! A store in memory for unit tests with paused time: tokio's clock advances while a test waits for the thread of the real one.
//!
//! One app, the consumer `default`, no limits. Events are released to their place in the order, and nacked ones after their delay.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::SystemTime};

use futures_util::{FutureExt as _, StreamExt as _, stream};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, broadcast},
    time::{Instant, timeout_at},
};
use wwproxy_protocol::{AppId, ConsumerName, ConsumerSettings, Event, EventId, Source, Start, api::Receipt};

use super::{
    Appended, ConsumerStatus, DedupeKey, Delivery, Ephemeral, EventPage, EventQuery, Health, Lease, NewEvent,
    PutConsumer, Registration, Replayed, Settled, Settlement, Sought, Store, StoreFuture, StoredEvent, Tap,
    TapItem,
};

const MAX_TAPS: usize = 16;
const MAX_TAP_EVENTS: usize = 256;

#[derive(Debug)]
pub(crate) struct FakeStore {
    state: Mutex<State>,
    changed: Notify,
    appended: broadcast::Sender<Arc<Event>>,
    taps: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct State {
    registration: Option<Arc<Registration>>,
    last: u64,
    events: BTreeMap<u64, Stored>,
}

#[derive(Debug)]
struct Stored {
    event: Arc<Event>,
    attempt: u32,
    /// The receipt of the current lease.
    leased: Option<Receipt>,
    /// When the lease or the delay ends.
    until: Option<Instant>,
}

impl Default for FakeStore {
    fn default() -> Self {
        let taps = Arc::new(Semaphore::new(MAX_TAPS));
        Self {
            state: Mutex::default(),
            changed: Notify::new(),
            appended: broadcast::channel(MAX_TAP_EVENTS).0,
            taps,
        }
    }
}

impl FakeStore {
    fn try_lease(&self, lease: Lease) -> Result<Vec<Delivery>, Option<Instant>> {
        let (mut leased, now) = (Vec::new(), Instant::now());
        let mut state = self.state.lock();
        for (seq, stored) in &mut state.events {
            if leased.len() == lease.max_events {
                break;
            }
            if stored.until.is_some_and(|until| until > now) {
                continue;
            }
            stored.attempt += 1;
            let receipt = Receipt::new(format!("{seq}-{}", stored.attempt));
            stored.leased = Some(receipt.clone());
            stored.until = Some(now + lease.time);
            let event = Arc::clone(&stored.event);
            leased.push(Delivery { event, attempt: stored.attempt, replay: 0, receipt });
        }
        if leased.is_empty() {
            Err(state.events.values().filter_map(|stored| stored.until).min())
        } else {
            Ok(leased)
        }
    }

    fn status(&self) -> ConsumerStatus {
        let state = self.state.lock();
        let is_leased = |stored: &&Stored| {
            stored.leased.is_some() && stored.until.is_some_and(|until| until > Instant::now())
        };
        ConsumerStatus {
            name: ConsumerName::default(),
            settings: ConsumerSettings::default(),
            pending: Some(state.events.len() as u64),
            pending_bytes: Some(0),
            leased: state.events.values().filter(is_leased).count() as u64,
            dead: 0,
            dropped: 0,
            oldest_pending_age: None,
            last_used: SystemTime::now(),
        }
    }

    /// Removes the leased event of a receipt, or counts the receipt as stale.
    fn end(state: &mut State, receipt: Receipt, settled: &mut Settled) -> Option<u64> {
        let seq = receipt.as_str().split_once('-').and_then(|(seq, _)| seq.parse().ok());
        let found = seq.and_then(|seq| Some((seq, state.events.get_mut(&seq)?)));
        let Some((seq, stored)) = found.filter(|(_, stored)| stored.leased.as_ref() == Some(&receipt)) else {
            settled.stale.push(receipt);
            return None;
        };
        stored.leased = None;
        Some(seq)
    }
}

impl Store for FakeStore {
    fn put_registration<'a>(&'a self, _: &'a AppId, registration: Registration) -> StoreFuture<'a, ()> {
        self.state.lock().registration = Some(Arc::new(registration));
        std::future::ready(Ok(())).boxed()
    }

    fn registration<'a>(&'a self, _: &'a AppId) -> StoreFuture<'a, Option<Arc<Registration>>> {
        std::future::ready(Ok(self.state.lock().registration.clone())).boxed()
    }

    fn remove_registration<'a>(&'a self, _: &'a AppId) -> StoreFuture<'a, ()> {
        *self.state.lock() = State::default();
        std::future::ready(Ok(())).boxed()
    }

    fn append<'a>(
        &'a self,
        _: &'a AppId,
        _: Arc<Source>,
        event: NewEvent,
        _: Option<DedupeKey>,
    ) -> StoreFuture<'a, Appended> {
        let mut state = self.state.lock();
        state.last += 1;
        let (seq, id) = (state.last, format!("event-{}", state.last).parse::<EventId>().expect("printable"));
        let event = Arc::new(event.into_event(id.clone(), SystemTime::now()));
        state.events.insert(seq, Stored { event: Arc::clone(&event), attempt: 0, leased: None, until: None });
        drop(state);
        // There may be no tap.
        let _ = self.appended.send(event);
        self.changed.notify_waiters();
        std::future::ready(Ok(Appended::Stored(id))).boxed()
    }

    fn consumers<'a>(&'a self, _: &'a AppId) -> StoreFuture<'a, Vec<ConsumerStatus>> {
        std::future::ready(Ok(vec![self.status()])).boxed()
    }

    fn lease<'a>(
        &'a self,
        _: &'a AppId,
        _: &'a ConsumerName,
        lease: Lease,
    ) -> StoreFuture<'a, Vec<Delivery>> {
        async move {
            let deadline = Instant::now() + lease.wait;
            loop {
                let changed = self.changed.notified();
                let due = match self.try_lease(lease) {
                    Ok(leased) => return Ok(leased),
                    Err(due) => due.unwrap_or(deadline),
                };
                if Instant::now() >= deadline {
                    return Ok(Vec::new());
                }
                // A timeout means that an event is due, or that the wait is over.
                let _ = timeout_at(due.min(deadline), changed).await;
            }
        }
        .boxed()
    }

    fn settle<'a>(
        &'a self,
        _: &'a AppId,
        _: &'a ConsumerName,
        settlement: Settlement,
    ) -> StoreFuture<'a, Settled> {
        let (mut settled, mut state) = (Settled::default(), self.state.lock());
        for receipt in settlement.acks {
            if let Some(seq) = Self::end(&mut state, receipt, &mut settled) {
                state.events.remove(&seq);
                settled.acked += 1;
            }
        }
        for release in settlement.releases {
            if let Some(seq) = Self::end(&mut state, release.receipt, &mut settled)
                && let Some(stored) = state.events.get_mut(&seq)
            {
                stored.until = release.delay.map(|delay| Instant::now() + delay);
                settled.released += 1;
            }
        }
        drop(state);
        self.changed.notify_waiters();
        std::future::ready(Ok(settled)).boxed()
    }

    fn tap<'a>(&'a self, _: &'a AppId) -> StoreFuture<'a, Option<Tap>> {
        let place: Option<OwnedSemaphorePermit> = Arc::clone(&self.taps).try_acquire_owned().ok();
        let tap = place.map(|place| {
            let events = self.appended.subscribe();
            let next = |(mut events, place): (broadcast::Receiver<_>, _)| async move {
                let item = match events.recv().await {
                    Ok(event) => TapItem::Event(event),
                    Err(broadcast::error::RecvError::Lagged(missed)) => TapItem::Gap(missed),
                    Err(broadcast::error::RecvError::Closed) => return None,
                };
                Some((item, (events, place)))
            };
            stream::unfold((events, place), next).boxed()
        });
        std::future::ready(Ok(tap)).boxed()
    }

    fn health(&self) -> Health {
        Health::Ready
    }

    fn close(&self) -> StoreFuture<'_, ()> {
        std::future::ready(Ok(())).boxed()
    }

    fn put_consumer<'a>(
        &'a self,
        _: &'a AppId,
        _: &'a ConsumerName,
        _: ConsumerSettings,
    ) -> StoreFuture<'a, PutConsumer> {
        unimplemented!()
    }

    fn delete_consumer<'a>(&'a self, _: &'a AppId, _: &'a ConsumerName) -> StoreFuture<'a, bool> {
        unimplemented!()
    }

    fn seek<'a>(&'a self, _: &'a AppId, _: &'a ConsumerName, _: Start) -> StoreFuture<'a, Sought> {
        unimplemented!()
    }

    fn open_ephemeral<'a>(&'a self, _: &'a AppId, _: Start) -> StoreFuture<'a, Option<Ephemeral>> {
        unimplemented!()
    }

    fn replay<'a>(&'a self, _: &'a AppId, _: &'a ConsumerName, _: &'a EventId) -> StoreFuture<'a, Replayed> {
        unimplemented!()
    }

    fn events<'a>(&'a self, _: &'a AppId, _: EventQuery) -> StoreFuture<'a, EventPage> {
        unimplemented!()
    }

    fn event<'a>(&'a self, _: &'a AppId, _: &'a EventId) -> StoreFuture<'a, Option<StoredEvent>> {
        unimplemented!()
    }

    fn delete_event<'a>(&'a self, _: &'a AppId, _: &'a EventId) -> StoreFuture<'a, bool> {
        unimplemented!()
    }

    fn backup(&self, _: PathBuf) -> StoreFuture<'_, ()> {
        unimplemented!()
    }
}
