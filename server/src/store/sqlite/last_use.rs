//! When a client last leased or settled events of a consumer.

use std::{
    sync::atomic::{AtomicI64, AtomicUsize, Ordering},
    time::SystemTime,
};

use rusqlite::{Connection, OptionalExtension};

use super::record::micros;

/// The last use of a consumer is written this often, at most. In microseconds: one minute.
const WRITTEN_EVERY: i64 = 60_000_000;
/// The last use of a consumer. Times are microseconds since 1970.
#[derive(Debug, Default)]
pub(super) struct LastUse {
    at: AtomicI64,
    written: AtomicI64,
    /// Leases that run or wait.
    waiting: AtomicUsize,
}

/// A lease that runs or waits: the consumer is in use until this is dropped.
pub(super) struct InUse<'a>(&'a LastUse);

impl LastUse {
    pub(super) fn new(at: i64) -> Self {
        Self { at: at.into(), written: at.into(), waiting: AtomicUsize::new(0) }
    }

    /// Reads the last use of a consumer. A damaged one was just now.
    pub(super) fn load(db: &Connection, consumer: i64) -> rusqlite::Result<Self> {
        let mut read = db.prepare_cached("SELECT last_used FROM consumers WHERE consumer_id = ?")?;
        let at = read.query_row([consumer], |row| Ok(row.get(0).ok())).optional()?;
        Ok(Self::new(at.flatten().unwrap_or_else(|| micros(SystemTime::now()))))
    }

    pub(super) fn touch(&self) {
        self.at.store(micros(SystemTime::now()), Ordering::Relaxed);
    }

    pub(super) fn begin(&self) -> InUse<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        InUse(self)
    }

    pub(super) fn get(&self) -> i64 {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.touch();
        }
        self.at.load(Ordering::Relaxed)
    }

    /// The value for the database.
    pub(super) fn write(&self) -> i64 {
        let at = self.get();
        self.written.store(at, Ordering::Relaxed);
        at
    }

    /// Whether the value in the database is too old.
    pub(super) fn is_due(&self) -> bool {
        self.get() - self.written.load(Ordering::Relaxed) >= WRITTEN_EVERY
    }
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        self.0.touch();
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
