//! Deleting single events.

use wwproxy_protocol::{ConsumerSettings, EventId, Start};
use wwproxy_server::store::{EventQuery, Store};

use crate::fixture::{TestLog, consumer, event, eventually, now, numbers, receipts, typed};

async fn delete(store: &TestLog, id: &EventId) -> bool {
    store.log.delete_event(&store.app, id).await.unwrap()
}

async fn pending(store: &TestLog, name: &str) -> u64 {
    eventually("the events are counted", async || store.status(name).await.pending.is_some()).await;
    store.status(name).await.pending.unwrap()
}

#[tokio::test]
async fn a_deleted_event_is_gone_from_the_history_and_from_every_consumer() {
    let store = TestLog::new().await;
    store.put("lagging", ConsumerSettings::default()).await;
    let pushes = ConsumerSettings { types: ["push".to_owned()].into(), ..ConsumerSettings::default() };
    store.put("pushes", pushes).await;
    let mut ids = Vec::new();
    for n in 0..10 {
        ids.push(store.append_to(&store.app, typed(n, "push")).await);
    }
    // The other events are read ahead, but not leased.
    let first = store.lease("lagging", now(1)).await;
    let taken = store.take(4).await;
    store.ack("default", &taken[..1]).await;
    store.reject(&taken[1..2]).await;
    // Delivered, dead, leased, ahead, and the newest.
    for n in [0, 1, 2, 5, 9] {
        assert!(delete(&store, &ids[n]).await);
        assert!(!delete(&store, &ids[n]).await);
        assert_eq!(store.log.event(&store.app, &ids[n]).await.unwrap(), None);
    }
    assert_eq!(store.ack("default", &taken[2..3]).await.stale, receipts(&taken[2..3]));
    assert_eq!(store.ack("lagging", &first).await.stale.len(), 1);
    for store in [store.crash().await, store.reopen().await] {
        let page =
            store.log.events(&store.app, EventQuery { limit: 100, ..EventQuery::default() }).await.unwrap();
        assert_eq!(page.events.len(), 5);
        assert_eq!(store.status("default").await.dead, 0);
        for name in ["default", "lagging", "pushes"] {
            assert_eq!(pending(&store, name).await, 5, "{name}");
            assert_eq!(store.drain(name).await, [3, 4, 6, 7, 8], "{name}");
            assert_eq!(pending(&store, name).await, 0, "{name}");
        }
        let next = store.append(10).await;
        assert!(next > ids[9], "no seq is assigned twice");
        assert_eq!(pending(&store, "lagging").await, 1);
        store.log.seek(&store.app, &consumer("lagging"), Start::All).await.unwrap();
        assert_eq!(pending(&store, "lagging").await, 6, "what is stored");
        store.log.seek(&store.app, &consumer("lagging"), Start::After(ids[3].clone())).await.unwrap();
        assert_eq!(pending(&store, "lagging").await, 5);
        assert_eq!(store.drain("lagging").await, [4, 6, 7, 8, 10]);
    }
}

#[tokio::test]
async fn a_deletion_concerns_only_events_of_its_app() {
    let store = TestLog::new().await;
    let other = store.register("other").await;
    let foreign = store.append_to(&other, event(1)).await;
    assert!(!delete(&store, &foreign).await);
    assert!(!delete(&store, &"no-id".parse().unwrap()).await);
    let ephemeral = store.log.open_ephemeral(&other, Start::All).await.unwrap().unwrap();
    store.append_to(&other, event(2)).await;
    assert!(store.log.delete_event(&other, &foreign).await.unwrap());
    let live = store.log.lease(&other, &ephemeral.name, now(5)).await.unwrap();
    assert_eq!(numbers(&live), [2]);
}
