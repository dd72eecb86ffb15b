//! How much a queue keeps, and for how long.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use wwproxy_protocol::EventId;
use wwproxy_server::store::{Appended, Limits, Overflow};

use crate::fixture::{Open, Queue, SHORT, event, eventually, larger, numbers};

fn events(max_queued_events: usize, overflow: Overflow) -> Limits {
    Limits { max_queued_events, overflow, ..Limits::default() }
}

fn bytes(max_queued_bytes: u64, overflow: Overflow) -> Limits {
    Limits { max_queued_bytes, overflow, ..Limits::default() }
}

/// How many bytes an event of the tests counts for.
async fn event_size(open: Open<'_>) -> u64 {
    let queue = Queue::open(open).await;
    queue.append(1).await;
    let size = queue.stats().await.bytes;
    // The same folder is opened again.
    queue.unregister().await;
    queue.store.close().await.unwrap();
    size
}

pub(crate) async fn a_full_queue_refuses(open: Open<'_>) {
    let queue = Queue::limited(open, events(3, Overflow::Reject)).await;
    let other = queue.other("app-2").await;
    queue.append_all(0..3).await;
    assert_eq!(queue.try_append(event(3), None).await, Appended::Full);
    other.append(0).await;
    let taken = queue.take(2).await;
    assert_eq!(queue.try_append(event(3), None).await, Appended::Full, "a leased event is there still");
    queue.ack(&taken[1..]).await;
    queue.append(4).await;
    assert_eq!(queue.try_append(event(5), None).await, Appended::Full);
    queue.release(&taken[..1], Duration::ZERO).await;
    assert_eq!(queue.drain().await, [0, 2, 4]);
    assert_eq!(queue.stats().await.dropped, 0, "what was refused was not dropped");
}

pub(crate) async fn a_queue_is_full_by_bytes(open: Open<'_>) {
    let size = event_size(open).await;
    let queue = Queue::limited(open, bytes(3 * size, Overflow::Reject)).await;
    queue.append_all(0..2).await;
    assert_eq!(queue.try_append(larger(2, 1), None).await, Appended::Full);
    queue.append(3).await;
    assert_eq!(queue.stats().await.bytes, 3 * size);
    assert_eq!(queue.try_append(event(4), None).await, Appended::Full);
    let taken = queue.take(1).await;
    queue.ack(&taken).await;
    queue.append(5).await;
    assert_eq!(queue.drain().await, [1, 3, 5]);
    assert_eq!(queue.stats().await.bytes, 0);
}

pub(crate) async fn an_event_larger_than_the_queue_is_refused(open: Open<'_>) {
    let size = event_size(open).await;
    for overflow in [Overflow::Reject, Overflow::DropOldest] {
        let queue = Queue::limited(open, bytes(2 * size, overflow)).await;
        queue.append_all(0..2).await;
        let large = larger(2, usize::try_from(size).unwrap() + 1);
        assert_eq!(queue.try_append(large, None).await, Appended::Full);
        assert_eq!(queue.stats().await.dropped, 0, "room was made in vain");
        assert_eq!(queue.drain().await, [0, 1]);
        queue.store.close().await.unwrap();
    }
}

pub(crate) async fn the_oldest_makes_room(open: Open<'_>) {
    let queue = Queue::limited(open, events(3, Overflow::DropOldest)).await;
    queue.append_all(0..5).await;
    let stats = queue.stats().await;
    assert_eq!((stats.stored, stats.dropped), (3, 2));
    let taken = queue.take(1).await;
    assert_eq!(numbers(&taken), [2]);
    queue.release(&taken, Duration::ZERO).await;
    queue.append(5).await;
    assert_eq!(queue.drain().await, [3, 4, 5]);
    assert_eq!(queue.stats().await.dropped, 3);
    assert_eq!(queue.stats().await.bytes, 0);
}

pub(crate) async fn several_make_room_for_a_large_one(open: Open<'_>) {
    let size = event_size(open).await;
    let queue = Queue::limited(open, bytes(4 * size, Overflow::DropOldest)).await;
    queue.append_all(0..4).await;
    let large = larger(4, usize::try_from(size).unwrap() + 1);
    assert!(matches!(queue.try_append(large, None).await, Appended::Stored(_)));
    let stats = queue.stats().await;
    assert_eq!((stats.stored, stats.dropped, stats.bytes), (2, 3, 3 * size + 1));
    assert_eq!(queue.drain().await, [3, 4]);
}

pub(crate) async fn a_leased_event_is_dropped_last(open: Open<'_>) {
    let queue = Queue::limited(open, events(3, Overflow::DropOldest)).await;
    queue.append_all(0..3).await;
    let taken = queue.take(2).await;
    queue.append_all(3..5).await;
    assert_eq!(queue.ack(&taken).await.acked, 2, "they were somebody's");
    assert_eq!(queue.drain().await, [4]);
    assert_eq!(queue.stats().await.dropped, 2);
}

pub(crate) async fn where_all_are_leased_the_oldest_is_dropped(open: Open<'_>) {
    let queue = Queue::limited(open, events(2, Overflow::DropOldest)).await;
    queue.append_all(0..2).await;
    let taken = queue.take(2).await;
    queue.append(2).await;
    let settled = queue.ack(&taken).await;
    assert_eq!((settled.acked, &settled.stale[..]), (1, &[taken[0].receipt.clone()][..]));
    assert_eq!(queue.drain().await, [2]);
    let stats = queue.stats().await;
    assert_eq!((stats.stored, stats.leased, stats.dropped, stats.bytes), (0, 0, 1, 0));
}

pub(crate) async fn an_event_whose_lease_is_over_is_the_oldest_again(open: Open<'_>) {
    let queue = Queue::limited(open, events(2, Overflow::DropOldest)).await;
    queue.append_all(0..2).await;
    queue.take_for(1, SHORT).await;
    // Time is what makes the difference here, not a state: asking for figures would change the case,
    // which is a client that took an event and never came back.
    sleep(2 * SHORT).await;
    queue.append(2).await;
    assert_eq!(queue.drain().await, [1, 2]);
}

/// Appends from many tasks at once: the ids of what was stored, and how many were refused.
async fn append_from_all_sides(queue: &Queue, count: u32) -> (Vec<EventId>, usize) {
    let append = |n| {
        let queue = queue.clone();
        tokio::spawn(async move { queue.try_append(event(n), None).await })
    };
    let tasks: Vec<_> = (0..count).map(append).collect();
    let (mut stored, mut refused) = (Vec::new(), 0);
    for task in tasks {
        match task.await.unwrap() {
            Appended::Stored(id) => stored.push(id),
            Appended::Full => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    stored.sort();
    (stored, refused)
}

pub(crate) async fn simultaneous_appends_never_pass_the_limit(open: Open<'_>) {
    let queue = Queue::limited(open, events(20, Overflow::Reject)).await;
    let (stored, refused) = append_from_all_sides(&queue, 200).await;
    assert_eq!((stored.len(), refused), (20, 180));
    let taken = queue.take(1000).await;
    assert_eq!(taken.into_iter().map(|delivery| delivery.event.id).collect::<Vec<_>>(), stored);
}

pub(crate) async fn simultaneous_appends_make_room_for_each_other(open: Open<'_>) {
    let queue = Queue::limited(open, events(10, Overflow::DropOldest)).await;
    let (stored, refused) = append_from_all_sides(&queue, 300).await;
    assert_eq!((stored.len(), refused), (300, 0));
    let stats = queue.stats().await;
    assert_eq!((stats.stored, stats.dropped), (10, 290));
    let taken = queue.take(1000).await;
    let ids: Vec<_> = taken.iter().map(|delivery| delivery.event.id.clone()).collect();
    assert_eq!(ids, stored[290..], "not the newest were kept");
    queue.ack(&taken).await;
    assert_eq!(queue.stats().await.bytes, 0);
}

fn kept_for(retention: Duration) -> Limits {
    Limits { retention, ..Limits::default() }
}

pub(crate) async fn an_old_event_is_dropped(open: Open<'_>) {
    let retention = Duration::from_millis(150);
    let queue = Queue::limited(open, kept_for(retention)).await;
    let sent = Instant::now();
    queue.append_all(0..3).await;
    eventually("the events are too old", async || queue.stats().await.stored == 0).await;
    assert!(sent.elapsed() >= retention, "dropped after {:?}", sent.elapsed());
    let stats = queue.stats().await;
    assert_eq!((stats.dropped, stats.bytes, stats.oldest_age), (3, 0, None));
    assert_eq!(queue.take(10).await, []);
}

pub(crate) async fn an_old_event_is_kept_while_it_is_leased(open: Open<'_>) {
    let retention = Duration::from_millis(150);
    let queue = Queue::limited(open, kept_for(retention)).await;
    let taken = loop {
        queue.append(0).await;
        let taken = queue.take(1).await;
        // On a busy machine it may have been too old before it could be leased.
        if !taken.is_empty() {
            break taken;
        }
    };
    let before = queue.stats().await.dropped;
    queue.append(1).await;
    let is_dropped = async || queue.stats().await.dropped == before + 1;
    eventually("the event that nobody has is too old", is_dropped).await;
    assert_eq!(queue.ack(&taken).await.acked, 1);
    assert_eq!(queue.stats().await.dropped, before + 1);
}

pub(crate) async fn an_old_event_is_dropped_when_its_lease_is_over(open: Open<'_>) {
    let limits = Limits { max_queued_events: 1, ..kept_for(Duration::from_millis(150)) };
    let queue = Queue::limited(open, limits).await;
    queue.append(0).await;
    queue.take_for(1, SHORT).await;
    // Its client never came back, and nobody else asks: only the sender sees that there is no room.
    let has_room = async || matches!(queue.try_append(event(1), None).await, Appended::Stored(_));
    eventually("the old event is dropped", has_room).await;
    assert!(queue.stats().await.dropped >= 1, "made room for, but not counted");
}

/// So long that an engine may keep its middle elsewhere than its ends.
pub(crate) async fn a_long_queue_is_as_a_short_one(open: Open<'_>) {
    let queue = Queue::limited(open, events(1000, Overflow::DropOldest)).await;
    let other = queue.other("app-2").await;
    queue.append_together(0..600).await;
    other.append_together(0..300).await;
    queue.append_together(600..1000).await;
    let taken = queue.take(300).await;
    assert_eq!(numbers(&taken), (0..300).collect::<Vec<_>>());
    queue.ack(&taken[..100]).await;
    queue.release(&taken[100..], Duration::ZERO).await;
    queue.append_together(1000..1150).await;
    let stats = queue.stats().await;
    assert_eq!((stats.stored, stats.dropped), (1000, 50));
    assert_eq!(queue.drain().await, (150..1150).collect::<Vec<_>>());
    assert_eq!(other.drain().await, (0..300).collect::<Vec<_>>());
    queue.append_together(0..500).await;
    queue.unregister().await;
    queue.register_with("another").await;
    assert_eq!(queue.stats().await.stored, 0);
    queue.append_together(500..503).await;
    assert_eq!(queue.drain().await, [500, 501, 502]);
}
