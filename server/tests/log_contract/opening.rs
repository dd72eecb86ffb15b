//! Opening: a store that is not whole, or not one of this version, is refused with a sentence that says what to do.

use std::{fs, path::Path};

use wwproxy_server::store::{Limits, SqliteStore, Store};

use crate::fixture::{TestLog, copy};

async fn refusal(folder: &Path) -> String {
    SqliteStore::open(folder, Limits::default()).await.expect_err("it must be refused").to_string()
}

#[tokio::test]
async fn half_a_store_is_refused() {
    for (missing, with_wal) in [("log.sqlite", true), ("high-water", true), ("log.sqlite", false)] {
        let store = TestLog::new().await;
        store.append(1).await;
        if !with_wal {
            store.log.close().await.unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        copy(store.folder.path(), folder.path());
        fs::remove_file(folder.path().join(missing)).unwrap();
        let refusal = refusal(folder.path()).await;
        assert!(refusal.contains(missing) && refusal.contains("backup"), "{refusal}");
    }
}

#[tokio::test]
async fn a_store_whose_creation_was_cut_off_is_created() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("log.sqlite"), "").unwrap();
    for _ in 0..2 {
        let store = SqliteStore::open(folder.path(), Limits::default()).await.unwrap();
        store.close().await.unwrap();
        fs::remove_file(folder.path().join("high-water")).unwrap();
    }
}

#[cfg(unix)]
#[tokio::test]
async fn the_files_with_secrets_are_private() {
    use std::os::unix::fs::PermissionsExt as _;

    let store = TestLog::new().await;
    store.append(1).await;
    for file in ["log.sqlite", "log.sqlite-wal"] {
        let mode = fs::metadata(store.folder.path().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

#[tokio::test]
async fn a_store_of_the_former_engine_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["events.redb", "events.journal"] {
        fs::write(folder.path().join(file), "x").unwrap();
        let refusal = refusal(folder.path()).await;
        for said in [
            "version 0.1",
            "the old server",
            r#"`wwproxy status` says "stored": 0"#,
            "register the apps again",
        ] {
            assert!(refusal.contains(said), "{said}: {refusal}");
        }
        fs::remove_file(folder.path().join(file)).unwrap();
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is created in it");
}

#[tokio::test]
async fn a_store_of_another_version_is_refused() {
    let store = TestLog::new().await;
    store.log.close().await.unwrap();
    let file = store.folder.path().join("log.sqlite");
    let mut bytes = fs::read(&file).unwrap();
    // The user version is at offset 60 of the header.
    bytes[63] = 9;
    fs::write(&file, bytes).unwrap();
    let refusal = refusal(store.folder.path()).await;
    assert!(refusal.contains("format 9") && refusal.contains("version of wwproxy-server"), "{refusal}");
}

#[tokio::test]
async fn an_unreadable_database_is_refused() {
    let store = TestLog::new().await;
    store.log.close().await.unwrap();
    fs::write(store.folder.path().join("log.sqlite"), "not a database".repeat(1000)).unwrap();
    assert!(refusal(store.folder.path()).await.contains("backup"));
}

#[tokio::test]
async fn a_store_in_use_is_refused() {
    let store = TestLog::new().await;
    assert!(refusal(store.folder.path()).await.contains("in use"));
}

#[tokio::test]
async fn a_lost_wal_assigns_no_id_twice() {
    let store = TestLog::new().await;
    store.append(1).await;
    let store = store.reopen().await;
    let lost = store.append(2).await;
    let folder = tempfile::tempdir().unwrap();
    copy(store.folder.path(), folder.path());
    // The mark is written once a second; this is one that knows of the event.
    store.log.close().await.unwrap();
    fs::copy(store.folder.path().join("high-water"), folder.path().join("high-water")).unwrap();
    fs::remove_file(folder.path().join("log.sqlite-wal")).unwrap();
    let log = std::sync::Arc::new(SqliteStore::open(folder.path(), Limits::default()).await.unwrap());
    let store = TestLog { log, folder, app: store.app.clone() };
    assert!(store.append(3).await > lost);
    assert_eq!(store.drain("default").await, [1, 3]);
}
