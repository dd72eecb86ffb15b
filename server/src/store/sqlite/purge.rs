//! Purges what ended epochs and deleted consumers left in the database, in small batches. A restart goes on with it.

use std::sync::Arc;

use rusqlite::OptionalExtension;

use super::{
    removal::{Removal, delete_outcomes},
    state::App,
    writer::Writer,
};
use crate::store::StoreError;

/// Events that one transaction purges, at most.
const EVENTS: usize = 256;
/// The events of one transaction are about this large together, at most: 4 MiB.
const BYTES: u64 = 4 << 20;
/// Open events of a consumer that one transaction purges, at most.
const OPEN: usize = 512;
/// Timelines that one step looks at, at most.
const TIMELINES: usize = 256;

impl Writer {
    /// Purges the next rows. Returns whether there may be more.
    pub(super) fn purge(&mut self) -> Result<bool, StoreError> {
        let ended = self.shared.ended.lock().first().map(Arc::clone);
        if self.purge_consumer(ended.as_ref().map_or(0, |app| app.id))? {
            return Ok(true);
        }
        match ended {
            Some(app) => self.purge_app(&app).map(|()| true),
            None => self.purge_timelines(),
        }
    }

    /// Purges what is open of a consumer that was deleted, or of this ended epoch. Returns whether there was one.
    fn purge_consumer(&mut self, ended: i64) -> Result<bool, StoreError> {
        let found: Option<i64> = self.shared.checked(self.shared.readers.read(|db| {
            db.prepare_cached("SELECT consumer_id FROM consumers WHERE app_id < 0 OR app_id = ? LIMIT 1")?
                .query_row([ended], |row| row.get(0))
                .optional()
        }))?;
        let Some(consumer) = found else { return Ok(false) };
        self.database.transaction(|db| {
            let purged = db
                .prepare_cached(
                    "DELETE FROM open WHERE consumer_id = ?1 AND seq IN \
                     (SELECT seq FROM open WHERE consumer_id = ?1 ORDER BY seq LIMIT ?2)",
                )?
                .execute((consumer, OPEN.cast_signed() as i64))?;
            if purged < OPEN {
                db.execute("DELETE FROM consumers WHERE consumer_id = ?", [consumer])?;
            }
            Ok(())
        })?;
        self.retention.purge_timelines();
        Ok(true)
    }

    fn purge_app(&mut self, app: &Arc<App>) -> Result<(), StoreError> {
        let mut entries = self.shared.read_index(app.id, 0, EVENTS)?;
        if entries.is_empty() {
            entries = app.log.lock().tail_up_to(u64::MAX).take(EVENTS).cloned().collect();
        }
        if entries.is_empty() {
            self.database.transaction(|db| {
                db.execute("DELETE FROM holes WHERE app_id = ?", [app.id])?;
                db.execute("DELETE FROM apps WHERE app_id = ? AND removed = 1", [app.id])
            })?;
            self.shared.ended.lock().retain(|ended| ended.id != app.id);
            return Ok(());
        }
        let mut removal = Removal::new(app);
        for entry in entries {
            if removal.total.bytes >= BYTES {
                break;
            }
            removal.push(entry.seq, entry.size);
        }
        self.remove(&[removal])
    }

    /// Deletes the timelines of consumers that are gone. All timelines are looked at once after the start and after each deletion.
    fn purge_timelines(&mut self) -> Result<bool, StoreError> {
        let Some(mut from) = self.retention.timelines_from else { return Ok(false) };
        let next = self.database.transaction(|db| {
            let mut next = db.prepare_cached(
                "SELECT consumer_id, EXISTS(SELECT 1 FROM consumers WHERE consumers.consumer_id = deliveries.consumer_id) \
                 FROM deliveries WHERE consumer_id >= ? ORDER BY consumer_id LIMIT 1",
            )?;
            for _ in 0..TIMELINES {
                let mut rows = next.query([from])?;
                let Some(row) = rows.next()? else { return Ok(None) };
                let (consumer, exists): (i64, bool) = (row.get(0)?, row.get(1)?);
                if !exists {
                    delete_outcomes(db, consumer, i64::MAX)?;
                    return Ok(Some(consumer));
                }
                from = consumer + 1;
            }
            Ok(Some(from))
        })?;
        self.retention.timelines_from = next;
        Ok(true)
    }
}
