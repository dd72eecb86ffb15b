//! Replays.

use std::time::Duration;

use wwproxy_protocol::{ConsumerSettings, EventId};
use wwproxy_server::store::{Limits, Replayed, Store, StoreError};

use crate::fixture::{LONG, TestLog, consumer, event, now, numbers, receipts, typed};

async fn replay(store: &TestLog, name: &str, id: &EventId) -> Replayed {
    store.log.replay(&store.app, &consumer(name), id).await.unwrap()
}

#[tokio::test]
async fn a_settled_event_goes_out_again_before_fresh_ones_and_survives_a_crash() {
    let store = TestLog::new().await;
    let id = store.append(0).await;
    store.drain("default").await;
    store.append_all(1..3).await;
    let mut store = store;
    for count in 1..4 {
        assert_eq!(replay(&store, "default", &id).await, Replayed::Queued(count));
        assert_eq!(replay(&store, "default", &id).await, Replayed::Pending);
        store = store.crash().await;
        assert_eq!(store.status("default").await.pending, Some(3));
        let taken = store.take(1).await;
        assert_eq!((&taken[0].event.id, taken[0].replay, taken[0].attempt), (&id, count, 1));
        assert_eq!(replay(&store, "default", &id).await, Replayed::Pending, "it is leased");
        store.release(&taken, Duration::ZERO).await;
        let again = store.take(1).await;
        assert_eq!((numbers(&again), again[0].replay, again[0].attempt), (vec![0], count, 2));
        assert_eq!(store.ack("default", &again).await.acked, 1);
        assert_eq!(store.status("default").await.pending, Some(2));
        store = store.reopen().await;
    }
    assert_eq!(store.drain("default").await, [1, 2]);
}

#[tokio::test]
async fn a_pending_event_is_not_replayed_and_a_dead_one_comes_back_to_life() {
    let store = TestLog::new().await;
    store.put("default", ConsumerSettings { max_attempts: 2, ..ConsumerSettings::default() }).await;
    let ids = [store.append(0).await, store.append(1).await];
    assert_eq!(replay(&store, "default", &ids[1]).await, Replayed::Pending, "above the position");
    let taken = store.take(2).await;
    store.reject(&taken[..1]).await;
    store.release(&taken[1..], LONG).await;
    assert_eq!(replay(&store, "default", &ids[1]).await, Replayed::Pending, "it waits for its delay");
    assert_eq!(store.status("default").await.dead, 1);
    assert_eq!(replay(&store, "default", &ids[0]).await, Replayed::Queued(1));
    let store = store.crash().await;
    let status = store.status("default").await;
    assert_eq!((status.dead, status.pending), (0, Some(2)));
    for attempt in 1..=2 {
        let again = store.take(5).await;
        assert_eq!((numbers(&again), again[0].attempt, again[0].replay), (vec![0], attempt, 1));
        store.settle("default", released(&again)).await;
    }
    assert_eq!(store.status("default").await.dead, 1, "attempts are counted again");
}

fn released(taken: &[wwproxy_server::store::Delivery]) -> wwproxy_server::store::Settlement {
    let release =
        |receipt| wwproxy_server::store::Release { receipt, delay: Some(Duration::ZERO), reason: None };
    wwproxy_server::store::Settlement {
        releases: receipts(taken).into_iter().map(release).collect(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_replay_concerns_one_consumer_and_its_filter_does_not_matter() {
    let store = TestLog::new().await;
    store
        .put("pushes", ConsumerSettings { types: ["push".to_owned()].into(), ..ConsumerSettings::default() })
        .await;
    store.put("audit", ConsumerSettings::default()).await;
    let id = store.append_to(&store.app, typed(0, "pull")).await;
    assert_eq!(
        replay(&store, "pushes", &id).await,
        Replayed::Queued(1),
        "above the position, but not matching"
    );
    store.append_to(&store.app, typed(1, "push")).await;
    let taken = store.lease("pushes", now(5)).await;
    assert_eq!((numbers(&taken), taken[0].replay, taken[1].replay), (vec![0, 1], 1, 0));
    store.ack("pushes", &taken).await;
    assert_eq!(store.status("pushes").await.pending, Some(0));
    assert_eq!(store.drain("audit").await, [0, 1]);
    assert_eq!(store.drain("default").await, [0, 1]);
}

#[tokio::test]
async fn a_replay_respects_the_limits_of_default_and_the_borders_of_apps() {
    let store = TestLog::limited(Limits { max_pending_events: 2, ..Limits::default() }).await;
    store.put("audit", ConsumerSettings::default()).await;
    let id = store.append(0).await;
    store.drain("default").await;
    store.drain("audit").await;
    store.append_all(1..3).await;
    assert_eq!(replay(&store, "default", &id).await, Replayed::Full);
    assert_eq!(replay(&store, "audit", &id).await, Replayed::Queued(1));
    let other = store.register("other").await;
    let foreign = store.append_to(&other, event(9)).await;
    assert_eq!(replay(&store, "default", &foreign).await, Replayed::NoSuchEvent);
    assert_eq!(replay(&store, "default", &"no-id".parse().unwrap()).await, Replayed::NoSuchEvent);
    let error = store.log.replay(&store.app, &consumer("no"), &id).await.unwrap_err();
    assert!(matches!(error, StoreError::NoConsumer(_)));
}
