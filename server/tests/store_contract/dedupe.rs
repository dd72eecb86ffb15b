//! Deduplication by dedupe key.

use std::{collections::HashSet, time::Duration};

use tokio::time::Instant;
use wwproxy_server::store::{Appended, Limits};

use crate::fixture::{Open, TestQueue, event, eventually, key};

fn is_stored(appended: &Appended) -> bool {
    matches!(appended, Appended::Stored(_))
}

pub(crate) async fn a_duplicate_is_stored_once(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    assert!(is_stored(&queue.try_append(event(1), key(1)).await));
    assert_eq!(queue.try_append(event(1), key(1)).await, Appended::Duplicate);
    assert!(is_stored(&queue.try_append(event(2), key(2)).await));
    assert_eq!(queue.try_append(event(1), key(1)).await, Appended::Duplicate);
    // An event without a key is never a duplicate.
    assert!(is_stored(&queue.try_append(event(3), None).await));
    assert!(is_stored(&queue.try_append(event(3), None).await));
    assert_eq!(queue.drain().await, [1, 2, 3, 3]);
}

pub(crate) async fn a_duplicate_of_an_acknowledged_event_is_not_stored(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    queue.try_append(event(1), key(1)).await;
    assert_eq!(queue.drain().await, [1]);
    assert_eq!(queue.try_append(event(1), key(1)).await, Appended::Duplicate);
    assert_eq!(queue.stats().await.stored, 0);
}

pub(crate) async fn a_duplicate_is_detected_within_the_dedupe_window(open: Open<'_>) {
    let window = Duration::from_millis(200);
    let queue = TestQueue::limited(open, Limits { dedupe_window: window, ..Limits::default() }).await;
    let mut sent = Instant::now();
    assert!(is_stored(&queue.try_append(event(1), key(1)).await));
    // The second round sends duplicates of the event that the first round stored last.
    for _ in 0..2 {
        let mut retried = sent;
        eventually("the dedupe window has passed", async || {
            retried = Instant::now();
            is_stored(&queue.try_append(event(1), key(1)).await)
        })
        .await;
        assert!(sent.elapsed() >= window, "forgotten after {:?}", sent.elapsed());
        sent = retried;
    }
    assert_eq!(queue.stats().await.stored, 3);
}

pub(crate) async fn dedupe_keys_are_per_app(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    let other = queue.other("app-2").await;
    assert!(is_stored(&queue.try_append(event(1), key(1)).await));
    assert!(is_stored(&other.try_append(event(1), key(1)).await));
}

pub(crate) async fn unregistering_forgets_dedupe_keys(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    queue.try_append(event(1), key(1)).await;
    queue.unregister().await;
    queue.register_with("secret").await;
    assert!(is_stored(&queue.try_append(event(1), key(1)).await), "the first event was deleted");
    assert_eq!(queue.drain().await, [1]);
}

pub(crate) async fn replacing_a_registration_keeps_dedupe_keys(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    queue.try_append(event(1), key(1)).await;
    queue.register_with("another").await;
    assert_eq!(queue.try_append(event(1), key(1)).await, Appended::Duplicate);
}

pub(crate) async fn one_of_concurrent_duplicates_is_stored(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    for round in 0..10 {
        let tasks: Vec<_> = (0..20)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move { queue.try_append(event(round.into()), key(round)).await })
            })
            .collect();
        let mut stored = HashSet::new();
        for task in tasks {
            match task.await.unwrap() {
                Appended::Stored(id) => assert!(stored.insert(id)),
                other => assert_eq!(other, Appended::Duplicate),
            }
        }
        assert_eq!(stored.len(), 1);
    }
    assert_eq!(queue.drain().await, (0..10).collect::<Vec<_>>());
}

pub(crate) async fn a_rejected_event_is_stored_when_it_is_retried(open: Open<'_>) {
    let queue = TestQueue::limited(open, Limits { max_queued_events: 1, ..Limits::default() }).await;
    queue.try_append(event(1), key(1)).await;
    assert_eq!(queue.try_append(event(2), key(2)).await, Appended::Full);
    assert_eq!(queue.drain().await, [1]);
    assert!(is_stored(&queue.try_append(event(2), key(2)).await), "it was never stored");
}
