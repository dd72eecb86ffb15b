//! Fault injection: while the disk is full, read-only or failing, appends are rejected and stored events are delivered.
//! When the disk works again the store recovers without a restart.

use std::{pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{FutureExt, future::join_all};
use tokio::{
    task::unconstrained,
    time::{Instant, sleep, timeout},
};
use wwproxy_protocol::{AppId, Secret};
use wwproxy_server::store::{
    Appended, Delivery, Lease, Limits, NewEvent, Overflow, Registration, Settlement, Shown, Stats, Store,
    StoreError,
};

use crate::{
    common::eventually,
    disk::{DATABASE, Disk, Fault, WAL},
    random::{Random, seed},
    store::append,
};

/// A duration longer than any test.
const LONG: Duration = Duration::from_secs(600);

/// A store with one app on a disk with fault injection.
struct Fixture {
    disk: Disk,
    store: Arc<dyn Store>,
    app: AppId,
}

impl Fixture {
    async fn new(limits: Limits) -> Self {
        let disk = Disk::default();
        let store = Arc::new(disk.open(limits).unwrap());
        let fixture = Self { disk, store, app: "bot".parse().unwrap() };
        fixture.register("first").await.unwrap();
        fixture
    }

    /// A store whose first checkpoint failed: the database's fsync failed after `syncs` that succeeded. Also returns the
    /// number of stored events.
    async fn after_failed_checkpoint(syncs: u32) -> (Self, u32) {
        let fixture = Self::new(Limits::default()).await;
        fixture.store(0..40).await;
        fixture.disk.set_fault(Some(Fault::OneSync(DATABASE, syncs)));
        let mut end = 40;
        eventually("the checkpoint is tried", async || {
            end += u32::from(fixture.append(end).await.is_ok());
            fixture.disk.fault().is_none()
        })
        .await;
        (fixture, end)
    }

    /// A store with three events that rejected a fourth, because the write-ahead log's fsync failed.
    async fn after_failed_commit() -> Self {
        let fixture = Self::new(Limits::default()).await;
        fixture.store(0..3).await;
        fixture.disk.set_fault(Some(Fault::OneSync(WAL, 0)));
        fixture.append(3).await.unwrap_err();
        fixture
    }

    /// Appends events until the disk, which has this number of free pages, is full. Returns the number of events.
    async fn fill(&self, pages: usize) -> u32 {
        self.disk.set_free_pages(Some(pages));
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
        append(&*self.store, &self.app, event(n), Some(u128::from(n).to_be_bytes())).await
    }

    async fn store(&self, numbers: std::ops::Range<u32>) {
        for n in numbers {
            assert!(matches!(self.append(n).await, Ok(Appended::Stored(_))), "{n}");
        }
    }

    /// Leases available events without waiting.
    async fn take(&self, max_events: usize) -> Vec<Delivery> {
        let lease = Lease { max_events, max_bytes: u64::MAX, wait: Duration::ZERO, time: LONG };
        self.store.lease(&self.app, lease).await.unwrap()
    }

    async fn ack(&self, deliveries: Vec<Delivery>) {
        let count = deliveries.len();
        let acks = deliveries.into_iter().map(|delivery| delivery.receipt).collect();
        let settled = self.store.settle(&self.app, Settlement { acks, ..Settlement::default() }).await;
        assert_eq!(settled.unwrap().acked, count);
    }

    async fn release(&self, deliveries: Vec<Delivery>) {
        let releases = deliveries.into_iter().map(|delivery| delivery.receipt).collect();
        self.store.settle(&self.app, Settlement { releases, ..Settlement::default() }).await.unwrap();
    }

    /// Returns the numbers of the stored events, and leaves them in the queue.
    async fn stored(&self) -> Vec<u32> {
        let deliveries = self.take(usize::MAX).await;
        let numbers = numbers(&deliveries);
        self.release(deliveries).await;
        numbers
    }

    async fn stats(&self) -> Stats {
        self.store.stats(&self.app).await.unwrap()
    }

    /// Waits until the store is ready, and appends these events with retries.
    async fn recover(&self, numbers: std::ops::Range<u32>) {
        eventually("the store is ready", async || self.store.ready().await.is_ok()).await;
        for n in numbers {
            eventually("the append succeeds", async || self.append(n).await.is_ok()).await;
        }
    }

    /// Reopens the store after a kill of the server.
    fn after_kill(self) -> Self {
        let disk = self.disk.after_kill();
        self.open_on(disk, Limits::default())
    }

    /// Reopens the store after a power cut.
    fn after_power_cut(self, limits: Limits) -> Self {
        let disk = self.disk.after_power_cut(&mut Random::new(seed()));
        self.open_on(disk, limits)
    }

    /// Reopens the store after a power cut, with no free page on the disk.
    fn after_power_cut_on_a_full_disk(self) -> Self {
        let disk = self.disk.after_power_cut(&mut Random::new(seed()));
        disk.set_free_pages(Some(0));
        self.open_on(disk, Limits::default())
    }

    fn open_on(self, disk: Disk, limits: Limits) -> Self {
        let store = Arc::new(disk.open(limits).unwrap());
        Self { disk, store, app: self.app }
    }
}

fn registration(secret: &str) -> Registration {
    Registration::watson_work(Secret::new(secret))
}

fn event(n: u32) -> NewEvent {
    let text = "x".repeat(2000);
    NewEvent::new(Vec::new(), None, format!("[{n:06},\"{text}\"]").into())
}

fn number(body: &[u8]) -> u32 {
    std::str::from_utf8(&body[1..7]).unwrap().parse().unwrap()
}

fn numbers(deliveries: &[Delivery]) -> Vec<u32> {
    deliveries.iter().map(|delivery| number(&delivery.event.body)).collect()
}

/// Stored events are delivered, acknowledged and released while the disk has this fault.
async fn delivers_during(fault: Fault) {
    let fixture = Fixture::new(Limits::default()).await;
    fixture.store(0..60).await;
    fixture.disk.set_fault(Some(fault));
    let started = Instant::now();
    let mut taken = Vec::new();
    // Longer than the interval between retries of a failed write.
    while started.elapsed() < Duration::from_millis(2500) {
        assert!(fixture.append(100).await.is_err(), "an append must fail");
        assert!(fixture.store.ready().await.is_err(), "the readiness check must fail");
        let next = fixture.take(1).await;
        taken.extend(numbers(&next));
        if taken.len() <= 30 {
            fixture.ack(next).await;
        } else {
            fixture.release(next).await;
        }
        sleep(Duration::from_millis(20)).await;
    }
    assert!(taken.len() > 35, "{taken:?}");
    assert_eq!(taken[..31], (0..31).collect::<Vec<_>>());
    fixture.disk.set_fault(None);
    fixture.recover(100..110).await;
    let expected: Vec<_> = (30..60).chain(100..110).collect();
    assert_eq!(fixture.stored().await, expected);
    fixture.store.close().await.unwrap();
    assert_eq!(fixture.after_power_cut(Limits::default()).stored().await, expected);
}

#[tokio::test]
async fn stored_events_are_delivered_while_the_disk_is_read_only() {
    delivers_during(Fault::ReadOnly).await;
}

#[tokio::test]
async fn stored_events_are_delivered_while_every_fsync_fails() {
    delivers_during(Fault::EverySync).await;
}

#[tokio::test]
async fn a_rejected_or_duplicate_append_writes_nothing() {
    let fixture = Fixture::new(Limits { max_queued_events: 2, ..Limits::default() }).await;
    fixture.store(0..2).await;
    fixture.disk.set_fault(Some(Fault::ReadOnly));
    assert_eq!(fixture.append(2).await.unwrap(), Appended::Full);
    assert_eq!(fixture.append(1).await.unwrap(), Appended::Duplicate);
}

#[tokio::test]
async fn on_a_full_disk_events_are_delivered_and_acks_free_space() {
    let fixture = Fixture::new(Limits::default()).await;
    fixture.store(200_000..200_100).await;
    fixture.store.close().await.unwrap();
    let fixture = fixture.after_power_cut(Limits::default());
    let before = fixture.take(usize::MAX).await;
    fixture.ack(before).await;
    let stored = fixture.fill(100).await;
    assert!(stored > 20, "{stored}");
    let taken = fixture.take(usize::MAX).await;
    assert_eq!(numbers(&taken)[..stored as usize], (0..stored).collect::<Vec<_>>());
    fixture.ack(taken).await;
    // Constant retries of a sender do not keep the deletions from being written.
    eventually("an append succeeds", async || fixture.append(100_000).await.is_ok()).await;
    fixture.store(100_001..100_010).await;
    let expected: Vec<_> = (100_000..100_010).collect();
    assert_eq!(fixture.stored().await.into_iter().filter(|&n| n >= 100_000).collect::<Vec<_>>(), expected);
}

/// The stored events may be what fills the disk: then only deliveries free space.
#[tokio::test]
async fn a_store_opens_on_a_full_disk_and_acks_free_space() {
    let fixture = Fixture::new(Limits::default()).await;
    let stored = fixture.fill(2000).await;
    let fixture = fixture.after_power_cut_on_a_full_disk();
    let taken = fixture.take(usize::MAX).await;
    assert_eq!(numbers(&taken)[..stored as usize], (0..stored).collect::<Vec<_>>());
    fixture.ack(taken).await;
    eventually("an append succeeds", async || fixture.append(100_000).await.is_ok()).await;
    fixture.store(100_001..100_010).await;
    let fixture = fixture.after_power_cut_on_a_full_disk();
    assert_eq!(fixture.stored().await, (100_000..100_010).collect::<Vec<_>>());
}

/// The deletions take more commits than fit into the write-ahead log without a checkpoint.
#[tokio::test]
async fn on_a_full_disk_single_acks_free_space() {
    let fixture = Fixture::new(Limits::default()).await;
    fixture.fill(2000).await;
    let fixture = fixture.after_power_cut_on_a_full_disk();
    for n in 0..200 {
        let taken = fixture.take(1).await;
        assert_eq!(numbers(&taken), [n]);
        fixture.ack(taken).await;
        // Longer than the delay of a deletion, so that each is its own commit.
        sleep(Duration::from_millis(25)).await;
    }
    let taken = fixture.take(usize::MAX).await;
    fixture.ack(taken).await;
    eventually("an append succeeds", async || fixture.append(100_000).await.is_ok()).await;
    let fixture = fixture.after_power_cut_on_a_full_disk();
    assert_eq!(fixture.stored().await, [100_000]);
}

/// Any fsync of the checkpoint's transaction may fail. After the last one the transaction is in the database all the same.
#[tokio::test]
async fn a_failed_checkpoint_is_retried() {
    join_all((0..8).map(async |syncs| {
        let (fixture, end) = Fixture::after_failed_checkpoint(syncs).await;
        let taken = fixture.take(20).await;
        fixture.ack(taken).await;
        assert_eq!(fixture.stored().await, (20..end).collect::<Vec<_>>(), "{syncs}");
        fixture.recover(end..end + 10).await;
        fixture.store.close().await.unwrap();
        let fixture = fixture.after_power_cut(Limits::default());
        assert_eq!(fixture.stored().await, (20..end + 10).collect::<Vec<_>>(), "{syncs}");
    }))
    .await;
}

/// A failed fsync leaves data in the page cache that never reaches the disk.
#[tokio::test]
async fn a_commit_with_a_failed_fsync_does_not_count_as_durable() {
    let fixture = Fixture::after_failed_commit().await;
    fixture.recover(3..5).await;
    let fixture = fixture.after_power_cut(Limits::default());
    assert_eq!(fixture.stored().await, [0, 1, 2, 3, 4], "the retry of the fourth event was answered");
}

/// The next server finds the commit in the page cache.
#[tokio::test]
async fn a_commit_replayed_from_the_page_cache_is_made_durable() {
    let fixture = Fixture::after_failed_commit().await;
    let fixture = fixture.after_kill();
    assert_eq!(fixture.append(3).await.unwrap(), Appended::Duplicate);
    let fixture = fixture.after_power_cut(Limits::default());
    assert_eq!(fixture.stored().await, [0, 1, 2, 3]);
}

/// The next server finds the checkpoint in the page cache only, and reuses the space of the write-ahead log.
#[tokio::test]
async fn events_of_a_checkpoint_found_only_in_the_page_cache_are_not_lost() {
    join_all((0..8).map(async |syncs| {
        let (fixture, end) = Fixture::after_failed_checkpoint(syncs).await;
        let fixture = fixture.after_kill();
        assert_eq!(fixture.stored().await, (0..end).collect::<Vec<_>>(), "{syncs}");
        fixture.store(end..end + 100).await;
        let fixture = fixture.after_power_cut(Limits::default());
        assert_eq!(fixture.stored().await, (0..end + 100).collect::<Vec<_>>(), "{syncs}");
    }))
    .await;
}

/// The write to the log failed for the deletions, and the database has not deleted the events yet.
#[tokio::test]
async fn acked_events_are_not_redelivered_after_a_new_registration() {
    let fixture = Fixture::new(Limits::default()).await;
    fixture.store(0..5).await;
    let taken = fixture.take(2).await;
    let disk = fixture.disk.clone();
    disk.set_fault(Some(Fault::WalThenHang));
    fixture.ack(taken).await;
    let hanging = Some(Fault::Hang(DATABASE));
    eventually("the commit of the deletions fails", async || disk.fault() == hanging).await;
    fixture.store.remove_registration(&fixture.app).await.unwrap();
    let register =
        eventually("the write-ahead log is writable", async || fixture.register("second").await.is_ok());
    // Otherwise the registration would wait for the database, which hangs.
    let registered = timeout(Duration::from_secs(3), register).await;
    let fixture = fixture.after_kill();
    if registered.is_err() {
        fixture.register("second").await.unwrap();
    }
    assert!(fixture.stored().await.is_empty());
    disk.set_fault(None);
}

/// A commit whose fsync failed may be in the write-ahead log all the same.
#[tokio::test]
async fn memory_matches_the_files_after_a_failed_commit() {
    let limits = Limits { max_queued_events: 5, overflow: Overflow::DropOldest, ..Limits::default() };
    for case in 0..5 {
        let fixture = Fixture::new(limits).await;
        fixture.store(0..5).await;
        let taken = fixture.take(2).await;
        fixture.disk.set_fault(Some(Fault::OneSync(WAL, 0)));
        match case {
            0 => fixture.append(5).await.map(drop).unwrap_err(),
            1 => fixture.register("second").await.unwrap_err(),
            2 => fixture.store.remove_registration(&fixture.app).await.unwrap_err(),
            3 => fixture
                .store
                .put_registration(&"other".parse().unwrap(), registration("x"))
                .await
                .unwrap_err(),
            _ => {
                fixture.ack(taken).await;
                // The commit with the deletions alone fails.
                eventually("the fsync has failed", async || fixture.disk.fault().is_none()).await;
                StoreError::Closed
            }
        };
        fixture.recover(0..0).await;
        let (stats, stored) = (fixture.stats().await, fixture.stored().await);
        let apps: [AppId; 2] = [fixture.app.clone(), "other".parse().unwrap()];
        let mut registered = Vec::new();
        for app in &apps {
            registered.push(fixture.store.registration(app).await.unwrap());
        }
        fixture.store.close().await.unwrap();
        let fixture = fixture.after_power_cut(limits);
        let after = Stats { oldest_age: None, ..fixture.stats().await };
        assert_eq!(Stats { oldest_age: None, leased: 0, ..stats }, after, "case {case}");
        for (app, registered) in apps.iter().zip(registered) {
            assert_eq!(fixture.store.registration(app).await.unwrap(), registered, "case {case}: {app}");
        }
        // Only the acknowledged events may be missing.
        let missing: Vec<_> = fixture.stored().await.into_iter().filter(|n| !stored.contains(n)).collect();
        assert!(missing.iter().all(|n| *n < 2), "case {case}: {missing:?}");
    }
}

#[tokio::test]
async fn a_failed_append_restores_the_event_it_would_have_dropped() {
    let limits = Limits { max_queued_events: 2, overflow: Overflow::DropOldest, ..Limits::default() };
    let fixture = Fixture::new(limits).await;
    fixture.store(0..2).await;
    let first = fixture.take(1).await;
    fixture.release(first).await;
    let leased = fixture.take(2).await;
    assert_eq!((leased[0].attempt, leased[1].attempt), (2, 1));
    fixture.disk.set_fault(Some(Fault::ReadOnly));
    fixture.append(2).await.unwrap_err();
    assert_eq!(fixture.stats().await.leased, 2, "the lease is still valid");
    fixture.release(leased).await;
    fixture.append(2).await.unwrap_err();
    let again = fixture.take(2).await;
    assert_eq!((numbers(&again), again[0].attempt), (vec![0, 1], 3));
    assert_eq!(fixture.stats().await.dropped, 0);
}

#[tokio::test]
async fn a_tap_receives_retried_events_once() {
    let fixture = Fixture::new(Limits::default()).await;
    let mut tap = fixture.store.tap(&fixture.app).await.unwrap().unwrap();
    fixture.store(0..1).await;
    fixture.disk.set_fault(Some(Fault::OneSync(WAL, 0)));
    fixture.append(1).await.unwrap_err();
    fixture.recover(1..3).await;
    let mut shown = Vec::new();
    while shown.len() < 3 {
        shown.extend(tap.next().await);
    }
    let number = |shown: &Shown| match shown {
        Shown::Event(event) => number(&event.body),
        Shown::Gap(_) => panic!("the tap missed an event"),
    };
    assert_eq!(shown.iter().map(number).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(fixture.stored().await, [0, 1, 2]);
}

#[tokio::test]
async fn a_failed_read_is_retried() {
    let fixture = Fixture::new(Limits::default()).await;
    fixture.store(0..100).await;
    fixture.store.close().await.unwrap();
    let fixture = fixture.after_power_cut(Limits::default());
    fixture.disk.set_fault(Some(Fault::OneRead));
    assert_eq!(fixture.stored().await.len(), 100);
    fixture.store(100..101).await;
}

#[tokio::test]
async fn an_unreadable_event_does_not_block_the_queue() {
    for (bad, sector) in [(0, b"[000000,"), (50, b"[000050,")] {
        let fixture = Fixture::new(Limits::default()).await;
        fixture.store(0..100).await;
        fixture.store.close().await.unwrap();
        let fixture = fixture.after_power_cut(Limits::default());
        fixture.disk.set_fault(Some(Fault::BadSector(sector)));
        let taken = fixture.take(usize::MAX).await;
        let read = numbers(&taken);
        assert!(read.len() >= 95 && !read.contains(&bad), "{read:?}");
        let mut missing = (0..100_u32).filter(|n| !read.contains(n));
        assert!(
            missing.all(|n| n.abs_diff(bad) < 5),
            "only events of the same page are unreadable: {read:?}"
        );
        eventually("events are stored", async || fixture.append(100).await.is_ok()).await;
        assert_eq!(numbers(&fixture.take(usize::MAX).await), [100]);
        let stats = fixture.stats().await;
        assert_eq!(
            (stats.stored, stats.leased),
            (101, 101),
            "an unreadable event is read again when its lease expires"
        );
    }
}

#[tokio::test]
async fn close_fails_if_deletions_could_not_be_written() {
    let fixture = Fixture::new(Limits::default()).await;
    fixture.store(0..3).await;
    fixture.disk.set_fault(Some(Fault::ReadOnly));
    fixture.append(3).await.unwrap_err();
    let taken = fixture.take(1).await;
    fixture.ack(taken).await;
    assert!(fixture.store.close().await.is_err());
    fixture.disk.set_fault(None);
    assert_eq!(
        fixture.after_power_cut(Limits::default()).stored().await,
        [0, 1, 2],
        "the event is redelivered"
    );
}

/// The fourth commit fails. It would contain an append that waited for a readiness check or for several registrations.
#[tokio::test]
async fn waiting_appends_share_one_group_commit() {
    let fixture = Fixture::new(Limits::default()).await;
    fixture.disk.set_fault(Some(Fault::OneSync(WAL, 3)));
    let calls = join_all((0..64).map(async |n| {
        let other = format!("other-{n}").parse().unwrap();
        let register = fixture.store.put_registration(&other, registration("x"));
        tokio::join!(fixture.append(n), fixture.store.ready(), register)
    }));
    let mut calls = pin!(unconstrained(calls));
    let blocked = fixture.disk.block();
    assert!(calls.as_mut().now_or_never().is_none());
    drop(blocked);
    let outcomes = calls.await;
    let stored = |(stored, ..): &&(Result<Appended, _>, _, _)| matches!(stored, Ok(Appended::Stored(_)));
    assert_eq!(outcomes.iter().filter(stored).count(), 64);
    assert!(outcomes.iter().any(|(.., registered)| registered.is_err()), "one commit failed");
}

#[tokio::test]
async fn a_flood_that_outruns_the_checkpoint_throttles_only_its_own_app() {
    let fixture = Fixture::new(Limits::default()).await;
    let other: AppId = "other".parse().unwrap();
    fixture.store.put_registration(&other, registration("x")).await.unwrap();
    fixture.disk.set_fault(Some(Fault::Hang(DATABASE)));
    let large = |app: &AppId| {
        let body = Bytes::from(vec![b' '; 256 << 10]);
        let event = NewEvent::new(Vec::new(), None, body);
        let (store, app) = (Arc::clone(&fixture.store), app.clone());
        async move { append(&*store, &app, event, None).await }
    };
    let mut flood = tokio::task::JoinSet::new();
    for _ in 0..200 {
        flood.spawn(large(&fixture.app));
    }
    // Half of the write-ahead log holds 64 of these events.
    for _ in 0..50 {
        flood.join_next().await.unwrap().unwrap().unwrap();
    }
    for _ in 0..20 {
        let stored = timeout(Duration::from_secs(10), large(&other)).await;
        assert!(matches!(stored, Ok(Ok(Appended::Stored(_)))), "{stored:?}");
    }
    assert!(flood.len() > 100, "{}", flood.len());
    fixture.disk.set_fault(None);
    flood.join_all().await.into_iter().for_each(|stored| drop(stored.unwrap()));
    assert_eq!(fixture.take(usize::MAX).await.len(), 200);
}

#[tokio::test]
async fn repeated_registrations_of_one_app_do_not_delay_another_app() {
    let fixture = Fixture::new(Limits::default()).await;
    // The third commit fails. Fair queueing puts only one registration of the app before the other app's.
    fixture.disk.set_fault(Some(Fault::OneSync(WAL, 2)));
    let registrations = join_all((0..100).map(|n| fixture.register(if n % 2 == 0 { "even" } else { "odd" })));
    let mut registrations = pin!(unconstrained(registrations));
    let blocked = fixture.disk.block();
    assert!(registrations.as_mut().now_or_never().is_none());
    let other = "other".parse().unwrap();
    let mut register = pin!(fixture.store.put_registration(&other, registration("x")));
    assert!(register.as_mut().now_or_never().is_none());
    drop(blocked);
    register.await.unwrap();
    assert!(registrations.await.iter().any(Result::is_err), "one commit failed");
}
