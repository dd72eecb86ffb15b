//! The use of consumers: when a client last leased or settled, and the removal of consumers that no client uses.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use rusqlite::{Connection, OptionalExtension};
use wwproxy_protocol::ConsumerName;

use super::{
    record::{from_micros, micros},
    state::{App, Consumer, Shared},
    writer::Writer,
};
use crate::store::log::{ConsumerStatus, StoreError};

/// The last use of a consumer is written this often, at most. In microseconds: one minute.
const WRITTEN_EVERY: i64 = 60_000_000;
/// After a start clients have this time to come back, unless the expiry is shorter.
const RETURN: Duration = Duration::from_secs(3600);

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

    fn is_due(&self) -> bool {
        self.get() - self.written.load(Ordering::Relaxed) >= WRITTEN_EVERY
    }
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        self.0.touch();
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    /// Adds the age of the oldest pending event to the status of each consumer.
    pub(super) fn read_ages(
        &self,
        app: &App,
        consumers: &BTreeMap<ConsumerName, Arc<Consumer>>,
        statuses: &mut [ConsumerStatus],
    ) -> Result<(), StoreError> {
        for (consumer, status) in consumers.values().zip(statuses) {
            let (oldest, position) = {
                let cursor = consumer.cursor();
                (cursor.oldest_pending(), cursor.position())
            };
            let oldest = match oldest {
                Some(oldest) => Some(oldest),
                None if status.pending == Some(0) => None,
                // Behind a filter the next event may be one that does not match: then the oldest one is not known.
                None => self
                    .first_after(app, position)?
                    .filter(|entry| consumer.filter.matches(entry))
                    .map(|entry| entry.seq),
            };
            let Some(oldest) = oldest else { continue };
            let received_at = self.checked(self.readers.read(|db| {
                let mut read = db.prepare_cached("SELECT received_at FROM events WHERE seq = ?")?;
                read.query_row([oldest.cast_signed()], |row| row.get(0)).optional()
            }))?;
            let age = received_at.map(|at| SystemTime::now().duration_since(from_micros(at)));
            status.oldest_pending_age = age.map(Result::unwrap_or_default);
        }
        Ok(())
    }
}

impl Writer {
    /// Removes consumers that were not used for their time, and has the last use of the others written.
    pub(super) fn expire_consumers(&mut self, wall: i64, opened: Instant) -> Result<(), StoreError> {
        let is_idle = |consumer: &Consumer| {
            // A client may be handling a leased event for longer than the time.
            if consumer.cursor().leased_and_dead(Instant::now()).0 > 0 {
                consumer.last_use.touch();
            }
            let expiry = consumer.settings.lock().idle_expiry.unwrap_or(self.limits.consumer_idle_expiry);
            let idle =
                Duration::from_micros(wall.saturating_sub(consumer.last_use.get()).max(0).cast_unsigned());
            idle >= expiry && opened.elapsed() >= expiry.min(RETURN)
        };
        let mut idle = Vec::new();
        for (id, app) in &*self.shared.apps.read() {
            for (name, consumer) in &*app.consumers.read() {
                if !name.is_default() && is_idle(consumer) {
                    idle.push((id.clone(), name.clone()));
                } else if consumer.last_use.is_due() {
                    self.shared.update(consumer, super::cursor::Cursor::used);
                }
            }
        }
        for (app, name) in idle {
            if self.delete_consumer(&app, &name)? {
                tracing::info!(%app, consumer = %name, "removed a consumer that no client used");
            }
        }
        Ok(())
    }
}
