//! Repetitions of a delivery.

use std::{collections::HashSet, time::Duration};

use tokio::time::Instant;
use wwproxy_server::store::{Appended, Limits};

use crate::fixture::{Open, Queue, event, eventually, key};

fn is_stored(appended: &Appended) -> bool {
    matches!(appended, Appended::Stored(_))
}

pub(crate) async fn a_repetition_is_stored_once(open: Open<'_>) {
    let queue = Queue::open(open).await;
    assert!(is_stored(&queue.try_append(event(1), key(1)).await));
    assert_eq!(queue.try_append(event(1), key(1)).await, Appended::Duplicate);
    assert!(is_stored(&queue.try_append(event(2), key(2)).await));
    assert_eq!(queue.try_append(event(1), key(1)).await, Appended::Duplicate);
    // Without a key an event is always new.
    assert!(is_stored(&queue.try_append(event(3), None).await));
    assert!(is_stored(&queue.try_append(event(3), None).await));
    assert_eq!(queue.drain().await, [1, 2, 3, 3]);
}

pub(crate) async fn an_accepted_event_is_not_stored_again(open: Open<'_>) {
    let queue = Queue::open(open).await;
    queue.try_append(event(1), key(1)).await;
    assert_eq!(queue.drain().await, [1]);
    assert_eq!(queue.try_append(event(1), key(1)).await, Appended::Duplicate);
    assert_eq!(queue.stats().await.stored, 0);
}

pub(crate) async fn a_repetition_is_known_for_the_window(open: Open<'_>) {
    let window = Duration::from_millis(200);
    let queue = Queue::limited(open, Limits { dedupe_window: window, ..Limits::default() }).await;
    let mut sent = Instant::now();
    assert!(is_stored(&queue.try_append(event(1), key(1)).await));
    // In the second round it is a repetition of the first round's last, which was a new event.
    for _ in 0..2 {
        let mut asked = sent;
        eventually("the window is over", async || {
            asked = Instant::now();
            is_stored(&queue.try_append(event(1), key(1)).await)
        })
        .await;
        assert!(sent.elapsed() >= window, "forgotten after {:?}", sent.elapsed());
        sent = asked;
    }
    assert_eq!(queue.stats().await.stored, 3);
}

pub(crate) async fn another_apps_delivery_is_another(open: Open<'_>) {
    let queue = Queue::open(open).await;
    let other = queue.other("app-2").await;
    assert!(is_stored(&queue.try_append(event(1), key(1)).await));
    assert!(is_stored(&other.try_append(event(1), key(1)).await));
}

pub(crate) async fn a_new_registration_knows_no_deliveries(open: Open<'_>) {
    let queue = Queue::open(open).await;
    queue.try_append(event(1), key(1)).await;
    queue.unregister().await;
    queue.register_with("secret").await;
    assert!(is_stored(&queue.try_append(event(1), key(1)).await), "its first one was deleted");
    assert_eq!(queue.drain().await, [1]);
}

pub(crate) async fn a_replaced_registration_knows_its_deliveries(open: Open<'_>) {
    let queue = Queue::open(open).await;
    queue.try_append(event(1), key(1)).await;
    queue.register_with("another").await;
    assert_eq!(queue.try_append(event(1), key(1)).await, Appended::Duplicate);
}

pub(crate) async fn of_simultaneous_repetitions_one_is_stored(open: Open<'_>) {
    let queue = Queue::open(open).await;
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

pub(crate) async fn a_refused_event_is_taken_when_it_comes_again(open: Open<'_>) {
    let queue = Queue::limited(open, Limits { max_queued_events: 1, ..Limits::default() }).await;
    queue.try_append(event(1), key(1)).await;
    assert_eq!(queue.try_append(event(2), key(2)).await, Appended::Full);
    assert_eq!(queue.drain().await, [1]);
    assert!(is_stored(&queue.try_append(event(2), key(2)).await), "it was never stored");
}
