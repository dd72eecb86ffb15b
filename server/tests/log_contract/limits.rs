//! The limits of the consumer `default`, which refuse appends.

use futures_util::future::join_all;
use wwproxy_server::store::{Appended, Limits};

use crate::fixture::{TestLog, event, larger};

fn events(max_pending_events: u64) -> Limits {
    Limits { max_pending_events, ..Limits::default() }
}

fn bytes(max_pending_bytes: u64) -> Limits {
    Limits { max_pending_bytes, ..Limits::default() }
}

/// The stored size of a test event.
async fn event_size() -> u64 {
    let store = TestLog::new().await;
    store.append(1).await;
    store.status("default").await.pending_bytes.unwrap()
}

#[tokio::test]
async fn a_full_default_consumer_refuses_appends_until_it_has_acknowledged() {
    let store = TestLog::limited(events(3)).await;
    store.append_all(0..3).await;
    assert_eq!(store.try_append(event(3)).await, Appended::Full);
    let other = store.of_app(store.register("other").await);
    other.append(0).await;
    let taken = store.take(2).await;
    assert_eq!(store.try_append(event(3)).await, Appended::Full, "a leased event is pending");
    store.ack("default", &taken[1..]).await;
    store.append(4).await;
    assert_eq!(store.try_append(event(5)).await, Appended::Full);
    store.return_undelivered(&taken[..1]).await;
    assert_eq!(store.drain("default").await, [0, 2, 4]);
    assert_eq!(store.status("default").await.dropped, 0, "a refused event does not count as dropped");
}

#[tokio::test]
async fn a_dead_event_is_not_pending() {
    let store = TestLog::limited(events(1)).await;
    store.append(0).await;
    assert_eq!(store.try_append(event(1)).await, Appended::Full);
    store.reject(&store.take(1).await).await;
    store.append(1).await;
}

#[tokio::test]
async fn the_size_of_pending_events_is_limited() {
    let size = event_size().await;
    let store = TestLog::limited(bytes(3 * size)).await;
    store.append_all(0..2).await;
    let extra = usize::try_from(size).unwrap();
    assert_eq!(store.try_append(larger(2, extra)).await, Appended::Full);
    store.append(3).await;
    assert_eq!(store.status("default").await.pending_bytes, Some(3 * size));
    assert_eq!(store.try_append(event(4)).await, Appended::Full);
    store.ack("default", &store.take(1).await).await;
    store.append(5).await;
    assert_eq!(store.drain("default").await, [1, 3, 5]);
    assert_eq!(store.status("default").await.pending_bytes, Some(0));
}

#[tokio::test]
async fn concurrent_appends_never_exceed_the_limit() {
    let store = TestLog::limited(events(20)).await;
    let outcomes = join_all((0..200).map(|n| store.try_append(event(n)))).await;
    let mut stored: Vec<_> = outcomes
        .iter()
        .filter_map(|outcome| match outcome {
            Appended::Stored(id) => Some(id.clone()),
            outcome => {
                assert_eq!(*outcome, Appended::Full);
                None
            }
        })
        .collect();
    stored.sort();
    assert_eq!(stored.len(), 20);
    let taken = store.take(1000).await;
    assert_eq!(taken.into_iter().map(|delivery| delivery.event.id.clone()).collect::<Vec<_>>(), stored);
}

#[tokio::test]
async fn apps_are_isolated() {
    let store = TestLog::new().await;
    let other = store.of_app(store.register("other").await);
    let mut ids = Vec::new();
    for n in 0..20 {
        let of = if n % 2 == 0 { &store } else { &other };
        ids.push(of.append(n).await);
    }
    assert!(ids.is_sorted(), "an id is lower than the id of an earlier event");
    ids.dedup();
    assert_eq!(ids.len(), 20);
    store.take(1).await;
    assert_eq!(other.status("default").await.leased, 0);
    assert_eq!(other.drain("default").await, (1..20).step_by(2).collect::<Vec<_>>());
    assert_eq!(store.status("default").await.pending, Some(10));
}

#[tokio::test]
async fn the_status_follows_appends_leases_and_settlements() {
    let store = TestLog::new().await;
    let counts = async || {
        let status = store.status("default").await;
        (status.pending.unwrap(), status.leased, status.dead, status.pending_bytes.unwrap())
    };
    assert_eq!(counts().await, (0, 0, 0, 0));
    store.append(1).await;
    let size = counts().await.3;
    assert!(size >= 12, "the body alone has 12 bytes");
    store.append(2).await;
    assert_eq!(counts().await, (2, 0, 0, 2 * size));
    let taken = store.take(10).await;
    assert_eq!(counts().await, (2, 2, 0, 2 * size));
    store.return_undelivered(&taken[..1]).await;
    assert_eq!(counts().await, (2, 1, 0, 2 * size));
    store.ack("default", &taken[1..]).await;
    assert_eq!(counts().await, (1, 0, 0, size));
    assert_eq!(store.drain("default").await, [1]);
    assert_eq!(counts().await, (0, 0, 0, 0));
}
