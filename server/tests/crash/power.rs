//! The power is cut, again and again, at any moment: of what was written and not synced any part is
//! left, in whole or torn. Or only the server ends, and now and then a sync has failed before: the next one finds in the
//! system's memory what may be on no disk. Each time the store has to be what it answered.

use std::{
    collections::BTreeMap,
    io::{self, Seek},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use wwproxy_protocol::{AppId, Scheme, Secret};
use wwproxy_server::store::{
    Appended, Delivery, Lease, Limits, NewEvent, OpenError, RedbStore, Registration, Settlement, Store,
    StoreError,
};

use crate::{
    disk::{DATABASE, Disk, Fault, JOURNAL},
    random::{Random, seed, setting},
};

const APPS: usize = 3;
/// How many lives end where nothing else is said.
const CUTS: u64 = 100;
/// How many changes of the disk a life of the store lasts at most: one that hardly opens, one of commits, one in
/// which the database follows and the journal begins again.
const LIVES: [u64; 3] = [20, 300, 10_000];
/// Longer than the test.
const LONG: Duration = Duration::from_secs(3600);

/// What is known of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Its append was not answered.
    Asked,
    /// It was answered.
    Stored,
    /// It was accepted, which may not be durable yet.
    Accepted,
    /// It was accepted, and an append that was asked for after that was answered.
    Gone,
}

/// An app that does one thing after the other, and what has to be true of it.
struct App {
    id: AppId,
    random: Random,
    /// What its registration may be: what it was, and what was asked for and not answered.
    registrations: Vec<Option<u32>>,
    events: BTreeMap<u32, Fate>,
    /// Deliveries that were not answered and not stored: their sender comes again.
    lost: Vec<u32>,
    /// Events, deliveries and secrets are named by their number.
    next: u32,
}

/// The store is gone.
struct Dark;

impl App {
    fn new(n: usize, random: Random) -> Self {
        let id = format!("app-{n}").parse().unwrap();
        Self { id, random, registrations: vec![None], events: BTreeMap::new(), lost: Vec::new(), next: 0 }
    }

    /// Until the power goes: whatever an app and its senders do.
    async fn live(&mut self, store: &dyn Store) -> Result<(), Dark> {
        if self.registrations == [None] {
            self.register(store).await?;
        }
        loop {
            self.come_again(store).await?;
            match self.random.below(40) {
                0 => {
                    self.unregister(store).await?;
                    self.register(store).await?;
                }
                1 => self.register(store).await?,
                2..12 => self.take(store).await?,
                _ => self.append(store).await?,
            }
        }
    }

    async fn register(&mut self, store: &dyn Store) -> Result<(), Dark> {
        let secret = self.number();
        self.registrations.push(Some(secret));
        store.put_registration(&self.id, registration(secret)).await.map_err(dark)?;
        self.registrations = vec![Some(secret)];
        Ok(())
    }

    async fn unregister(&mut self, store: &dyn Store) -> Result<(), Dark> {
        self.registrations.push(None);
        store.remove_registration(&self.id).await.map_err(dark)?;
        self.registrations = vec![None];
        self.events.clear();
        Ok(())
    }

    /// A few senders at once.
    async fn append(&mut self, store: &dyn Store) -> Result<(), Dark> {
        let numbers: Vec<_> = (0..=self.random.below(8)).map(|_| self.number()).collect();
        self.events.extend(numbers.iter().map(|&n| (n, Fate::Asked)));
        let accepted = self.all(Fate::Accepted);
        let answers = join_all(numbers.iter().map(|&n| store.append(&self.id, event(n), key(n)))).await;
        let mut all_answered = Ok(());
        for (n, answer) in numbers.into_iter().zip(answers) {
            match answer {
                Ok(Appended::Stored(_)) => {
                    self.events.insert(n, Fate::Stored);
                    // Deletions go with the next append.
                    self.events.extend(accepted.iter().map(|&n| (n, Fate::Gone)));
                }
                Ok(other) => panic!("{} {n}: {other:?}", self.id),
                Err(error) => all_answered = Err(dark(error)),
            }
        }
        all_answered
    }

    /// A delivery that was answered comes again now and then, and one that was not answered does.
    async fn come_again(&mut self, store: &dyn Store) -> Result<(), Dark> {
        for n in std::mem::take(&mut self.lost) {
            self.events.insert(n, Fate::Asked);
            match store.append(&self.id, event(n), key(n)).await.map_err(dark)? {
                Appended::Stored(_) => self.events.insert(n, Fate::Stored),
                other => panic!("{} {n}, which is not there: {other:?}", self.id),
            };
        }
        let known: Vec<_> = self.events.keys().copied().filter(|&n| key(n).is_some()).collect();
        if known.is_empty() || !self.random.one_in(4) {
            return Ok(());
        }
        let n = known[index(self.random.below(known.len() as u64))];
        match store.append(&self.id, event(n), key(n)).await.map_err(dark)? {
            Appended::Duplicate => Ok(()),
            other => panic!("{} {n} ({:?}), which is known: {other:?}", self.id, self.events[&n]),
        }
    }

    /// Takes some events, accepts some of these and hands back the others.
    async fn take(&mut self, store: &dyn Store) -> Result<(), Dark> {
        let max = index(1 + self.random.below(20));
        let deliveries = lease(store, &self.id, max).await.map_err(dark)?;
        let mut settlement = Settlement::default();
        for delivery in deliveries {
            let n = number(&delivery);
            assert_eq!(self.events.get(&n), Some(&Fate::Stored), "{} {n} was handed out", self.id);
            if self.random.one_in(3) {
                settlement.releases.push((delivery.receipt, Duration::ZERO));
            } else {
                settlement.acks.push(delivery.receipt);
                self.events.insert(n, Fate::Accepted);
            }
        }
        let settled = store.settle(&self.id, settlement).await.map_err(dark)?;
        assert_eq!(settled.stale, [], "{}", self.id);
        Ok(())
    }

    /// Compares what is there with what has to be, and knows from then on.
    async fn check(&mut self, store: &dyn Store) -> Result<(), Dark> {
        let found = store.registration(&self.id).await.map_err(dark)?;
        let mut possible = self.registrations.iter();
        let is = possible.find(|known| known.map(registration).as_ref() == found.as_deref());
        let is = *is.unwrap_or_else(|| panic!("{} is {found:?}, not {:?}", self.id, self.registrations));
        let was_registered = self.registrations[0].is_some();
        self.registrations = vec![is];

        let deliveries = lease(store, &self.id, usize::MAX).await.map_err(dark)?;
        assert!(deliveries.is_sorted_by(|a, b| a.event.id < b.event.id), "{}: in order", self.id);
        let there: Vec<u32> = deliveries.iter().map(number).collect();
        if is.is_none() && was_registered {
            self.events.clear();
        }
        for (n, fate) in std::mem::take(&mut self.events) {
            let count = there.iter().filter(|&&there| there == n).count();
            let now = match (fate, count) {
                (Fate::Asked | Fate::Stored | Fate::Accepted, 1) => Fate::Stored,
                (Fate::Accepted | Fate::Gone, 0) => Fate::Gone,
                (Fate::Asked, 0) => {
                    if key(n).is_some() {
                        self.lost.push(n);
                    }
                    continue;
                }
                (fate, count) => panic!("{} {n} ({fate:?}) is there {count} times", self.id),
            };
            self.events.insert(n, now);
        }
        let unknown: Vec<_> = there.iter().filter(|n| !self.events.contains_key(n)).collect();
        assert!(unknown.is_empty(), "{} has {unknown:?} from nowhere", self.id);
        let releases = deliveries.into_iter().map(|delivery| (delivery.receipt, Duration::ZERO)).collect();
        store.settle(&self.id, Settlement { releases, ..Settlement::default() }).await.map_err(dark)?;
        Ok(())
    }

    fn all(&self, fate: Fate) -> Vec<u32> {
        self.events.iter().filter(|(_, known)| **known == fate).map(|(&n, _)| n).collect()
    }

    fn number(&mut self) -> u32 {
        self.next += 1;
        self.next
    }
}

/// The only error that there may be.
fn dark(error: StoreError) -> Dark {
    drop(error);
    Dark
}

async fn lease(store: &dyn Store, app: &AppId, max_events: usize) -> Result<Vec<Delivery>, StoreError> {
    let lease = Lease { max_events, max_bytes: u64::MAX, wait: Duration::ZERO, time: LONG };
    store.lease(app, lease).await
}

fn registration(secret: u32) -> Registration {
    Registration { scheme: Scheme::default(), secrets: vec![Secret::new(secret.to_string())] }
}

/// An event that tells its number and has a size of its own, now and then a large one.
fn event(n: u32) -> NewEvent {
    let size = if n.is_multiple_of(97) { 100_000 } else { n.wrapping_mul(2_654_435_761) % 3000 };
    let text = "x".repeat(size as usize);
    NewEvent { headers: Vec::new(), query: None, body: format!("{{\"n\":{n},\"text\":\"{text}\"}}").into() }
}

/// What its delivery is known by, where it has such a thing.
fn key(n: u32) -> Option<[u8; 16]> {
    (!n.is_multiple_of(4)).then(|| u128::from(n).to_be_bytes())
}

fn number(delivery: &Delivery) -> u32 {
    let body = std::str::from_utf8(&delivery.event.body).unwrap();
    let n = body.strip_prefix("{\"n\":").and_then(|rest| rest.split_once(',')).unwrap().0.parse().unwrap();
    assert!(delivery.event.body == event(n).body, "{n}: byte for byte");
    n
}

fn index(n: u64) -> usize {
    usize::try_from(n).unwrap()
}

#[tokio::test]
async fn after_a_power_cut_the_store_is_what_it_answered() {
    let mut random = Random::new(seed());
    let mut apps: Vec<_> = (0..APPS).map(|n| App::new(n, random.fork())).collect();
    let mut disk = Disk::default();
    let mut opened = 0;
    for _ in 0..setting("WWPROXY_CRASH_CUTS").unwrap_or(CUTS) {
        let life = LIVES[index(random.below(3))];
        disk.die_after(random.below(life));
        let file = if random.one_in(2) { DATABASE } else { JOURNAL };
        let before = u32::try_from(random.below(20)).unwrap();
        let fault = random.one_in(4).then_some(Fault::OneSync(file, before));
        disk.set_fault(fault);
        match open(&disk, opened > 0) {
            Ok(store) => {
                opened += 1;
                let store: Arc<dyn Store> = Arc::new(store);
                let living = apps.iter_mut().map(async |app| {
                    app.check(&*store).await?;
                    app.live(&*store).await
                });
                join_all(living).await;
            }
            Err(error) => assert!(disk.is_dead() || disk.fault() != fault, "{error:?}"),
        }
        assert!(disk.is_dead() || disk.fault() != fault, "nothing else ends a life");
        disk = if random.one_in(2) { disk.after_kill() } else { disk.after_power_cut(&mut random) };
    }
    let events: usize = apps.iter().map(|app| app.events.len()).sum();
    println!(
        "{opened} lives, {} events appended, {events} known in the end",
        apps.iter().map(|a| a.next).sum::<u32>()
    );
    assert!(opened > 0);
}

/// Opens the store. It must never have to read all of its file, once it is made.
fn open(disk: &Disk, is_made: bool) -> Result<RedbStore, OpenError> {
    let mut log = tempfile::tempfile().unwrap();
    let subscriber = tracing_subscriber::fmt().with_writer(Arc::new(log.try_clone().unwrap())).finish();
    let opened = tracing::subscriber::with_default(subscriber, || disk.open(Limits::default()));
    log.rewind().unwrap();
    let log = io::read_to_string(log).unwrap();
    assert!(log.is_empty() || !is_made, "nothing is checked, and nothing is missing: {log}");
    opened
}

#[test]
fn a_power_cut_while_the_store_is_made_leaves_a_folder_that_it_can_be_made_in() {
    let mut random = Random::new(seed());
    for changes in 0.. {
        for _ in 0..20 {
            let disk = Disk::default();
            disk.die_after(changes);
            if disk.open(Limits::default()).is_ok() {
                assert!(changes > 10, "there is something to be cut");
                return;
            }
            let left = disk.after_power_cut(&mut random);
            left.open(Limits::default()).unwrap();
        }
    }
}
