//! The number of pending events after a consumer was moved back, while events before and after its position are removed.

use std::time::Duration;

use wwproxy_protocol::{ConsumerSettings, EventId, Overflow, Start};
use wwproxy_server::store::{Limits, Reject, Replayed, Settlement, Store, StoreError};

use crate::{
    fixture::{TestLog, consumer, eventually, larger, now, numbers, typed},
    retention::rows,
};

/// A retention or a history that the test waits for.
const AGE: Duration = Duration::from_millis(600);

fn without_history() -> Limits {
    Limits { history: Duration::ZERO, ..Limits::default() }
}

async fn seek(store: &TestLog, name: &str, to: Start) {
    store.log.seek(&store.app, &consumer(name), to).await.unwrap();
}

/// Events of several sizes.
async fn append(store: &TestLog, numbers: std::ops::Range<u32>) -> Vec<EventId> {
    let mut ids = Vec::new();
    for n in numbers {
        ids.push(store.append_to(&store.app, larger(n, 100 * n as usize)).await);
    }
    ids
}

/// Checks the pending events of a consumer without a filter: their number, and that their size is what is delivered.
async fn pending(store: &TestLog, name: &str, expected: &[u32]) {
    let status = store.status(name).await;
    let size: u64 = expected.iter().map(|n| SIZE + 100 * u64::from(*n)).sum();
    let pending = (status.pending.unwrap(), status.pending_bytes.unwrap());
    assert_eq!(pending, (expected.len() as u64, size), "{name}: {expected:?}");
}

/// The size of an event without the bytes that [`append`] adds.
const SIZE: u64 = 83;

async fn left(store: &TestLog, count: u64) {
    eventually("the events are removed", async || rows(store, "events") == count).await;
}

#[tokio::test]
async fn events_that_were_removed_from_the_middle_are_not_pending_after_a_seek() {
    let store = TestLog::limited(without_history()).await;
    let ids = append(&store, 0..10).await;
    let taken = store.take(10).await;
    store.ack("default", &[&taken[1..3], &taken[4..6], &taken[7..9]].concat()).await;
    left(&store, 4).await;
    // Holes next to each other become one.
    store.ack("default", &taken[3..4]).await;
    left(&store, 3).await;
    assert_eq!(rows(&store, "holes"), 2);
    // Both keep history from here on: what a seek passes is settled.
    for store in [store.crash().await, store.reopen().await] {
        for (after, expected) in [(0, [6, 9].as_slice()), (6, &[9]), (9, &[])] {
            seek(&store, "default", Start::After(ids[after].clone())).await;
            pending(&store, "default", expected).await;
            pending(&store.crash().await, "default", expected).await;
        }
        seek(&store, "default", Start::All).await;
        pending(&store, "default", &[0, 6, 9]).await;
        store.put("all", ConsumerSettings { start: Start::All, ..ConsumerSettings::default() }).await;
        pending(&store, "all", &[0, 6, 9]).await;
        store.log.delete_event(&store.app, &ids[6]).await.unwrap();
        pending(&store, "default", &[0, 9]).await;
        let taken = store.take(1).await;
        pending(&store, "default", &[0, 9]).await;
        store.ack("default", &taken).await;
        pending(&store, "default", &[9]).await;
        append(&store, 10..12).await;
        pending(&store, "default", &[9, 10, 11]).await;
        seek(&store, "default", Start::All).await;
        pending(&store, "default", &[0, 9, 10, 11]).await;
        assert_eq!(store.drain("default").await, [0, 9, 10, 11]);
        pending(&store, "default", &[]).await;
    }
}

/// The index is written meanwhile, so that holes begin at events in memory and in the database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holes_are_counted_while_the_index_is_written() {
    let store = TestLog::limited(Limits { max_pending_events: 1_000_000, ..without_history() }).await;
    let mut dead = 0;
    for n in 0..28 {
        store.append_many(&store.app, n * 1000..(n + 1) * 1000).await;
        for _ in 0..4 {
            let taken = store.take(250).await;
            store.reject(&taken[100..102]).await;
            dead += 2;
            store.ack("default", &[&taken[..100], &taken[102..]].concat()).await;
        }
    }
    left(&store, dead).await;
    let starting_all = ConsumerSettings { start: Start::All, ..ConsumerSettings::default() };
    store.put("all", starting_all).await;
    assert_eq!(store.status("all").await.pending, Some(dead));
    assert_eq!(rows(&store, "holes"), dead / 2);
    let store = store.crash().await;
    store.append(0).await;
    seek(&store, "all", Start::All).await;
    assert_eq!(store.status("all").await.pending, Some(dead + 1));
    store.lease("all", now(56)).await;
    assert_eq!(store.status("all").await.pending, Some(dead + 1));
}

#[tokio::test]
async fn retention_after_a_seek_counts_a_dead_event_once() {
    let store = TestLog::limited(Limits { retention: AGE, ..Limits::default() }).await;
    append(&store, 0..4).await;
    let taken = store.take(4).await;
    store.reject(&taken[1..3]).await;
    seek(&store, "default", Start::All).await;
    pending(&store, "default", &[0, 3]).await;
    left(&store, 0).await;
    assert_eq!(store.status("default").await.dropped, 2);
    append(&store, 4..6).await;
    pending(&store, "default", &[4, 5]).await;
    pending(&store.crash().await, "default", &[4, 5]).await;
}

#[tokio::test]
async fn retention_after_a_seek_before_a_hole_counts_what_is_appended() {
    let limits = Limits { retention: 3 * AGE, ..without_history() };
    let store = TestLog::limited(limits).await;
    append(&store, 0..8).await;
    let taken = store.take(8).await;
    store.ack("default", &taken[1..7]).await;
    left(&store, 2).await;
    for _ in 0..2 {
        seek(&store, "default", Start::All).await;
        pending(&store, "default", &[0, 7]).await;
    }
    left(&store, 0).await;
    append(&store, 8..9).await;
    pending(&store, "default", &[8]).await;
    pending(&store.reopen().await, "default", &[8]).await;
}

#[tokio::test]
async fn an_event_that_was_dead_at_a_seek_is_replayed_once() {
    let store = TestLog::new().await;
    // More than a consumer reads ahead.
    let mut ids = Vec::new();
    for n in 0..400 {
        ids.push(store.append(n).await);
    }
    let taken = store.take(400).await;
    store.reject(&taken[300..302]).await;
    seek(&store, "default", Start::All).await;
    assert_eq!(store.status("default").await.pending, Some(398));
    for count in 1..3 {
        let replayed = store.log.replay(&store.app, &consumer("default"), &ids[300]).await.unwrap();
        assert_eq!(replayed, Replayed::Queued(count));
        assert_eq!(store.status("default").await.pending, Some(399));
        let again = store.take(1).await;
        assert_eq!((numbers(&again), again[0].replay), (vec![300], count));
        store.ack("default", &again).await;
        let status = store.status("default").await;
        assert_eq!((status.pending, status.dead), (Some(398), 1));
    }
    let expected: Vec<_> = (0..400).filter(|n| ![300, 301].contains(n)).collect();
    eventually("the acknowledgement is durable", async || rows(&store, "open WHERE state = 'settled'") == 1)
        .await;
    let store = store.crash().await.reopen().await;
    assert_eq!(store.status("default").await.pending, Some(398));
    assert_eq!(store.drain("default").await, expected);
    let status = store.status("default").await;
    assert_eq!((status.pending, status.dead), (Some(0), 1));
    eventually("only the dead one is open", async || rows(&store, "open") == 1).await;
}

#[tokio::test]
async fn a_count_leaves_out_events_that_were_dead_when_it_began() {
    let store = TestLog::new().await;
    store
        .put("pushes", ConsumerSettings { types: ["push".to_owned()].into(), ..ConsumerSettings::default() })
        .await;
    for n in 0..3 {
        store.append_to(&store.app, typed(n, "push")).await;
    }
    let taken = store.lease("pushes", now(3)).await;
    let rejects = taken.iter().map(|taken| Reject { receipt: taken.receipt.clone(), reason: None });
    store.settle("pushes", Settlement { rejects: rejects.collect(), ..Default::default() }).await;
    seek(&store, "pushes", Start::All).await;
    for n in 3..5 {
        store.append_to(&store.app, typed(n, "push")).await;
    }
    // The position passes the dead events before the count reads them.
    let (status, taken) = tokio::join!(store.status("pushes"), store.lease("pushes", now(2)));
    assert_eq!((status.dead, numbers(&taken)), (3, vec![3, 4]));
    eventually("the events are counted", async || store.status("pushes").await.pending.is_some()).await;
    assert_eq!(store.status("pushes").await.pending, Some(2));
}

#[tokio::test]
async fn default_drops_only_what_it_may_not_have_after_a_seek_before_holes() {
    let limits = Limits { max_pending_events: 4, overflow: Overflow::DropOldest, ..without_history() };
    let store = TestLog::limited(limits).await;
    append(&store, 0..3).await;
    let taken = store.take(3).await;
    store.ack("default", &taken[1..2]).await;
    left(&store, 2).await;
    seek(&store, "default", Start::All).await;
    append(&store, 3..5).await;
    pending(&store, "default", &[0, 2, 3, 4]).await;
    assert_eq!(store.status("default").await.dropped, 0);
    append(&store, 5..7).await;
    pending(&store, "default", &[3, 4, 5, 6]).await;
    assert_eq!(store.status("default").await.dropped, 2);
    assert_eq!(store.drain("default").await, [3, 4, 5, 6]);
}

#[tokio::test]
async fn a_replayed_event_that_is_dropped_above_the_position_is_not_delivered() {
    let limits = Limits { max_pending_events: 3, overflow: Overflow::DropOldest, ..Limits::default() };
    let store = TestLog::limited(limits).await;
    let ids = append(&store, 0..3).await;
    store.reject(&store.take(3).await[..1]).await;
    seek(&store, "default", Start::All).await;
    let replayed = store.log.replay(&store.app, &consumer("default"), &ids[0]).await.unwrap();
    assert_eq!(replayed, Replayed::Queued(1));
    pending(&store, "default", &[0, 1, 2]).await;
    append(&store, 3..4).await;
    pending(&store, "default", &[1, 2, 3]).await;
    let store = store.reopen().await;
    pending(&store, "default", &[1, 2, 3]).await;
    assert_eq!(store.drain("default").await, [1, 2, 3]);
    pending(&store, "default", &[]).await;
}

#[tokio::test]
async fn a_default_consumer_that_is_off_takes_neither_a_seek_nor_a_replay() {
    let store = TestLog::limited(Limits { overflow: Overflow::Off, ..Limits::default() }).await;
    let ids = append(&store, 0..3).await;
    let replayed = store.log.replay(&store.app, &consumer("default"), &ids[1]).await;
    assert!(matches!(replayed, Err(StoreError::DefaultOff)));
    seek(&store, "default", Start::All).await;
    pending(&store, "default", &[]).await;
    store.append(3).await;
    pending(&store, "default", &[]).await;
}
