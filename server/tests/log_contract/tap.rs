//! Taps: subscribers that receive stored events without leasing them.

use std::time::Duration;

use futures_util::{FutureExt, StreamExt, future::join_all};
use tokio::time::timeout;
use wwproxy_protocol::{AppId, Event};
use wwproxy_server::store::{Appended, Limits, Store, Tap, TapItem};

use crate::fixture::{DEADLINE, TestLog, event, larger, numbers, registration};

/// Taps of one app, at most.
const MAX_TAPS: usize = 16;
/// Events in the buffer of one tap, at most.
const MAX_EVENTS: u32 = 256;

async fn tap(store: &TestLog) -> Tap {
    try_tap(store, &store.app).await.expect("the app may open a tap")
}

async fn try_tap(store: &TestLog, app: &AppId) -> Option<Tap> {
    store.log.tap(app).await.unwrap()
}

fn number(event: &Event) -> u32 {
    std::str::from_utf8(&event.body[5..11]).unwrap().parse().unwrap()
}

/// Takes what is in the buffer: `Ok` for the number of an event, `Err` for a gap of missed events.
fn buffered(tap: &mut Tap) -> Vec<Result<u32, u64>> {
    std::iter::from_fn(|| tap.next().now_or_never()?.map(summary)).collect()
}

fn summary(item: TapItem) -> Result<u32, u64> {
    match item {
        TapItem::Event(event) => Ok(number(&event)),
        TapItem::Gap(missed) => Err(missed),
    }
}

/// Waits for the next item.
async fn next(tap: &mut Tap) -> Result<u32, u64> {
    let item = timeout(DEADLINE, tap.next()).await.expect("the tap received nothing");
    summary(item.expect("the tap ended"))
}

#[tokio::test]
async fn a_tap_receives_events_stored_after_it_opened() {
    let store = TestLog::new().await;
    store.append_all(0..3).await;
    let mut tap = tap(&store).await;
    assert_eq!(buffered(&mut tap), [], "a tap does not receive the history");
    store.append_all(3..6).await;
    assert_eq!(buffered(&mut tap), [Ok(3), Ok(4), Ok(5)]);
    store.append(6).await;
    assert_eq!(buffered(&mut tap), [Ok(6)]);
}

#[tokio::test]
async fn a_tap_receives_the_same_event_as_a_lease_and_leases_nothing() {
    let store = TestLog::new().await;
    let mut tap = tap(&store).await;
    let sent = wwproxy_server::store::NewEvent { query: Some("a=b".into()), ..larger(1, 5000) };
    let id = store.append_to(&store.app, sent).await;
    let Some(TapItem::Event(seen)) = tap.next().await else { panic!("no event") };
    assert_eq!((store.status("default").await.leased, &seen.id), (0, &id));
    let taken = store.take(1).await;
    assert_eq!((&seen, 1), (&taken[0].event, taken[0].attempt));
    store.release(&taken, Duration::ZERO).await;
    store.take(1).await;
    assert_eq!(buffered(&mut tap), [], "a tap does not receive redeliveries");
}

#[tokio::test]
async fn one_event_wakes_a_lease_and_a_tap() {
    let store = TestLog::new().await;
    let mut tap = tap(&store).await;
    // `join!` polls in this order: the lease and the tap wait when the event is appended.
    let (leased, seen, _) = tokio::join!(store.wait(1), next(&mut tap), store.append(1));
    assert_eq!((numbers(&leased), seen), (vec![1], Ok(1)));
}

#[tokio::test]
async fn a_tap_receives_stored_events_of_its_app_only() {
    let store = TestLog::limited(Limits { max_pending_events: 1, ..Limits::default() }).await;
    let other = store.register("app-2").await;
    let mut tap = tap(&store).await;
    store.append_to(&other, event(9)).await;
    store.append(0).await;
    assert_eq!(store.try_append(event(1)).await, Appended::Full);
    assert_eq!(buffered(&mut tap), [Ok(0)]);
}

#[tokio::test]
async fn every_tap_receives_all_events_of_a_batch_in_order() {
    let store = TestLog::new().await;
    let other = store.register("app-2").await;
    let mut taps = join_all((0..MAX_TAPS).map(|_| tap(&store))).await;
    // Batches have events of both apps.
    let (appended, _) =
        tokio::join!(store.append_many(&store.app, 0..MAX_EVENTS), store.append_many(&other, 0..100));
    let expected: Vec<_> = appended.into_iter().map(Ok).collect();
    for tap in &mut taps {
        assert_eq!(buffered(tap), expected);
    }
}

#[tokio::test]
async fn a_slow_tap_misses_events_without_backpressure() {
    let store = TestLog::new().await;
    let (mut slow, mut quick) = (tap(&store).await, tap(&store).await);
    for n in 0..MAX_EVENTS + 7 {
        store.append(n).await;
        assert_eq!(buffered(&mut quick), [Ok(n)], "another tap is not affected");
    }
    let mut expected: Vec<_> = (0..MAX_EVENTS).map(Ok).collect();
    expected.push(Err(7));
    assert_eq!(buffered(&mut slow), expected);
    store.append(1000).await;
    assert_eq!(buffered(&mut slow), [Ok(1000)], "a gap is reported once");
}

#[tokio::test]
async fn a_gap_is_reported_in_its_place() {
    let store = TestLog::new().await;
    let mut tap = tap(&store).await;
    for n in 0..3 {
        store.append_to(&store.app, larger(n, 700 << 10)).await;
    }
    store.append(3).await;
    store.append_to(&store.app, larger(4, 700 << 10)).await;
    assert_eq!(buffered(&mut tap), [Ok(0), Err(2), Ok(3), Err(1)]);
}

#[tokio::test]
async fn a_tap_buffers_one_event_of_any_size() {
    let store = TestLog::new().await;
    let mut tap = tap(&store).await;
    for n in 0..3 {
        store.append_to(&store.app, larger(n, 5 << 20)).await;
    }
    assert_eq!(buffered(&mut tap), [Ok(0), Err(2)]);
    store.append_to(&store.app, larger(3, 5 << 20)).await;
    assert_eq!(buffered(&mut tap), [Ok(3)]);
}

#[tokio::test]
async fn taps_of_an_app_are_limited_and_a_dropped_tap_frees_its_place() {
    let store = TestLog::new().await;
    let other = store.register("app-2").await;
    let mut taps = join_all((0..MAX_TAPS).map(|_| tap(&store))).await;
    assert!(try_tap(&store, &store.app).await.is_none());
    assert!(try_tap(&store, &other).await.is_some());
    drop(taps.remove(3));
    taps.push(tap(&store).await);
    assert!(try_tap(&store, &store.app).await.is_none(), "the limit is reached again");
    store.append(1).await;
    for tap in &mut taps {
        assert_eq!(buffered(tap), [Ok(1)], "the wrong tap was closed");
    }
}

#[tokio::test]
async fn cancelling_the_wait_of_a_tap_loses_no_event() {
    let store = TestLog::new().await;
    let mut tap = tap(&store).await;
    for n in 0..20 {
        let mut next_item = tap.next();
        assert!((&mut next_item).now_or_never().is_none());
        store.append(n).await;
        // Cancelled between its wakeup and its next poll.
        drop(next_item);
        assert_eq!(next(&mut tap).await, Ok(n));
    }
}

#[tokio::test]
async fn a_tap_stays_when_its_app_unregisters_and_receives_the_events_of_the_next_registration() {
    let store = TestLog::new().await;
    let mut tap = tap(&store).await;
    store.append(1).await;
    store.log.remove_registration(&store.app).await.unwrap();
    assert_eq!(store.try_append(event(2)).await, Appended::SourceChanged);
    let mut between = try_tap(&store, &store.app).await.expect("an app without a registration has taps, too");
    store.log.put_registration(&store.app, registration()).await.unwrap();
    store.append(3).await;
    assert_eq!(buffered(&mut tap), [Ok(1), Ok(3)]);
    assert_eq!(buffered(&mut between), [Ok(3)]);
}
