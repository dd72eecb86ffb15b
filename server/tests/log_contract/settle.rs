//! Settling: receipts settle one lease, once.

use wwproxy_protocol::api::Receipt;
use wwproxy_server::store::{Release, Settled, Settlement};

use crate::fixture::{TestLog, eventually, numbers, receipts};

#[tokio::test]
async fn a_receipt_settles_once() {
    let store = TestLog::new().await;
    store.append_all(0..2).await;
    let taken = store.take(2).await;
    let [first, second] = &receipts(&taken)[..] else { panic!("two events were leased") };
    let acks = vec![first.clone(), first.clone()];
    let settled = store.settle("default", Settlement { acks, ..Settlement::default() }).await;
    assert_eq!(settled, Settled { acked: 1, stale: vec![first.clone()], ..Settled::default() });
    assert_eq!(store.ack("default", &taken[..1]).await.stale, *std::slice::from_ref(first));
    store.return_undelivered(&taken[1..]).await;
    assert_eq!(store.ack("default", &taken[1..]).await.stale, *std::slice::from_ref(second));
    assert_eq!(store.return_undelivered(&taken).await.stale.len(), 2);
    assert_eq!(store.drain("default").await, [1]);
}

#[tokio::test]
async fn a_receipt_is_stale_after_its_lease_expired() {
    let store = TestLog::new().await;
    store.append(1).await;
    let taken = store.take_shortly(1).await;
    eventually("the lease has expired", async || store.status("default").await.leased == 0).await;
    assert_eq!(store.ack("default", &taken).await.stale, receipts(&taken));
    assert_eq!(store.return_undelivered(&taken).await.stale, receipts(&taken));
    assert_eq!(store.reject(&taken).await.stale, receipts(&taken));
    assert_eq!(store.drain("default").await, [1]);
}

#[tokio::test]
async fn an_earlier_receipt_does_not_settle_a_later_lease() {
    let store = TestLog::new().await;
    store.append(1).await;
    let first = store.take(1).await;
    store.return_undelivered(&first).await;
    let second = store.take(1).await;
    assert_eq!(store.ack("default", &first).await.acked, 0);
    assert_eq!(store.return_undelivered(&first).await.released, 0);
    assert_eq!(store.take(1).await, [], "the event is still leased");
    assert_eq!(store.ack("default", &second).await.acked, 1);
}

#[tokio::test]
async fn a_receipt_of_another_app_is_stale() {
    let store = TestLog::new().await;
    let other = store.of_app(store.register("other").await);
    store.append(1).await;
    other.append(2).await;
    let taken = store.take(1).await;
    other.take(1).await;
    assert_eq!(other.ack("default", &taken).await.stale, receipts(&taken));
    assert_eq!(other.return_undelivered(&taken).await.stale, receipts(&taken));
    assert_eq!((store.status("default").await.leased, other.status("default").await.leased), (1, 1));
    assert_eq!(store.ack("default", &taken).await.acked, 1);
}

#[tokio::test]
async fn an_invalid_receipt_is_stale() {
    let store = TestLog::new().await;
    store.append(1).await;
    let taken = store.take(1).await;
    let receipt = taken[0].receipt.as_str();
    let long = "f".repeat(20);
    let mut invalid: Vec<_> =
        ["", "-", "0", "0-0", "-1-1", "é-ü", "+1-+1-+1", " ", "\0"].map(Receipt::new).to_vec();
    invalid.extend([
        Receipt::new(format!("{long}-1-1")),
        Receipt::new(format!("1-{long}-{long}")),
        Receipt::new("-".repeat(100_000)),
        Receipt::new(&receipt[1..]),
        Receipt::new(&receipt[..receipt.len() - 1]),
        Receipt::new(format!("{receipt}0")),
        Receipt::new(format!("{receipt}-1")),
        Receipt::new(receipt.replace('-', "-0")),
        Receipt::new(taken[0].event.id.as_str()),
    ]);
    let release = |receipt: &Receipt| Release { receipt: receipt.clone(), delay: None, reason: None };
    let releases = invalid.iter().map(release).collect();
    let settlement = Settlement { acks: invalid.clone(), releases, ..Settlement::default() };
    let settled = store.settle("default", settlement).await;
    let stale = [invalid.clone(), invalid].concat();
    assert_eq!(settled, Settled { stale, ..Settled::default() }, "each is reported unchanged");
    assert_eq!(store.ack("default", &taken).await.acked, 1);
}

#[tokio::test]
async fn acks_are_settled_before_releases() {
    let store = TestLog::new().await;
    store.append_all(0..3).await;
    let receipts = receipts(&store.take(3).await);
    let release = |receipt: &Receipt| Release { receipt: receipt.clone(), delay: None, reason: None };
    let releases = receipts[1..].iter().map(release).collect();
    let settlement = Settlement { acks: receipts[..2].to_vec(), releases, ..Settlement::default() };
    let settled = store.settle("default", settlement).await;
    // The receipt in both lists was acknowledged first.
    let expected = Settled { acked: 2, released: 1, stale: vec![receipts[1].clone()], ..Settled::default() };
    assert_eq!(settled, expected);
    store.append(3).await;
    assert_eq!(numbers(&store.take(10).await), [2, 3]);
}
