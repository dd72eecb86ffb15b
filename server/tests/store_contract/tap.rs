//! Taps: subscribers that receive stored events without leasing them.

use std::{collections::BTreeSet, sync::Arc, task::Poll};

use tokio::time::timeout;
use wwproxy_protocol::{Event, EventId};
use wwproxy_server::store::{Appended, Limits, Overflow, Shown, Tap};

use crate::fixture::{DEADLINE, Open, TestQueue, event, key, larger, now, numbers};

/// The maximum number of taps of one app.
const MAX_TAPS: usize = 16;
/// The buffer of one tap, in events.
const MAX_BUFFERED: u32 = 256;

async fn tap(queue: &TestQueue) -> Tap {
    queue.store.tap(&queue.app).await.unwrap().expect("the app may open a tap")
}

/// Waits for the next events or gaps.
async fn shown(tap: &mut Tap) -> Vec<Shown> {
    timeout(DEADLINE, tap.next()).await.expect("the tap received nothing")
}

/// Waits for `count` events without gaps, and returns their numbers.
async fn shown_numbers(tap: &mut Tap, count: usize) -> Vec<u32> {
    let mut numbers = Vec::new();
    while numbers.len() < count {
        numbers.extend(events(&shown(tap).await).iter().map(|event| number(event)));
    }
    numbers
}

fn events(shown: &[Shown]) -> Vec<Arc<Event>> {
    let event = |shown: &Shown| match shown {
        Shown::Event(event) => Arc::clone(event),
        Shown::Gap(missed) => panic!("{missed} missed"),
    };
    shown.iter().map(event).collect()
}

fn number(event: &Event) -> u32 {
    std::str::from_utf8(&event.body[5..11]).unwrap().parse().unwrap()
}

/// `Ok` for the number of an event, `Err` for a gap of missed events.
fn summary(shown: &[Shown]) -> Vec<Result<u32, u64>> {
    let one = |shown: &Shown| match shown {
        Shown::Event(event) => Ok(number(event)),
        Shown::Gap(missed) => Err(*missed),
    };
    shown.iter().map(one).collect()
}

async fn is_idle(tap: &mut Tap) -> bool {
    let next = tap.next();
    tokio::pin!(next);
    std::future::poll_fn(|context| Poll::Ready(next.as_mut().poll(context).is_pending())).await
}

pub(crate) async fn a_tap_receives_events_stored_after_it_opened(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    queue.append_all(0..3).await;
    let mut tap = tap(&queue).await;
    assert!(is_idle(&mut tap).await, "a tap does not receive the backlog");
    queue.append_all(3..6).await;
    assert_eq!(shown_numbers(&mut tap, 3).await, [3, 4, 5]);
    assert!(is_idle(&mut tap).await);
    queue.append(6).await;
    assert_eq!(shown_numbers(&mut tap, 1).await, [6]);
}

pub(crate) async fn a_tap_receives_the_same_event_as_a_lease(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    let mut tap = tap(&queue).await;
    let sent = wwproxy_server::store::NewEvent { query: Some("a=b".into()), ..larger(1, 40) };
    assert!(matches!(queue.try_append(sent, None).await, Appended::Stored(_)));
    let seen = events(&shown(&mut tap).await);
    let taken = queue.take(1).await;
    assert_eq!(*seen[0], taken[0].event);
}

pub(crate) async fn a_tap_leases_nothing(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    let mut tap = tap(&queue).await;
    queue.append_all(0..3).await;
    assert_eq!(shown_numbers(&mut tap, 3).await, [0, 1, 2]);
    let stats = queue.stats().await;
    assert_eq!((stats.stored, stats.leased), (3, 0));
    let taken = queue.take(10).await;
    assert_eq!(numbers(&taken), [0, 1, 2]);
    assert!(taken.iter().all(|delivery| delivery.attempt == 1), "a tap does not count as a delivery attempt");
    queue.release(&taken).await;
    queue.take(10).await;
    assert!(is_idle(&mut tap).await, "a tap does not receive redeliveries");
}

pub(crate) async fn one_event_wakes_a_lease_and_a_tap(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    let mut tap = tap(&queue).await;
    // `join!` polls in this order: the lease and the tap wait when the event is appended.
    let (leased, seen, _) = tokio::join!(queue.wait(1), shown(&mut tap), queue.append(1));
    assert_eq!((numbers(&leased), summary(&seen)), (vec![1], vec![Ok(1)]));
}

pub(crate) async fn a_tap_receives_stored_events_only(open: Open<'_>) {
    let queue = TestQueue::limited(open, Limits { max_queued_events: 2, ..Limits::default() }).await;
    let other = queue.other("app-2").await;
    let mut tap = tap(&queue).await;
    assert!(matches!(queue.try_append(event(0), key(1)).await, Appended::Stored(_)));
    assert_eq!(queue.try_append(event(0), key(1)).await, Appended::Duplicate);
    other.append(9).await;
    queue.append(1).await;
    assert_eq!(queue.try_append(event(2), None).await, Appended::Full);
    assert_eq!(shown_numbers(&mut tap, 2).await, [0, 1]);
    assert!(is_idle(&mut tap).await);
}

pub(crate) async fn a_tap_receives_events_that_are_dropped_later(open: Open<'_>) {
    let limits = Limits { max_queued_events: 2, overflow: Overflow::DropOldest, ..Limits::default() };
    let queue = TestQueue::limited(open, limits).await;
    let mut tap = tap(&queue).await;
    // Concurrently, so that events of one batch are dropped for later events of the same batch.
    let append = |n| {
        let queue = queue.clone();
        tokio::spawn(async move { queue.append(n).await })
    };
    let tasks: Vec<_> = (0..100).map(append).collect();
    let mut stored = Vec::new();
    for task in tasks {
        stored.push(task.await.unwrap());
    }
    stored.sort();
    let ids: Vec<EventId> = events(&shown(&mut tap).await).iter().map(|event| event.id.clone()).collect();
    assert_eq!(ids, stored);
}

pub(crate) async fn every_tap_receives_all_events_in_order(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    let mut taps = Vec::new();
    for _ in 0..MAX_TAPS {
        taps.push(tap(&queue).await);
    }
    let append = |n| {
        let queue = queue.clone();
        tokio::spawn(async move { queue.append(n).await })
    };
    let tasks: Vec<_> = (0..MAX_BUFFERED).map(append).collect();
    let mut stored = BTreeSet::new();
    for task in tasks {
        stored.insert(task.await.unwrap());
    }
    for tap in &mut taps {
        let seen = events(&shown(tap).await);
        assert!(seen.iter().map(|event| &event.id).eq(&stored));
    }
}

pub(crate) async fn a_slow_tap_misses_events_without_backpressure(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    let (mut slow, mut quick) = (tap(&queue).await, tap(&queue).await);
    for n in 0..MAX_BUFFERED + 7 {
        queue.append(n).await;
        assert_eq!(shown_numbers(&mut quick, 1).await, [n], "another tap is not affected");
    }
    let mut expected: Vec<_> = (0..MAX_BUFFERED).map(Ok).collect();
    expected.push(Err(7));
    assert_eq!(summary(&shown(&mut slow).await), expected);
    queue.append(1000).await;
    assert_eq!(summary(&shown(&mut slow).await), [Ok(1000)], "a gap is reported once");
    assert_eq!(queue.stats().await.stored, MAX_BUFFERED as usize + 8);
}

pub(crate) async fn a_gap_is_reported_in_its_place(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    let mut tap = tap(&queue).await;
    let large = |n| larger(n, 700 << 10);
    for n in [0, 1, 2] {
        queue.try_append(large(n), None).await;
    }
    queue.append(3).await;
    queue.try_append(large(4), None).await;
    assert_eq!(summary(&shown(&mut tap).await), [Ok(0), Err(2), Ok(3), Err(1)]);
}

pub(crate) async fn a_tap_buffers_one_event_of_any_size(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    let mut tap = tap(&queue).await;
    for n in 0..3 {
        queue.try_append(larger(n, 4 << 20), None).await;
    }
    assert_eq!(summary(&shown(&mut tap).await), [Ok(0), Err(2)]);
    queue.try_append(larger(3, 4 << 20), None).await;
    assert_eq!(summary(&shown(&mut tap).await), [Ok(3)]);
}

pub(crate) async fn taps_per_app_are_limited_and_a_dropped_tap_frees_its_slot(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    let other = queue.other("app-2").await;
    let mut taps = Vec::new();
    for _ in 0..MAX_TAPS {
        taps.push(tap(&queue).await);
    }
    assert!(queue.store.tap(&queue.app).await.unwrap().is_none());
    tap(&other).await;
    taps.remove(3);
    let mut newest = tap(&queue).await;
    assert!(queue.store.tap(&queue.app).await.unwrap().is_none(), "the limit is reached again");
    queue.append(1).await;
    assert_eq!(shown_numbers(&mut newest, 1).await, [1]);
    for tap in &mut taps {
        assert_eq!(shown_numbers(tap, 1).await, [1], "the wrong tap was closed");
    }
}

pub(crate) async fn cancelling_a_tap_wait_loses_no_event(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    let mut tap = tap(&queue).await;
    for n in 0..20 {
        let mut next = Box::pin(tap.next());
        let waits = std::future::poll_fn(|context| Poll::Ready(next.as_mut().poll(context).is_pending()));
        assert!(waits.await);
        queue.append(n).await;
        // Cancelled between its wakeup and its next poll.
        drop(next);
        assert_eq!(shown_numbers(&mut tap, 1).await, [n]);
    }
}

pub(crate) async fn a_tap_survives_unregistering(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    let mut tap = tap(&queue).await;
    queue.append(1).await;
    queue.unregister().await;
    assert_eq!(queue.try_append(event(2), None).await, Appended::SourceChanged);
    queue.register_with("another").await;
    queue.append(3).await;
    assert_eq!(shown_numbers(&mut tap, 2).await, [1, 3]);
    assert_eq!(numbers(&queue.lease(now(10)).await), [3]);
}
