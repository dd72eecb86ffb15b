//! Deduplication by dedupe key.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rusqlite::Connection;
use wwproxy_protocol::AppId;
use wwproxy_server::store::{Appended, Limits, Store};

use crate::fixture::{TestLog, event, eventually, registration};

async fn append(store: &TestLog, app: &AppId, n: u32) -> Appended {
    let mut key = [7; 16];
    key[..4].copy_from_slice(&n.to_le_bytes());
    store.append_keyed(app, event(n), Some(key)).await.unwrap()
}

/// Whether an event with its number as its dedupe key was stored. Otherwise it was a duplicate.
async fn is_stored(store: &TestLog, n: u32) -> bool {
    match append(store, &store.app, n).await {
        Appended::Stored(_) => true,
        other => {
            assert_eq!(other, Appended::Duplicate);
            false
        }
    }
}

/// The database, next to the store.
fn database(store: &TestLog) -> Connection {
    Connection::open(store.folder.path().join("log.sqlite")).unwrap()
}

fn query(store: &TestLog, query: &str) -> i64 {
    database(store).query_row(query, [], |row| row.get(0)).unwrap()
}

fn window(dedupe_window: Duration) -> Limits {
    Limits { dedupe_window, ..Limits::default() }
}

#[tokio::test]
async fn a_duplicate_is_not_stored_and_is_counted_on_its_event() {
    let store = TestLog::new().await;
    assert!(is_stored(&store, 1).await);
    assert!(!is_stored(&store, 1).await);
    assert!(is_stored(&store, 2).await);
    // An event without a key is never a duplicate.
    store.append_all([3, 3]).await;
    assert_eq!(store.drain("default").await, [1, 2, 3, 3]);
    assert!(!is_stored(&store, 1).await, "an acknowledged event is known, too");
    assert_eq!(store.status("default").await.pending, Some(0));
    // Without a further append, too.
    eventually("the duplicates are counted", async || {
        query(&store, "SELECT sum(duplicates) FROM events WHERE seq = 1") == 2
    })
    .await;
    assert_eq!(query(&store, "SELECT sum(duplicates) FROM events"), 2);
    assert!(!is_stored(&store, 2).await);
    let store = store.reopen().await;
    assert_eq!(query(&store, "SELECT duplicates FROM events WHERE seq = 2"), 1, "counted when it is closed");
    assert!(!is_stored(&store, 2).await);
}

#[tokio::test]
async fn keys_survive_a_restart_and_a_crash() {
    let store = TestLog::new().await;
    let other = store.register("app-2").await;
    let appended = join_all((0..100).map(|n| append(&store, &store.app, n))).await;
    assert!(appended.iter().all(|appended| matches!(appended, Appended::Stored(_))));
    append(&store, &other, 200).await;
    let store = store.crash().await.reopen().await;
    for n in 0..100 {
        assert!(!is_stored(&store, n).await, "{n}");
    }
    assert!(is_stored(&store, 200).await, "it is a key of another app");
    assert_eq!(append(&store, &other, 200).await, Appended::Duplicate);
    let store = store.reopen().await;
    let uncounted = "SELECT count(*) FROM events WHERE seq <= 101 AND duplicates <> 1";
    assert_eq!(query(&store, uncounted), 0, "each is counted on its own event");
}

#[tokio::test]
async fn a_duplicate_is_detected_within_the_dedupe_window() {
    let limit = Duration::from_millis(200);
    let store = TestLog::limited(window(limit)).await;
    let mut sent = Instant::now();
    assert!(is_stored(&store, 1).await);
    // The second round sends duplicates of the event that the first round stored last.
    for _ in 0..2 {
        let mut repeated = sent;
        eventually("the dedupe window has passed", async || {
            repeated = Instant::now();
            is_stored(&store, 1).await
        })
        .await;
        assert!(sent.elapsed() >= limit, "forgotten after {:?}", sent.elapsed());
        sent = repeated;
    }
    assert_eq!(store.status("default").await.pending, Some(3));
}

#[tokio::test]
async fn without_a_window_no_event_is_a_duplicate() {
    let store = TestLog::limited(window(Duration::ZERO)).await;
    let appended = join_all((0..10).map(|_| append(&store, &store.app, 1))).await;
    assert!(appended.iter().all(|appended| matches!(appended, Appended::Stored(_))));
    assert_eq!(query(&store, "SELECT count(*) FROM recent_keys"), 0);
}

#[tokio::test]
async fn old_rows_are_deleted() {
    let store = TestLog::limited(window(Duration::from_millis(100))).await;
    for n in 0..50 {
        assert!(is_stored(&store, n).await);
    }
    let mut n = 50;
    eventually("the old rows are deleted", async || {
        n += 1;
        assert!(is_stored(&store, n).await);
        query(&store, "SELECT min(seq) FROM recent_keys") > 50
    })
    .await;
}

#[tokio::test]
async fn unregistering_forgets_keys_and_replacing_a_registration_keeps_them() {
    let store = TestLog::new().await;
    assert!(is_stored(&store, 1).await);
    store.log.put_registration(&store.app, registration()).await.unwrap();
    assert!(!is_stored(&store, 1).await);
    store.log.remove_registration(&store.app).await.unwrap();
    store.log.put_registration(&store.app, registration()).await.unwrap();
    let store = store.reopen().await;
    assert!(is_stored(&store, 1).await, "the first event was removed");
    assert_eq!(store.drain("default").await, [1]);
}

#[tokio::test]
async fn one_of_concurrent_duplicates_is_stored() {
    let store = TestLog::new().await;
    for round in 0..10 {
        let appended = join_all((0..20).map(|_| append(&store, &store.app, round))).await;
        let stored = appended.iter().filter(|appended| **appended != Appended::Duplicate);
        assert_eq!(stored.count(), 1);
    }
    assert_eq!(store.drain("default").await, (0..10).collect::<Vec<_>>());
    let store = store.reopen().await;
    assert_eq!(query(&store, "SELECT count(*) FROM events WHERE duplicates = 19"), 10);
}

#[tokio::test]
async fn a_refused_event_is_stored_when_it_is_repeated() {
    let store = TestLog::limited(Limits { max_pending_events: 1, ..Limits::default() }).await;
    assert!(is_stored(&store, 1).await);
    assert_eq!(append(&store, &store.app, 2).await, Appended::Full);
    assert!(!is_stored(&store, 1).await, "a duplicate needs no room");
    assert_eq!(store.drain("default").await, [1]);
    assert!(is_stored(&store, 2).await, "it was never stored");
}

#[tokio::test]
async fn a_failed_commit_leaves_no_keys() {
    let store = TestLog::new().await;
    assert!(is_stored(&store, 1).await);
    let lock = database(&store);
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    // The second one is a duplicate of what is not stored: its sender must repeat it.
    let failed = join_all((0..2).map(|_| store.append_keyed(&store.app, event(2), Some([9; 16])))).await;
    assert!(failed.iter().all(Result::is_err), "{failed:?}");
    lock.execute_batch("ROLLBACK").unwrap();
    let repeated = store.append_keyed(&store.app, event(2), Some([9; 16])).await.unwrap();
    assert!(matches!(repeated, Appended::Stored(_)), "{repeated:?}");
    assert!(!is_stored(&store, 1).await);
    let store = store.reopen().await;
    assert_eq!(query(&store, "SELECT duplicates FROM events WHERE seq = 2"), 0);
    assert_eq!(store.drain("default").await, [1, 2]);
}

#[tokio::test]
async fn a_key_from_the_future_is_forgotten() {
    for jump in ["+ 86400000000", "- 86400000000"] {
        let store = TestLog::new().await;
        assert!(is_stored(&store, 1).await);
        store.log.close().await.unwrap();
        let changed =
            database(&store).execute(&format!("UPDATE recent_keys SET at = at {jump}"), []).unwrap();
        assert_eq!(changed, 1);
        let store = store.open_again().await;
        assert!(is_stored(&store, 1).await);
        assert!(!is_stored(&store, 1).await);
        assert!(query(&store, "SELECT min(seq) FROM recent_keys") > 1, "its row is deleted");
    }
}
