//! Holes in the log of an app: events that were removed while older ones are still stored.
//!
//! They are what makes the number of events after a position exact without a scan: the totals of an event count every event that was
//! ever appended. All that was removed between two stored events is one row, so there are no more rows than events that are kept
//! because a consumer has not settled them, or because a client deleted others.

use std::collections::BTreeMap;

use rusqlite::Connection;

use super::{Seq, app_log::Total, state::App};

/// Adds the removed events after the oldest stored one to the holes. Their rows in the index are deleted already.
pub(super) fn add(
    db: &Connection,
    app: &App,
    removed: &BTreeMap<Seq, u32>,
    oldest: Seq,
) -> rusqlite::Result<()> {
    let app_id = app.id;
    // What is before the oldest event is counted with the totals of that event.
    db.prepare_cached("DELETE FROM holes WHERE app_id = ? AND seq < ?")?
        .execute((app_id, oldest.cast_signed()))?;
    let mut in_index =
        db.prepare_cached("SELECT ifnull(max(seq), 0) FROM by_app WHERE app_id = ? AND seq < ?")?;
    let mut add = db.prepare_cached(
        "INSERT INTO holes(app_id, seq, count, bytes) SELECT ?1, ?2, 1 + ifnull(sum(count), 0), ?4 + ifnull(sum(bytes), 0) \
         FROM holes WHERE app_id = ?1 AND seq = ?3 \
         ON CONFLICT DO UPDATE SET count = count + excluded.count, bytes = bytes + excluded.bytes",
    )?;
    let mut delete = db.prepare_cached("DELETE FROM holes WHERE app_id = ? AND seq = ?")?;
    for (seq, size) in removed.range(oldest..) {
        let at = seq.cast_signed();
        // The events in memory are newer than those in the index.
        let in_memory = app.log.lock().newest_except(*seq, removed).map(Seq::cast_signed);
        let before = match in_memory {
            Some(before) => before,
            None => in_index.query_row((app_id, at), |row| row.get(0))?,
        };
        add.execute((app_id, before, at, size))?;
        delete.execute((app_id, at))?;
    }
    Ok(())
}

/// The removed events of an app after a stored one.
pub(super) fn after(db: &Connection, app_id: i64, stored: Seq) -> rusqlite::Result<Total> {
    db.prepare_cached(
        "SELECT ifnull(sum(count), 0), ifnull(sum(bytes), 0) FROM holes WHERE app_id = ? AND seq >= ?",
    )?
    .query_row((app_id, stored.cast_signed()), |row| Total::from_row(row, 0))
}
