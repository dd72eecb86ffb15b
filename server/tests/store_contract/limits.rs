//! Queue limits, overflow policies and retention.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use wwproxy_protocol::EventId;
use wwproxy_server::store::{Appended, Limits, Overflow};

use crate::fixture::{Open, SHORT, TestQueue, event, eventually, larger, numbers};

fn events(max_queued_events: usize, overflow: Overflow) -> Limits {
    Limits { max_queued_events, overflow, ..Limits::default() }
}

fn bytes(max_queued_bytes: u64, overflow: Overflow) -> Limits {
    Limits { max_queued_bytes, overflow, ..Limits::default() }
}

/// The stored size of a test event.
async fn event_size(open: Open<'_>) -> u64 {
    let queue = TestQueue::open(open).await;
    queue.append(1).await;
    let size = queue.stats().await.bytes;
    // The test opens the same folder again.
    queue.unregister().await;
    queue.store.close().await.unwrap();
    size
}

pub(crate) async fn a_full_queue_rejects_appends(open: Open<'_>) {
    let queue = TestQueue::limited(open, events(3, Overflow::Reject)).await;
    let other = queue.other("app-2").await;
    queue.append_all(0..3).await;
    assert_eq!(queue.try_append(event(3), None).await, Appended::Full);
    other.append(0).await;
    let taken = queue.take(2).await;
    assert_eq!(queue.try_append(event(3), None).await, Appended::Full, "a leased event still counts");
    queue.ack(&taken[1..]).await;
    queue.append(4).await;
    assert_eq!(queue.try_append(event(5), None).await, Appended::Full);
    queue.release(&taken[..1]).await;
    assert_eq!(queue.drain().await, [0, 2, 4]);
    assert_eq!(queue.stats().await.dropped, 0, "a rejected event does not count as dropped");
}

pub(crate) async fn max_queued_bytes_limits_a_queue(open: Open<'_>) {
    let size = event_size(open).await;
    let queue = TestQueue::limited(open, bytes(3 * size, Overflow::Reject)).await;
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

pub(crate) async fn an_event_larger_than_the_queue_is_rejected(open: Open<'_>) {
    let size = event_size(open).await;
    for overflow in [Overflow::Reject, Overflow::DropOldest] {
        let queue = TestQueue::limited(open, bytes(2 * size, overflow)).await;
        queue.append_all(0..2).await;
        let large = larger(2, usize::try_from(size).unwrap() + 1);
        assert_eq!(queue.try_append(large, None).await, Appended::Full);
        assert_eq!(queue.stats().await.dropped, 0, "events were dropped for an event that can never fit");
        assert_eq!(queue.drain().await, [0, 1]);
        queue.store.close().await.unwrap();
    }
}

pub(crate) async fn drop_oldest_drops_the_oldest_event(open: Open<'_>) {
    let queue = TestQueue::limited(open, events(3, Overflow::DropOldest)).await;
    queue.append_all(0..5).await;
    let stats = queue.stats().await;
    assert_eq!((stats.stored, stats.dropped), (3, 2));
    let taken = queue.take(1).await;
    assert_eq!(numbers(&taken), [2]);
    queue.release(&taken).await;
    queue.append(5).await;
    assert_eq!(queue.drain().await, [3, 4, 5]);
    assert_eq!(queue.stats().await.dropped, 3);
    assert_eq!(queue.stats().await.bytes, 0);
}

pub(crate) async fn drop_oldest_drops_several_events_for_a_large_one(open: Open<'_>) {
    let size = event_size(open).await;
    let queue = TestQueue::limited(open, bytes(4 * size, Overflow::DropOldest)).await;
    queue.append_all(0..4).await;
    let large = larger(4, usize::try_from(size).unwrap() + 1);
    assert!(matches!(queue.try_append(large, None).await, Appended::Stored(_)));
    let stats = queue.stats().await;
    assert_eq!((stats.stored, stats.dropped, stats.bytes), (2, 3, 3 * size + 1));
    assert_eq!(queue.drain().await, [3, 4]);
}

pub(crate) async fn leased_events_are_dropped_last(open: Open<'_>) {
    let queue = TestQueue::limited(open, events(3, Overflow::DropOldest)).await;
    queue.append_all(0..3).await;
    let taken = queue.take(2).await;
    queue.append_all(3..5).await;
    assert_eq!(queue.ack(&taken).await.acked, 2, "leased events were dropped");
    assert_eq!(queue.drain().await, [4]);
    assert_eq!(queue.stats().await.dropped, 2);
}

pub(crate) async fn if_all_events_are_leased_the_oldest_is_dropped(open: Open<'_>) {
    let queue = TestQueue::limited(open, events(2, Overflow::DropOldest)).await;
    queue.append_all(0..2).await;
    let taken = queue.take(2).await;
    queue.append(2).await;
    let settled = queue.ack(&taken).await;
    assert_eq!((settled.acked, &settled.stale[..]), (1, &[taken[0].receipt.clone()][..]));
    assert_eq!(queue.drain().await, [2]);
    let stats = queue.stats().await;
    assert_eq!((stats.stored, stats.leased, stats.dropped, stats.bytes), (0, 0, 1, 0));
}

pub(crate) async fn an_event_with_an_expired_lease_is_dropped_as_the_oldest(open: Open<'_>) {
    let queue = TestQueue::limited(open, events(2, Overflow::DropOldest)).await;
    queue.append_all(0..2).await;
    queue.take_for(1, SHORT).await;
    // Sleep, because reading the stats would itself expire the lease. The case is a client that leased an event and
    // crashed, with no call until the next append.
    sleep(2 * SHORT).await;
    queue.append(2).await;
    assert_eq!(queue.drain().await, [1, 2]);
}

/// Appends from many tasks: returns the ids of the stored events, and the number of rejected events.
async fn append_concurrently(queue: &TestQueue, count: u32) -> (Vec<EventId>, usize) {
    let append = |n| {
        let queue = queue.clone();
        tokio::spawn(async move { queue.try_append(event(n), None).await })
    };
    let tasks: Vec<_> = (0..count).map(append).collect();
    let (mut stored, mut rejected) = (Vec::new(), 0);
    for task in tasks {
        match task.await.unwrap() {
            Appended::Stored(id) => stored.push(id),
            Appended::Full => rejected += 1,
            other => panic!("{other:?}"),
        }
    }
    stored.sort();
    (stored, rejected)
}

pub(crate) async fn concurrent_appends_never_exceed_the_limit(open: Open<'_>) {
    let queue = TestQueue::limited(open, events(20, Overflow::Reject)).await;
    let (stored, rejected) = append_concurrently(&queue, 200).await;
    assert_eq!((stored.len(), rejected), (20, 180));
    let taken = queue.take(1000).await;
    assert_eq!(taken.into_iter().map(|delivery| delivery.event.id).collect::<Vec<_>>(), stored);
}

pub(crate) async fn concurrent_appends_drop_the_oldest_events(open: Open<'_>) {
    let queue = TestQueue::limited(open, events(10, Overflow::DropOldest)).await;
    let (stored, rejected) = append_concurrently(&queue, 300).await;
    assert_eq!((stored.len(), rejected), (300, 0));
    let stats = queue.stats().await;
    assert_eq!((stats.stored, stats.dropped), (10, 290));
    let taken = queue.take(1000).await;
    let ids: Vec<_> = taken.iter().map(|delivery| delivery.event.id.clone()).collect();
    assert_eq!(ids, stored[290..], "the newest events were not kept");
    queue.ack(&taken).await;
    assert_eq!(queue.stats().await.bytes, 0);
}

fn with_retention(retention: Duration) -> Limits {
    Limits { retention, ..Limits::default() }
}

pub(crate) async fn an_event_past_retention_is_dropped(open: Open<'_>) {
    let retention = Duration::from_millis(150);
    let queue = TestQueue::limited(open, with_retention(retention)).await;
    let sent = Instant::now();
    queue.append_all(0..3).await;
    eventually("the retention has passed", async || queue.stats().await.stored == 0).await;
    assert!(sent.elapsed() >= retention, "dropped after {:?}", sent.elapsed());
    let stats = queue.stats().await;
    assert_eq!((stats.dropped, stats.bytes, stats.oldest_age), (3, 0, None));
    assert_eq!(queue.take(10).await, []);
}

pub(crate) async fn an_event_past_retention_is_kept_while_leased(open: Open<'_>) {
    let retention = Duration::from_millis(150);
    let queue = TestQueue::limited(open, with_retention(retention)).await;
    let taken = loop {
        queue.append(0).await;
        let taken = queue.take(1).await;
        // On a busy machine the retention may pass before the lease.
        if !taken.is_empty() {
            break taken;
        }
    };
    let before = queue.stats().await.dropped;
    queue.append(1).await;
    let is_dropped = async || queue.stats().await.dropped == before + 1;
    eventually("the event without a lease is dropped", is_dropped).await;
    assert_eq!(queue.ack(&taken).await.acked, 1);
    assert_eq!(queue.stats().await.dropped, before + 1);
}

pub(crate) async fn an_event_past_retention_is_dropped_when_its_lease_expires(open: Open<'_>) {
    let limits = Limits { max_queued_events: 1, ..with_retention(Duration::from_millis(150)) };
    let queue = TestQueue::limited(open, limits).await;
    queue.append(0).await;
    queue.take_for(1, SHORT).await;
    // The client crashed and no other client leases: only the sender's append can find the event past retention.
    let has_room = async || matches!(queue.try_append(event(1), None).await, Appended::Stored(_));
    eventually("the event past retention is dropped", has_room).await;
    assert!(queue.stats().await.dropped >= 1, "the dropped event was not counted");
}

/// The queue is long enough that an engine may move its middle out of memory.
pub(crate) async fn a_long_queue_behaves_like_a_short_one(open: Open<'_>) {
    let queue = TestQueue::limited(open, events(1000, Overflow::DropOldest)).await;
    let other = queue.other("app-2").await;
    queue.append_together(0..600).await;
    other.append_together(0..300).await;
    queue.append_together(600..1000).await;
    let taken = queue.take(300).await;
    assert_eq!(numbers(&taken), (0..300).collect::<Vec<_>>());
    queue.ack(&taken[..100]).await;
    queue.release(&taken[100..]).await;
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
