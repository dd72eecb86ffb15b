//! Durability of `RedbStore`: state after a reopen, file permissions, and errors of open.

use std::{fs, path::Path, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tempfile::TempDir;
use wwproxy_server::store::{
    Appended, Limits, OpenError, Overflow, RedbStore, Settlement, Stats, Store, StoreError,
};

use crate::{
    fixture::{DEADLINE, TestQueue, event, eventually, key, larger, now, numbers, receipts, registration},
    store::append,
};

fn open(folder: &TempDir, limits: Limits) -> TestQueue {
    let store = RedbStore::open(folder.path(), limits).unwrap();
    TestQueue { store: Arc::new(store), app: "app-1".parse().unwrap() }
}

/// A new store with one app.
async fn new_store() -> (TempDir, TestQueue) {
    let folder = tempfile::tempdir().unwrap();
    let queue = open(&folder, Limits::default());
    queue.register_with("secret").await;
    (folder, queue)
}

async fn reopen(folder: &TempDir, queue: TestQueue, limits: Limits) -> TestQueue {
    queue.store.close().await.unwrap();
    drop(queue);
    open(folder, limits)
}

#[tokio::test]
async fn events_survive_a_reopen_in_order() {
    let (folder, queue) = new_store().await;
    let other = queue.other("app-2").await;
    let mut ids = Vec::new();
    for n in 0..10 {
        ids.push(queue.append(n).await);
        other.append(100 + n).await;
    }
    let before = queue.take(20).await;
    let stats = queue.stats().await;
    queue.release(&before).await;

    let queue = reopen(&folder, queue, Limits::default()).await;
    let other = TestQueue { app: other.app, ..queue.clone() };
    assert_eq!(queue.stats().await.stored, 10);
    assert_eq!(queue.stats().await.bytes, stats.bytes);
    ids.push(queue.append(10).await);
    let after = queue.take(20).await;
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before.event.id, after.event.id);
        assert_eq!(before.event.headers, after.event.headers);
        assert_eq!(before.event.body, after.event.body);
        assert_eq!(before.event.received_at, after.event.received_at);
    }
    assert_eq!(after.into_iter().map(|delivery| delivery.event.id).collect::<Vec<_>>(), ids);
    assert!(ids.is_sorted(), "ids ascend across a reopen");
    assert_eq!(other.drain().await, (100..110).collect::<Vec<_>>());
}

/// The table with app and size of each event, so that opening does not read bodies.
const HEADS: redb::TableDefinition<'_, u64, (u32, &str)> = redb::TableDefinition::new("heads");

/// An older server that does not know the table leaves events without a head row, and head rows without an event.
#[tokio::test]
async fn missing_and_orphaned_head_rows_are_repaired() {
    for heads in 0..4 {
        let (folder, queue) = new_store().await;
        queue.append_all(0..3).await;
        queue.store.close().await.unwrap();
        drop(queue);
        let database = redb::Database::open(folder.path().join("events.redb")).unwrap();
        let transaction = database.begin_write().unwrap();
        let mut table = transaction.open_table(HEADS).unwrap();
        for _ in heads..3 {
            table.pop_last().unwrap().unwrap();
        }
        // In one case as many rows as events, but one row of another event.
        for orphan in 1..=u64::from(heads == 2) {
            table.insert(orphan, (7, "app-1")).unwrap();
        }
        drop(table);
        transaction.commit().unwrap();
        drop(database);

        let queue = open(&folder, Limits::default());
        assert_eq!(queue.stats().await.stored, 3, "{heads}");
        assert_eq!(queue.drain().await, [0, 1, 2], "{heads}");
    }
}

#[tokio::test]
async fn a_long_queue_survives_the_loss_of_its_scratch_file() {
    let (folder, queue) = new_store().await;
    let other = queue.other("app-2").await;
    for hundreds in 0..8 {
        queue.append_together(hundreds * 100..(hundreds + 1) * 100).await;
        other.append_together(hundreds * 100..(hundreds + 1) * 100).await;
    }
    let scratch = folder.path().join("backlog.tmp");
    assert_ne!(fs::metadata(&scratch).unwrap().len(), 0);
    let taken = queue.take(50).await;
    queue.ack(&taken).await;
    queue.store.close().await.unwrap();
    drop(queue);
    fs::write(scratch, "from an earlier run").unwrap();

    let queue = open(&folder, Limits::default());
    let other = TestQueue { app: other.app, ..queue.clone() };
    assert_eq!(queue.drain().await, (50..800).collect::<Vec<_>>());
    assert_eq!(other.drain().await, (0..800).collect::<Vec<_>>());
}

#[tokio::test]
async fn leases_do_not_survive_a_reopen() {
    let (folder, queue) = new_store().await;
    queue.append_all(0..3).await;
    let taken = queue.take(2).await;
    queue.nack(&taken[1..], DEADLINE * 100).await;

    let queue = reopen(&folder, queue, Limits::default()).await;
    assert_eq!(queue.stats().await.leased, 0);
    assert_eq!(queue.ack(&taken).await.stale, receipts(&taken), "receipts from before the reopen are stale");
    let again = queue.take(10).await;
    assert_eq!(numbers(&again), [0, 1, 2]);
    assert_eq!(queue.ack(&taken).await.stale, receipts(&taken));
    assert_eq!(queue.ack(&again).await.acked, 3);
}

#[tokio::test]
async fn acknowledgements_are_durable_after_close() {
    let (folder, mut queue) = new_store().await;
    queue.append_all(0..20).await;
    for first in [0, 5, 10] {
        let taken = queue.take(5).await;
        assert_eq!(numbers(&taken)[0], first);
        assert_eq!(queue.ack(&taken).await.acked, 5);
        // Closed at once, before the delayed deletion is written.
        queue = reopen(&folder, queue, Limits::default()).await;
    }
    assert_eq!(queue.drain().await, [15, 16, 17, 18, 19]);
    let queue = reopen(&folder, queue, Limits::default()).await;
    assert_eq!(queue.stats().await, Stats::default());
}

#[tokio::test]
async fn answered_appends_survive_a_drop_without_close() {
    let (folder, queue) = new_store().await;
    queue.append_all(0..5).await;
    drop(queue);
    let mut opened = None;
    eventually("the folder lock is released", async || {
        opened = RedbStore::open(folder.path(), Limits::default()).ok();
        opened.is_some()
    })
    .await;
    let queue = TestQueue { store: Arc::new(opened.unwrap()), app: "app-1".parse().unwrap() };
    assert_eq!(queue.drain().await, [0, 1, 2, 3, 4]);
}

#[tokio::test]
async fn registrations_survive_a_reopen() {
    let (folder, queue) = new_store().await;
    let gone = queue.other("gone").await;
    gone.append(1).await;
    queue.other("app-2").await.register_with("other").await;
    gone.unregister().await;

    let queue = reopen(&folder, queue, Limits::default()).await;
    for (app, expected) in
        [("app-1", Some(registration("secret"))), ("app-2", Some(registration("other"))), ("gone", None)]
    {
        let found = queue.store.registration(&app.parse().unwrap()).await.unwrap();
        assert_eq!(found.as_deref(), expected.as_ref(), "{app}");
    }
    assert_eq!(gone.app.as_str(), "gone");
    let gone = TestQueue { app: gone.app, ..queue };
    assert_eq!(gone.try_append(event(1), None).await, Appended::SourceChanged);
    assert_eq!(gone.stats().await, Stats::default());
}

#[tokio::test]
async fn the_dropped_counter_survives_a_reopen() {
    let limits = Limits { max_queued_events: 3, overflow: Overflow::DropOldest, ..Limits::default() };
    let folder = tempfile::tempdir().unwrap();
    let queue = open(&folder, limits);
    queue.register_with("secret").await;
    queue.append_all(0..5).await;
    let queue = reopen(&folder, queue, limits).await;
    assert_eq!(queue.stats().await.dropped, 2);
    queue.append(5).await;
    // With a limit below the number of stored events.
    let queue = reopen(&folder, queue, Limits { max_queued_events: 1, ..limits }).await;
    assert_eq!((queue.stats().await.stored, queue.stats().await.dropped), (3, 3));
    queue.append(6).await;
    assert_eq!(queue.stats().await.dropped, 6);
    // Events past retention are counted too.
    let retention = Duration::from_millis(1);
    let queue = reopen(&folder, queue, Limits { retention, ..limits }).await;
    eventually("the retention has passed", async || queue.stats().await.dropped == 7).await;
    let queue = reopen(&folder, queue, limits).await;
    assert_eq!((queue.stats().await.stored, queue.stats().await.dropped), (0, 7));
    queue.unregister().await;
    let queue = reopen(&folder, queue, limits).await;
    assert_eq!(queue.stats().await.dropped, 0);
}

#[tokio::test]
async fn dedupe_keys_survive_a_reopen() {
    let (folder, queue) = new_store().await;
    let gone = queue.other("app-2").await;
    for queue in [&queue, &gone] {
        assert!(matches!(queue.try_append(event(1), key(1)).await, Appended::Stored(_)));
    }
    assert_eq!(queue.drain().await, [1]);
    gone.unregister().await;
    gone.register_with("secret").await;

    let queue = reopen(&folder, queue, Limits::default()).await.clone();
    drop(gone);
    assert_eq!(queue.try_append(event(1), key(1)).await, Appended::Duplicate);
    assert!(matches!(queue.try_append(event(2), key(2)).await, Appended::Stored(_)));
    let again = TestQueue { app: "app-2".parse().unwrap(), ..queue.clone() };
    assert!(matches!(again.try_append(event(1), key(1)).await, Appended::Stored(_)), "a new registration");
    drop(again);

    let dedupe_window = Duration::from_millis(1);
    let queue = reopen(&folder, queue, Limits { dedupe_window, ..Limits::default() }).await;
    let is_new = async || matches!(queue.try_append(event(2), key(2)).await, Appended::Stored(_));
    eventually("the dedupe window has passed", is_new).await;
}

#[tokio::test]
async fn a_second_open_is_rejected() {
    let (folder, queue) = new_store().await;
    let rejected = RedbStore::open(folder.path(), Limits::default()).unwrap_err();
    assert!(matches!(rejected, OpenError::InUse(_)), "{rejected:?}");
    let text = rejected.to_string();
    assert!(text.contains("in use") && text.contains(folder.path().to_str().unwrap()), "{text}");
    // The first store still works.
    queue.append(1).await;
    reopen(&folder, queue, Limits::default()).await;
}

#[tokio::test]
async fn an_invalid_database_file_is_rejected_and_left_unchanged() {
    for garbage in ["hello", &"x".repeat(100_000), "redb\x1a\x0a\u{a9}"] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("events.redb");
        fs::write(&file, garbage).unwrap();
        let rejected = RedbStore::open(folder.path(), Limits::default()).unwrap_err();
        assert!(matches!(rejected, OpenError::Unreadable(..)), "{rejected:?}");
        let text = rejected.to_string();
        assert!(text.contains("cannot be read") && text.contains(folder.path().to_str().unwrap()), "{text}");
        assert_eq!(fs::read(&file).unwrap(), garbage.as_bytes(), "the file was changed");
    }
}

#[tokio::test]
async fn a_truncated_database_file_is_rejected() {
    let (folder, queue) = new_store().await;
    for n in 0..50 {
        queue.try_append(larger(n, 5000), None).await;
    }
    queue.store.close().await.unwrap();
    let file = folder.path().join("events.redb");
    let length = fs::metadata(&file).unwrap().len();
    fs::File::options().write(true).open(&file).unwrap().set_len(length / 2).unwrap();
    let rejected = RedbStore::open(folder.path(), Limits::default()).unwrap_err();
    assert!(matches!(rejected, OpenError::Unreadable(..)), "{rejected:?}");
}

#[tokio::test]
async fn a_folder_that_cannot_be_created_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let rejected = RedbStore::open(file.join("store"), Limits::default()).unwrap_err();
    assert!(matches!(rejected, OpenError::Io(..)), "{rejected:?}");
    assert!(rejected.to_string().contains("cannot be opened"), "{rejected}");
}

#[cfg(unix)]
#[tokio::test]
async fn store_files_are_private_to_the_owner() {
    use std::os::unix::fs::PermissionsExt;

    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("deep/store");
    let store = RedbStore::open(&folder, Limits::default()).unwrap();
    assert_eq!(mode(&folder), 0o700);
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_closed_store_returns_errors() {
    let (_folder, queue) = new_store().await;
    queue.append_all(0..2).await;
    let taken = queue.take(1).await;
    queue.store.close().await.unwrap();
    let TestQueue { store, app } = &queue;
    assert!(matches!(append(&**store, app, event(1), None).await, Err(StoreError::Closed)));
    assert!(matches!(store.put_registration(app, registration("x")).await, Err(StoreError::Closed)));
    assert!(matches!(store.remove_registration(app).await, Err(StoreError::Closed)));
    assert!(matches!(store.ready().await, Err(StoreError::Closed)));
    assert!(store.lease(app, now(1)).await.is_err(), "the file is closed");
    let settlement = Settlement { acks: receipts(&taken), ..Settlement::default() };
    assert!(store.settle(app, settlement).await.is_err(), "the deletion cannot be written");
    assert!(matches!(store.close().await, Err(StoreError::Closed)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn close_under_load_keeps_answered_appends() {
    let (folder, queue) = new_store().await;
    let senders: Vec<_> = (0..8)
        .map(|sender| {
            let queue = queue.clone();
            tokio::spawn(async move {
                let mut answered = Vec::new();
                for n in 0.. {
                    let event = event(sender * 10_000 + n);
                    match append(&*queue.store, &queue.app, event, None).await {
                        Ok(Appended::Stored(id)) => answered.push(id),
                        Ok(other) => panic!("{other:?}"),
                        Err(StoreError::Closed) => break,
                        Err(error) => panic!("{error}"),
                    }
                }
                answered
            })
        })
        .collect();
    eventually("events are stored", async || queue.stats().await.stored > 100).await;
    queue.store.close().await.unwrap();
    let mut answered = Vec::new();
    for sender in senders {
        answered.extend(sender.await.unwrap());
    }
    answered.sort();
    drop(queue);
    let queue = open(&folder, Limits::default());
    let taken = queue.take(1_000_000).await;
    assert_eq!(taken.into_iter().map(|delivery| delivery.event.id).collect::<Vec<_>>(), answered);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn close_releases_the_folder_lock_while_events_are_read() {
    let (folder, mut queue) = new_store().await;
    for n in 0..20 {
        queue.try_append(larger(n, 20_000), None).await;
    }
    for _ in 0..100 {
        // Cancelled leases: a read that they started runs to its end in the background.
        let leases: Vec<_> = (0..8).map(|_| queue.store.lease(&queue.app, now(3)).now_or_never()).collect();
        drop(leases);
        queue = reopen(&folder, queue, Limits::default()).await;
    }
}
