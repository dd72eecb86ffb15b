//! Backups of a store in use.

use std::fs;

use wwproxy_server::store::{
    Health, Limits, SqliteStore, Store,
    maintenance::{Report, recover},
};

use crate::fixture::{TestLog, larger};

/// Nothing is left out.
struct Whole;

impl Report for Whole {
    fn damaged(&mut self, what: &str) {
        panic!("{what}");
    }

    fn progress(&mut self, _done: u64, _last: u64) {}
}

#[tokio::test]
async fn a_backup_is_a_private_file_with_all_that_was_stored() {
    let store = TestLog::new().await;
    store.append_all(0..50).await;
    store.append_to(&store.app, larger(50, 1 << 20)).await;
    let taken = store.take(20).await;
    store.ack("default", &taken).await;
    let folder = tempfile::tempdir().unwrap();
    let (file, restored) = (folder.path().join("backup"), folder.path().join("restored"));
    // An append makes the acknowledgements durable, or they are delivered again.
    store.append(51).await;
    let (saved, _) = tokio::join!(store.log.backup(file.clone()), store.append_many(&store.app, 100..200));
    saved.unwrap();
    #[cfg(unix)]
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&file).unwrap().permissions()) & 0o777,
        0o600
    );
    recover(&file, &restored, &mut Whole).unwrap();
    let log = std::sync::Arc::new(SqliteStore::open(&restored, Limits::default()).await.unwrap());
    let copy = TestLog { folder, log, app: store.app.clone() };
    let all = copy.drain("default").await;
    assert!((20..=51).all(|n| all.contains(&n)), "{all:?}");
}

#[tokio::test]
async fn a_backup_never_replaces_a_file_and_its_failure_is_not_one_of_the_store() {
    let store = TestLog::new().await;
    let existing = store.folder.path().join("notes");
    fs::write(&existing, "x").unwrap();
    assert!(store.log.backup(existing.clone()).await.is_err());
    assert_eq!(fs::read_to_string(&existing).unwrap(), "x");
    assert!(store.log.backup(store.folder.path().join("none/copy")).await.is_err());
    assert_eq!(store.log.health(), Health::Ready);
    store.append(1).await;
}
