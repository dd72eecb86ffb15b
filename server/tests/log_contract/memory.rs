//! A store in memory: the same engine, in a private folder that is removed with it.
#![cfg(target_os = "linux")]

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, sync::Arc};

use wwproxy_server::store::{Limits, SqliteStore, Store};

use crate::fixture::{TestLog, eventually, registration};

/// The folders of the stores in memory that this process has open. No other test opens one.
fn folders() -> Vec<PathBuf> {
    let open =
        fs::read_dir("/proc/self/fd").unwrap().filter_map(|file| fs::read_link(file.ok()?.path()).ok());
    let folders = open.filter(|file| file.ends_with("lock")).map(|file| file.parent().unwrap().to_owned());
    folders.filter(|folder| folder.file_name().unwrap().to_string_lossy().starts_with("wwproxy-")).collect()
}

#[tokio::test]
async fn a_store_in_memory_has_a_private_folder_that_is_removed_with_it() {
    for close in [true, false] {
        let log = Arc::new(SqliteStore::in_memory(Limits::default()).await.unwrap());
        let store = TestLog { folder: tempfile::tempdir().unwrap(), log, app: "app-1".parse().unwrap() };
        store.log.put_registration(&store.app, registration()).await.unwrap();
        store.append_all(0..300).await;
        assert_eq!(store.drain("default").await, (0..300).collect::<Vec<_>>());
        let [folder] = &folders()[..] else { panic!("not one folder") };
        assert_eq!(fs::metadata(folder).unwrap().permissions().mode() & 0o777, 0o700);
        if close {
            store.log.close().await.unwrap();
            assert!(!folder.exists(), "closing removes the folder");
        } else {
            drop(store);
            eventually("the folder is removed", async || !folder.exists()).await;
        }
    }
}
