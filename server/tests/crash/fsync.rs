//! A failed fsync: the page cache has data that never reaches the disk. It must not count as durable, neither in this server nor
//! in the next one, which reads it from the page cache.

use futures_util::future::join_all;
use reqwest::StatusCode;

use crate::{
    common::eventually,
    disk::{Fault, StoreFile},
    fixture::Fixture,
};

/// A server with three events that refused a fourth, because the fsync of the write-ahead log failed.
async fn after_failed_commit() -> Fixture {
    let fixture = Fixture::new().await;
    fixture.store(0..3).await;
    fixture.set_fault(Fault::OneSync(StoreFile::Wal, 0));
    fixture.refuse(3).await;
    fixture
}

/// A server whose first checkpoint failed: the database's fsync failed after N that succeeded. Also returns the number of
/// stored events.
async fn after_failed_checkpoint(successes: u64) -> (Fixture, u32) {
    let fixture = Fixture::with_events_of(100_000).await;
    let before = fixture.set_fault(Fault::OneSync(StoreFile::Database, successes));
    let mut end = 0;
    eventually("the checkpoint is tried", async || {
        end += u32::from(fixture.post(end).await == StatusCode::CREATED);
        fixture.disk.faults() > before
    })
    .await;
    (fixture, end)
}

#[tokio::test]
async fn a_commit_with_a_failed_fsync_does_not_count_as_durable() {
    let fixture = after_failed_commit().await;
    for n in 3..5 {
        fixture.retry(n).await;
    }
    let fixture = fixture.after_power_cut();
    assert_eq!(fixture.pending().await, [0, 1, 2, 3, 4], "the retry of the fourth event was answered");
}

/// The next server finds the commit in the page cache.
#[tokio::test]
async fn a_commit_found_only_in_the_page_cache_is_made_durable() {
    for _ in 0..5 {
        let fixture = after_failed_commit().await.after_kill();
        fixture.store(3..6).await;
        assert_eq!(fixture.pending().await, (0..6).collect::<Vec<_>>(), "the retry is a duplicate");
        let fixture = fixture.after_power_cut();
        assert_eq!(fixture.pending().await, (0..6).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_failed_checkpoint_is_retried() {
    join_all((0..3).map(async |successes| {
        let (fixture, end) = after_failed_checkpoint(successes).await;
        let taken = fixture.take(20).await;
        fixture.ack(&taken).await;
        for n in end..end + 80 {
            fixture.retry(n).await;
        }
        let fixture = fixture.after_power_cut();
        let pending = fixture.pending().await;
        let expected: Vec<_> = (20..end + 80).collect();
        assert!(pending.ends_with(&expected), "{successes}: {pending:?}");
    }))
    .await;
}

/// The next server finds the checkpoint in the page cache only, and reuses the space of the write-ahead log.
#[tokio::test]
async fn events_of_a_checkpoint_found_only_in_the_page_cache_are_not_lost() {
    join_all((0..3).map(async |successes| {
        let (fixture, end) = after_failed_checkpoint(successes).await;
        let fixture = fixture.after_kill();
        assert_eq!(fixture.pending().await, (0..end).collect::<Vec<_>>(), "{successes}");
        fixture.store(end..end + 80).await;
        let fixture = fixture.after_power_cut();
        assert_eq!(fixture.pending().await, (0..end + 80).collect::<Vec<_>>(), "{successes}");
    }))
    .await;
}
