//! Cuts the power or kills the server, repeatedly, at any write. After a power cut any part of the unsynced writes
//! survives, complete or torn. After a kill the page cache survives; if an fsync failed before, it holds data that is not
//! on the disk. After each restart the store must contain every operation that it answered.

use std::{
    collections::BTreeMap,
    io::{self, Seek},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use wwproxy_protocol::{AppId, Secret};
use wwproxy_server::store::{
    Appended, Delivery, Lease, Limits, NewEvent, OpenError, RedbStore, Registration, Settlement, Store,
    StoreError,
};

use crate::{
    disk::{DATABASE, Disk, Fault, WAL},
    random::{Random, seed, setting},
    store::append,
};

const APPS: usize = 3;
/// The default of `WWPROXY_CRASH_CUTS`: how often the store is ended.
const DEFAULT_CUTS: u64 = 100;
/// The maximum number of disk changes until the store is ended: during open, during commits, and after checkpoints and
/// a wrap of the write-ahead log.
const MAX_CHANGES: [u64; 3] = [20, 300, 10_000];
/// A duration longer than the test.
const LONG: Duration = Duration::from_secs(3600);

/// What the test knows of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EventState {
    /// Its append was not answered: stored or not.
    Unanswered,
    /// Its append was answered: stored.
    Stored,
    /// Acknowledged; the deletion may not be durable yet.
    Acked,
    /// Acknowledged, and a later append was answered: the deletion is durable.
    Deleted,
}

/// An app that performs random operations, and the state that the store must have for it.
struct App {
    id: AppId,
    random: Random,
    /// The possible registrations: the last one answered, and those that were not answered.
    registrations: Vec<Option<u32>>,
    events: BTreeMap<u32, EventState>,
    /// Events that were neither answered nor stored: their sender retries.
    unstored: Vec<u32>,
    /// The next number, for events, dedupe keys and secrets.
    next_number: u32,
}

/// An operation failed because the power is off or the store stopped.
struct PowerLost;

impl App {
    fn new(n: usize, random: Random) -> Self {
        let id = format!("app-{n}").parse().unwrap();
        Self {
            id,
            random,
            registrations: vec![None],
            events: BTreeMap::new(),
            unstored: Vec::new(),
            next_number: 0,
        }
    }

    /// Performs random operations until the power is cut.
    async fn run(&mut self, store: &dyn Store) -> Result<(), PowerLost> {
        if self.registrations == [None] {
            self.register(store).await?;
        }
        loop {
            self.retry_appends(store).await?;
            match self.random.below(40) {
                0 => {
                    self.unregister(store).await?;
                    self.register(store).await?;
                }
                1 => self.register(store).await?,
                2..12 => self.receive(store).await?,
                _ => self.append(store).await?,
            }
        }
    }

    async fn register(&mut self, store: &dyn Store) -> Result<(), PowerLost> {
        let secret = self.number();
        self.registrations.push(Some(secret));
        store.put_registration(&self.id, registration(secret)).await.map_err(power_lost)?;
        self.registrations = vec![Some(secret)];
        Ok(())
    }

    async fn unregister(&mut self, store: &dyn Store) -> Result<(), PowerLost> {
        self.registrations.push(None);
        store.remove_registration(&self.id).await.map_err(power_lost)?;
        self.registrations = vec![None];
        self.events.clear();
        Ok(())
    }

    /// Appends events from a few concurrent senders.
    async fn append(&mut self, store: &dyn Store) -> Result<(), PowerLost> {
        let numbers: Vec<_> = (0..=self.random.below(8)).map(|_| self.number()).collect();
        self.events.extend(numbers.iter().map(|&n| (n, EventState::Unanswered)));
        let acked = self.all(EventState::Acked);
        let outcomes = join_all(numbers.iter().map(|&n| append(store, &self.id, event(n), key(n)))).await;
        let mut all_answered = Ok(());
        for (n, outcome) in numbers.into_iter().zip(outcomes) {
            match outcome {
                Ok(Appended::Stored(_)) => {
                    self.events.insert(n, EventState::Stored);
                    // The next commit includes the pending deletions.
                    self.events.extend(acked.iter().map(|&n| (n, EventState::Deleted)));
                }
                Ok(other) => panic!("{} {n}: {other:?}", self.id),
                Err(error) => all_answered = Err(power_lost(error)),
            }
        }
        all_answered
    }

    /// Retries the events that were not stored, and sends duplicates of stored events now and then.
    async fn retry_appends(&mut self, store: &dyn Store) -> Result<(), PowerLost> {
        for n in std::mem::take(&mut self.unstored) {
            self.events.insert(n, EventState::Unanswered);
            match append(store, &self.id, event(n), key(n)).await.map_err(power_lost)? {
                Appended::Stored(_) => self.events.insert(n, EventState::Stored),
                other => panic!("{} {n}, which is not stored: {other:?}", self.id),
            };
        }
        let known: Vec<_> = self.events.keys().copied().filter(|&n| key(n).is_some()).collect();
        if known.is_empty() || !self.random.one_in(4) {
            return Ok(());
        }
        let n = known[index(self.random.below(known.len() as u64))];
        match append(store, &self.id, event(n), key(n)).await.map_err(power_lost)? {
            Appended::Duplicate => Ok(()),
            other => panic!("{} {n} ({:?}), a duplicate: {other:?}", self.id, self.events[&n]),
        }
    }

    /// Leases some events, acknowledges some of them and releases the others.
    async fn receive(&mut self, store: &dyn Store) -> Result<(), PowerLost> {
        let max = index(1 + self.random.below(20));
        let deliveries = lease(store, &self.id, max).await.map_err(power_lost)?;
        let mut settlement = Settlement::default();
        for delivery in deliveries {
            let n = number(&delivery);
            assert_eq!(
                self.events.get(&n),
                Some(&EventState::Stored),
                "{} {n} was delivered, but is not stored",
                self.id
            );
            if self.random.one_in(3) {
                settlement.releases.push(delivery.receipt);
            } else {
                settlement.acks.push(delivery.receipt);
                self.events.insert(n, EventState::Acked);
            }
        }
        let settled = store.settle(&self.id, settlement).await.map_err(power_lost)?;
        assert_eq!(settled.stale, [], "{}", self.id);
        Ok(())
    }

    /// Compares the state of the store with the expected state, and resolves what was unknown.
    async fn check(&mut self, store: &dyn Store) -> Result<(), PowerLost> {
        let registered = store.registration(&self.id).await.map_err(power_lost)?;
        let mut possible = self.registrations.iter();
        let current = possible.find(|known| known.map(registration).as_ref() == registered.as_deref());
        let current = *current.unwrap_or_else(|| {
            panic!("{} is registered with {registered:?}, expected one of {:?}", self.id, self.registrations)
        });
        let was_registered = self.registrations[0].is_some();
        self.registrations = vec![current];

        let deliveries = lease(store, &self.id, usize::MAX).await.map_err(power_lost)?;
        assert!(deliveries.is_sorted_by(|a, b| a.event.id < b.event.id), "{}: not in order", self.id);
        let found: Vec<u32> = deliveries.iter().map(number).collect();
        if current.is_none() && was_registered {
            self.events.clear();
        }
        for (n, state) in std::mem::take(&mut self.events) {
            let count = found.iter().filter(|&&found| found == n).count();
            let now = match (state, count) {
                (EventState::Unanswered | EventState::Stored | EventState::Acked, 1) => EventState::Stored,
                (EventState::Acked | EventState::Deleted, 0) => EventState::Deleted,
                (EventState::Unanswered, 0) => {
                    if key(n).is_some() {
                        self.unstored.push(n);
                    }
                    continue;
                }
                (state, count) => panic!("{} {n} ({state:?}) is stored {count} times", self.id),
            };
            self.events.insert(n, now);
        }
        let unknown: Vec<_> = found.iter().filter(|n| !self.events.contains_key(n)).collect();
        assert!(unknown.is_empty(), "{} has events that were never appended: {unknown:?}", self.id);
        let releases = deliveries.into_iter().map(|delivery| delivery.receipt).collect();
        store.settle(&self.id, Settlement { releases, ..Settlement::default() }).await.map_err(power_lost)?;
        Ok(())
    }

    fn all(&self, state: EventState) -> Vec<u32> {
        self.events.iter().filter(|(_, known)| **known == state).map(|(&n, _)| n).collect()
    }

    fn number(&mut self) -> u32 {
        self.next_number += 1;
        self.next_number
    }
}

/// Every store error is expected after a power cut or a fault.
fn power_lost(error: StoreError) -> PowerLost {
    drop(error);
    PowerLost
}

async fn lease(store: &dyn Store, app: &AppId, max_events: usize) -> Result<Vec<Delivery>, StoreError> {
    let lease = Lease { max_events, max_bytes: u64::MAX, wait: Duration::ZERO, time: LONG };
    store.lease(app, lease).await
}

fn registration(secret: u32) -> Registration {
    Registration::watson_work(Secret::new(secret.to_string()))
}

/// An event with its number in the body and a size that depends on the number; some are large.
fn event(n: u32) -> NewEvent {
    let size = if n.is_multiple_of(97) { 100_000 } else { n.wrapping_mul(2_654_435_761) % 3000 };
    let text = "x".repeat(size as usize);
    NewEvent::new(Vec::new(), None, format!("{{\"n\":{n},\"text\":\"{text}\"}}").into())
}

/// The dedupe key of an event, if it has one.
fn key(n: u32) -> Option<[u8; 16]> {
    (!n.is_multiple_of(4)).then(|| u128::from(n).to_be_bytes())
}

fn number(delivery: &Delivery) -> u32 {
    let body = std::str::from_utf8(&delivery.event.body).unwrap();
    let n = body.strip_prefix("{\"n\":").and_then(|rest| rest.split_once(',')).unwrap().0.parse().unwrap();
    assert!(delivery.event.body == event(n).body, "{n}: the body was changed");
    n
}

fn index(n: u64) -> usize {
    usize::try_from(n).unwrap()
}

#[tokio::test]
async fn answered_operations_survive_power_cuts_and_kills() {
    let mut random = Random::new(seed());
    let mut apps: Vec<_> = (0..APPS).map(|n| App::new(n, random.fork())).collect();
    let mut disk = Disk::default();
    let mut opened = 0;
    for _ in 0..setting("WWPROXY_CRASH_CUTS").unwrap_or(DEFAULT_CUTS) {
        let max_changes = MAX_CHANGES[index(random.below(3))];
        disk.cut_power_after(random.below(max_changes));
        let file = if random.one_in(2) { DATABASE } else { WAL };
        let syncs = u32::try_from(random.below(20)).unwrap();
        let fault = random.one_in(4).then_some(Fault::OneSync(file, syncs));
        disk.set_fault(fault);
        match open(&disk, opened > 0) {
            Ok(store) => {
                opened += 1;
                let store: Arc<dyn Store> = Arc::new(store);
                let running = apps.iter_mut().map(async |app| {
                    app.check(&*store).await?;
                    app.run(&*store).await
                });
                join_all(running).await;
            }
            Err(error) => assert!(disk.is_powered_off() || disk.fault() != fault, "{error:?}"),
        }
        assert!(
            disk.is_powered_off() || disk.fault() != fault,
            "the store ended without a power cut or a fault"
        );
        disk = if random.one_in(2) { disk.after_kill() } else { disk.after_power_cut(&mut random) };
    }
    let events: usize = apps.iter().map(|app| app.events.len()).sum();
    println!(
        "{opened} opens, {} numbers used, {events} events tracked at the end",
        apps.iter().map(|app| app.next_number).sum::<u32>()
    );
    assert!(opened > 0);
}

/// Opens the store. Once it was created, open must not log a repair or a full check of the database.
fn open(disk: &Disk, is_created: bool) -> Result<RedbStore, OpenError> {
    let mut log = tempfile::tempfile().unwrap();
    let subscriber = tracing_subscriber::fmt().with_writer(Arc::new(log.try_clone().unwrap())).finish();
    let opened = tracing::subscriber::with_default(subscriber, || disk.open(Limits::default()));
    log.rewind().unwrap();
    let log = io::read_to_string(log).unwrap();
    assert!(log.is_empty() || !is_created, "open logged a repair: {log}");
    opened
}

#[test]
fn a_store_can_be_created_after_a_power_cut_during_its_creation() {
    let mut random = Random::new(seed());
    for changes in 0.. {
        for _ in 0..20 {
            let disk = Disk::default();
            disk.cut_power_after(changes);
            if disk.open(Limits::default()).is_ok() {
                assert!(changes > 10, "creation makes more than ten changes");
                return;
            }
            let restarted = disk.after_power_cut(&mut random);
            restarted.open(Limits::default()).unwrap();
        }
    }
}
