//! Appending, leasing and settling.

use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use wwproxy_protocol::{ConsumerSettings, Origin, Verification, api::Receipt, scheme::Covers};
use wwproxy_server::store::{Appended, Lease, NewEvent, Settled, Settlement, Store};

use crate::fixture::{DEADLINE, SHORT, TestLog, larger, now, numbers, receipts};

#[tokio::test]
async fn an_event_is_delivered_unchanged_from_memory_and_from_disk() {
    let store = TestLog::new().await;
    let verification =
        Verification { scheme: "github".into(), secret: 2, signed: "the body".into(), covers: Covers::Body };
    let origin = Origin {
        source: "shop".parse().unwrap(),
        tail: Some("/a/b".into()),
        event_type: Some("push".into()),
        delivery_id: Some("42".into()),
        verification: Some(verification),
    };
    let headers = vec![("x-twice".into(), "a".into()), ("x-twice".into(), "é\u{80}\"".into())];
    let whole = NewEvent {
        origin,
        ..NewEvent::new(headers, Some("a=b&c=%20".into()), "{\"n\" : 1.50e3}\r\n".into())
    };
    let events = [
        whole,
        NewEvent::new(Vec::new(), Some(String::new()), vec![0, 255, b'\n'].into()),
        NewEvent::new(Vec::new(), None, "".into()),
        larger(1, 9 << 20),
    ];
    let before = SystemTime::now() - Duration::from_millis(1);
    let mut ids = Vec::new();
    for event in &events {
        let Appended::Stored(id) = store.try_append(event.clone()).await else { panic!("not stored") };
        ids.push(id);
    }
    assert!(ids.is_sorted());
    let check = async |store: &TestLog, attempt| {
        let taken = store.take(10).await;
        assert_eq!(taken.len(), events.len());
        for ((delivery, event), id) in taken.iter().zip(&events).zip(&ids) {
            assert_eq!((&delivery.event.id, delivery.attempt), (id, attempt));
            assert_eq!(delivery.event.origin, event.origin);
            assert_eq!(delivery.event.headers, event.headers);
            assert_eq!(delivery.event.query, event.query);
            assert_eq!(delivery.event.body, event.body);
            assert_eq!(delivery.event.encoding, event.encoding);
            assert!(delivery.event.received_at >= before);
        }
    };
    check(&store, 1).await;
    check(&store.reopen().await, 2).await;
}

#[tokio::test]
async fn events_are_delivered_in_order_of_arrival() {
    let store = TestLog::new().await;
    store.append_all(0..50).await;
    let mut expected: Vec<_> = (0..50).collect();
    expected.extend(store.append_many(&store.app, 50..400).await);
    let mut got = Vec::new();
    for piece in [1, 7, 30, 500] {
        got.extend(numbers(&store.take(piece).await));
    }
    assert!(got == expected, "{got:?}");
}

#[tokio::test]
async fn a_lease_respects_its_limits_but_has_at_least_one_event() {
    let store = TestLog::new().await;
    store.append_all(0..9).await;
    let size = store.status("default").await.pending_bytes.unwrap() / 9;
    let within = async |max_bytes| numbers(&store.lease("default", Lease { max_bytes, ..now(100) }).await);
    assert_eq!(within(3 * size).await, [0, 1, 2]);
    assert_eq!(within(3 * size - 1).await, [3, 4]);
    assert_eq!(within(0).await, [5]);
    assert_eq!(numbers(&store.take(2).await), [6, 7]);
}

#[tokio::test]
async fn an_acknowledged_event_is_not_delivered_again_and_a_receipt_settles_once() {
    let store = TestLog::new().await;
    store.append_all(0..3).await;
    let taken = store.take(2).await;
    let invalid = ["", "-", "1-1-1", "1--", "+1-1-1", "é"].map(Receipt::new).to_vec();
    let acks = [receipts(&taken), invalid.clone()].concat();
    let settled = store.settle("default", Settlement { acks, ..Settlement::default() }).await;
    assert_eq!(settled, Settled { acked: 2, stale: invalid, ..Settled::default() });
    assert_eq!(store.ack("default", &taken).await.stale, receipts(&taken));
    assert_eq!(store.release(&taken, Duration::ZERO).await.stale.len(), 2);
    assert_eq!(store.drain("default").await, [2]);
    assert_eq!(store.status("default").await.pending, Some(0));
}

#[tokio::test]
async fn a_receipt_of_another_consumer_is_stale() {
    let store = TestLog::new().await;
    store.put("audit", ConsumerSettings::default()).await;
    store.append(1).await;
    let taken = store.take(1).await;
    store.lease("audit", now(1)).await;
    assert_eq!(store.ack("audit", &taken).await.stale, receipts(&taken));
    assert_eq!(store.ack("default", &taken).await.acked, 1);
}

#[tokio::test]
async fn an_extended_lease_lasts_longer() {
    let store = TestLog::new().await;
    store.append(7).await;
    let taken = store.lease("default", Lease { time: 4 * SHORT, ..now(1) }).await;
    let extends = vec![(taken[0].receipt.clone(), DEADLINE)];
    assert_eq!(store.settle("default", Settlement { extends, ..Settlement::default() }).await.extended, 1);
    assert_eq!(store.lease("default", Lease { wait: 8 * SHORT, ..now(1) }).await, [], "still leased");
    assert_eq!(store.ack("default", &taken).await.acked, 1);
}

#[tokio::test]
async fn a_rejected_event_is_dead_and_stays_so() {
    let store = TestLog::new().await;
    store.append_all(0..2).await;
    let taken = store.take(1).await;
    assert_eq!(store.reject(&taken).await.rejected, 1);
    let status = store.status("default").await;
    assert_eq!((status.dead, status.leased, status.pending), (1, 0, Some(1)));
    let store = store.reopen().await;
    assert_eq!(store.status("default").await.dead, 1);
    assert_eq!(store.drain("default").await, [1]);
}

#[tokio::test]
async fn dropping_a_lease_future_takes_its_leases_back_without_an_attempt() {
    let store = TestLog::new().await;
    // Larger than the ring: the lease has to read from the disk, and the future can be dropped meanwhile.
    for n in 0..3 {
        store.append_to(&store.app, larger(n, 5 << 20)).await;
    }
    store.append_to(&store.app, larger(3, 5 << 20)).await;
    let name = crate::fixture::consumer("default");
    for _ in 0..10 {
        assert!(store.log.lease(&store.app, &name, now(2)).now_or_never().is_none());
        assert_eq!(store.status("default").await.leased, 0);
    }
    let taken = store.take(10).await;
    assert_eq!((numbers(&taken), taken[0].attempt), (vec![0, 1, 2, 3], 1));
}
