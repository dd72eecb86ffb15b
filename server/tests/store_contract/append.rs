//! Appending: events are delivered unchanged and in order.

use std::{collections::HashSet, time::Duration};

use wwproxy_server::store::{Appended, NewEvent, Stats};

use crate::fixture::{Open, TestQueue, larger, numbers};

pub(crate) async fn an_event_is_delivered_unchanged(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    let events = [
        NewEvent::new(
            vec![
                ("x-outbound-index".into(), "7".into()),
                ("x-twice".into(), "a".into()),
                ("x-twice".into(), "é\u{80}".into()),
                ("x-empty".into(), String::new()),
            ],
            Some("a=b&c=%20".into()),
            "{\"n\" : 1.50e3, \"é\":\"\\u00e9\"}\r\n".into(),
        ),
        NewEvent::new(Vec::new(), Some(String::new()), "[]".into()),
        NewEvent::new(Vec::new(), None, vec![0, 255, b'\n'].into()),
    ];
    for event in &events {
        let before = std::time::SystemTime::now();
        let Appended::Stored(id) = queue.try_append(event.clone(), None).await else { panic!("not stored") };
        let taken = queue.take(1).await.remove(0);
        assert_eq!(taken.attempt, 1);
        assert_eq!(taken.event.id, id);
        assert_eq!(taken.event.headers, event.headers);
        assert_eq!(taken.event.query, event.query);
        assert_eq!(taken.event.body, event.body);
        let late = taken.event.received_at.duration_since(before - Duration::from_millis(1)).unwrap();
        assert!(late < Duration::from_secs(60), "received {late:?} after it was sent");
    }
}

pub(crate) async fn events_are_delivered_in_order_of_arrival(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    queue.append_all(0..100).await;
    let mut got = Vec::new();
    for piece in [1, 7, 30, 50, 100] {
        got.extend(numbers(&queue.take(piece).await));
        let next = 100 + u32::try_from(got.len()).unwrap();
        queue.append(next).await;
        // The number of an appended event grows with the count of delivered events, so these ascend too.
    }
    assert_eq!(got[..100], (0..100).collect::<Vec<_>>());
    assert!(got.is_sorted(), "{got:?}");
}

pub(crate) async fn ids_are_unique_and_ascend(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    let other = queue.other("app-2").await;
    let mut ids = Vec::new();
    for n in 0..100 {
        ids.push(queue.append(n).await);
        ids.push(other.append(n).await);
    }
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
    assert!(ids.is_sorted(), "an id is lower than the id of an earlier event");
}

pub(crate) async fn concurrent_appends_are_delivered_in_id_order(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    let senders: Vec<_> = (0..16)
        .map(|sender| {
            let queue = queue.clone();
            tokio::spawn(async move {
                let mut ids = Vec::new();
                for n in 0..25 {
                    ids.push(queue.append(sender * 1000 + n).await);
                }
                ids
            })
        })
        .collect();
    let mut all = HashSet::new();
    for sender in senders {
        let ids = sender.await.unwrap();
        assert!(ids.is_sorted(), "one sender's ids are not in its order");
        all.extend(ids);
    }
    let taken = queue.take(1000).await;
    let ids: Vec<_> = taken.iter().map(|delivery| delivery.event.id.clone()).collect();
    assert!(ids.is_sorted(), "events were not delivered in id order");
    assert_eq!(ids.len(), 400);
    assert_eq!(ids.into_iter().collect::<HashSet<_>>(), all);
}

pub(crate) async fn apps_are_isolated(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    let other = queue.other("app-2").await;
    queue.append_all([1, 3]).await;
    other.append_all([2, 4]).await;
    assert_eq!(numbers(&queue.take(10).await), [1, 3]);
    assert_eq!(other.stats().await.leased, 0);
    assert_eq!(other.drain().await, [2, 4]);
    assert_eq!(queue.stats().await.stored, 2);
}

pub(crate) async fn stats_follow_appends_leases_and_settlements(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    queue.store.ready().await.unwrap();
    assert_eq!(queue.stats().await, Stats::default());
    queue.append(1).await;
    let one = queue.stats().await;
    assert!(one.bytes >= 12, "the body alone has 12 bytes");
    assert!(one.oldest_age.unwrap() < Duration::from_secs(60));
    queue.append(2).await;
    let two = queue.stats().await;
    assert_eq!((two.stored, two.leased, two.dropped, two.bytes), (2, 0, 0, 2 * one.bytes));
    let taken = queue.take(10).await;
    let leased = queue.stats().await;
    assert_eq!((leased.stored, leased.leased, leased.bytes), (2, 2, two.bytes));
    queue.release(&taken[..1]).await;
    assert_eq!(queue.stats().await.leased, 1);
    queue.ack(&taken[1..]).await;
    let left = queue.stats().await;
    assert_eq!((left.stored, left.leased, left.bytes), (1, 0, one.bytes));
    assert_eq!(queue.drain().await, [1]);
    assert_eq!(queue.stats().await, Stats::default());
}

pub(crate) async fn a_large_event_is_stored(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    let event = larger(1, 9 << 20);
    assert!(matches!(queue.try_append(event.clone(), None).await, Appended::Stored(_)));
    assert_eq!(queue.take(1).await[0].event.body, event.body);
}
