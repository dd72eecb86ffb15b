//! Redelivery: its order, and the delivery attempts.

use std::time::{Duration, Instant};

use crate::fixture::{LONG, SHORT, TestLog, eventually, numbers};

#[tokio::test]
async fn a_leased_event_is_not_leased_again() {
    let store = TestLog::new().await;
    store.append_all([1, 2]).await;
    assert_eq!(numbers(&store.take(1).await), [1]);
    assert_eq!(numbers(&store.take(10).await), [2]);
    assert_eq!(store.take(10).await, []);
    assert_eq!(store.status("default").await.leased, 2);
}

#[tokio::test]
async fn delivery_attempts_are_counted() {
    let store = TestLog::new().await;
    store.append(1).await;
    for attempt in [1, 2] {
        let taken = store.take(1).await;
        assert_eq!(taken[0].attempt, attempt);
        store.return_undelivered(&taken).await;
    }
    let taken = store.take(1).await;
    store.release(&taken, Duration::ZERO).await;
    assert_eq!((taken[0].attempt, store.take_shortly(1).await[0].attempt), (3, 4));
    assert_eq!(store.wait(1).await[0].attempt, 5, "an expired lease counts as an attempt");
}

#[tokio::test]
async fn unsettled_events_are_redelivered_in_order() {
    let store = TestLog::new().await;
    store.append_all(0..5).await;
    let started = Instant::now();
    let returned = store.take(1).await;
    let first = store.take_shortly(2).await;
    assert_eq!(numbers(&first), [1, 2]);
    eventually("the leases have expired", async || store.status("default").await.leased == 1).await;
    assert!(started.elapsed() >= SHORT, "the leases expired too early");
    store.return_undelivered(&returned).await;
    let again = store.take(10).await;
    assert_eq!(numbers(&again), [0, 1, 2, 3, 4]);
    assert_eq!(again.iter().map(|delivery| delivery.attempt).collect::<Vec<_>>(), [2, 2, 2, 1, 1]);
    assert_eq!(again[1].event, first[0].event);
    assert_ne!(again[1].receipt, first[0].receipt);
}

#[tokio::test]
async fn an_event_that_did_not_reach_a_client_is_redelivered_before_newer_events() {
    let store = TestLog::new().await;
    store.append_all(0..5).await;
    let taken = store.take(3).await;
    let settled = store.return_undelivered(&[taken[2].clone(), taken[0].clone()]).await;
    assert_eq!(settled.released, 2);
    assert_eq!(numbers(&store.take(10).await), [0, 2, 3, 4]);
}

/// A client that leaves events to others must not be stuck with them.
#[tokio::test]
async fn nacked_events_alternate_with_fresh_ones() {
    let store = TestLog::new().await;
    store.append_all(0..200).await;
    store.release(&store.take(100).await, Duration::ZERO).await;
    // Each is refused again.
    for expected in [100, 101, 102] {
        let two = store.take(2).await;
        assert!(numbers(&two).contains(&expected), "{:?}", numbers(&two));
        store.release(&two, Duration::ZERO).await;
    }
    // Those that were not delivered still come first.
    let two = store.take(2).await;
    store.return_undelivered(&two).await;
    assert_eq!(numbers(&store.take(2).await), numbers(&two));
    // Nacked events do not starve either, and are leased in the order in which they became due.
    let left: Vec<_> = numbers(&store.take(193).await).into_iter().filter(|number| *number < 100).collect();
    assert_eq!(left[..96], (4..100).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_client_that_nacks_each_event_at_once_sees_all_fresh_ones() {
    let store = TestLog::new().await;
    store.append_all(0..20).await;
    let mut seen = Vec::new();
    for _ in 0..39 {
        let one = store.take(1).await;
        seen.extend(numbers(&one));
        store.release(&one, Duration::ZERO).await;
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, (0..20).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_nacked_event_is_redelivered_after_its_delay() {
    let store = TestLog::new().await;
    store.append_all(0..2).await;
    let taken = store.take(1).await;
    // Long enough for the calls below.
    let delay = 20 * SHORT;
    let released = Instant::now();
    assert_eq!(store.release(&taken, delay).await.released, 1);
    let status = store.status("default").await;
    assert_eq!((status.pending, status.leased), (Some(2), 0), "a nacked event is not leased");
    assert_eq!(numbers(&store.take(10).await), [1]);
    assert_eq!(store.ack("default", &taken).await.stale.len(), 1, "the nack settled the lease");
    let again = store.wait(10).await;
    assert!(released.elapsed() >= delay, "redelivered after {:?}", released.elapsed());
    assert_eq!((numbers(&again), again[0].attempt), (vec![0], 2));
}

#[tokio::test]
async fn a_restart_keeps_what_returned_before_what_was_nacked() {
    let store = TestLog::new().await;
    store.append_all(0..6).await;
    let taken = store.take(4).await;
    store.release(&taken[..1], Duration::ZERO).await;
    store.release(&taken[1..2], LONG).await;
    store.return_undelivered(&taken[2..3]).await;
    // The lease of 3 ends with the process.
    let store = store.reopen().await;
    assert_eq!(numbers(&store.take(10).await), [2, 3, 0, 4, 5]);
}

#[tokio::test]
async fn an_empty_log_leases_nothing() {
    let store = TestLog::new().await;
    assert_eq!(store.take(10).await, []);
    assert_eq!(store.status("default").await.pending, Some(0));
}
