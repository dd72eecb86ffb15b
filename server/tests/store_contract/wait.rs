//! Long polling: no lease waits while an event is available.

use std::{collections::HashMap, task::Poll, time::Duration};

use tokio::{task::JoinSet, time::Instant};
use wwproxy_server::store::{Delivery, Lease, StoreError, StoreFuture};

use crate::fixture::{DEADLINE, LONG, Open, SHORT, TestQueue, now, number, numbers};

/// Waits for one event until the deadline, and leases it for [`LONG`].
const WAIT_FOR_ONE: Lease = Lease { max_events: 1, max_bytes: u64::MAX, wait: DEADLINE, time: LONG };

/// Starts a lease that waits.
async fn waiting(queue: &TestQueue, lease: Lease) -> StoreFuture<'_, Vec<Delivery>> {
    let mut lease = queue.store.lease(&queue.app, lease);
    assert!(is_waiting(&mut lease).await, "an event was available");
    lease
}

async fn is_waiting(lease: &mut StoreFuture<'_, Vec<Delivery>>) -> bool {
    std::future::poll_fn(|context| Poll::Ready(lease.as_mut().poll(context).is_pending())).await
}

fn taken(leased: Result<Vec<Delivery>, StoreError>) -> Vec<u32> {
    numbers(&leased.unwrap())
}

pub(crate) async fn a_waiting_lease_times_out(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    let started = Instant::now();
    assert_eq!(queue.lease(Lease { wait: SHORT, ..WAIT_FOR_ONE }).await, []);
    assert!(started.elapsed() >= SHORT);
    queue.append(1).await;
    queue.take(1).await;
    assert_eq!(
        queue.lease(Lease { wait: SHORT, ..WAIT_FOR_ONE }).await,
        [],
        "a leased event does not end the wait"
    );
}

pub(crate) async fn an_append_wakes_a_waiting_lease(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    let other = queue.other("app-2").await;
    let mut lease = waiting(&queue, WAIT_FOR_ONE).await;
    other.append(1).await;
    assert!(is_waiting(&mut lease).await, "another app's event");
    queue.append(2).await;
    assert_eq!(taken(lease.await), [2]);
}

pub(crate) async fn a_release_wakes_a_waiting_lease(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    queue.append(1).await;
    let first = queue.take(1).await;
    let lease = waiting(&queue, WAIT_FOR_ONE).await;
    queue.release(&first).await;
    assert_eq!(taken(lease.await), [1]);
}

pub(crate) async fn a_delayed_release_wakes_a_waiting_lease(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    queue.append(1).await;
    let first = queue.take(1).await;
    let lease = waiting(&queue, WAIT_FOR_ONE).await;
    let released = Instant::now();
    queue.nack(&first, SHORT).await;
    assert_eq!(taken(lease.await), [1]);
    assert!(released.elapsed() >= SHORT);
}

pub(crate) async fn an_expired_lease_wakes_waiting_leases(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    let before = waiting(&queue, WAIT_FOR_ONE).await;
    let other = waiting(&queue, WAIT_FOR_ONE).await;
    queue.append_all([1, 2]).await;
    assert_eq!(numbers(&queue.take_for(2, SHORT).await), [1, 2]);
    let (before, other) = tokio::join!(before, other);
    let mut all = [taken(before), taken(other)].concat();
    all.sort_unstable();
    assert_eq!(all, [1, 2]);
}

pub(crate) async fn a_waiting_lease_survives_unregistering(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    let lease = waiting(&queue, WAIT_FOR_ONE).await;
    queue.unregister().await;
    queue.register_with("secret").await;
    queue.append(1).await;
    assert_eq!(taken(lease.await), [1]);
}

pub(crate) async fn every_waiter_is_woken(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    let a = waiting(&queue, WAIT_FOR_ONE).await;
    let b = waiting(&queue, WAIT_FOR_ONE).await;
    let c = waiting(&queue, WAIT_FOR_ONE).await;
    // Three appends, all before a waiter is polled.
    let events = [1, 2, 3].map(|n| {
        let queue = queue.clone();
        tokio::spawn(async move { queue.append(n).await })
    });
    let (a, b, c) = tokio::join!(a, b, c);
    let mut all = [taken(a), taken(b), taken(c)].concat();
    all.sort_unstable();
    assert_eq!(all, [1, 2, 3]);
    for event in events {
        event.await.unwrap();
    }
}

pub(crate) async fn a_cancelled_waiter_passes_its_wakeup_on(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    let gone = waiting(&queue, WAIT_FOR_ONE).await;
    let next = waiting(&queue, WAIT_FOR_ONE).await;
    queue.append(1).await;
    // The first waiter was woken, and is cancelled before it leases the event.
    drop(gone);
    assert_eq!(taken(next.await), [1]);
}

/// Three leases wait. The first leases an event for a second and does not settle it. The second is woken with that expiry
/// and ends. The third must lease the event when the first lease expires.
async fn third_waiter(open: Open<'_>, second: Lease) {
    let queue = TestQueue::open(open).await;
    let first = waiting(&queue, Lease { time: Duration::from_secs(1), ..WAIT_FOR_ONE }).await;
    let mut gone = waiting(&queue, second).await;
    let third = waiting(&queue, WAIT_FOR_ONE).await;
    queue.append(1).await;
    assert_eq!(taken(first.await), [1]);
    if second.wait < DEADLINE {
        assert_eq!(taken(gone.await), [0; 0]);
    } else {
        assert!(is_waiting(&mut gone).await);
        drop(gone);
    }
    assert_eq!(taken(third.await), [1], "the third waiter was not woken by the expired lease");
}

pub(crate) async fn a_timed_out_waiter_passes_the_lease_expiry_on(open: Open<'_>) {
    third_waiter(open, Lease { wait: SHORT, ..WAIT_FOR_ONE }).await;
}

pub(crate) async fn a_cancelled_waiter_passes_the_lease_expiry_on(open: Open<'_>) {
    third_waiter(open, WAIT_FOR_ONE).await;
}

pub(crate) async fn concurrent_waiters_lease_each_event_once(open: Open<'_>) {
    const EVENTS: u32 = 400;
    let queue = TestQueue::open(open).await;
    let mut readers = JoinSet::new();
    for reader in 0..12 {
        let queue = queue.clone();
        readers.spawn(async move {
            let mut read = Vec::new();
            loop {
                // Some readers time out quickly and retry, some cancel their lease.
                let wait = if reader % 3 == 0 { Duration::from_millis(2) } else { DEADLINE };
                let lease = queue.store.lease(&queue.app, Lease { wait, ..now(1 + reader % 4) });
                let leased = if reader % 3 == 1 {
                    tokio::time::timeout(Duration::from_millis(3), lease).await.unwrap_or(Ok(Vec::new()))
                } else {
                    lease.await
                };
                let taken = leased.unwrap();
                queue.ack(&taken).await;
                read.extend(taken.iter().map(|delivery| (number(delivery), delivery.attempt)));
                // Events from `EVENTS` on are end markers, one for each reader.
                if let Some(last) = taken.iter().find(|delivery| number(delivery) >= EVENTS) {
                    return (read, number(last));
                }
            }
        });
    }
    let senders: Vec<_> = (0..8)
        .map(|sender| {
            let queue = queue.clone();
            tokio::spawn(async move { queue.append_all((sender..EVENTS).step_by(8)).await })
        })
        .collect();
    for sender in senders {
        sender.await.unwrap();
    }
    let started = Instant::now();
    let mut delivered = HashMap::new();
    // Each reader takes one end marker: a reader that was not woken waits until the deadline.
    for last in EVENTS..EVENTS + 12 {
        queue.append(last).await;
        let (read, _) = readers.join_next().await.unwrap().unwrap();
        for (n, attempt) in read {
            assert_eq!(delivered.insert(n, attempt), None, "event {n} was delivered twice");
        }
    }
    assert!(started.elapsed() < DEADLINE, "a reader was not woken");
    let expected: HashMap<_, _> = (0..EVENTS + 12).map(|n| (n, 1)).collect();
    assert_eq!(delivered, expected);
}
