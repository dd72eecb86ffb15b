//! Waiting for events: nobody sleeps while there is one to have.

use std::{collections::HashMap, task::Poll, time::Duration};

use tokio::{task::JoinSet, time::Instant};
use wwproxy_server::store::{Delivery, Lease, StoreError, StoreFuture};

use crate::fixture::{DEADLINE, LONG, Open, Queue, SHORT, now, number, numbers};

/// Waits for one event until the deadline, and keeps it for long.
const PATIENT: Lease = Lease { max_events: 1, max_bytes: u64::MAX, wait: DEADLINE, time: LONG };

/// A lease that waits already.
async fn waiting(queue: &Queue, lease: Lease) -> StoreFuture<'_, Vec<Delivery>> {
    let mut lease = queue.store.lease(&queue.app, lease);
    assert!(is_waiting(&mut lease).await, "there was nothing to have");
    lease
}

async fn is_waiting(lease: &mut StoreFuture<'_, Vec<Delivery>>) -> bool {
    std::future::poll_fn(|context| Poll::Ready(lease.as_mut().poll(context).is_pending())).await
}

fn taken(leased: Result<Vec<Delivery>, StoreError>) -> Vec<u32> {
    numbers(&leased.unwrap())
}

pub(crate) async fn a_wait_ends_empty(open: Open<'_>) {
    let queue = Queue::open(open).await;
    let started = Instant::now();
    assert_eq!(queue.lease(Lease { wait: SHORT, ..PATIENT }).await, []);
    assert!(started.elapsed() >= SHORT);
    queue.append(1).await;
    queue.take(1).await;
    assert_eq!(queue.lease(Lease { wait: SHORT, ..PATIENT }).await, [], "what is leased is not waited for");
}

pub(crate) async fn a_wait_ends_with_an_append(open: Open<'_>) {
    let queue = Queue::open(open).await;
    let other = queue.other("app-2").await;
    let mut lease = waiting(&queue, PATIENT).await;
    other.append(1).await;
    assert!(is_waiting(&mut lease).await, "another app's event");
    queue.append(2).await;
    assert_eq!(taken(lease.await), [2]);
}

pub(crate) async fn a_wait_ends_with_a_release(open: Open<'_>) {
    let queue = Queue::open(open).await;
    queue.append(1).await;
    let first = queue.take(1).await;
    let lease = waiting(&queue, PATIENT).await;
    queue.release(&first, Duration::ZERO).await;
    assert_eq!(taken(lease.await), [1]);
}

pub(crate) async fn a_wait_ends_with_a_delayed_release(open: Open<'_>) {
    let queue = Queue::open(open).await;
    queue.append(1).await;
    let first = queue.take(1).await;
    let lease = waiting(&queue, PATIENT).await;
    let released = Instant::now();
    queue.release(&first, SHORT).await;
    assert_eq!(taken(lease.await), [1]);
    assert!(released.elapsed() >= SHORT);
}

pub(crate) async fn a_wait_ends_with_anothers_lease(open: Open<'_>) {
    let queue = Queue::open(open).await;
    // One that began to wait before the lease, and one after it.
    let before = waiting(&queue, PATIENT).await;
    let other = waiting(&queue, PATIENT).await;
    queue.append_all([1, 2]).await;
    assert_eq!(numbers(&queue.take_for(2, SHORT).await), [1, 2]);
    let (before, other) = tokio::join!(before, other);
    let mut all = [taken(before), taken(other)].concat();
    all.sort_unstable();
    assert_eq!(all, [1, 2]);
}

pub(crate) async fn a_wait_survives_unregistering(open: Open<'_>) {
    let queue = Queue::open(open).await;
    let lease = waiting(&queue, PATIENT).await;
    queue.unregister().await;
    queue.register_with("secret").await;
    queue.append(1).await;
    assert_eq!(taken(lease.await), [1]);
}

pub(crate) async fn every_waiter_is_woken(open: Open<'_>) {
    let queue = Queue::open(open).await;
    let a = waiting(&queue, PATIENT).await;
    let b = waiting(&queue, PATIENT).await;
    let c = waiting(&queue, PATIENT).await;
    // Three events at once, while none of the waiters gets to run.
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

pub(crate) async fn a_waiter_that_goes_wakes_the_next(open: Open<'_>) {
    let queue = Queue::open(open).await;
    let gone = waiting(&queue, PATIENT).await;
    let next = waiting(&queue, PATIENT).await;
    queue.append(1).await;
    // The first of them was woken, and is not there any more.
    drop(gone);
    assert_eq!(taken(next.await), [1]);
}

/// Three wait. The first gets an event for a while and does not settle it; the second learns of that,
/// and goes. The third has to get the event when the lease is over.
async fn third_waiter(open: Open<'_>, second: Lease) {
    let queue = Queue::open(open).await;
    let first = waiting(&queue, Lease { time: Duration::from_secs(1), ..PATIENT }).await;
    let mut gone = waiting(&queue, second).await;
    let third = waiting(&queue, PATIENT).await;
    queue.append(1).await;
    assert_eq!(taken(first.await), [1]);
    if second.wait < DEADLINE {
        assert_eq!(taken(gone.await), [0; 0]);
    } else {
        assert!(is_waiting(&mut gone).await);
        drop(gone);
    }
    assert_eq!(taken(third.await), [1], "nobody told it that the lease was over");
}

pub(crate) async fn a_waiter_that_gives_up_tells_the_next_of_a_lease(open: Open<'_>) {
    third_waiter(open, Lease { wait: SHORT, ..PATIENT }).await;
}

pub(crate) async fn a_waiter_that_goes_tells_the_next_of_a_lease(open: Open<'_>) {
    third_waiter(open, PATIENT).await;
}

pub(crate) async fn many_waiters_share_many_events(open: Open<'_>) {
    const EVENTS: u32 = 400;
    let queue = Queue::open(open).await;
    let mut readers = JoinSet::new();
    for reader in 0..12 {
        let queue = queue.clone();
        readers.spawn(async move {
            let mut read = Vec::new();
            loop {
                // Some give up at once and come again, some go while they wait.
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
                // The last event tells each reader in turn that it was the last.
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
    // One reader takes one last event: who waits in vain shows as a wait until the deadline.
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
