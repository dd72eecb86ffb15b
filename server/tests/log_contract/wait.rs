//! Long polling: no lease waits while an event is available.

use std::{
    collections::HashMap,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use tokio::task::JoinSet;
use wwproxy_protocol::ConsumerName;
use wwproxy_server::store::{Delivery, Lease, Store, StoreError, StoreFuture};

use crate::fixture::{DEADLINE, LONG, SHORT, TestLog, now, number, numbers};

/// Waits for one event until the deadline, and leases it for [`LONG`].
const WAIT_FOR_ONE: Lease = Lease { max_events: 1, max_bytes: u64::MAX, wait: DEADLINE, time: LONG };

/// A store, and the name of its consumer for leases that outlive a statement.
struct Waiting {
    store: TestLog,
    default: ConsumerName,
}

impl Waiting {
    async fn new() -> Self {
        Self { store: TestLog::new().await, default: ConsumerName::default() }
    }

    /// Starts a lease that waits.
    async fn start(&self, lease: Lease) -> StoreFuture<'_, Vec<Delivery>> {
        let mut lease = self.store.log.lease(&self.store.app, &self.default, lease);
        assert!(is_waiting(&mut lease).await, "an event was available");
        lease
    }
}

async fn is_waiting(lease: &mut StoreFuture<'_, Vec<Delivery>>) -> bool {
    std::future::poll_fn(|context| Poll::Ready(lease.as_mut().poll(context).is_pending())).await
}

fn taken(leased: Result<Vec<Delivery>, StoreError>) -> Vec<u32> {
    numbers(&leased.unwrap())
}

#[tokio::test]
async fn a_waiting_lease_times_out() {
    let Waiting { store, .. } = Waiting::new().await;
    let started = Instant::now();
    assert_eq!(store.lease("default", Lease { wait: SHORT, ..now(1) }).await, []);
    assert!(started.elapsed() >= SHORT);
    store.append(1).await;
    store.take(1).await;
    let waited = store.lease("default", Lease { wait: SHORT, ..now(1) }).await;
    assert_eq!(waited, [], "a leased event does not end the wait");
}

#[tokio::test]
async fn an_append_wakes_a_waiting_lease() {
    let waiting = Waiting::new().await;
    let other = waiting.store.of_app(waiting.store.register("other").await);
    let mut lease = waiting.start(WAIT_FOR_ONE).await;
    other.append(1).await;
    assert!(is_waiting(&mut lease).await, "another app's event");
    waiting.store.append(2).await;
    assert_eq!(taken(lease.await), [2]);
}

#[tokio::test]
async fn a_release_wakes_a_waiting_lease() {
    let waiting = Waiting::new().await;
    waiting.store.append(1).await;
    let first = waiting.store.take(1).await;
    let lease = waiting.start(WAIT_FOR_ONE).await;
    waiting.store.return_undelivered(&first).await;
    assert_eq!(taken(lease.await), [1]);
}

#[tokio::test]
async fn a_delayed_release_wakes_a_waiting_lease() {
    let waiting = Waiting::new().await;
    waiting.store.append(1).await;
    let first = waiting.store.take(1).await;
    let lease = waiting.start(WAIT_FOR_ONE).await;
    let released = Instant::now();
    waiting.store.release(&first, SHORT).await;
    assert_eq!(taken(lease.await), [1]);
    assert!((SHORT..DEADLINE / 2).contains(&released.elapsed()), "{:?}", released.elapsed());
}

#[tokio::test]
async fn an_expired_lease_wakes_waiting_leases() {
    let waiting = Waiting::new().await;
    let before = waiting.start(WAIT_FOR_ONE).await;
    let other = waiting.start(WAIT_FOR_ONE).await;
    waiting.store.append_all([1, 2]).await;
    let started = Instant::now();
    // Polled before the two that wait.
    assert_eq!(numbers(&waiting.store.take_shortly(2).await), [1, 2]);
    let (before, other) = tokio::join!(before, other);
    let mut all = [taken(before), taken(other)].concat();
    all.sort_unstable();
    assert_eq!(all, [1, 2]);
    assert!(started.elapsed() < DEADLINE / 2, "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_waiting_lease_survives_unregistering() {
    let waiting = Waiting::new().await;
    let lease = waiting.start(WAIT_FOR_ONE).await;
    waiting.store.log.remove_registration(&waiting.store.app).await.unwrap();
    waiting.store.register("app-1").await;
    waiting.store.append(1).await;
    assert_eq!(taken(lease.await), [1]);
}

#[tokio::test]
async fn every_waiter_is_woken() {
    let waiting = Waiting::new().await;
    let a = waiting.start(WAIT_FOR_ONE).await;
    let b = waiting.start(WAIT_FOR_ONE).await;
    let c = waiting.start(WAIT_FOR_ONE).await;
    let started = Instant::now();
    // Three appends, all before a waiter is polled.
    waiting.store.append_all(1..4).await;
    let (a, b, c) = tokio::join!(a, b, c);
    let mut all = [taken(a), taken(b), taken(c)].concat();
    all.sort_unstable();
    assert_eq!(all, [1, 2, 3]);
    assert!(started.elapsed() < DEADLINE / 2, "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_cancelled_waiter_passes_its_wakeup_on() {
    let waiting = Waiting::new().await;
    let gone = waiting.start(WAIT_FOR_ONE).await;
    let next = waiting.start(WAIT_FOR_ONE).await;
    let started = Instant::now();
    waiting.store.append(1).await;
    // The first waiter was woken, and is cancelled before it leases the event.
    drop(gone);
    assert_eq!(taken(next.await), [1]);
    assert!(started.elapsed() < DEADLINE / 2, "{:?}", started.elapsed());
}

/// Three leases wait. The first leases an event for a second and does not settle it. The second is woken with that expiry and
/// ends. The third must lease the event when the first lease expires.
async fn third_waiter(second: Lease) {
    let waiting = Waiting::new().await;
    let first = waiting.start(Lease { time: Duration::from_secs(1), ..WAIT_FOR_ONE }).await;
    let mut gone = waiting.start(second).await;
    let third = waiting.start(WAIT_FOR_ONE).await;
    let started = Instant::now();
    waiting.store.append(1).await;
    assert_eq!(taken(first.await), [1]);
    if second.wait < DEADLINE {
        assert_eq!(taken(gone.await), [0; 0]);
    } else {
        assert!(is_waiting(&mut gone).await);
        drop(gone);
    }
    assert_eq!(taken(third.await), [1]);
    assert!(started.elapsed() < DEADLINE / 2, "not woken by the expired lease: {:?}", started.elapsed());
}

#[tokio::test]
async fn a_timed_out_waiter_passes_the_lease_expiry_on() {
    third_waiter(Lease { wait: SHORT, ..WAIT_FOR_ONE }).await;
}

#[tokio::test]
async fn a_cancelled_waiter_passes_the_lease_expiry_on() {
    third_waiter(WAIT_FOR_ONE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_waiters_lease_each_event_once() {
    const EVENTS: u32 = 400;
    const READERS: u32 = 12;
    let store = Arc::new(TestLog::new().await);
    let mut readers = JoinSet::new();
    for reader in 0..READERS {
        readers.spawn(read_until_marker(Arc::clone(&store), reader, EVENTS));
    }
    let senders: Vec<_> = (0..8)
        .map(|sender| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.append_all((sender..EVENTS).step_by(8)).await })
        })
        .collect();
    for sender in senders {
        sender.await.unwrap();
    }
    let started = Instant::now();
    let mut delivered = HashMap::new();
    // Each reader takes one end marker: a reader that was not woken waits until the deadline.
    for last in EVENTS..EVENTS + READERS {
        store.append(last).await;
        for (n, attempt) in readers.join_next().await.unwrap().unwrap() {
            assert_eq!(delivered.insert(n, attempt), None, "event {n} was delivered twice");
        }
    }
    assert!(started.elapsed() < DEADLINE, "a reader was not woken");
    let expected: HashMap<_, _> = (0..EVENTS + READERS).map(|n| (n, 1)).collect();
    assert_eq!(delivered, expected);
}

/// Leases and acknowledges events until there is an end marker: an event from `end` on. Returns their numbers and attempts.
async fn read_until_marker(store: Arc<TestLog>, reader: u32, end: u32) -> Vec<(u32, u32)> {
    let default = ConsumerName::default();
    let mut read = Vec::new();
    loop {
        // Some readers time out quickly and retry, some cancel their lease.
        let wait = if reader.is_multiple_of(3) { Duration::from_millis(2) } else { DEADLINE };
        let lease = Lease { wait, ..now(1 + reader as usize % 4) };
        let leased = store.log.lease(&store.app, &default, lease);
        let leased = if reader % 3 == 1 {
            tokio::time::timeout(Duration::from_millis(3), leased).await.unwrap_or(Ok(Vec::new()))
        } else {
            leased.await
        };
        let taken = leased.unwrap();
        store.ack("default", &taken).await;
        read.extend(taken.iter().map(|delivery| (number(delivery), delivery.attempt)));
        if read.iter().any(|(n, _)| *n >= end) {
            return read;
        }
    }
}
