//! What ends: epochs and deleted consumers, whose rows are purged; what `default` cannot hold; and consumers that no client uses.

use std::time::{Duration, SystemTime};

use wwproxy_protocol::{ConsumerName, ConsumerSettings, Overflow, Start};
use wwproxy_server::store::{Appended, Lease, Limits, Reject, Settlement, Store, StoreError};

use crate::{
    fixture::{DEADLINE, SHORT, TestLog, consumer, event, eventually, now, numbers, receipts},
    retention::rows,
};

fn overflow(overflow: Overflow) -> ConsumerSettings {
    ConsumerSettings { overflow: Some(overflow), ..ConsumerSettings::default() }
}

#[tokio::test]
async fn an_ended_epoch_is_purged_after_a_crash_too_and_a_later_one_keeps_its_events() {
    let store = TestLog::new().await;
    let other = store.of_app(store.register("other").await);
    store.append_many(&store.app, 0..600).await;
    store.drain("default").await;
    other.append(1000).await;
    store.log.remove_registration(&store.app).await.unwrap();
    let store = store.crash().await;
    store.register("app-1").await;
    store.append_all(600..603).await;
    eventually("the former epoch is purged", async || rows(&store, "events") == 4).await;
    eventually("its timeline is purged", async || rows(&store, "deliveries") == 0).await;
    eventually("its app is purged", async || rows(&store, "apps") == 2).await;
    assert_eq!((rows(&store, "by_app"), rows(&store, "consumers")), (0, 2));
    let store = store.crash().await;
    store.put("all", ConsumerSettings { start: Start::All, ..ConsumerSettings::default() }).await;
    for name in ["all", "default"] {
        assert_eq!(store.drain(name).await, [600, 601, 602], "{name}");
    }
    assert_eq!(store.of_app(other.app.clone()).drain("default").await, [1000]);
}

#[tokio::test]
async fn the_timeline_of_a_deleted_consumer_is_purged() {
    let store = TestLog::new().await;
    store.put("c", ConsumerSettings::default()).await;
    store.append_all(0..3).await;
    store.drain("c").await;
    eventually("the timeline is written", async || rows(&store, "deliveries") > 0).await;
    assert!(store.log.delete_consumer(&store.app, &"c".parse().unwrap()).await.unwrap());
    eventually("the timeline is purged", async || rows(&store, "deliveries") == 0).await;
    assert_eq!(store.drain("default").await, [0, 1, 2]);
}

/// More open events than one transaction purges.
#[tokio::test]
async fn what_was_open_of_a_deleted_consumer_and_of_an_ended_epoch_is_purged() {
    let store = TestLog::new().await;
    store.put("c", ConsumerSettings::default()).await;
    store.append_many(&store.app, 0..1200).await;
    let taken = store.lease("c", now(1200)).await;
    let reject = |receipt| Reject { receipt, reason: None };
    let rejects = receipts(&taken).into_iter().map(reject).collect();
    store.settle("c", Settlement { rejects, ..Settlement::default() }).await;
    let leased = store.take(600).await.len() as u64;
    eventually("it is durable", async || rows(&store, "open") == 1200 + leased).await;
    assert!(store.log.delete_consumer(&store.app, &"c".parse().unwrap()).await.unwrap());
    assert!(rows(&store, "open") > leased, "the deletion does not wait for it");
    let store = store.crash().await;
    store.put("c", ConsumerSettings { start: Start::All, ..ConsumerSettings::default() }).await;
    let status = store.status("c").await;
    assert_eq!((status.pending, status.dead), (Some(1200), 0), "a new consumer has its name");
    eventually("its open events are purged", async || rows(&store, "open") == leased).await;
    eventually("it is purged", async || rows(&store, "consumers") == 2).await;
    store.log.remove_registration(&store.app).await.unwrap();
    let store = store.crash().await;
    assert!(store.log.consumers(&store.app).await.unwrap().is_empty());
    for table in ["open", "consumers", "events", "deliveries", "apps"] {
        eventually("the epoch is purged", async || rows(&store, table) == 0).await;
    }
}

#[tokio::test]
async fn default_drops_its_oldest_events_and_other_consumers_keep_them() {
    let limits = Limits { max_pending_events: 10, overflow: Overflow::DropOldest, ..Limits::default() };
    let store = TestLog::limited(limits).await;
    store.put("all", ConsumerSettings::default()).await;
    store.append_all(0..4).await;
    let taken = store.take(2).await;
    store.reject(&taken[..1]).await;
    store.append_many(&store.app, 4..600).await;
    let status = store.status("default").await;
    assert_eq!((status.pending, status.dropped, status.dead), (Some(10), 589, 1));
    // A leased event is dropped last.
    assert_eq!(store.ack("default", &taken[1..]).await.acked, 1);
    eventually("it is durable", async || store.crash().await.status("default").await.dropped == 589).await;
    let left = store.drain("default").await;
    assert_eq!(left.len(), 9);
    let all = store.drain("all").await;
    assert_eq!((all.len(), &all[591..]), (600, &left[..]));
    // The setting of the consumer goes before that of the server.
    store.put("default", overflow(Overflow::Reject)).await;
    store.append_all(0..10).await;
    assert_eq!(store.try_append(event(10)).await, Appended::Full);
    store.put("default", overflow(Overflow::DropOldest)).await;
    store.append(10).await;
    assert_eq!(store.drain("default").await, (1..=10).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_default_that_is_off_holds_nothing() {
    let store = TestLog::limited(Limits { max_pending_events: 10, ..Limits::default() }).await;
    store.put("all", ConsumerSettings::default()).await;
    store.append_all(0..5).await;
    let taken = store.take(1).await;
    store.put("default", overflow(Overflow::Off)).await;
    let default = ConsumerName::default();
    let is_refused = async |store: &TestLog| {
        let leased = store.log.lease(&store.app, &default, Lease { wait: DEADLINE, ..now(10) }).await;
        matches!(leased, Err(StoreError::DefaultOff))
    };
    assert!(is_refused(&store).await, "before events arrive");
    store.append_all(5..30).await;
    assert!(is_refused(&store).await);
    assert_eq!(store.ack("default", &taken).await.stale.len(), 1);
    let status = store.status("default").await;
    assert_eq!((status.pending, status.dropped), (Some(0), 5));
    assert_eq!(store.drain("all").await, (0..30).collect::<Vec<_>>());
    let store = store.reopen().await;
    store.append(30).await;
    assert!(is_refused(&store).await, "also after a restart");
    store.put("default", ConsumerSettings::default()).await;
    store.append(31).await;
    assert_eq!(store.drain("default").await, [31]);
    assert_eq!(store.drain("all").await, [30, 31]);
}

#[tokio::test]
async fn a_consumer_without_use_is_removed_and_one_with_a_waiting_lease_stays() {
    let store = TestLog::new().await;
    let expiring = ConsumerSettings { idle_expiry: Some(8 * SHORT), ..ConsumerSettings::default() };
    for name in ["unused", "waiting"] {
        store.put(name, expiring.clone()).await;
    }
    store.put("other", ConsumerSettings::default()).await;
    let waiting = store.lease("waiting", Lease { wait: DEADLINE, ..now(1) });
    let expiry = async {
        let names = async || store.log.consumers(&store.app).await.unwrap().len();
        eventually("the unused consumer is removed", async || names().await == 3).await;
        store.append(1).await;
    };
    let (taken, ()) = tokio::join!(waiting, expiry);
    assert_eq!(numbers(&taken), [1]);
    let store = store.reopen().await;
    let names: Vec<_> = store.log.consumers(&store.app).await.unwrap();
    assert!(names.iter().all(|status| status.name.as_str() != "unused"));
}

#[tokio::test]
async fn the_status_of_a_consumer_says_its_last_use_and_its_oldest_event() {
    let store = TestLog::new().await;
    assert_eq!(store.status("default").await.oldest_pending_age, None);
    let created = store.status("default").await.last_used;
    let before = SystemTime::now();
    store.append_all(0..3).await;
    let age = store.status("default").await.oldest_pending_age.unwrap();
    assert!(age <= before.elapsed().unwrap() + SHORT, "{age:?}");
    assert_eq!(store.status("default").await.last_used, created, "an append is no use");
    let taken = store.take(1).await;
    let used = store.status("default").await.last_used;
    assert!(used > created);
    store.ack("default", &taken).await;
    assert!(store.status("default").await.last_used >= used);
    // The use is written together with what was settled.
    let used = store.status("default").await.last_used;
    let store = store.reopen().await;
    assert_eq!(store.status("default").await.last_used, used);
    assert!(store.status("default").await.oldest_pending_age.unwrap() < Duration::from_secs(60));
    store.drain("default").await;
    assert_eq!(store.status("default").await.oldest_pending_age, None);
}

#[tokio::test]
async fn default_drops_many_events_a_part_at_a_time() {
    const MANY: u32 = 12_000;
    let limits = Limits { max_pending_events: 10, overflow: Overflow::DropOldest, ..Limits::default() };
    let store = TestLog::limited(limits).await;
    store.append_many(&store.app, 0..MANY).await;
    store.log.seek(&store.app, &consumer("default"), Start::All).await.unwrap();
    assert_eq!(store.status("default").await.pending, Some(u64::from(MANY) - 10_000));
    store.append(MANY).await;
    assert_eq!(store.status("default").await.pending, Some(10));
    assert_eq!(store.drain("default").await.last(), Some(&MANY));
}
