//! Positions in the log: where a consumer starts, and where it is moved to.
//!
//! The writer finds them, so that a position is fixed between two appends.

use rusqlite::{Connection, OptionalExtension};
use uuid::Uuid;
use wwproxy_protocol::{AppId, ConsumerName, Start};

use super::{
    Seq,
    app_log::{Entry, Next, Total},
    flush::Flush,
    holes,
    record::{decode_id, id_millis, micros},
    registry,
    state::{App, Shared},
    writer::Writer,
};
use crate::store::{Sought, StoreError};

impl Writer {
    /// The position of a start, and what of the app's log is before it. `None`: the event of [`Start::After`] is not in the log.
    pub(super) fn start(&self, app: &App, start: &Start) -> Result<Option<(Seq, Total)>, StoreError> {
        let position = match start {
            Start::New => return Ok(Some((self.last_seq, app.log.lock().total))),
            Start::All => 0,
            Start::At(time) => self.shared.position_at(micros(*time))?.unwrap_or(self.last_seq),
            Start::After(id) => {
                let Some((seq, uuid)) = decode_id(id) else { return Ok(None) };
                let found =
                    self.shared.checked(self.shared.readers.read(|db| registry::totals_at(db, seq)))?;
                match found {
                    Some((app_id, id, _)) if app_id == app.id && id == uuid => seq,
                    _ => return Ok(None),
                }
            }
        };
        Ok(Some((position, self.shared.total_at(app, position)?)))
    }

    /// Moves a consumer. What it has open is written together with the move, so that a crash finds one or the other.
    pub(super) fn seek(
        &mut self,
        app: &AppId,
        name: &ConsumerName,
        to: &Start,
    ) -> Result<Sought, StoreError> {
        let Some((app, consumer)) = self.shared.consumer(app, name) else {
            return Err(StoreError::NoConsumer(name.clone()));
        };
        let Some((position, passed)) = self.start(&app, to)? else { return Ok(Sought::NoSuchEvent) };
        let mut flush = Flush::take(&self.shared);
        flush.plan(&consumer, |cursor, changes| cursor.plan_seek(position, passed, changes));
        self.flush_with(flush, |_| Ok(()))?;
        self.shared.update(&consumer, |cursor| cursor.seek(position, passed));
        consumer.wake_all();
        if name.is_default() {
            self.apply_overflow(&app);
        }
        Ok(Sought::Moved)
    }
}

impl Shared {
    /// The position before the first event of all apps that was received at this time or later, to the millisecond. `None`: there is
    /// none. The time in the ids never goes back, so that it can be searched.
    pub(super) fn position_at(&self, time: i64) -> Result<Option<Seq>, StoreError> {
        let millis = (time / 1000).max(0).cast_unsigned();
        self.checked(self.readers.read(|db| {
            let newest =
                db.query_row("SELECT ifnull(max(seq), 0) FROM events", [], |row| row.get::<_, i64>(0))?;
            let (mut low, mut high) = (0, newest.cast_unsigned() + 1);
            // No event up to `low` is late enough; the first one from `high` on is, if there is one.
            while low + 1 < high {
                let middle = low + (high - low) / 2;
                match first_from(db, middle)? {
                    Some((seq, id)) if id_millis(id) < millis => low = seq,
                    _ => high = middle,
                }
            }
            Ok(first_from(db, high)?.map(|_| high - 1))
        }))
    }

    /// The first stored event of an app after a position.
    pub(super) fn first_after(&self, app: &App, mut position: Seq) -> Result<Option<Entry>, StoreError> {
        loop {
            let next = app.log.lock().after(position, 1);
            match next {
                Next::End => return Ok(None),
                Next::Memory(mut entries) => return Ok(entries.pop()),
                Next::Database(indexed) => match self.read_index(app.id, position, 1)?.pop() {
                    Some(entry) => return Ok(Some(entry)),
                    None => position = indexed,
                },
            }
        }
    }

    /// What of an app's log is not ahead of a position: the rest is what is stored after the position.
    pub(super) fn total_at(&self, app: &App, position: Seq) -> Result<Total, StoreError> {
        let end = app.log.lock().total;
        let Some(first) = self.first_after(app, position)? else { return Ok(end) };
        self.checked(self.readers.read(|db| {
            let found = registry::totals_at(db, first.seq)?;
            let before = found.map_or(end, |(_, _, total)| total.minus(Total::default().plus(first.size)));
            Ok(before.add(holes::after(db, app.id, first.seq)?))
        }))
    }
}

fn first_from(db: &Connection, seq: Seq) -> rusqlite::Result<Option<(Seq, Uuid)>> {
    db.prepare_cached("SELECT seq, id FROM events WHERE seq >= ? ORDER BY seq LIMIT 1")?
        .query_row([seq.cast_signed()], |row| {
            Ok((row.get::<_, i64>(0)?.cast_unsigned(), Uuid::from_bytes(row.get(1)?)))
        })
        .optional()
}
