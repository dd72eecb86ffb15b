//! A disk that is full, read-only or failing: nothing is stored, what is stored is handed out, and once
//! the disk works again all goes on without a restart.

use std::{pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{FutureExt, future::join_all};
use tokio::{
    task::unconstrained,
    time::{Instant, sleep, timeout},
};
use wwproxy_protocol::{AppId, Scheme, Secret};
use wwproxy_server::store::{
    Appended, Delivery, Lease, Limits, NewEvent, Overflow, Registration, Settlement, Shown, Stats, Store,
    StoreError,
};

use crate::{
    common::eventually,
    disk::{DATABASE, Disk, Fault, JOURNAL},
    random::{Random, seed},
};

/// Longer than any test.
const LONG: Duration = Duration::from_secs(600);

/// An app in a store on a disk that can be broken.
struct World {
    disk: Disk,
    store: Arc<dyn Store>,
    app: AppId,
}

impl World {
    async fn new(limits: Limits) -> Self {
        let disk = Disk::default();
        let store = Arc::new(disk.open(limits).unwrap());
        let world = Self { disk, store, app: "bot".parse().unwrap() };
        world.register("first").await.unwrap();
        world
    }

    /// One that tried to file its first events, of which the numbers go up to this one, and a sync of the database failed
    /// after so many.
    async fn that_could_not_file(before: u32) -> (Self, u32) {
        let world = Self::new(Limits::default()).await;
        world.store(0..40).await;
        world.disk.set_fault(Some(Fault::OneSync(DATABASE, before)));
        let mut end = 40;
        eventually("it is tried", async || {
            end += u32::from(world.append(end).await.is_ok());
            world.disk.fault().is_none()
        })
        .await;
        (world, end)
    }

    /// One with three events, that refused a fourth as a sync failed.
    async fn whose_last_frame_is_on_no_disk() -> Self {
        let world = Self::new(Limits::default()).await;
        world.store(0..3).await;
        world.disk.set_fault(Some(Fault::OneSync(JOURNAL, 0)));
        world.append(3).await.unwrap_err();
        world
    }

    /// Stores events until the disk, which has room for so many pages, is full. Says how many.
    async fn fill(&self, pages: usize) -> u32 {
        self.disk.set_room(Some(pages));
        let mut stored = 0;
        while self.append(stored).await.is_ok() {
            stored += 1;
        }
        stored
    }

    async fn register(&self, secret: &str) -> Result<(), StoreError> {
        self.store.put_registration(&self.app, registration(secret)).await
    }

    async fn append(&self, n: u32) -> Result<Appended, StoreError> {
        self.store.append(&self.app, event(n), Some(u128::from(n).to_be_bytes())).await
    }

    async fn store(&self, numbers: std::ops::Range<u32>) {
        for n in numbers {
            assert!(matches!(self.append(n).await, Ok(Appended::Stored(_))), "{n}");
        }
    }

    /// Leases what is there now.
    async fn take(&self, max_events: usize) -> Vec<Delivery> {
        let lease = Lease { max_events, max_bytes: u64::MAX, wait: Duration::ZERO, time: LONG };
        self.store.lease(&self.app, lease).await.unwrap()
    }

    async fn accept(&self, deliveries: Vec<Delivery>) {
        let count = deliveries.len();
        let acks = deliveries.into_iter().map(|delivery| delivery.receipt).collect();
        let settled = self.store.settle(&self.app, Settlement { acks, ..Settlement::default() }).await;
        assert_eq!(settled.unwrap().acked, count);
    }

    async fn hand_back(&self, deliveries: Vec<Delivery>) {
        let releases = deliveries.into_iter().map(|delivery| (delivery.receipt, Duration::ZERO)).collect();
        self.store.settle(&self.app, Settlement { releases, ..Settlement::default() }).await.unwrap();
    }

    /// What is stored, and left there.
    async fn stored(&self) -> Vec<u32> {
        let deliveries = self.take(usize::MAX).await;
        let numbers = numbers(&deliveries);
        self.hand_back(deliveries).await;
        numbers
    }

    async fn stats(&self) -> Stats {
        self.store.stats(&self.app).await.unwrap()
    }

    /// Until it stores again, and then the numbers that it does not have yet.
    async fn recover(&self, numbers: std::ops::Range<u32>) {
        eventually("it stores again", async || self.store.ready().await.is_ok()).await;
        for n in numbers {
            eventually("the sender comes again until it is answered", async || self.append(n).await.is_ok())
                .await;
        }
    }

    /// The same after its server was killed.
    fn after_kill(self) -> Self {
        let disk = self.disk.after_kill();
        self.open_on(disk, Limits::default())
    }

    /// The same after the power was cut.
    fn after_power_cut(self, limits: Limits) -> Self {
        let disk = self.disk.after_power_cut(&mut Random::new(seed()));
        self.open_on(disk, limits)
    }

    /// The same where nothing more goes on the disk.
    fn after_power_cut_on_a_full_disk(self) -> Self {
        let disk = self.disk.after_power_cut(&mut Random::new(seed()));
        disk.set_room(Some(0));
        self.open_on(disk, Limits::default())
    }

    fn open_on(self, disk: Disk, limits: Limits) -> Self {
        let store = Arc::new(disk.open(limits).unwrap());
        Self { disk, store, app: self.app }
    }
}

fn registration(secret: &str) -> Registration {
    Registration { scheme: Scheme::default(), secrets: vec![Secret::new(secret)] }
}

fn event(n: u32) -> NewEvent {
    let text = "x".repeat(2000);
    NewEvent { headers: Vec::new(), query: None, body: format!("[{n:06},\"{text}\"]").into() }
}

fn number(body: &[u8]) -> u32 {
    std::str::from_utf8(&body[1..7]).unwrap().parse().unwrap()
}

fn numbers(deliveries: &[Delivery]) -> Vec<u32> {
    deliveries.iter().map(|delivery| number(&delivery.event.body)).collect()
}

/// What is stored is handed out all the while that the disk fails so.
async fn delivery_goes_on(fault: Fault) {
    let world = World::new(Limits::default()).await;
    world.store(0..60).await;
    world.disk.set_fault(Some(fault));
    let broken = Instant::now();
    let mut taken = Vec::new();
    // Longer than from one try of the file to the next.
    while broken.elapsed() < Duration::from_millis(2500) {
        assert!(world.append(100).await.is_err(), "nothing is stored");
        assert!(world.store.ready().await.is_err(), "and that is said");
        let next = world.take(1).await;
        taken.extend(numbers(&next));
        if taken.len() <= 30 {
            world.accept(next).await;
        } else {
            world.hand_back(next).await;
        }
        sleep(Duration::from_millis(20)).await;
    }
    assert!(taken.len() > 35, "{taken:?}");
    assert_eq!(taken[..31], (0..31).collect::<Vec<_>>());
    world.disk.set_fault(None);
    world.recover(100..110).await;
    let expected: Vec<_> = (30..60).chain(100..110).collect();
    assert_eq!(world.stored().await, expected);
    world.store.close().await.unwrap();
    assert_eq!(world.after_power_cut(Limits::default()).stored().await, expected);
}

#[tokio::test]
async fn while_the_disk_is_read_only_what_is_stored_is_delivered() {
    delivery_goes_on(Fault::ReadOnly).await;
}

#[tokio::test]
async fn while_no_sync_succeeds_what_is_stored_is_delivered() {
    delivery_goes_on(Fault::Sync).await;
}

#[tokio::test]
async fn what_stores_nothing_writes_nothing() {
    let world = World::new(Limits { max_queued_events: 2, ..Limits::default() }).await;
    world.store(0..2).await;
    world.disk.set_fault(Some(Fault::ReadOnly));
    assert_eq!(world.append(2).await.unwrap(), Appended::Full);
    assert_eq!(world.append(1).await.unwrap(), Appended::Duplicate);
}

#[tokio::test]
async fn a_full_disk_delivers_and_what_is_accepted_makes_room() {
    let world = World::new(Limits::default()).await;
    world.store(200_000..200_100).await;
    world.store.close().await.unwrap();
    let world = world.after_power_cut(Limits::default());
    let before = world.take(usize::MAX).await;
    world.accept(before).await;
    let stored = world.fill(100).await;
    assert!(stored > 20, "{stored}");
    let taken = world.take(usize::MAX).await;
    assert_eq!(numbers(&taken)[..stored as usize], (0..stored).collect::<Vec<_>>());
    world.accept(taken).await;
    // A sender that never stops asking does not keep the deletions from being written.
    eventually("there is room", async || world.append(100_000).await.is_ok()).await;
    world.store(100_001..100_010).await;
    let expected: Vec<_> = (100_000..100_010).collect();
    assert_eq!(world.stored().await.into_iter().filter(|&n| n >= 100_000).collect::<Vec<_>>(), expected);
}

/// What fills it may be what is stored, so only who takes that makes room again.
#[tokio::test]
async fn on_a_full_disk_it_opens_and_delivers_and_what_is_accepted_makes_room() {
    let world = World::new(Limits::default()).await;
    let stored = world.fill(2000).await;
    let world = world.after_power_cut_on_a_full_disk();
    let taken = world.take(usize::MAX).await;
    assert_eq!(numbers(&taken)[..stored as usize], (0..stored).collect::<Vec<_>>());
    world.accept(taken).await;
    eventually("there is room", async || world.append(100_000).await.is_ok()).await;
    world.store(100_001..100_010).await;
    let world = world.after_power_cut_on_a_full_disk();
    assert_eq!(world.stored().await, (100_000..100_010).collect::<Vec<_>>());
}

/// In more commits than the journal has room for, where what they delete is not filed.
#[tokio::test]
async fn on_a_full_disk_what_is_accepted_one_by_one_makes_room_too() {
    let world = World::new(Limits::default()).await;
    world.fill(2000).await;
    let world = world.after_power_cut_on_a_full_disk();
    for n in 0..200 {
        let taken = world.take(1).await;
        assert_eq!(numbers(&taken), [n]);
        world.accept(taken).await;
        // Longer than deletions wait for others.
        sleep(Duration::from_millis(25)).await;
    }
    let taken = world.take(usize::MAX).await;
    world.accept(taken).await;
    eventually("there is room", async || world.append(100_000).await.is_ok()).await;
    let world = world.after_power_cut_on_a_full_disk();
    assert_eq!(world.stored().await, [100_000]);
}

/// Whichever sync of its transaction fails, up to the last one: then it is in the database all the same.
#[tokio::test]
async fn a_database_that_cannot_follow_once_does_so_later() {
    join_all((0..8).map(async |before| {
        let (world, end) = World::that_could_not_file(before).await;
        let taken = world.take(20).await;
        world.accept(taken).await;
        assert_eq!(world.stored().await, (20..end).collect::<Vec<_>>(), "{before}");
        world.recover(end..end + 10).await;
        world.store.close().await.unwrap();
        let world = world.after_power_cut(Limits::default());
        assert_eq!(world.stored().await, (20..end + 10).collect::<Vec<_>>(), "{before}");
    }))
    .await;
}

/// A sync that failed leaves in the system's memory what is on no disk, and never will be.
#[tokio::test]
async fn what_a_failed_sync_lost_is_not_taken_for_stored() {
    let world = World::whose_last_frame_is_on_no_disk().await;
    world.recover(3..5).await;
    let world = world.after_power_cut(Limits::default());
    assert_eq!(world.stored().await, [0, 1, 2, 3, 4], "the fourth was answered in the end");
}

/// It stays in the system's memory, where the next server finds it.
#[tokio::test]
async fn what_a_failed_sync_lost_is_on_the_disk_once_it_is_taken_for_stored() {
    let world = World::whose_last_frame_is_on_no_disk().await;
    let world = world.after_kill();
    assert_eq!(world.append(3).await.unwrap(), Appended::Duplicate);
    let world = world.after_power_cut(Limits::default());
    assert_eq!(world.stored().await, [0, 1, 2, 3]);
}

/// The next server finds in the system's memory what is not on the disk, and writes over what was filed.
#[tokio::test]
async fn what_was_filed_for_the_system_s_memory_alone_is_not_lost() {
    join_all((0..8).map(async |before| {
        let (world, end) = World::that_could_not_file(before).await;
        let world = world.after_kill();
        assert_eq!(world.stored().await, (0..end).collect::<Vec<_>>(), "{before}");
        world.store(end..end + 100).await;
        let world = world.after_power_cut(Limits::default());
        assert_eq!(world.stored().await, (0..end + 100).collect::<Vec<_>>(), "{before}");
    }))
    .await;
}

/// What the journal refused to delete, and the database has not deleted yet.
#[tokio::test]
async fn what_was_accepted_does_not_come_back_to_an_app_that_is_registered_anew() {
    let world = World::new(Limits::default()).await;
    world.store(0..5).await;
    let taken = world.take(2).await;
    let disk = world.disk.clone();
    disk.set_fault(Some(Fault::JournalThenStuck));
    world.accept(taken).await;
    let stuck = Some(Fault::Stuck(DATABASE));
    eventually("the journal refuses the deletion", async || disk.fault() == stuck).await;
    world.store.remove_registration(&world.app).await.unwrap();
    let register =
        eventually("the journal can be written to", async || world.register("second").await.is_ok());
    // Or the database would have to be, before that.
    let registered = timeout(Duration::from_secs(3), register).await;
    let world = world.after_kill();
    if registered.is_err() {
        world.register("second").await.unwrap();
    }
    assert!(world.stored().await.is_empty());
    disk.set_fault(None);
}

/// Whatever a commit did that was answered with an error, and that may stand in the journal all the same.
#[tokio::test]
async fn after_a_failed_commit_memory_is_what_the_files_say() {
    let limits = Limits { max_queued_events: 5, overflow: Overflow::DropOldest, ..Limits::default() };
    for case in 0..5 {
        let world = World::new(limits).await;
        world.store(0..5).await;
        let taken = world.take(2).await;
        world.disk.set_fault(Some(Fault::OneSync(JOURNAL, 0)));
        match case {
            0 => world.append(5).await.map(drop).unwrap_err(),
            1 => world.register("second").await.unwrap_err(),
            2 => world.store.remove_registration(&world.app).await.unwrap_err(),
            3 => {
                world.store.put_registration(&"other".parse().unwrap(), registration("x")).await.unwrap_err()
            }
            _ => {
                world.accept(taken).await;
                // With the deletions, which fail alone.
                eventually("the fault is used up", async || world.disk.fault().is_none()).await;
                StoreError::Closed
            }
        };
        world.recover(0..0).await;
        let (stats, stored) = (world.stats().await, world.stored().await);
        let apps: [AppId; 2] = [world.app.clone(), "other".parse().unwrap()];
        let mut registered = Vec::new();
        for app in &apps {
            registered.push(world.store.registration(app).await.unwrap());
        }
        world.store.close().await.unwrap();
        let world = world.after_power_cut(limits);
        let after = Stats { oldest_age: None, ..world.stats().await };
        assert_eq!(Stats { oldest_age: None, leased: 0, ..stats }, after, "case {case}");
        for (app, registered) in apps.iter().zip(registered) {
            assert_eq!(world.store.registration(app).await.unwrap(), registered, "case {case}: {app}");
        }
        // What was leased is now nobody's.
        let missing: Vec<_> = world.stored().await.into_iter().filter(|n| !stored.contains(n)).collect();
        assert!(missing.iter().all(|n| *n < 2), "case {case}: {missing:?}");
    }
}

#[tokio::test]
async fn an_event_that_made_room_for_nothing_is_what_it_was() {
    let limits = Limits { max_queued_events: 2, overflow: Overflow::DropOldest, ..Limits::default() };
    let world = World::new(limits).await;
    world.store(0..2).await;
    let first = world.take(1).await;
    world.hand_back(first).await;
    let leased = world.take(2).await;
    assert_eq!((leased[0].attempt, leased[1].attempt), (2, 1));
    world.disk.set_fault(Some(Fault::ReadOnly));
    world.append(2).await.unwrap_err();
    assert_eq!(world.stats().await.leased, 2, "its lease lasts");
    world.hand_back(leased).await;
    world.append(2).await.unwrap_err();
    let again = world.take(2).await;
    assert_eq!((numbers(&again), again[0].attempt), (vec![0, 1], 3));
    assert_eq!(world.stats().await.dropped, 0);
}

#[tokio::test]
async fn a_tap_is_shown_what_is_stored_in_the_end() {
    let world = World::new(Limits::default()).await;
    let mut tap = world.store.tap(&world.app).await.unwrap().unwrap();
    world.store(0..1).await;
    world.disk.set_fault(Some(Fault::OneSync(JOURNAL, 0)));
    world.append(1).await.unwrap_err();
    world.recover(1..3).await;
    let mut shown = Vec::new();
    while shown.len() < 3 {
        shown.extend(tap.next().await);
    }
    let number = |shown: &Shown| match shown {
        Shown::Event(event) => number(&event.body),
        Shown::Gap(_) => panic!("nothing is missing"),
    };
    assert_eq!(shown.iter().map(number).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(world.stored().await, [0, 1, 2]);
}

#[tokio::test]
async fn a_read_that_fails_once_is_tried_again() {
    let world = World::new(Limits::default()).await;
    world.store(0..100).await;
    world.store.close().await.unwrap();
    let world = world.after_power_cut(Limits::default());
    world.disk.set_fault(Some(Fault::OneRead));
    assert_eq!(world.stored().await.len(), 100);
    world.store(100..101).await;
}

#[tokio::test]
async fn an_event_that_cannot_be_read_stands_before_nobody() {
    for (bad, sector) in [(0, b"[000000,"), (50, b"[000050,")] {
        let world = World::new(Limits::default()).await;
        world.store(0..100).await;
        world.store.close().await.unwrap();
        let world = world.after_power_cut(Limits::default());
        world.disk.set_fault(Some(Fault::BadSector(sector)));
        let taken = world.take(usize::MAX).await;
        let there = numbers(&taken);
        assert!(there.len() >= 95 && !there.contains(&bad), "{there:?}");
        let mut missing = (0..100_u32).filter(|n| !there.contains(n));
        assert!(missing.all(|n| n.abs_diff(bad) < 5), "those of its page have its fate: {there:?}");
        eventually("events are stored", async || world.append(100).await.is_ok()).await;
        assert_eq!(numbers(&world.take(usize::MAX).await), [100]);
        let stats = world.stats().await;
        assert_eq!((stats.stored, stats.leased), (101, 101), "it is looked for again when its lease ends");
    }
}

#[tokio::test]
async fn deletions_that_could_not_be_written_are_told_when_the_store_closes() {
    let world = World::new(Limits::default()).await;
    world.store(0..3).await;
    world.disk.set_fault(Some(Fault::ReadOnly));
    world.append(3).await.unwrap_err();
    let taken = world.take(1).await;
    world.accept(taken).await;
    assert!(world.store.close().await.is_err());
    world.disk.set_fault(None);
    assert_eq!(world.after_power_cut(Limits::default()).stored().await, [0, 1, 2], "it comes once more");
}

/// The fourth commit fails: an event that waited for more than one registration, or for a question, would be in it.
#[tokio::test]
async fn events_that_wait_together_are_one_commit_whatever_else_is_asked() {
    let world = World::new(Limits::default()).await;
    world.disk.set_fault(Some(Fault::OneSync(JOURNAL, 3)));
    let asked = join_all((0..64).map(async |n| {
        let other = format!("other-{n}").parse().unwrap();
        let register = world.store.put_registration(&other, registration("x"));
        tokio::join!(world.append(n), world.store.ready(), register)
    }));
    let mut asked = pin!(unconstrained(asked));
    let held = world.disk.hold();
    assert!(asked.as_mut().now_or_never().is_none());
    drop(held);
    let answers = asked.await;
    let stored = |(stored, ..): &&(Result<Appended, _>, _, _)| matches!(stored, Ok(Appended::Stored(_)));
    assert_eq!(answers.iter().filter(stored).count(), 64);
    assert!(answers.iter().any(|(.., registered)| registered.is_err()), "the fault was met");
}

#[tokio::test]
async fn events_that_come_faster_than_they_are_filed_hold_up_their_own_app() {
    let world = World::new(Limits::default()).await;
    let other: AppId = "other".parse().unwrap();
    world.store.put_registration(&other, registration("x")).await.unwrap();
    world.disk.set_fault(Some(Fault::Stuck(DATABASE)));
    let large = |app: &AppId| {
        let body = Bytes::from(vec![b' '; 256 << 10]);
        let event = NewEvent { headers: Vec::new(), query: None, body };
        let (store, app) = (Arc::clone(&world.store), app.clone());
        async move { store.append(&app, event, None).await }
    };
    let mut flood = tokio::task::JoinSet::new();
    for _ in 0..200 {
        flood.spawn(large(&world.app));
    }
    // Half of the journal is 64 of them.
    for _ in 0..50 {
        flood.join_next().await.unwrap().unwrap().unwrap();
    }
    for _ in 0..20 {
        let stored = timeout(Duration::from_secs(10), large(&other)).await;
        assert!(matches!(stored, Ok(Ok(Appended::Stored(_)))), "{stored:?}");
    }
    assert!(flood.len() > 100, "{}", flood.len());
    world.disk.set_fault(None);
    flood.join_all().await.into_iter().for_each(|stored| drop(stored.unwrap()));
    assert_eq!(world.take(usize::MAX).await.len(), 200);
}

#[tokio::test]
async fn an_app_that_registers_again_and_again_waits_for_itself() {
    let world = World::new(Limits::default()).await;
    // Only the app's first one is before the other app's.
    world.disk.set_fault(Some(Fault::OneSync(JOURNAL, 2)));
    let again = join_all((0..100).map(|n| world.register(if n % 2 == 0 { "even" } else { "odd" })));
    let mut again = pin!(unconstrained(again));
    let held = world.disk.hold();
    assert!(again.as_mut().now_or_never().is_none());
    let other = "other".parse().unwrap();
    let mut register = pin!(world.store.put_registration(&other, registration("x")));
    assert!(register.as_mut().now_or_never().is_none());
    drop(held);
    register.await.unwrap();
    assert!(again.await.iter().any(Result::is_err), "the fault was met");
}
