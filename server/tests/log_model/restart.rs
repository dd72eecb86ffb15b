//! Opening the store again: after a close, after a crash, and after retention has removed events.

use std::{
    collections::HashSet,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use proptest::prop_assert;
use rusqlite::{Connection, OpenFlags};
use wwproxy_server::store::{Limits, SqliteStore, Store};

use crate::{
    Outcome,
    harness::{DEADLINE, Harness, limits, open},
    model,
    steps::{APPS, Place},
};

impl Harness {
    pub(crate) async fn reopen(&mut self, is_crash: bool) -> Outcome<()> {
        if is_crash {
            let folder = tempfile::tempdir().unwrap();
            copy(self.folder.path(), folder.path());
            self.store = open(folder.path()).await;
            self.folder = folder;
        } else {
            self.store.close().await.unwrap();
            self.store = open(self.folder.path()).await;
        }
        self.apps.iter_mut().for_each(|app| app.reopen(is_crash));
        Ok(())
    }

    /// Opens the store without any retention, waits until all events are removed, and opens it as before.
    pub(crate) async fn expire(&mut self) -> Outcome<()> {
        self.store.close().await.unwrap();
        let limits = Limits { retention: Duration::ZERO, ..limits() };
        self.store = SqliteStore::open(self.folder.path(), limits).await.unwrap();
        let deadline = Instant::now() + DEADLINE;
        while !stored_events(self.folder.path()).is_empty() {
            prop_assert!(Instant::now() < deadline, "the events are not removed");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.reopen(false).await?;
        self.apps.iter_mut().for_each(model::App::remove_all);
        Ok(())
    }

    /// All consumers but one catch up. Then opens the store without history, waits until the events that every consumer has settled are removed, and opens it as before.
    pub(crate) async fn remove_settled(&mut self, lagging: usize) -> Outcome<()> {
        for app in 0..APPS.len() {
            let consumers: Vec<_> = self.apps[app].consumers.keys().copied().collect();
            for consumer in consumers.into_iter().filter(|consumer| *consumer != lagging) {
                self.catch_up(Place { app, consumer }).await?;
            }
        }
        self.store.close().await.unwrap();
        let limits = Limits { history: Duration::ZERO, ..limits() };
        self.store = SqliteStore::open(self.folder.path(), limits).await.unwrap();
        self.apps.iter_mut().for_each(|app| app.reopen(false));
        let settled: HashSet<_> = self.apps.iter().flat_map(model::App::settled).collect();
        let deadline = Instant::now() + DEADLINE;
        while !stored_events(self.folder.path()).is_disjoint(&settled) {
            prop_assert!(Instant::now() < deadline, "settled events are not removed");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.reopen(false).await?;
        // Others may have been removed, too, but only settled ones.
        let stored = stored_events(self.folder.path());
        self.apps.iter_mut().try_for_each(|app| app.remove_others(&stored))
    }
}

/// The ids of the stored events of registered apps, as hexadecimal digits.
fn stored_events(folder: &Path) -> HashSet<String> {
    let db =
        Connection::open_with_flags(folder.join("log.sqlite"), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    db.busy_timeout(DEADLINE).unwrap();
    let mut ids =
        db.prepare("SELECT lower(hex(id)) FROM events JOIN apps USING(app_id) WHERE removed = 0").unwrap();
    ids.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

/// Copies the files of a store that is open: what a killed process leaves.
pub(crate) fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        // The shared memory file is rebuilt from the WAL.
        if !entry.file_name().to_string_lossy().ends_with("-shm") {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}
