//! Fault injection: while the disk is full, read-only or failing, senders are answered 503 and stored events are delivered.
//! When the disk works again the server recovers without a restart.

use std::{collections::BTreeSet, fs, time::Duration};

use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};
use wwproxy_protocol::api;

use crate::{
    common::{eventually, parse_legacy_event},
    disk::{Fault, StoreFile},
    fixture::Fixture,
};

const MIB: u64 = 1 << 20;
/// The ballast that the store keeps for the commits of acknowledgements on a full disk, and room for the first commits.
const BALLAST: u64 = 8 * MIB;
/// The server answers a sender within this time.
const ANSWER: Duration = Duration::from_secs(5);

/// Stored events are delivered, acknowledged and released while the disk has this fault.
async fn delivers_during(fault: Fault) {
    let fixture = Fixture::new().await;
    fixture.store(0..60).await;
    fixture.set_fault(fault);
    let started = Instant::now();
    let mut taken = Vec::new();
    // Longer than the interval between retries of a failed write.
    while started.elapsed() < Duration::from_millis(1500) || taken.len() <= 35 {
        fixture.refuse(100).await;
        assert!(!fixture.is_ready().await, "the readiness check must fail");
        let next = fixture.take(1).await;
        taken.extend(fixture.numbers(&next));
        if taken.len() <= 30 {
            fixture.ack(&next).await;
        } else {
            fixture.release(&next).await;
        }
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(taken[..31], (0..31).collect::<Vec<_>>());
    fixture.disk.set_fault(None);
    // Without another webhook: a load balancer sends none to a server that is not ready.
    fixture.wait_until_ready().await;
    fixture.store(100..110).await;
    let expected: Vec<_> = (30..60).chain(100..110).collect();
    assert_eq!(fixture.pending().await, expected);
    // Acknowledgements are durable after the next commits.
    fixture.store([110]).await;
    sleep(Duration::from_millis(50)).await;
    fixture.store([111]).await;
    let expected: Vec<_> = (30..60).chain(100..112).collect();
    assert_eq!(fixture.after_power_cut().pending().await, expected);
}

#[tokio::test]
async fn stored_events_are_delivered_while_the_disk_is_read_only() {
    delivers_during(Fault::ReadOnly).await;
}

#[tokio::test]
async fn stored_events_are_delivered_while_every_write_fails() {
    delivers_during(Fault::EveryWrite).await;
}

#[tokio::test]
async fn stored_events_are_delivered_while_every_fsync_fails() {
    delivers_during(Fault::EverySync).await;
}

#[tokio::test]
async fn a_server_without_clients_recovers_from_a_read_only_disk() {
    let fixture = Fixture::new().await;
    fixture.set_fault(Fault::ReadOnly);
    fixture.refuse(0).await;
    assert!(!fixture.is_ready().await);
    fixture.disk.set_fault(None);
    fixture.wait_until_ready().await;
    fixture.store([0]).await;
}

/// Posts events until the disk, which has this many free bytes, is full. Returns the number of stored events.
async fn fill(fixture: &Fixture, free: u64) -> u32 {
    fixture.disk.set_free_bytes(Some(free));
    let mut stored = 0;
    while fixture.post(stored).await == StatusCode::CREATED {
        stored += 1;
    }
    assert!(!fixture.is_ready().await, "a full disk is not ready");
    stored
}

#[tokio::test]
async fn on_a_full_disk_events_are_delivered_and_acknowledged_durably() {
    let fixture = Fixture::with_events_of(20_000).await;
    let stored = fill(&fixture, 2 * MIB).await;
    assert!(stored > 20, "{stored}");
    for n in 0..stored {
        let taken = fixture.take(1).await;
        assert_eq!(fixture.numbers(&taken), [n]);
        fixture.ack(&taken).await;
        if n % 5 == 0 {
            fixture.refuse(100_000).await;
        }
    }
    // Longer than the delay after which acknowledgements are durable.
    sleep(Duration::from_secs(1)).await;
    let fixture = fixture.after_power_cut();
    assert_eq!(fixture.pending().await, [0; 0], "the acknowledgements are durable");
    fixture.disk.set_free_bytes(Some(2 * BALLAST));
    eventually("the server is ready", async || fixture.is_ready().await).await;
    fixture.retry(100_000).await;
    fixture.store(100_001..100_010).await;
    let fixture = fixture.after_power_cut();
    assert_eq!(fixture.pending().await, (100_000..100_010).collect::<Vec<_>>());
}

/// Other files have filled the disk meanwhile.
#[tokio::test]
async fn a_store_opens_on_a_full_disk() {
    let fixture = Fixture::with_events_of(20_000).await;
    fixture.store(0..50).await;
    let fixture = fixture.after_stop(0).await;
    let taken = fixture.take(20).await;
    assert_eq!(fixture.numbers(&taken), (0..20).collect::<Vec<_>>());
    fixture.ack(&taken).await;
    // Longer than the delay after which acknowledgements are durable.
    sleep(Duration::from_secs(1)).await;
    let fixture = fixture.after_power_cut();
    assert_eq!(fixture.pending().await, (20..50).collect::<Vec<_>>());
    fixture.disk.set_free_bytes(None);
    fixture.retry(100_000).await;
    fixture.wait_until_ready().await;
}

/// The write-ahead log's fsync hangs: its senders get an answer, and clients their events.
#[tokio::test]
async fn senders_are_answered_in_time_while_an_fsync_hangs() {
    let fixture = Fixture::new().await;
    fixture.store(0..20).await;
    fixture.set_fault(Fault::Hang(StoreFile::Wal));
    let started = Instant::now();
    join_all((20..30).map(|n| fixture.refuse(n))).await;
    assert!(started.elapsed() < ANSWER, "{:?}", started.elapsed());
    assert!(fixture.disk.is_hanging());
    assert!(!fixture.is_ready().await, "the readiness check must fail");
    for n in 0..10 {
        let taken = timeout(ANSWER, fixture.take(1)).await.expect("a stored event is delivered");
        assert_eq!(fixture.numbers(&taken), [n]);
        timeout(ANSWER, fixture.ack(&taken)).await.expect("it is acknowledged");
    }
    fixture.disk.set_fault(None);
    fixture.wait_until_ready().await;
    // Those that were refused may be stored, and the retries are found to be duplicates.
    fixture.store(20..31).await;
    assert_eq!(fixture.pending().await, (10..31).collect::<Vec<_>>());
}

/// A checkpoint hangs in the fsync of the database: on its own thread, or in the writer if it is the end of the checkpoint.
#[tokio::test]
async fn events_are_delivered_while_a_checkpoint_hangs() {
    let fixture = Fixture::with_events_of(100_000).await;
    fixture.set_fault(Fault::Hang(StoreFile::Database));
    let mut end = 0;
    eventually("a checkpoint hangs", async || {
        end += u32::from(fixture.post(end).await == StatusCode::CREATED);
        fixture.disk.is_hanging()
    })
    .await;
    let taken = timeout(ANSWER, fixture.take(1)).await.expect("a stored event is delivered");
    timeout(ANSWER, fixture.ack(&taken)).await.expect("it is acknowledged");
    fixture.post(end).await;
    fixture.disk.set_fault(None);
    for n in end..end + 20 {
        fixture.retry(n).await;
    }
    assert_eq!(fixture.pending().await, (1..end + 20).collect::<Vec<_>>());
}

#[tokio::test]
async fn waiting_appends_share_one_group_commit() {
    let fixture = Fixture::new().await;
    fixture.set_fault(Fault::Hang(StoreFile::Wal));
    let release = async {
        eventually("a commit hangs", async || fixture.disk.is_hanging()).await;
        // The others arrive meanwhile. If this is too short, there are more commits than one.
        sleep(Duration::from_secs(1)).await;
        let before = fixture.disk.syncs();
        fixture.disk.set_fault(None);
        before
    };
    let (before, ()) = tokio::join!(release, async {
        join_all((0..64).map(|n| fixture.store([n]))).await;
    });
    let syncs = fixture.disk.syncs() - before;
    assert!(syncs < 16, "64 appends took {syncs} fsyncs");
}

#[tokio::test]
async fn a_failed_read_is_retried() {
    let fixture = Fixture::with_events_of(10_000).await;
    fixture.store(0..50).await;
    let fixture = fixture.after_stop(BALLAST).await;
    let before = fixture.set_fault(Fault::OneRead);
    let mut received = BTreeSet::new();
    eventually("all events are delivered", async || {
        // The event whose read failed is delivered again when this lease expires.
        let response = fixture.app.lease_response(json!({"max": 10, "leaseMs": 100})).await;
        if response.status() == StatusCode::OK {
            let leased = api::decode_lease(&response.text().await.unwrap()).unwrap();
            received.extend(fixture.numbers(&leased.events));
            // If the lease expired before, as on a busy machine, the events are redelivered.
            let receipts: Vec<_> = leased.events.iter().map(|event| &event.receipt).collect();
            fixture.app.settle(json!({"ack": receipts})).await;
        }
        received.len() == 50
    })
    .await;
    assert!(fixture.disk.faults() > before);
    fixture.store([50]).await;
}

/// The end of an event's body is in a page of its own.
#[tokio::test]
async fn an_unreadable_event_does_not_block_the_others() {
    let fixture = Fixture::with_events_of(10_000).await;
    fixture.store(0..50).await;
    let fixture = fixture.after_stop(BALLAST).await;
    let bytes = fs::read(fixture.disk.home.store().join("log.sqlite")).unwrap();
    let text = b"end of 000025";
    let place = bytes.windows(text.len()).position(|window| window == text).unwrap();
    fixture.set_fault(Fault::BadSector(place as u64));
    let mut taken = fixture.take(30).await;
    taken.extend(fixture.take(30).await);
    assert_eq!(fixture.numbers(&taken), (0..50).filter(|n| *n != 25).collect::<Vec<_>>());
    fixture.store([50]).await;
    assert_eq!(fixture.numbers(&fixture.take(10).await), [50]);
    let log = fixture.server.log();
    assert!(log.contains("an event cannot be read"), "it is reported: {log}");
}

#[tokio::test]
async fn an_event_of_a_failed_commit_is_not_delivered_before_it_is_stored() {
    let fixture = Fixture::new().await;
    let mut socket = fixture.app.listen("").await;
    fixture.store([0]).await;
    fixture.set_fault(Fault::OneSync(StoreFile::Wal, 0));
    fixture.refuse(1).await;
    fixture.retry(2).await;
    fixture.retry(1).await;
    for n in [0, 2, 1] {
        let (_, body) = parse_legacy_event(&socket.next().await);
        assert!(body.starts_with(&format!("[\"{n:06}\"")), "{body}");
    }
    assert_eq!(socket.ping().await, [""; 0]);
}

/// An operation that failed has no effect, now and after a power cut.
#[tokio::test]
async fn memory_matches_the_disk_after_a_failed_operation() {
    for (method, body) in
        [(Method::PUT, json!({"secret": "another-secret-9c1x0z"})), (Method::DELETE, json!({}))]
    {
        let fixture = Fixture::new().await;
        fixture.store(0..5).await;
        fixture.set_fault(Fault::OneSync(StoreFile::Wal, 0));
        assert!(fixture.request(method, "", body).await.is_server_error());
        fixture.retry(5).await;
        assert_eq!(fixture.pending().await, (0..6).collect::<Vec<_>>());
        let fixture = fixture.after_power_cut();
        fixture.store([6]).await;
        assert_eq!(fixture.pending().await, (0..7).collect::<Vec<_>>());
    }
}
