//! The writer's connection: transactions, and what happens when the disk refuses one.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rusqlite::{Connection, config::DbConfig};

use super::{
    Seq,
    checkpoint::{Checkpointer, checkpoint},
    folder::{Folder, free_bytes},
    schema::{OTHER_CACHE_KIB, WRITER_CACHE_KIB, connect},
    state::Shared,
};
use crate::store::{Health, StoreError};

/// How often a disk that is full or fails is tried again.
const PERIOD: Duration = Duration::from_secs(1);

/// Free pages that stay in the database, for new events: 1 MiB.
const KEPT_PAGES: i64 = 256;
/// Pages that a transaction gives back to the disk, at most.
const VACUUM_PAGES: i64 = 256;

/// The database as the writer has it.
#[derive(Debug)]
pub(super) struct Database {
    shared: Arc<Shared>,
    db: Connection,
    folder: Folder,
    checkpointer: Checkpointer,
    high_water: Seq,
    /// When the disk was last tried, while it is full or fails.
    tried_at: Instant,
}

impl Database {
    pub(super) fn new(
        shared: Arc<Shared>,
        db: Connection,
        folder: Folder,
        checkpointer: Checkpointer,
        last_seq: Seq,
    ) -> Self {
        Self { shared, db, folder, checkpointer, high_water: last_seq, tried_at: Instant::now() }
    }

    /// Runs a transaction. A failure changes nothing in the database, and the disk's health says so.
    pub(super) fn transaction<T>(
        &mut self,
        write: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        self.shared.health.begin();
        let written = run(&self.db, write);
        if written.is_ok() {
            self.checkpointer.after_commit(&self.db);
        }
        self.shared.health.end();
        match written {
            Ok(value) => {
                self.shared.health.succeeded();
                Ok(value)
            }
            Err(error) => {
                self.tried_at = Instant::now();
                self.shared.health.failed(&error);
                Err(match self.shared.health.get() {
                    Health::Full => {
                        // It may be gone already.
                        let _ = self.folder.release_ballast();
                        StoreError::Unavailable("the disk is full")
                    }
                    _ => StoreError::engine(error),
                })
            }
        }
    }

    /// Whether the disk takes appends. While it is full, the ballast must come back first: it is the room of acknowledgements.
    pub(super) fn has_room(&mut self) -> bool {
        if !self.shared.health.is_full() {
            return true;
        }
        let now = Instant::now();
        if now < self.tried_at + PERIOD {
            return false;
        }
        self.tried_at = now;
        if self.folder.write_ballast().is_err() {
            return false;
        }
        self.shared.health.has_room();
        true
    }

    /// The bytes for which there is room: on the disk, and in free pages of the database. A full disk has none.
    pub(super) fn room(&self) -> u64 {
        let pages = |name| self.db.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).unwrap_or(0);
        let on_disk = if self.shared.health.is_full() { Ok(0) } else { free_bytes(&self.folder.database()) };
        // If the disk does not say it, writing does.
        on_disk
            .unwrap_or(u64::MAX)
            .saturating_add((pages("freelist_count") * pages("page_size")).cast_unsigned())
    }

    /// Gives free pages back to the disk, some at a time. Fewer are kept for new events. Returns whether there are more.
    pub(super) fn vacuum(&mut self) -> Result<bool, StoreError> {
        let free: i64 = self
            .db
            .pragma_query_value(None, "freelist_count", |row| row.get(0))
            .map_err(StoreError::engine)?;
        if free <= KEPT_PAGES {
            return Ok(false);
        }
        let pages = (free - KEPT_PAGES).min(VACUUM_PAGES);
        self.transaction(|db| {
            let mut vacuum = db.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
            let mut rows = vacuum.query([])?;
            while rows.next()?.is_some() {}
            Ok(true)
        })
    }

    /// When [`Self::probe`] is due: never while the disk works.
    pub(super) fn probe_at(&self) -> Option<Instant> {
        let is_due = self.checkpointer.has_failed()
            || matches!(self.shared.health.get(), Health::Full | Health::Failing(_));
        is_due.then_some(self.tried_at + PERIOD)
    }

    /// Tries a disk that is full or fails, so that the store becomes ready without an append.
    pub(super) fn probe(&mut self) {
        if self.probe_at().is_none_or(|at| Instant::now() < at) {
            return;
        }
        if self.checkpointer.has_failed() {
            self.tried_at = Instant::now();
            if let Err(error) = self.reopen() {
                self.shared.health.failed(&error);
            }
        } else if self.shared.health.is_full() {
            self.has_room();
        } else {
            // The outcome is in the disk's health.
            let _ = self.transaction(|db| db.execute("UPDATE watermark SET seq = seq", []));
        }
    }

    /// Closes and opens the database, so that the next checkpoint writes all pages of the WAL again. After a failed fsync of the
    /// database the operating system has dropped the pages that were written before, and SQLite counts some of them as done until all
    /// connections are closed.
    fn reopen(&mut self) -> rusqlite::Result<()> {
        self.checkpointer.stop();
        let readers = Arc::clone(&self.shared);
        let _paused = readers.readers.pause();
        self.db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        // If the database cannot be opened now, transactions fail until the next attempt.
        self.db = Connection::open_in_memory()?;
        let mut db = connect(&self.folder.database(), WRITER_CACHE_KIB, false)?;
        // If it fails, the next one writes all pages again.
        if let Err(error) = checkpoint(&db, "TRUNCATE") {
            self.shared.health.failed(&error);
        }
        let other = connect(&self.folder.database(), OTHER_CACHE_KIB, false)?;
        // It fails only if the system has no thread left: then the next attempt is as good.
        let Ok(checkpointer) = Checkpointer::start(other, &mut db) else { return Ok(()) };
        (self.db, self.checkpointer) = (db, checkpointer);
        tracing::info!("the database was opened again after a failed checkpoint");
        Ok(())
    }

    /// Writes the high-water mark, after each commit: a damaged WAL must not lose commits in silence.
    pub(super) fn mark(&mut self, last_seq: Seq) {
        if self.high_water < last_seq {
            match self.folder.write_high_water(last_seq) {
                Ok(()) => self.high_water = last_seq,
                Err(error) => tracing::debug!(%error, "the high-water mark was not written"),
            }
        }
    }

    /// Checkpoints and closes the database. The lock on the folder is released when this returns.
    pub(super) fn close(mut self, last_seq: Seq) {
        self.checkpointer.stop();
        self.shared.readers.close();
        if self.checkpointer.has_failed() || checkpoint(&self.db, "TRUNCATE").is_err() {
            tracing::debug!("the WAL stays, the next start writes all of its pages to the database");
            // It fails only for an unknown option.
            let _ = self.db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        }
        if let Err(error) = self.folder.write_high_water(last_seq) {
            tracing::debug!(%error, "the high-water mark was not written");
        }
    }
}

fn run<T>(db: &Connection, write: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
    db.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    let done = write(db).and_then(|value| {
        db.prepare_cached("COMMIT")?.execute([])?;
        Ok(value)
    });
    if done.is_err() && !db.is_autocommit() {
        // SQLite may have rolled back by itself.
        let _ = db.execute_batch("ROLLBACK");
    }
    done
}
