//! Restarts and crashes: nothing that was stored is lost, and attempts count.

use std::time::Duration;

use wwproxy_protocol::ConsumerSettings;
use wwproxy_server::store::{Lease, Limits};

use crate::fixture::{LONG, SHORT, TestLog, eventually, now, numbers};

#[tokio::test]
async fn acknowledgements_and_registrations_survive_a_restart() {
    let store = TestLog::new().await;
    store.append_all(0..10).await;
    let taken = store.take(6).await;
    store.ack("default", &taken[..4]).await;
    let store = store.reopen().await;
    assert_eq!(store.status("default").await.pending, Some(6));
    let again = store.take(100).await;
    assert_eq!(numbers(&again), [4, 5, 6, 7, 8, 9]);
    assert_eq!(again.iter().map(|delivery| delivery.attempt).collect::<Vec<_>>(), [2, 2, 1, 1, 1, 1]);
}

#[tokio::test]
async fn what_was_answered_as_stored_survives_a_crash() {
    let store = TestLog::new().await;
    for n in 0..200 {
        store.append(n).await;
        if n % 50 == 49 {
            let crashed = store.crash().await;
            assert_eq!(crashed.drain("default").await, (0..=n).collect::<Vec<_>>());
        }
    }
}

#[tokio::test]
async fn an_acknowledgement_becomes_durable_without_a_further_append() {
    let store = TestLog::new().await;
    store.append(1).await;
    let taken = store.take(1).await;
    store.ack("default", &taken).await;
    eventually("the acknowledgement is durable", async || store.crash().await.take(1).await.is_empty()).await;
}

#[tokio::test]
async fn an_event_that_kills_its_client_and_server_is_dead_after_its_attempts() {
    let store = TestLog::new().await;
    store.put("default", ConsumerSettings { max_attempts: 3, ..ConsumerSettings::default() }).await;
    store.append(1).await;
    let mut store = store.crash().await;
    for attempt in 1..=3 {
        assert_eq!(store.lease("default", Lease { time: LONG, ..now(1) }).await[0].attempt, attempt);
        // The lease is durable after a moment: a crash counts it.
        let mut crashed = None;
        eventually("the attempt is durable", async || {
            let copy = store.crash().await;
            let status = copy.status("default").await;
            let next = copy.take(1).await;
            let counted = status.dead == 1 || next.first().is_some_and(|next| next.attempt == attempt + 1);
            drop(next);
            if counted {
                crashed = Some(store.crash().await);
            }
            counted
        })
        .await;
        store = crashed.unwrap();
    }
    assert_eq!(store.status("default").await.dead, 1);
    assert_eq!(store.take(1).await, []);
}

#[tokio::test]
async fn a_delay_survives_a_restart() {
    let store = TestLog::new().await;
    store.append_all([1, 2]).await;
    let taken = store.take(2).await;
    store.release(&taken[..1], LONG).await;
    store.release(&taken[1..], SHORT).await;
    let store = store.reopen().await;
    let again = store.wait(10).await;
    assert_eq!((numbers(&again), again[0].attempt), (vec![2], 2));
    assert_eq!(store.lease("default", Lease { wait: Duration::from_millis(100), ..now(1) }).await, []);
}

/// More events than one run of the index has, over several apps, with crashes before, during and after the run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_late_index_is_complete_after_crashes_at_any_point() {
    let limits = Limits { max_pending_events: 1_000_000, ..Limits::default() };
    let store = TestLog::limited(limits).await;
    let mut apps = vec![store.app.clone()];
    for n in 2..5 {
        apps.push(store.register(&format!("app-{n}")).await);
    }
    let mut appended = 0;
    let mut expected = vec![Vec::new(); apps.len()];
    let mut check = async |upto: u32| {
        while appended < upto {
            for (app, expected) in apps.iter().zip(&mut expected) {
                expected.extend(store.append_many(app, appended..appended + 1000).await);
            }
            appended += 1000;
        }
        let crashed = store.crash().await;
        for (app, expected) in apps.iter().zip(&expected) {
            let crashed = crashed.of_app(app.clone());
            assert_eq!(crashed.status("default").await.pending, Some(u64::from(appended)));
            let drained = crashed.drain("default").await;
            assert!(drained == *expected, "{} of {appended} events of {app}", drained.len());
        }
    };
    // A run begins at 25,000 entries, so at about 6,250 of each app.
    for upto in [2000, 7000, 8000, 15_000] {
        check(upto).await;
    }
    assert_eq!(numbers(&store.take(10).await), expected[0][..10], "the server itself goes on");
}
