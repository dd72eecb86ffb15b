//! The lazily durable part of a commit: positions, open events and the timeline of consumers.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use rusqlite::Connection;

use super::{
    changes::{Changes, StoredOpen},
    checksum,
    cursor::Cursor,
    state::{Consumer, Shared},
    timeline::{ACKED, REPLAYED, pack},
};

/// The changes of all consumers that one transaction writes.
#[derive(Debug, Default)]
pub(super) struct Flush(Vec<(Arc<Consumer>, Changes)>);

impl Flush {
    /// Takes the changes of all consumers.
    pub(super) fn take(shared: &Shared) -> Self {
        let dirty = shared.take_dirty().into_iter().filter(|consumer| !consumer.is_deleted());
        Self(
            dirty
                .filter_map(|consumer| {
                    let mut cursor = consumer.cursor();
                    let changes = cursor.is_changed().then(|| cursor.take_changes());
                    drop(cursor);
                    changes.map(|changes| (consumer, changes))
                })
                .collect(),
        )
    }

    /// Adds a command to what is flushed of a consumer. What changed until now is flushed with it, so that both agree.
    pub(super) fn plan<T>(
        &mut self,
        consumer: &Arc<Consumer>,
        plan: impl FnOnce(&Cursor, &mut Changes) -> T,
    ) -> T {
        let mut cursor = consumer.cursor();
        if let Some(known) = self.0.iter().position(|(other, _)| Arc::ptr_eq(other, consumer)) {
            let (_, earlier) = self.0.swap_remove(known);
            cursor.restore_changes(earlier);
        }
        let mut changes = cursor.take_changes();
        let planned = plan(&cursor, &mut changes);
        self.0.push((Arc::clone(consumer), changes));
        planned
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Gives the changes back, since the transaction failed. They are flushed again later.
    pub(super) fn restore(self, shared: &Shared) {
        for (consumer, changes) in self.0 {
            shared.update(&consumer, |cursor| cursor.restore_changes(changes));
        }
    }

    /// Writes the changes.
    pub(super) fn write(&mut self, db: &Connection, now: i64) -> rusqlite::Result<()> {
        for (consumer, changes) in &mut self.0 {
            write_consumer(db, consumer, changes, now)?;
        }
        Ok(())
    }
}

fn write_consumer(
    db: &Connection,
    consumer: &Consumer,
    changes: &mut Changes,
    now: i64,
) -> rusqlite::Result<()> {
    let id = consumer.id;
    let identity = consumer.identity.load(Ordering::Relaxed);
    let checksum = checksum::consumer(id, identity, changes.position, changes.passed, changes.dropped);
    db.prepare_cached(
        "UPDATE consumers SET position_seq = ?, position_count = ?, position_bytes = ?, dropped = ?, checksum = ?, \
         last_used = ? \
         WHERE consumer_id = ?",
    )?
    .execute((
        changes.position.cast_signed(),
        changes.passed.count.cast_signed(),
        changes.passed.bytes.cast_signed(),
        changes.dropped.cast_signed(),
        checksum,
        consumer.last_use.write(),
        id,
    ))?;
    for row in &changes.rows {
        put_open(db, id, row, not_before(row, now))?;
    }
    let mut delete = db.prepare_cached("DELETE FROM open WHERE consumer_id = ? AND seq = ?")?;
    for seq in &changes.deleted {
        delete.execute((id, seq.cast_signed()))?;
    }
    write_timeline(db, id, changes, now)
}

/// Writes the row of an open event.
pub(super) fn put_open(
    db: &Connection,
    consumer: i64,
    row: &StoredOpen,
    not_before: i64,
) -> rusqlite::Result<()> {
    let checksum = checksum::open(consumer, row, not_before);
    let StoredOpen { seq, attempt, replay, size, reason, .. } = row;
    let (seq, state) = (seq.cast_signed(), row.state.name());
    db.prepare_cached(
        "INSERT OR REPLACE INTO open(consumer_id, seq, state, attempt, replay, not_before, size, reason, checksum) \
         VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )?
    .execute((consumer, seq, state, attempt, replay, not_before, size, reason, checksum))?;
    Ok(())
}

fn write_timeline(db: &Connection, id: i64, changes: &mut Changes, now: i64) -> rusqlite::Result<()> {
    let mut insert = db.prepare_cached(
        "INSERT OR REPLACE INTO deliveries(consumer_id, last_seq, at, first_seq, attempt, outcome, reason, packed) \
         VALUES(?, ?, ?, ?, ?, ?, ?, ?)",
    )?;
    for (first, last, packed) in pack(&mut changes.acked) {
        insert.execute((id, last.cast_signed(), now, first.cast_signed(), 1, ACKED, None::<&str>, packed))?;
    }
    let mut at = now;
    for (seq, outcome) in &changes.outcomes {
        // Two outcomes of one event in one flush are two rows.
        at += 1;
        let seq = seq.cast_signed();
        let took = outcome.took.to_le_bytes();
        insert.execute((id, seq, at, seq, outcome.attempt, outcome.what, &outcome.reason, took))?;
    }
    for (seq, replay) in &changes.replayed {
        at += 1;
        let seq = seq.cast_signed();
        insert.execute((id, seq, at, seq, replay, REPLAYED, None::<&str>, None::<Vec<u8>>))?;
    }
    Ok(())
}

/// When a nacked event is due, in microseconds since 1970; 0 if the event was not nacked.
fn not_before(row: &StoredOpen, now: i64) -> i64 {
    let Some(until) = row.nacked_until else { return 0 };
    let delay = until.saturating_duration_since(Instant::now()).as_micros();
    now.saturating_add(i64::try_from(delay).unwrap_or(i64::MAX))
}
