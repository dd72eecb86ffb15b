//! The removal of events from the database and from memory.

use std::{collections::BTreeMap, sync::Arc};

use rusqlite::Connection;

use super::{Seq, app_log::Total, flush::Flush, holes, state::App, writer::Writer};
use crate::store::StoreError;

/// Rows of a consumer's timeline that a transaction deletes, at most.
const TIMELINE_ROWS: i64 = 512;

/// The events of one app that are removed together.
#[derive(Debug)]
pub(super) struct Removal {
    pub(super) app: Arc<App>,
    /// With their sizes.
    pub(super) events: BTreeMap<Seq, u32>,
    pub(super) total: Total,
}

impl Removal {
    pub(super) fn new(app: &Arc<App>) -> Self {
        Self { app: Arc::clone(app), events: BTreeMap::new(), total: Total::default() }
    }

    pub(super) fn push(&mut self, seq: Seq, size: u32) {
        self.events.insert(seq, size);
        self.total = self.total.plus(size);
    }
}

impl Writer {
    /// Removes events, in one transaction with what is not flushed of consumers: no position in the database is below an event
    /// that its consumer settled and that is gone.
    pub(super) fn remove(&mut self, removals: &[Removal]) -> Result<(), StoreError> {
        self.remove_with(Flush::take(&self.shared), removals, |_| Ok(()))
    }

    /// Removes events together with another change of the database.
    pub(super) fn remove_with(
        &mut self,
        flush: Flush,
        removals: &[Removal],
        write: impl FnOnce(&Connection) -> rusqlite::Result<()>,
    ) -> Result<(), StoreError> {
        let last_seq = self.last_seq;
        self.flush_with(flush, |db| {
            for removal in removals {
                delete(db, removal)?;
            }
            write(db)?;
            db.prepare_cached("UPDATE watermark SET last_seq = ?")?.execute([last_seq.cast_signed()])?;
            Ok(())
        })?;
        for removal in removals {
            removal.app.log.lock().remove(&removal.events, removal.total);
        }
        self.index.remove(&removals.iter().flat_map(|removal| removal.events.keys()).copied().collect());
        Ok(())
    }
}

fn delete(db: &Connection, removal: &Removal) -> rusqlite::Result<()> {
    let Removal { app, events: seqs, total: removed } = removal;
    let mut index = db.prepare_cached("DELETE FROM by_app WHERE app_id = ? AND seq = ?")?;
    for seq in seqs.keys() {
        delete_event_rows(db, *seq)?;
        index.execute((app.id, seq.cast_signed()))?;
    }
    let ever = app.log.lock().total;
    db.prepare_cached(
        "UPDATE apps SET removed_count = removed_count + ?, removed_bytes = removed_bytes + ?, total_count = ?, \
         total_bytes = ? WHERE app_id = ?",
    )?
    .execute([
        removed.count.cast_signed(),
        removed.bytes.cast_signed(),
        ever.count.cast_signed(),
        ever.bytes.cast_signed(),
        app.id,
    ])?;
    let last = seqs.last_key_value().map_or(0, |(seq, _)| seq.cast_signed());
    let in_index: Option<i64> = db
        .prepare_cached("SELECT min(seq) FROM by_app WHERE app_id = ?")?
        .query_row([app.id], |row| row.get(0))?;
    // The events in memory are newer than those in the index.
    let in_memory = || app.log.lock().oldest_except(seqs).map(Seq::cast_signed);
    let oldest = in_index.or_else(in_memory).unwrap_or(last + 1);
    holes::add(db, app, seqs, oldest.cast_unsigned())?;
    let consumers: Vec<_> = app.consumers.read().values().map(|consumer| consumer.id).collect();
    for consumer in consumers {
        delete_outcomes(db, consumer, oldest)?;
    }
    Ok(())
}

/// Deletes an event and its body. The index may still have it.
pub(super) fn delete_event_rows(db: &Connection, seq: Seq) -> rusqlite::Result<()> {
    db.prepare_cached("DELETE FROM events WHERE seq = ?")?.execute([seq.cast_signed()])?;
    db.prepare_cached("DELETE FROM bodies WHERE seq = ?")?.execute([seq.cast_signed()])?;
    Ok(())
}

/// Deletes rows of a consumer's timeline before a seq, at most [`TIMELINE_ROWS`].
pub(super) fn delete_outcomes(db: &Connection, consumer: i64, before: i64) -> rusqlite::Result<usize> {
    db.prepare_cached(
        "DELETE FROM deliveries WHERE consumer_id = ?1 AND (last_seq, at) IN (SELECT last_seq, at FROM deliveries \
         WHERE consumer_id = ?1 AND last_seq < ?2 ORDER BY last_seq, at LIMIT ?3)",
    )?
    .execute((consumer, before, TIMELINE_ROWS))
}
