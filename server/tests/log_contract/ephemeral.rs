//! Consumers in memory.

use std::time::Duration;

use rusqlite::Connection;
use wwproxy_protocol::{ConsumerName, EventId, Start};
use wwproxy_server::store::{Delivery, Ephemeral, Lease, Settlement, Store, StoreError};

use crate::fixture::{DEADLINE, LONG, SHORT, TestLog, consumer, event, now, numbers, receipts};

async fn open(store: &TestLog, start: Start) -> Ephemeral {
    store.log.open_ephemeral(&store.app, start).await.unwrap().unwrap()
}

async fn lease(store: &TestLog, name: &ConsumerName, lease: Lease) -> Vec<Delivery> {
    store.log.lease(&store.app, name, lease).await.unwrap()
}

async fn ack(store: &TestLog, name: &ConsumerName, taken: &[Delivery]) -> usize {
    let settlement = Settlement { acks: receipts(taken), ..Settlement::default() };
    store.log.settle(&store.app, name, settlement).await.unwrap().acked
}

#[tokio::test]
async fn an_ephemeral_consumer_leases_and_settles_like_another_but_only_in_memory() {
    let store = TestLog::new().await;
    let first = store.append(0).await;
    store.append_all(1..4).await;
    let ephemeral = open(&store, Start::After(first)).await;
    let name = &ephemeral.name;
    assert_eq!(ephemeral.missed, 0);
    assert!(name.as_str().parse::<ConsumerName>().is_err(), "no client can give {name}");
    let taken = lease(&store, name, Lease { time: SHORT, ..now(3) }).await;
    assert_eq!(numbers(&taken), [1, 2, 3]);
    assert_eq!(ack(&store, name, &[taken[0].clone(), taken[2].clone()]).await, 2);
    let again = lease(&store, name, Lease { wait: DEADLINE, ..now(1) }).await;
    assert_eq!((numbers(&again), again[0].attempt), (vec![2], 2), "the lease expired");
    let waiting = lease(&store, name, Lease { wait: DEADLINE, ..now(5) });
    let (live, _) = tokio::join!(waiting, store.append(4));
    assert_eq!(numbers(&live), [4]);
    assert_eq!(store.log.consumers(&store.app).await.unwrap().len(), 1);
    let error = store.log.replay(&store.app, name, &live[0].event.id).await.unwrap_err();
    assert!(matches!(error, StoreError::NoConsumer(_)));
    store.log.close().await.unwrap();
    let database = Connection::open(store.folder.path().join("log.sqlite")).unwrap();
    let rows = |table| {
        database.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0)).unwrap()
    };
    assert_eq!(["consumers", "open", "deliveries"].map(rows), [1, 0, 0]);
}

#[tokio::test]
async fn dropping_it_ends_its_waiting_leases_and_so_does_unregistering() {
    let store = TestLog::new().await;
    let ephemeral = open(&store, Start::New).await;
    let name = ephemeral.name.clone();
    let waiting = store.log.lease(&store.app, &name, Lease { wait: LONG, ..now(1) });
    let (waiting, ()) = tokio::join!(waiting, async { drop(ephemeral) });
    for gone in [waiting, store.log.lease(&store.app, &name, now(1)).await] {
        assert!(matches!(gone, Err(StoreError::NoConsumer(_))));
    }
    let ephemeral = open(&store, Start::New).await;
    let waiting = store.log.lease(&store.app, &ephemeral.name, Lease { wait: LONG, ..now(1) });
    let (waiting, removed) = tokio::join!(waiting, store.log.remove_registration(&store.app));
    removed.unwrap();
    assert!(matches!(waiting, Err(StoreError::NoConsumer(_))));
    assert!(store.log.open_ephemeral(&store.app, Start::New).await.unwrap().is_none());
}

#[tokio::test]
async fn a_start_before_the_oldest_event_counts_what_was_removed() {
    let store = TestLog::new().await;
    let mut ids: Vec<EventId> = Vec::new();
    for n in 0..10 {
        ids.push(store.append(n).await);
    }
    store.drain("default").await;
    store.log.close().await.unwrap();
    let database = Connection::open(store.folder.path().join("log.sqlite")).unwrap();
    database.execute_batch("DELETE FROM events WHERE seq <= 4; DELETE FROM by_app WHERE seq <= 4;").unwrap();
    drop(database);
    let store = store.open_again().await;
    for (after, missed, first) in [(0, 3, 4), (3, 0, 4), (4, 0, 5), (6, 0, 7)] {
        let ephemeral = open(&store, Start::After(ids[after].clone())).await;
        assert_eq!(ephemeral.missed, missed, "after {after}");
        assert_eq!(numbers(&lease(&store, &ephemeral.name, now(1)).await), [first]);
    }
    let long_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
    assert_eq!(open(&store, Start::At(long_ago)).await.missed, 4);
    assert_eq!(open(&store, Start::All).await.missed, 0);
    assert_eq!(open(&store, Start::New).await.missed, 0);
    let foreign = store.append_to(&store.register("other").await, event(1)).await;
    assert!(store.log.open_ephemeral(&store.app, Start::After(foreign)).await.unwrap().is_none());
    let invented = consumer("x").as_str().parse().unwrap();
    assert!(store.log.open_ephemeral(&store.app, Start::After(invented)).await.unwrap().is_none());
}
