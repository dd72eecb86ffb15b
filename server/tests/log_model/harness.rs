//! A store under test beside its model: applies each step to both, and compares the outcomes.

use std::{
    collections::HashSet,
    path::Path,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use proptest::{prop_assert, prop_assert_eq, test_runner::TestCaseError};
use tempfile::TempDir;
use wwproxy_protocol::{AppId, ConsumerName, Secret, Source, SourceName, api::Receipt};
use wwproxy_server::store::{
    Appended, Delivery, Lease, Limits, NewEvent, Registration, SqliteStore, Store, StoreError, StoreFuture,
};

use crate::{
    Outcome,
    consumer::{Request, State},
    model::{self, CAPACITY, Logged},
    steps::{APPS, CONSUMERS, NewStep, Place, Step},
};

/// A duration longer than any test.
pub(crate) const LONG: Duration = Duration::from_secs(600);
/// How long a lease waits at most for an event that is there.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) struct Harness {
    pub(crate) folder: TempDir,
    pub(crate) store: SqliteStore,
    pub(crate) names: [AppId; 2],
    pub(crate) apps: [model::App; 2],
    /// Every receipt that was returned, with the consumer.
    pub(crate) receipts: Vec<(Place, Receipt)>,
    seen: HashSet<Receipt>,
    /// The number of events and of steps so far.
    events: u32,
    pub(crate) now: u64,
}

pub(crate) fn consumer(number: usize) -> ConsumerName {
    CONSUMERS[number].parse().unwrap()
}

pub(crate) fn limits() -> Limits {
    let (max_pending_events, max_pending_bytes) = CAPACITY;
    Limits { max_pending_events, max_pending_bytes, ..Limits::default() }
}

pub(crate) async fn open(folder: &Path) -> SqliteStore {
    SqliteStore::open(folder, limits()).await.unwrap()
}

impl Harness {
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path()).await;
        Self {
            folder,
            store,
            names: APPS.map(|app| app.parse().unwrap()),
            apps: Default::default(),
            receipts: Vec::new(),
            seen: HashSet::new(),
            events: 0,
            now: 0,
        }
    }

    pub(crate) async fn run(mut self, steps: Vec<Step>) -> Outcome<()> {
        for app in 0..APPS.len() {
            self.apply(Step::Register { app }).await?;
        }
        for step in steps {
            let name = format!("step {}: {step:?}", self.now);
            let outcome = match self.apply(step).await {
                Ok(()) => self.compare().await,
                failed => failed,
            };
            outcome.map_err(|error| TestCaseError::fail(format!("{name}: {error}")))?;
            self.now += 1;
        }
        self.drain().await
    }

    async fn apply(&mut self, step: Step) -> Outcome<()> {
        match step {
            Step::Register { app } => {
                self.store.put_registration(&self.names[app], registration()).await.unwrap();
                self.apps[app].register();
                Ok(())
            }
            Step::Unregister { app } => {
                self.store.remove_registration(&self.names[app]).await.unwrap();
                self.apps[app] = model::App::default();
                Ok(())
            }
            Step::Append { app, events } => self.append(app, &events).await,
            Step::AppendToWaiter { place, event } => self.append_to_waiter(place, event).await,
            Step::PutConsumer { place, filter, start, max_attempts } => {
                self.put_consumer(place, model::Filter(filter), &start, max_attempts).await
            }
            Step::DeleteConsumer { place } => self.delete_consumer(place).await,
            Step::Replay { place, event, of_other } => self.replay(place, event, of_other).await,
            Step::History => self.compare_history().await,
            Step::DeleteEvent { app, event, of_other } => self.delete_event(app, event, of_other).await,
            Step::Seek { place, to } => self.seek(place, &to).await,
            Step::Lease { place, max_events, max_bytes, expires } => {
                let max_bytes = max_bytes.unwrap_or(u64::MAX);
                self.lease(place, Request { max_events, max_bytes }, expires).await.map(drop)
            }
            Step::DropLease { place, max_events } => self.drop_lease(place, max_events).await,
            Step::Settle { place, acks, rejects, releases, extends } => {
                let settling = self.picked(place, &acks, &rejects, &releases, &extends);
                self.settle(place, settling).await
            }
            Step::Restart => self.reopen(false).await,
            Step::Expire => self.expire().await,
            Step::RemoveSettled { lagging } => self.remove_settled(lagging).await,
            Step::Crash => self.reopen(true).await,
        }
    }

    async fn append(&mut self, app: usize, steps: &[NewStep]) -> Outcome<()> {
        let events: Vec<_> = steps.iter().map(|step| self.event(step)).collect();
        let registration = self.store.registration(&self.names[app]).await.unwrap();
        let appends = steps.iter().zip(&events).map(|(step, event)| {
            let name: SourceName = step.source.parse().unwrap();
            let source = registration.as_ref().and_then(|found| found.source(&name).cloned());
            // Without a registration any source verified the event.
            let source = source.unwrap_or_else(|| Arc::new(Source::watson_work(Secret::new("any"))));
            self.store.append(&self.names[app], source, event.clone(), step.key.map(|key| [key; 16]))
        });
        // All are in the writer's queue, in this order, before it answers one.
        for ((step, event), appended) in steps.iter().zip(&events).zip(join_all(appends).await) {
            self.appended(app, step, event, appended.unwrap())?;
        }
        Ok(())
    }

    /// An event with its number in the body.
    fn event(&mut self, step: &NewStep) -> NewEvent {
        self.events += 1;
        let mut body = format!("{:08}", self.events).into_bytes();
        body.resize(step.body, b'.');
        let mut event = NewEvent::new(Vec::new(), None, body.into());
        event.origin.source = step.source.parse().unwrap();
        event.origin.event_type = step.event_type.map(str::to_owned);
        event
    }

    fn appended(&mut self, app: usize, step: &NewStep, event: &NewEvent, appended: Appended) -> Outcome<()> {
        let model = &mut self.apps[app];
        if !model.is_registered {
            prop_assert_eq!(appended, Appended::SourceChanged);
            return Ok(());
        }
        if step.key.is_some_and(|key| model.keys.contains(&key)) {
            prop_assert_eq!(appended, Appended::Duplicate);
            return Ok(());
        }
        let id = match &appended {
            Appended::Stored(id) => id.clone(),
            _ => "none".parse().unwrap(),
        };
        let logged = Logged::new(id, event.body.to_vec(), step.event_type, step.source);
        let default = model.consumers.get_mut(&0).unwrap();
        default.worlds.observe(|cursor| {
            let is_full = model::is_full(cursor, &model.log, logged.size);
            let as_expected = match appended {
                Appended::Stored(_) => !is_full,
                Appended::Full => is_full,
                _ => false,
            };
            if as_expected { Ok(()) } else { Err(format!("{appended:?}, the model: full is {is_full}")) }
        })?;
        if appended != Appended::Full {
            let last = model.log.last();
            prop_assert!(last.is_none_or(|last| last.id < logged.id), "ids ascend in order of arrival");
            model.push(logged);
            model.keys.extend(step.key);
        }
        Ok(())
    }

    async fn append_to_waiter(&mut self, place: Place, step: NewStep) -> Outcome<()> {
        let step = NewStep { key: None, ..step };
        let Some(waiting) = self.apps[place.app].consumers.get(&place.consumer) else { return Ok(()) };
        let dummy = Logged::new("none".parse().unwrap(), Vec::new(), step.event_type, step.source);
        let is_empty = waiting.worlds.all(|cursor| cursor.next().is_none());
        let app = &self.apps[place.app];
        // With its texts and the framing.
        let size = step.body as u64 + 1000;
        let has_room = app.consumers[&0].worlds.all(|cursor| !model::is_full(cursor, &app.log, size));
        if !is_empty || !has_room || !waiting.filter.matches(&dummy) {
            return self.append(place.app, &[step]).await;
        }
        let event = self.event(&step);
        let registration = self.store.registration(&self.names[place.app]).await.unwrap().unwrap();
        let source = Arc::clone(registration.source(&event.origin.source).unwrap());
        let name = consumer(place.consumer);
        let lease = Lease { max_events: 1, max_bytes: 0, wait: DEADLINE, time: LONG };
        let waiting = self.store.lease(&self.names[place.app], &name, lease);
        let append = self.store.append(&self.names[place.app], source, event.clone(), None);
        // The lease is polled first, and waits.
        let (deliveries, appended) = tokio::join!(waiting, append);
        self.appended(place.app, &step, &event, appended.unwrap())?;
        self.compare_lease(place, Request { max_events: 1, max_bytes: 0 }, &deliveries.unwrap())
    }

    /// Leases events, and returns their number.
    pub(crate) async fn lease(&mut self, place: Place, request: Request, expires: bool) -> Outcome<usize> {
        let name = consumer(place.consumer);
        let time = if expires { Duration::ZERO } else { LONG };
        let Request { max_events, max_bytes } = request;
        let lease = Lease { max_events, max_bytes, wait: Duration::ZERO, time };
        let deliveries = match self.store.lease(&self.names[place.app], &name, lease).await {
            Err(StoreError::NoConsumer(missing)) => {
                prop_assert_eq!(missing, name);
                prop_assert!(!self.apps[place.app].consumers.contains_key(&place.consumer), "there is one");
                return Ok(0);
            }
            deliveries => deliveries.unwrap(),
        };
        self.compare_lease(place, request, &deliveries)?;
        if expires && let Some(consumer) = self.apps[place.app].consumers.get_mut(&place.consumer) {
            let max_attempts = consumer.max_attempts;
            consumer.worlds.observe(|cursor| {
                for Delivery { receipt, .. } in &deliveries {
                    let place = cursor.leased_under(receipt).ok_or("it is leased")?;
                    cursor.retry(place, State::Returned, max_attempts);
                }
                Ok(())
            })?;
        }
        Ok(deliveries.len())
    }

    /// Compares delivered events with the model, and takes over the receipts.
    fn compare_lease(&mut self, place: Place, request: Request, deliveries: &[Delivery]) -> Outcome<()> {
        let app = &mut self.apps[place.app];
        let Some(consumer) = app.consumers.get_mut(&place.consumer) else {
            // A client of an app that is not registered waits for its events.
            prop_assert_eq!((place.consumer, deliveries), (0, &[][..]));
            return Ok(());
        };
        for delivery in deliveries {
            let logged = app.log.iter().find(|event| event.id == delivery.event.id);
            let Some(logged) = logged else { return Err(TestCaseError::fail("an unknown event")) };
            prop_assert!(delivery.event.body[..] == logged.body[..], "the body differs");
            prop_assert_eq!(delivery.event.origin.source.as_str(), logged.source);
            prop_assert_eq!(delivery.event.origin.event_type.as_deref(), logged.event_type);
            prop_assert!(self.seen.insert(delivery.receipt.clone()), "a receipt was reused");
            self.receipts.push((place, delivery.receipt.clone()));
        }
        consumer.worlds.observe(|cursor| {
            let leased = cursor.lease(&app.log, request);
            cursor.delivered(&app.log, &leased, deliveries)
        })
    }

    async fn drop_lease(&mut self, place: Place, max_events: usize) -> Outcome<()> {
        let name = consumer(place.consumer);
        let request = Request { max_events, max_bytes: u64::MAX };
        let lease = Lease { max_events, max_bytes: u64::MAX, wait: Duration::ZERO, time: LONG };
        let mut leasing: StoreFuture<'_, _> = self.store.lease(&self.names[place.app], &name, lease);
        let polled = std::future::poll_fn(|context| Poll::Ready(leasing.as_mut().poll(context))).await;
        drop(leasing);
        match polled {
            Poll::Ready(Err(_)) => Ok(()),
            // It ended at the first poll, so it was not cancelled.
            Poll::Ready(Ok(deliveries)) => self.compare_lease(place, request, &deliveries),
            // It was reading the events that it had leased, or had not leased them yet.
            Poll::Pending => {
                let app = &mut self.apps[place.app];
                let Some(consumer) = app.consumers.get_mut(&place.consumer) else { return Ok(()) };
                consumer.worlds.fork(|cursor| {
                    let mut leased = cursor.clone();
                    let places = leased.lease(&app.log, request);
                    let mut undone = leased.clone();
                    undone.undo(&places);
                    (leased, undone)
                });
                Ok(())
            }
        }
    }

    /// Waits until this time is over. The store and the test have the same clock.
    pub(crate) async fn wait_for(time: Instant) {
        while Instant::now() <= time {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// A registration with the sources `default` and `shop`.
fn registration() -> Registration {
    let mut registration = Registration::watson_work(Secret::new("secret"));
    let shop = Arc::new(Source::watson_work(Secret::new("secret")));
    registration.sources.insert("shop".parse().unwrap(), Ok(shop));
    registration
}
