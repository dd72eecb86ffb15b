//! Settling: acknowledging, releasing, and stale receipts.

use std::time::Duration;

use tokio::time::Instant;
use wwproxy_protocol::api::Receipt;
use wwproxy_server::store::{Lease, Settled};

use crate::fixture::{DEADLINE, Open, SHORT, TestQueue, event, eventually, numbers, receipts};

pub(crate) async fn an_acknowledged_event_is_deleted(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    queue.append_all(0..3).await;
    let taken = queue.take(2).await;
    queue.take_for(1, SHORT).await;
    assert_eq!(queue.ack(&taken).await, Settled { acked: 2, ..Settled::default() });
    assert_eq!(numbers(&queue.wait(10).await), [2]);
    assert_eq!(queue.stats().await.stored, 1);
}

pub(crate) async fn a_receipt_settles_once(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    queue.append_all(0..2).await;
    let taken = queue.take(2).await;
    let [first, second] = &receipts(&taken)[..] else { panic!("two events were leased") };
    let settled = queue.settle(vec![first.clone(), first.clone()], Vec::new()).await;
    assert_eq!(settled, Settled { acked: 1, released: 0, stale: vec![first.clone()] });
    assert_eq!(queue.ack(&taken[..1]).await.stale, *std::slice::from_ref(first));
    queue.release(&taken[1..]).await;
    assert_eq!(queue.ack(&taken[1..]).await.stale, *std::slice::from_ref(second));
    assert_eq!(queue.release(&taken).await.stale.len(), 2);
    assert_eq!(queue.drain().await, [1]);
}

pub(crate) async fn a_receipt_is_stale_after_its_lease_expired(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    queue.append(1).await;
    let taken = queue.take_for(1, SHORT).await;
    eventually("the lease has expired", async || queue.stats().await.leased == 0).await;
    assert_eq!(queue.ack(&taken).await.stale, receipts(&taken));
    assert_eq!(queue.release(&taken).await.stale, receipts(&taken));
    assert_eq!(queue.drain().await, [1]);
}

pub(crate) async fn an_earlier_receipt_does_not_settle_a_later_lease(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    queue.append(1).await;
    let first = queue.take(1).await;
    queue.release(&first).await;
    let second = queue.take(1).await;
    assert_eq!(queue.ack(&first).await.acked, 0);
    assert_eq!(queue.release(&first).await.released, 0);
    assert_eq!(queue.take(1).await, [], "the event is still leased");
    assert_eq!(queue.ack(&second).await.acked, 1);
}

pub(crate) async fn another_apps_receipt_is_stale(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    let other = queue.other("app-2").await;
    queue.append(1).await;
    other.append(2).await;
    let taken = queue.take(1).await;
    other.take(1).await;
    assert_eq!(other.ack(&taken).await.stale, receipts(&taken));
    assert_eq!(other.release(&taken).await.stale, receipts(&taken));
    assert_eq!((queue.stats().await.leased, other.stats().await.leased), (1, 1));
    assert_eq!(queue.ack(&taken).await.acked, 1);
}

pub(crate) async fn an_invalid_receipt_is_stale(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    queue.append(1).await;
    let taken = queue.take(1).await;
    let receipt = taken[0].receipt.as_str();
    let mut invalid: Vec<_> = [
        "",
        "-",
        "0",
        "0-0",
        "-1-1",
        "é-ü",
        "+1-+1",
        " ",
        "\0",
        "ffffffffffffffffffff-1",
        "1-ffffffffffffffffffff",
    ]
    .into_iter()
    .map(Receipt::new)
    .collect();
    invalid.extend([
        Receipt::new("-".repeat(100_000)),
        Receipt::new(&receipt[1..]),
        Receipt::new(&receipt[..receipt.len() - 1]),
        Receipt::new(format!("{receipt}0")),
        Receipt::new(taken[0].event.id.as_str()),
    ]);
    let settled = queue.settle(invalid.clone(), invalid.clone()).await;
    assert_eq!((settled.acked, settled.released), (0, 0));
    assert_eq!(
        settled.stale,
        [invalid.clone(), invalid].concat(),
        "each stale receipt is reported unchanged"
    );
    assert_eq!(queue.ack(&taken).await.acked, 1);
}

pub(crate) async fn a_released_event_is_redelivered_before_newer_events(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    queue.append_all(0..5).await;
    let taken = queue.take(3).await;
    let settled = queue.release(&[taken[2].clone(), taken[0].clone()]).await;
    assert_eq!(settled, Settled { released: 2, ..Settled::default() });
    assert_eq!(numbers(&queue.take(10).await), [0, 2, 3, 4]);
}

/// A client that leaves events to others must not be stuck with them.
pub(crate) async fn nacked_events_alternate_with_fresh_ones(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    queue.append_all(0..200).await;
    queue.nack(&queue.take(100).await, Duration::ZERO).await;
    // Each is refused again.
    for expected in [100, 101, 102] {
        let two = queue.take(2).await;
        assert!(numbers(&two).contains(&expected), "{:?}", numbers(&two));
        queue.nack(&two, Duration::ZERO).await;
    }
    // Those that were not delivered still come first.
    let two = queue.take(2).await;
    queue.release(&two).await;
    assert_eq!(numbers(&queue.take(2).await), numbers(&two));
    // Nacked events do not starve either, and are leased in the order in which they became available.
    let left: Vec<_> = numbers(&queue.take(193).await).into_iter().filter(|number| *number < 100).collect();
    assert_eq!(left[..96], (4..100).collect::<Vec<_>>());
}

pub(crate) async fn a_nacked_event_is_redelivered_after_its_delay(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    queue.append_all(0..2).await;
    let taken = queue.take(1).await;
    // Long enough for the calls below.
    let delay = 20 * SHORT;
    let released = Instant::now();
    assert_eq!(queue.nack(&taken, delay).await.released, 1);
    let stats = queue.stats().await;
    assert_eq!((stats.stored, stats.leased), (2, 0), "a nacked event is not leased");
    assert_eq!(numbers(&queue.take(10).await), [1]);
    assert_eq!(queue.ack(&taken).await.stale.len(), 1, "the nack settled the lease");
    let again = queue.lease(Lease { wait: DEADLINE, ..crate::fixture::now(10) }).await;
    assert!(released.elapsed() >= delay, "redelivered after {:?}", released.elapsed());
    assert_eq!(numbers(&again), [0]);
    assert_eq!(again[0].attempt, 2);
}

pub(crate) async fn acks_are_settled_before_releases(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    queue.append_all(0..3).await;
    let receipts = receipts(&queue.take(3).await);
    let settled = queue.settle(receipts[..2].to_vec(), receipts[1..].to_vec()).await;
    // The receipt in both lists was acknowledged first.
    assert_eq!(settled, Settled { acked: 2, released: 1, stale: vec![receipts[1].clone()] });
    queue.try_append(event(3), None).await;
    assert_eq!(queue.drain().await, [2, 3]);
}
