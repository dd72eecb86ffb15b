//! Leasing, redelivery and delivery attempts.

use futures_util::FutureExt;
use tokio::time::Instant;
use wwproxy_server::store::Lease;

use crate::fixture::{Open, SHORT, TestQueue, eventually, now, numbers};

pub(crate) async fn a_leased_event_is_not_leased_again(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    queue.append_all([1, 2]).await;
    assert_eq!(numbers(&queue.take(1).await), [1]);
    assert_eq!(numbers(&queue.take(10).await), [2]);
    assert_eq!(queue.take(10).await, []);
    assert_eq!(queue.stats().await.leased, 2);
}

pub(crate) async fn a_lease_respects_max_events(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    queue.append_all(0..10).await;
    assert_eq!(numbers(&queue.take(3).await), [0, 1, 2]);
    assert_eq!(queue.take(100).await.len(), 7);
}

pub(crate) async fn a_lease_respects_max_bytes_but_has_at_least_one_event(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    queue.append(0).await;
    let size = queue.stats().await.bytes;
    queue.append_all(1..10).await;
    let within = async |max_bytes| numbers(&queue.lease(Lease { max_bytes, ..now(100) }).await);
    assert_eq!(within(3 * size).await, [0, 1, 2]);
    assert_eq!(within(3 * size - 1).await, [3, 4]);
    assert_eq!(within(1).await, [5]);
    assert_eq!(within(0).await, [6]);
    assert_eq!(within(u64::MAX).await, [7, 8, 9]);
}

pub(crate) async fn delivery_attempts_are_counted(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    queue.append(1).await;
    for attempt in 1..5 {
        let taken = queue.take(1).await;
        assert_eq!(taken[0].attempt, attempt);
        queue.release(&taken).await;
    }
    assert_eq!(queue.take_for(1, SHORT).await[0].attempt, 5);
    assert_eq!(queue.wait(1).await[0].attempt, 6, "an expired lease counts as an attempt");
}

pub(crate) async fn unsettled_events_are_redelivered_in_order(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    queue.append_all(0..5).await;
    let started = Instant::now();
    let released = queue.take(1).await;
    let first = queue.take_for(2, SHORT).await;
    assert_eq!(numbers(&first), [1, 2]);
    eventually("the leases have expired", async || queue.stats().await.leased == 1).await;
    assert!(started.elapsed() >= SHORT, "the leases expired too early");
    queue.release(&released).await;
    let again = queue.take(10).await;
    assert_eq!(numbers(&again), [0, 1, 2, 3, 4]);
    assert_eq!(again.iter().map(|delivery| delivery.attempt).collect::<Vec<_>>(), [2, 2, 2, 1, 1]);
    assert_eq!(again[1].event, first[0].event);
    assert_ne!(again[1].receipt, first[0].receipt);
}

pub(crate) async fn dropping_a_lease_future_releases_its_events_without_an_attempt(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    queue.append_all(0..3).await;
    let mut completed = 0;
    for _ in 0..20 {
        // A future that was polled once may have leased events whose bodies are still being read.
        if let Some(taken) = queue.store.lease(&queue.app, now(2)).now_or_never() {
            // It completed at the first poll, so it was not cancelled.
            completed += 1;
            queue.release(&taken.unwrap()).await;
        }
        assert_eq!(queue.stats().await.leased, 0);
    }
    let taken = queue.take(10).await;
    assert_eq!(numbers(&taken), [0, 1, 2]);
    assert_eq!(taken[0].attempt, completed + 1);
    assert_eq!(taken[2].attempt, 1);
}

pub(crate) async fn an_empty_queue_leases_nothing(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    assert_eq!(queue.take(10).await, []);
    let unknown = TestQueue { app: "unregistered".parse().unwrap(), ..queue };
    assert_eq!(unknown.take(10).await, []);
    assert_eq!(unknown.stats().await.stored, 0);
}
