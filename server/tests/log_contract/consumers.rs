//! Consumers: filters, starts, and what they do to each other.

use wwproxy_protocol::{ConsumerSettings, Start};
use wwproxy_server::store::{Appended, Lease, Limits, PutConsumer, Store, StoreError};

use crate::fixture::{DEADLINE, LONG, TestLog, consumer, event, now, numbers, typed};

fn types<const N: usize>(types: [&str; N]) -> ConsumerSettings {
    ConsumerSettings { types: types.map(str::to_owned).into(), ..ConsumerSettings::default() }
}

fn starting(start: Start) -> ConsumerSettings {
    ConsumerSettings { start, ..ConsumerSettings::default() }
}

#[tokio::test]
async fn each_consumer_gets_exactly_the_events_of_its_filter_in_order() {
    let store = TestLog::new().await;
    store.put("pushes", types(["push"])).await;
    store.put("issues", types(["issues.*"])).await;
    let shop = ConsumerSettings { sources: ["shop".parse().unwrap()].into(), ..ConsumerSettings::default() };
    store.put("shop", shop).await;
    for n in 0..40 {
        let mut event = typed(n, if n % 2 == 0 { "push" } else { "issues.opened" });
        if n % 10 == 0 {
            event.origin.source = "shop".parse().unwrap();
        }
        store.append_to(&store.app, event).await;
    }
    store.append(40).await;
    let every = |step: usize, from: u32| (from..40).step_by(step).collect::<Vec<_>>();
    assert_eq!(store.drain("pushes").await, every(2, 0));
    assert_eq!(store.drain("issues").await, every(2, 1));
    assert_eq!(store.drain("shop").await, every(10, 0));
    assert_eq!(store.drain("default").await, (0..=40).collect::<Vec<_>>());
    assert_eq!(store.status("pushes").await.pending, Some(0));
}

#[tokio::test]
async fn a_waiting_consumer_is_woken_by_a_matching_event() {
    let store = TestLog::new().await;
    store.put("pushes", types(["push"])).await;
    let waiting = store.lease("pushes", Lease { wait: DEADLINE, ..now(1) });
    let appending = async {
        store.append_to(&store.app, typed(1, "other")).await;
        store.append_to(&store.app, typed(2, "push")).await;
    };
    let (taken, ()) = tokio::join!(waiting, appending);
    assert_eq!(numbers(&taken), [2]);
}

#[tokio::test]
async fn a_consumer_begins_where_its_start_says() {
    let store = TestLog::new().await;
    store.append(0).await;
    let one = store.append(1).await;
    store.append(2).await;
    let other = store.register("other").await;
    let foreign = store.append_to(&other, event(9)).await;
    assert_eq!(store.put("new", starting(Start::New)).await, PutConsumer::Created);
    assert_eq!(store.put("all", starting(Start::All)).await, PutConsumer::Created);
    assert_eq!(store.put("after", starting(Start::After(one))).await, PutConsumer::Created);
    assert_eq!(store.put("foreign", starting(Start::After(foreign))).await, PutConsumer::NoSuchEvent);
    store.append(3).await;
    let store = store.crash().await;
    for (name, expected) in [("new", vec![3]), ("after", vec![2, 3]), ("all", vec![0, 1, 2, 3])] {
        assert_eq!(store.status(name).await.pending, Some(expected.len() as u64));
        assert_eq!(store.drain(name).await, expected, "{name}");
    }
}

#[tokio::test]
async fn a_consumer_without_clients_never_refuses_an_append() {
    let store = TestLog::limited(Limits { max_pending_events: 5, ..Limits::default() }).await;
    store.put("lagging", ConsumerSettings::default()).await;
    for n in 0..20 {
        assert!(matches!(store.try_append(event(n)).await, Appended::Stored(_)));
        store.drain("default").await;
    }
    assert_eq!(store.status("lagging").await.pending, Some(20));
    assert_eq!(store.drain("lagging").await.len(), 20);
}

#[tokio::test]
async fn a_filter_cannot_change_and_the_number_of_consumers_is_limited() {
    let store = TestLog::new().await;
    assert_eq!(store.put("c", types(["push"])).await, PutConsumer::Created);
    assert_eq!(store.put("c", types(["pull"])).await, PutConsumer::Conflict);
    let changed = ConsumerSettings { max_attempts: 3, ..types(["push"]) };
    assert_eq!(store.put("c", changed.clone()).await, PutConsumer::Updated);
    for n in 0..30 {
        assert_eq!(store.put(&format!("c{n}"), types([])).await, PutConsumer::Created);
    }
    assert_eq!(store.put("one-more", types([])).await, PutConsumer::TooMany);
    let store = store.reopen().await;
    assert_eq!(store.status("c").await.settings, changed);
}

#[tokio::test]
async fn deleting_a_consumer_ends_its_waiting_leases_and_default_stays() {
    let store = TestLog::new().await;
    store.put("c", ConsumerSettings::default()).await;
    let name = consumer("c");
    let waiting = store.log.lease(&store.app, &name, Lease { wait: LONG, ..now(1) });
    let (waiting, deleted) = tokio::join!(waiting, store.log.delete_consumer(&store.app, &name));
    assert!(deleted.unwrap());
    for error in [waiting.unwrap_err(), store.log.lease(&store.app, &name, now(1)).await.unwrap_err()] {
        assert!(matches!(&error, StoreError::NoConsumer(missing) if *missing == name), "{error}");
    }
    assert!(!store.log.delete_consumer(&store.app, &consumer("default")).await.unwrap());
    let store = store.reopen().await;
    assert_eq!(store.log.consumers(&store.app).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_later_registration_sees_no_events_of_an_earlier_one() {
    let store = TestLog::new().await;
    store.append_all(0..3).await;
    let taken = store.take(1).await;
    store.log.remove_registration(&store.app).await.unwrap();
    assert_eq!(store.try_append(event(3)).await, Appended::SourceChanged);
    store.register("app-1").await;
    assert_eq!(store.ack("default", &taken).await.stale.len(), 1);
    store.put("all", starting(Start::All)).await;
    store.append(4).await;
    let store = store.crash().await;
    assert_eq!(store.drain("all").await, [4]);
    assert_eq!(store.drain("default").await, [4]);
}
