//! Retention: which events leave the log, and when.
//!
//! An event is removed after the retention, whatever its state; after the history, or earlier if the store is over its size, only
//! if every consumer has settled it. If that is not enough for the size, events go that only `default` is done with: no other consumer
//! may fill the disk, and what `default` has pending has limits of its own. The writer removes events in small batches while it is idle, and once a second under load.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use rusqlite::Connection;

use super::{
    Seq,
    app_log::Entry,
    cursor::Cursor,
    overflow::log_dropped,
    progress::PAUSE,
    reader::entry,
    record::micros,
    removal::{Removal, delete_event_rows},
    state::App,
    sweep::{BATCH_BYTES, BATCH_EVENTS, Batch, Wanted},
    writer::Writer,
};
use crate::{log_limit::LogLimit, store::StoreError};

/// While there is room for fewer bytes than this, settled events are removed, so that history goes before a webhook is refused:
/// 64 MiB.
const MIN_ROOM: u64 = 64 << 20;
/// The time between two batches, if there is nothing more to remove, or under load.
const PERIOD: Duration = Duration::from_secs(1);
/// Events that were older than the retention before they were settled.
static EXPIRED: LogLimit = LogLimit::per_minute(1);
/// Events that were removed for the size before they were settled.
static OVERSIZE: LogLimit = LogLimit::per_minute(1);

/// An event with what retention must know of it.
#[derive(Debug)]
struct Old {
    entry: Entry,
    /// `None`: the value is damaged.
    app_id: Option<i64>,
    /// `None`: the value is damaged.
    received_at: Option<i64>,
}

impl Writer {
    /// Removes a batch of events, if it is time.
    pub(super) fn retain(&mut self, is_idle: bool) {
        let now = Instant::now();
        if now < self.retention.due {
            return;
        }
        let has_more = self.remove_batch(now).unwrap_or_else(|error| {
            tracing::debug!(%error, "retention is tried again");
            // The events of the failed batch are found again.
            self.retention.swept.clear();
            false
        });
        let is_urgent = has_more && self.database.room() < MIN_ROOM;
        let pause = match (is_urgent, has_more && is_idle) {
            (true, _) => Duration::ZERO,
            (false, true) => PAUSE,
            (false, false) => PERIOD,
        };
        self.retention.due = Instant::now() + pause;
    }

    /// Removes the next events. Returns whether there may be more.
    fn remove_batch(&mut self, now: Instant) -> Result<bool, StoreError> {
        let wall = micros(SystemTime::now());
        let before = |age: Duration| wall.saturating_sub(i64::try_from(age.as_micros()).unwrap_or(i64::MAX));
        // Retention goes on beside it: clients can cause it again and again.
        let has_purged = self.purge()?;
        if self.retention.clock.observe(wall, now) {
            self.expire_consumers(wall, self.retention.opened)?;
            if self.expire(before(self.limits.retention))?
                || self.remove_settled(before(self.limits.history))?
            {
                return Ok(true);
            }
        }
        let excess = self.excess();
        if excess > 0 && self.free(excess)? {
            return Ok(true);
        }
        Ok(self.database.vacuum()? || has_purged)
    }

    /// Removes settled events that were received up to this time. Returns whether there may be more.
    fn remove_settled(&mut self, up_to: i64) -> Result<bool, StoreError> {
        let mut apps = self.apps();
        apps.sort_unstable_by_key(|app| (app.id <= self.retention.last_app, app.id));
        let mut batch = Batch::new(BATCH_BYTES);
        for app in apps {
            if batch.is_over() {
                break;
            }
            self.retention.last_app = app.id;
            self.sweep(&app, Wanted::Settled, up_to, &mut batch)?;
        }
        self.remove_found(&batch)
    }

    /// Removes events of any age, the oldest of the largest app first: settled ones, and if there are none, those that only other
    /// consumers than `default` have not settled. Returns whether there may be more.
    fn free(&mut self, bytes: u64) -> Result<bool, StoreError> {
        let mut apps = self.apps();
        apps.sort_by_cached_key(|app| std::cmp::Reverse(app.log.lock().stored_bytes()));
        for wanted in [Wanted::Settled, Wanted::NotPending] {
            let mut batch = Batch::new(bytes);
            for app in &apps {
                self.sweep(app, wanted, i64::MAX, &mut batch)?;
                let Some((app, entries)) = batch.found.first().filter(|_| wanted == Wanted::NotPending)
                else {
                    if self.remove_found(&batch)? {
                        return Ok(true);
                    }
                    continue;
                };
                self.delete(app, entries, true, |_| Ok(()))?;
                let message =
                    "the store is over its size: events that a consumer had not settled are removed";
                log_dropped(&OVERSIZE, app, entries.len() as u64, message);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes what a search found. Returns whether there may be more.
    fn remove_found(&mut self, batch: &Batch) -> Result<bool, StoreError> {
        let removal = |(app, entries): &(Arc<App>, Vec<Entry>)| {
            let mut removal = Removal::new(app);
            for entry in entries {
                removal.push(entry.seq, entry.size);
            }
            removal
        };
        let removals: Vec<_> = batch.found.iter().map(removal).collect();
        if !removals.is_empty() {
            self.remove(&removals)?;
        }
        Ok(!removals.is_empty() || batch.is_over())
    }

    /// How many bytes are stored beyond the limit, or are missing on the disk.
    fn excess(&self) -> u64 {
        let stored: u64 = self.apps().iter().map(|app| app.log.lock().stored_bytes()).sum();
        let missing = MIN_ROOM.saturating_sub(self.database.room());
        stored.saturating_sub(self.limits.max_history_bytes).max(missing)
    }

    fn apps(&self) -> Vec<Arc<App>> {
        self.shared.apps.read().values().map(Arc::clone).collect()
    }

    /// Removes the oldest events, if they were received up to this time. Consumers that have not settled them lose them here, which is
    /// durable together with the removal. Returns whether there may be more.
    fn expire(&mut self, up_to: i64) -> Result<bool, StoreError> {
        let mut oldest = self.shared.readers.read(oldest).map_err(StoreError::engine)?;
        let is_young = |old: &Old| old.received_at.is_some_and(|at| at > up_to);
        oldest.truncate(oldest.iter().position(is_young).unwrap_or(oldest.len()));
        // The age of an event whose time is damaged is that of the next one.
        while oldest.last().is_some_and(|old| old.received_at.is_none()) {
            oldest.pop();
        }
        let apps = self.apps().into_iter().chain(self.index.damaged.iter().map(Arc::clone));
        let apps: HashMap<_, _> = apps.map(|app| (app.id, app)).collect();
        let ended: Vec<_> = self.shared.ended.lock().iter().map(|app| app.id).collect();
        // Sorted by app, and by seq within an app.
        oldest.sort_by_key(|old| old.app_id);
        let (mut batch, mut strays) = (Batch::new(BATCH_BYTES), Vec::new());
        for Old { entry, app_id, .. } in oldest {
            let Some(app) = app_id.and_then(|id| apps.get(&id)) else {
                // The events of an ended epoch are purged.
                if app_id.is_none_or(|id| !ended.contains(&id)) {
                    strays.push(entry.seq);
                }
                continue;
            };
            if batch.is_full() {
                break;
            }
            for consumer in &app.all_consumers() {
                let matches = consumer.filter.matches(&entry);
                let remove = |cursor: &mut Cursor| cursor.remove(&entry, matches);
                let dropped = u64::from(self.shared.update(consumer, remove));
                log_dropped(&EXPIRED, app, dropped, "events older than the retention are dropped");
            }
            batch.push(app, entry);
        }
        if !strays.is_empty() {
            self.database.transaction(|db| delete_strays(db, &strays))?;
            tracing::error!(events = strays.len(), "removed stored events that belong to no app");
        }
        Ok(!strays.is_empty() | (!batch.found.is_empty() && self.remove_found(&batch)?))
    }
}

/// The oldest events of the store. What is damaged of them is left out.
fn oldest(db: &Connection) -> rusqlite::Result<Vec<Old>> {
    db.prepare_cached("SELECT seq, size, source, type, app_id, received_at FROM events ORDER BY seq LIMIT ?")?
        .query_map([BATCH_EVENTS], |row| {
            let seq = row.get::<_, i64>(0)?.cast_unsigned();
            let entry = entry(row).unwrap_or_else(|_| Entry { seq, ..Entry::default() });
            Ok(Old { entry, app_id: row.get(4).ok(), received_at: row.get(5).ok() })
        })?
        .collect()
}

/// Deletes events whose app is not known. The index may have them.
fn delete_strays(db: &Connection, seqs: &[Seq]) -> rusqlite::Result<()> {
    for seq in seqs {
        delete_event_rows(db, *seq)?;
        db.execute(
            "DELETE FROM by_app WHERE app_id IN (SELECT app_id FROM apps) AND seq = ?",
            [seq.cast_signed()],
        )?;
    }
    Ok(())
}
