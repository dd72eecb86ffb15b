//! Taps: they see what arrives, and take nothing.

use std::{collections::BTreeSet, sync::Arc, task::Poll, time::Duration};

use tokio::time::timeout;
use wwproxy_protocol::{Event, EventId};
use wwproxy_server::store::{Appended, Limits, Overflow, Shown, Tap};

use crate::fixture::{DEADLINE, Open, Queue, event, key, larger, now, numbers};

/// The most taps of one app.
const MAX_TAPS: usize = 16;
/// The most events that wait for one tap.
const MAX_WAITING: u32 = 256;

async fn tap(queue: &Queue) -> Tap {
    queue.store.tap(&queue.app).await.unwrap().expect("there is room for a tap")
}

/// What has come, or comes until the deadline.
async fn shown(tap: &mut Tap) -> Vec<Shown> {
    timeout(DEADLINE, tap.next()).await.expect("nothing came")
}

/// The numbers of the events, of which there must be so many and no gaps.
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

/// `Ok` for an event's number, `Err` for so many missed.
fn account(shown: &[Shown]) -> Vec<Result<u32, u64>> {
    let one = |shown: &Shown| match shown {
        Shown::Event(event) => Ok(number(event)),
        Shown::Gap(missed) => Err(*missed),
    };
    shown.iter().map(one).collect()
}

async fn sees_nothing(tap: &mut Tap) -> bool {
    let next = tap.next();
    tokio::pin!(next);
    std::future::poll_fn(|context| Poll::Ready(next.as_mut().poll(context).is_pending())).await
}

pub(crate) async fn a_tap_sees_what_is_stored_from_now_on(open: Open<'_>) {
    let queue = Queue::open(open).await;
    queue.append_all(0..3).await;
    let mut tap = tap(&queue).await;
    assert!(sees_nothing(&mut tap).await, "there is no backlog");
    queue.append_all(3..6).await;
    assert_eq!(shown_numbers(&mut tap, 3).await, [3, 4, 5]);
    assert!(sees_nothing(&mut tap).await);
    queue.append(6).await;
    assert_eq!(shown_numbers(&mut tap, 1).await, [6]);
}

pub(crate) async fn a_tap_sees_the_event_that_a_lease_hands_out(open: Open<'_>) {
    let queue = Queue::open(open).await;
    let mut tap = tap(&queue).await;
    let sent = wwproxy_server::store::NewEvent { query: Some("a=b".into()), ..larger(1, 40) };
    assert!(matches!(queue.try_append(sent, None).await, Appended::Stored(_)));
    let seen = events(&shown(&mut tap).await);
    let taken = queue.take(1).await;
    assert_eq!(*seen[0], taken[0].event);
}

pub(crate) async fn a_tap_takes_nothing(open: Open<'_>) {
    let queue = Queue::open(open).await;
    let mut tap = tap(&queue).await;
    queue.append_all(0..3).await;
    assert_eq!(shown_numbers(&mut tap, 3).await, [0, 1, 2]);
    let stats = queue.stats().await;
    assert_eq!((stats.stored, stats.leased), (3, 0));
    let taken = queue.take(10).await;
    assert_eq!(numbers(&taken), [0, 1, 2]);
    assert!(taken.iter().all(|delivery| delivery.attempt == 1), "to be shown is not to be handed out");
    queue.release(&taken, Duration::ZERO).await;
    queue.take(10).await;
    assert!(sees_nothing(&mut tap).await, "what goes out again does not arrive again");
}

pub(crate) async fn one_event_wakes_a_lease_and_a_tap(open: Open<'_>) {
    let queue = Queue::open(open).await;
    let mut tap = tap(&queue).await;
    // Polled in this order: both wait when the event is sent.
    let (leased, seen, _) = tokio::join!(queue.wait(1), shown(&mut tap), queue.append(1));
    assert_eq!((numbers(&leased), account(&seen)), (vec![1], vec![Ok(1)]));
}

pub(crate) async fn what_is_not_stored_is_not_shown(open: Open<'_>) {
    let queue = Queue::limited(open, Limits { max_queued_events: 2, ..Limits::default() }).await;
    let other = queue.other("app-2").await;
    let mut tap = tap(&queue).await;
    assert!(matches!(queue.try_append(event(0), key(1)).await, Appended::Stored(_)));
    assert_eq!(queue.try_append(event(0), key(1)).await, Appended::Duplicate);
    other.append(9).await;
    queue.append(1).await;
    assert_eq!(queue.try_append(event(2), None).await, Appended::Full);
    assert_eq!(shown_numbers(&mut tap, 2).await, [0, 1]);
    assert!(sees_nothing(&mut tap).await);
}

pub(crate) async fn what_made_room_again_was_shown(open: Open<'_>) {
    let limits = Limits { max_queued_events: 2, overflow: Overflow::DropOldest, ..Limits::default() };
    let queue = Queue::limited(open, limits).await;
    let mut tap = tap(&queue).await;
    // At once, so that some make room for others of their own batch.
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

pub(crate) async fn every_tap_sees_all_in_order_of_arrival(open: Open<'_>) {
    let queue = Queue::open(open).await;
    let mut taps = Vec::new();
    for _ in 0..MAX_TAPS {
        taps.push(tap(&queue).await);
    }
    let append = |n| {
        let queue = queue.clone();
        tokio::spawn(async move { queue.append(n).await })
    };
    let tasks: Vec<_> = (0..MAX_WAITING).map(append).collect();
    let mut stored = BTreeSet::new();
    for task in tasks {
        stored.insert(task.await.unwrap());
    }
    for tap in &mut taps {
        let seen = events(&shown(tap).await);
        assert!(seen.iter().map(|event| &event.id).eq(&stored));
    }
}

pub(crate) async fn what_a_tap_does_not_take_in_time_is_a_gap_in_its_place(open: Open<'_>) {
    let queue = Queue::open(open).await;
    let (mut slow, mut quick) = (tap(&queue).await, tap(&queue).await);
    for n in 0..MAX_WAITING + 7 {
        queue.append(n).await;
        assert_eq!(shown_numbers(&mut quick, 1).await, [n], "another tap is not held up");
    }
    let mut expected: Vec<_> = (0..MAX_WAITING).map(Ok).collect();
    expected.push(Err(7));
    assert_eq!(account(&shown(&mut slow).await), expected);
    queue.append(1000).await;
    assert_eq!(account(&shown(&mut slow).await), [Ok(1000)], "the gap is told once");
    assert_eq!(queue.stats().await.stored, MAX_WAITING as usize + 8);
}

pub(crate) async fn a_gap_stands_between_the_events_around_it(open: Open<'_>) {
    let queue = Queue::open(open).await;
    let mut tap = tap(&queue).await;
    let large = |n| larger(n, 700 << 10);
    for n in [0, 1, 2] {
        queue.try_append(large(n), None).await;
    }
    queue.append(3).await;
    queue.try_append(large(4), None).await;
    assert_eq!(account(&shown(&mut tap).await), [Ok(0), Err(2), Ok(3), Err(1)]);
}

pub(crate) async fn one_event_is_shown_however_large(open: Open<'_>) {
    let queue = Queue::open(open).await;
    let mut tap = tap(&queue).await;
    for n in 0..3 {
        queue.try_append(larger(n, 4 << 20), None).await;
    }
    assert_eq!(account(&shown(&mut tap).await), [Ok(0), Err(2)]);
    queue.try_append(larger(3, 4 << 20), None).await;
    assert_eq!(account(&shown(&mut tap).await), [Ok(3)]);
}

pub(crate) async fn an_app_has_so_many_taps_and_a_dropped_one_makes_room(open: Open<'_>) {
    let queue = Queue::open(open).await;
    let other = queue.other("app-2").await;
    let mut taps = Vec::new();
    for _ in 0..MAX_TAPS {
        taps.push(tap(&queue).await);
    }
    assert!(queue.store.tap(&queue.app).await.unwrap().is_none());
    tap(&other).await;
    taps.remove(3);
    let mut newest = tap(&queue).await;
    assert!(queue.store.tap(&queue.app).await.unwrap().is_none(), "the refused one was not counted");
    queue.append(1).await;
    assert_eq!(shown_numbers(&mut newest, 1).await, [1]);
    for tap in &mut taps {
        assert_eq!(shown_numbers(tap, 1).await, [1], "it was another one that was dropped");
    }
}

pub(crate) async fn a_tap_that_stops_waiting_loses_nothing(open: Open<'_>) {
    let queue = Queue::open(open).await;
    let mut tap = tap(&queue).await;
    for n in 0..20 {
        let mut next = Box::pin(tap.next());
        let waits = std::future::poll_fn(|context| Poll::Ready(next.as_mut().poll(context).is_pending()));
        assert!(waits.await);
        queue.append(n).await;
        // It was woken, and has not looked.
        drop(next);
        assert_eq!(shown_numbers(&mut tap, 1).await, [n]);
    }
}

pub(crate) async fn a_tap_survives_unregistering(open: Open<'_>) {
    let queue = Queue::open(open).await;
    let mut tap = tap(&queue).await;
    queue.append(1).await;
    queue.unregister().await;
    assert_eq!(queue.try_append(event(2), None).await, Appended::Unregistered);
    queue.register_with("another").await;
    queue.append(3).await;
    assert_eq!(shown_numbers(&mut tap, 2).await, [1, 3]);
    assert_eq!(numbers(&queue.lease(now(10)).await), [3]);
}
