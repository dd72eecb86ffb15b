//! Reads of events and of the index, for consumers, their status and history.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Instant, SystemTime},
};

use rusqlite::{Connection, ErrorCode, OptionalExtension};
use wwproxy_protocol::{ConsumerName, EventId};

use super::{
    Seq,
    app_log::Entry,
    reader::{MAX_READ, Read, entry, read_event},
    record::{decode_id, from_micros},
    state::{App, Consumer, Shared},
};
use crate::store::{ConsumerStatus, StoreError};

impl Shared {
    /// Reads the index of an app after a seq.
    pub(super) fn read_index(&self, app_id: i64, after: Seq, limit: usize) -> Result<Vec<Entry>, StoreError> {
        let read = self.readers.read(|db| {
            db.prepare_cached(
                "SELECT seq, size, source, type FROM by_app WHERE app_id = ? AND seq > ? ORDER BY seq LIMIT ?",
            )?
            .query_map((app_id, after.cast_signed(), limit.cast_signed() as i64), entry)?
            .collect()
        });
        self.checked(read)
    }

    /// Reads events of an app. A damaged one does not hinder the others.
    pub(super) fn read_events(&self, app_id: i64, seqs: &[Seq]) -> Result<Vec<Read>, StoreError> {
        let mut events = Vec::with_capacity(seqs.len());
        // As many transactions as it takes, each of them short.
        while events.len() < seqs.len() {
            let started = Instant::now();
            let read = self.readers.read(|db| {
                let mut rows = Vec::new();
                for seq in &seqs[events.len()..] {
                    let read = self.read_event(db, app_id, *seq)?;
                    // After a failure the next event is read in a new transaction.
                    let is_failed = matches!(read, Read::Failed(_));
                    rows.push(read);
                    if is_failed || started.elapsed() > MAX_READ / 4 {
                        break;
                    }
                }
                Ok(rows)
            });
            events.extend(self.checked(read)?);
        }
        Ok(events)
    }

    /// Finds an event of an app by its id.
    pub(super) fn find_event(&self, app_id: i64, id: &EventId) -> Result<Option<Entry>, StoreError> {
        let Some((seq, id)) = decode_id(id) else { return Ok(None) };
        self.checked(self.readers.read(|db| {
            db.prepare_cached(
                "SELECT seq, size, source, type FROM events WHERE seq = ? AND app_id = ? AND id = ?",
            )?
            .query_row((seq.cast_signed(), app_id, id.as_bytes().as_slice()), entry)
            .optional()
        }))
    }

    /// Reads one event. What is wrong with its pages does not hinder others. SQLite reports a failed read as damage.
    fn read_event(&self, db: &Connection, app_id: i64, seq: Seq) -> rusqlite::Result<Read> {
        read_event(db, app_id, seq).or_else(|error| {
            self.health.read_failed(&error);
            match error.sqlite_error_code() {
                Some(ErrorCode::SystemIoFailure | ErrorCode::DatabaseCorrupt) => Ok(Read::Failed(error)),
                _ => Err(error),
            }
        })
    }

    /// Reports damage that a read found.
    pub(super) fn checked<T>(&self, read: rusqlite::Result<T>) -> Result<T, StoreError> {
        read.map_err(|error| {
            self.health.read_failed(&error);
            StoreError::engine(error)
        })
    }

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
