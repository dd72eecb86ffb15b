//! Where consumers start, and where they are moved to.

use std::time::{Duration, SystemTime};

use wwproxy_protocol::{ConsumerSettings, EventId, Overflow, Start};
use wwproxy_server::store::{Lease, PutConsumer, Settlement, Sought, Store, StoreError};

use crate::fixture::{DEADLINE, TestLog, consumer, event, eventually, now, numbers, receipts, typed};

fn starting(start: Start) -> ConsumerSettings {
    ConsumerSettings { start, ..ConsumerSettings::default() }
}

async fn seek(store: &TestLog, name: &str, to: Start) -> Sought {
    store.log.seek(&store.app, &consumer(name), to).await.unwrap()
}

/// The time in an event's id, which is when it was received.
fn received_at(id: &EventId) -> SystemTime {
    let millis = u64::from_str_radix(&id.as_str().replace('-', "")[..12], 16).unwrap();
    SystemTime::UNIX_EPOCH + Duration::from_millis(millis)
}

/// Waits until the clock shows another millisecond.
fn next_millisecond() {
    let millis = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
    let before = millis();
    while millis() == before {
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn a_consumer_begins_at_the_first_event_of_a_time() {
    let store = TestLog::new().await;
    let other = store.register("other").await;
    let mut times = Vec::new();
    for n in 0..20 {
        next_millisecond();
        store.append_to(&other, event(n)).await;
        times.push(received_at(&store.append(n).await));
    }
    for (n, time) in times.iter().enumerate().step_by(3) {
        let name = format!("at-{n}");
        assert_eq!(store.put(&name, starting(Start::At(*time))).await, PutConsumer::Created);
        let expected: Vec<_> = (u32::try_from(n).unwrap()..20).collect();
        assert_eq!(store.status(&name).await.pending, Some(expected.len() as u64));
        assert_eq!(store.drain(&name).await, expected, "{n}");
    }
    store.put("always", starting(Start::At(SystemTime::UNIX_EPOCH))).await;
    store.put("later", starting(Start::At(SystemTime::now() + DEADLINE))).await;
    store.append(20).await;
    let store = store.crash().await;
    assert_eq!(store.drain("always").await, (0..=20).collect::<Vec<_>>());
    assert_eq!(store.drain("later").await, [20], "the position is fixed when the consumer is created");
}

#[tokio::test]
async fn what_is_fixed_at_creation_cannot_change_and_settings_survive_a_restart() {
    let store = TestLog::new().await;
    let started = SystemTime::now();
    let settings = ConsumerSettings {
        types: ["push".to_owned()].into(),
        start: Start::At(started),
        max_attempts: 7,
        idle_expiry: Some(Duration::from_micros(1_500_001)),
        ..ConsumerSettings::default()
    };
    assert_eq!(store.put("c", settings.clone()).await, PutConsumer::Created);
    assert_eq!(store.put("c", settings.clone()).await, PutConsumer::Updated);
    assert_eq!(
        store.put("c", ConsumerSettings { start: Start::New, ..settings.clone() }).await,
        PutConsumer::Conflict
    );
    let shop = ConsumerSettings { sources: ["shop".parse().unwrap()].into(), ..settings.clone() };
    assert_eq!(store.put("c", shop).await, PutConsumer::Conflict);
    let default = ConsumerSettings { overflow: Some(Overflow::DropOldest), ..ConsumerSettings::default() };
    assert_eq!(store.put("default", default.clone()).await, PutConsumer::Updated);
    assert_eq!(store.put("default", starting(Start::All)).await, PutConsumer::Conflict);
    let store = store.reopen().await;
    let stored = store.status("c").await.settings;
    assert_eq!(store.put("c", settings.clone()).await, PutConsumer::Updated);
    assert_eq!((stored.max_attempts, stored.idle_expiry), (7, settings.idle_expiry));
    assert_eq!(store.status("default").await.settings, default);
    // Absent is default.
    let changed = ConsumerSettings { max_attempts: 0, idle_expiry: None, ..settings };
    assert_eq!(store.put("c", changed.clone()).await, PutConsumer::Updated);
    assert_eq!(store.status("c").await.settings.idle_expiry, None);
}

#[tokio::test]
async fn a_seek_moves_the_cursor_and_ends_leases_and_retries() {
    let store = TestLog::new().await;
    let mut ids = Vec::new();
    for n in 0..10 {
        ids.push(store.append(n).await);
    }
    let taken = store.take(4).await;
    store.reject(&taken[1..2]).await;
    store.release(&taken[2..3], DEADLINE).await;
    assert_eq!(seek(&store, "default", Start::After(ids[6].clone())).await, Sought::Moved);
    assert_eq!(store.ack("default", &taken[..1]).await.stale, receipts(&taken[..1]));
    let status = store.status("default").await;
    assert_eq!((status.pending, status.leased, status.dead), (Some(3), 0, 1));
    for store in [store.crash().await, store] {
        assert_eq!(store.drain("default").await, [7, 8, 9], "durable");
        assert_eq!(seek(&store, "default", Start::All).await, Sought::Moved);
        assert_eq!(store.status("default").await.pending, Some(9), "all but the dead one");
        let again = store.take(100).await;
        assert_eq!(numbers(&again), [0, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert!(again.iter().all(|delivery| delivery.attempt == 1));
        store.ack("default", &again).await;
        let status = store.status("default").await;
        assert_eq!((status.pending, status.dead), (Some(0), 1));
        seek(&store, "default", Start::New).await;
        store.append(10).await;
        assert_eq!(store.drain("default").await, [10]);
    }
}

#[tokio::test]
async fn a_seek_wakes_a_waiting_lease_and_leaves_other_consumers_alone() {
    let store = TestLog::new().await;
    store.put("audit", ConsumerSettings::default()).await;
    store.append_all(0..3).await;
    store.drain("default").await;
    let held = store.lease("audit", now(2)).await;
    let waiting = store.lease("default", Lease { wait: DEADLINE, ..now(5) });
    let (taken, moved) = tokio::join!(waiting, seek(&store, "default", Start::All));
    assert_eq!((numbers(&taken), moved), (vec![0, 1, 2], Sought::Moved));
    let acks = receipts(&held);
    assert_eq!(store.settle("audit", Settlement { acks, ..Settlement::default() }).await.acked, 2);
    let foreign = store.append_to(&store.register("other").await, event(9)).await;
    assert_eq!(seek(&store, "audit", Start::After(foreign)).await, Sought::NoSuchEvent);
    let missing = store.log.seek(&store.app, &consumer("no"), Start::New).await;
    assert!(matches!(missing, Err(StoreError::NoConsumer(_))));
}

#[tokio::test]
async fn a_time_is_found_among_many_events_and_a_filter_applies_after_a_seek() {
    let store = TestLog::new().await;
    store.put("pushes", ConsumerSettings { types: ["push".to_owned()].into(), ..starting(Start::New) }).await;
    store.append_many(&store.app, 0..3000).await;
    next_millisecond();
    let time = received_at(&store.append_to(&store.app, typed(3000, "push")).await);
    store.append_to(&store.app, typed(3001, "pull")).await;
    store.drain("pushes").await;
    seek(&store, "pushes", Start::At(time)).await;
    assert_eq!(store.drain("pushes").await, [3000]);
    eventually("the position is durable", async || store.crash().await.drain("pushes").await.is_empty())
        .await;
}
