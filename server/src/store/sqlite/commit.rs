//! Group commit: the appends of many callers and the flush of consumers, in one transaction.
//!
//! In-memory state is updated after the commit, never before. An append to an app whose consumer `default` has reached its
//! limits is refused here, which is the backpressure to its sender.

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use rusqlite::Connection;
use uuid::Uuid;
use wwproxy_protocol::{AppId, ConsumerName, Event, Overflow};

use super::{
    Seq,
    app_log::{Entry, Total},
    commands::{Append, Reply, answer},
    dedupe::NewKeys,
    flush::Flush,
    overflow::{is_over, of_default},
    record::{Fields, encode_head, event_id, from_micros, micros},
    state::{App, Shared},
    writer::Writer,
};
use crate::store::{Appended, Limits, NewEvent, StoreError};

/// Bytes that an event counts for beside its head and body: its rows' other columns.
const FRAMING: usize = 64;
/// A larger body is a row of its own table, so that reading heads does not read it.
const MAX_INLINE: usize = 2048;

/// The size of an event against the limits, in bytes.
pub(super) fn event_size(event: &NewEvent) -> u32 {
    u32::try_from(event.size() + FRAMING).unwrap_or(u32::MAX)
}

/// A batch that is about to be committed.
#[derive(Debug, Default)]
struct Batch {
    apps: HashMap<AppId, Growth>,
    events: Vec<Accepted>,
    outcomes: Vec<(Reply<Appended>, Appended)>,
    /// The dedupe keys of the events.
    keys: NewKeys,
    /// What the appends occupy until they are answered.
    room: Vec<super::commands::Room>,
}

/// What a batch adds to one app.
#[derive(Debug)]
struct Growth {
    app: Arc<App>,
    /// What the consumer `default` has not settled, this batch included.
    unsettled: Total,
    overflow: Overflow,
    /// The running total of the app.
    total: Total,
    entries: Vec<Entry>,
}

/// An event that the batch stores.
#[derive(Debug)]
struct Accepted {
    seq: Seq,
    app_id: i64,
    id: Uuid,
    received_at: i64,
    size: u32,
    total: Total,
    event: NewEvent,
}

impl Writer {
    /// Commits a batch and answers its callers.
    pub(super) fn commit(&mut self, appends: Vec<Append>, mut flush: Flush) -> Result<(), StoreError> {
        if !appends.is_empty() && !self.database.has_room() {
            for append in appends {
                answer(append.reply, Err(StoreError::Unavailable("the disk is full")));
            }
            return if flush.is_empty() { Ok(()) } else { self.commit(Vec::new(), flush) };
        }
        let now = micros(SystemTime::now());
        let first_seq = self.last_seq;
        let mut batch = Batch::default();
        for append in appends {
            self.admit(append, now, &mut batch);
        }
        // A batch of repetitions only is answered at once, they are counted later.
        let is_counting = batch.outcomes.is_empty() && self.recent.is_changed();
        if batch.events.is_empty() && flush.is_empty() && !is_counting {
            batch.answer(None);
            return Ok(());
        }
        let Self { database, index, shared, scratch, recent, last_seq, .. } = self;
        let written = database.transaction(|db| {
            for accepted in &batch.events {
                accepted.write(db, scratch)?;
            }
            index.write(db, shared, batch.events.len(), first_seq)?;
            flush.write(db, now)?;
            recent.write(db, &batch.keys, *last_seq, now)
        });
        match written {
            Ok(forgotten) => {
                self.recent.committed(std::mem::take(&mut batch.keys), forgotten, now);
                self.index.committed(batch.events.len());
                self.publish(&mut batch);
                batch.answer(None);
                Ok(())
            }
            Err(error) => {
                // Nothing of it is in the database: the next batch assigns the same numbers.
                self.last_seq = first_seq;
                self.recent.failed(first_seq);
                flush.restore(&self.shared);
                batch.answer(Some(&error));
                Err(error)
            }
        }
    }

    /// Runs a transaction that flushes the changes of consumers, too.
    pub(super) fn flush_with<T>(
        &mut self,
        mut flush: Flush,
        write: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let now = micros(SystemTime::now());
        let written = self.database.transaction(|db| {
            flush.write(db, now)?;
            write(db)
        });
        if written.is_err() {
            flush.restore(&self.shared);
        }
        written
    }

    /// Admits an append to the batch, or answers why not.
    fn admit(&mut self, append: Append, now: i64, batch: &mut Batch) {
        let Append { app, source, event, dedupe, reply, room, .. } = append;
        batch.room.push(room);
        let growth = match batch.apps.get_mut(&app) {
            Some(growth) => growth,
            None => match self.shared.app(&app) {
                Some(found) => batch.apps.entry(app).or_insert_with(|| Growth::new(found, &self.limits)),
                None => return batch.outcomes.push((reply, Appended::SourceChanged)),
            },
        };
        // Only this thread changes registrations, so the source is still the same when the batch is committed.
        if !growth.app.registration.read().has(&event.origin.source, &source) {
            return batch.outcomes.push((reply, Appended::SourceChanged));
        }
        let app_id = growth.app.id;
        let dedupe = dedupe.filter(|_| !self.recent.is_off());
        if dedupe.is_some_and(|key| self.recent.is_duplicate(app_id, key, now, &batch.keys)) {
            return batch.outcomes.push((reply, Appended::Duplicate));
        }
        let size = event_size(&event);
        let unsettled = growth.unsettled.plus(size);
        let is_refused = match growth.overflow {
            Overflow::Reject => is_over(&self.limits, unsettled),
            // There would be no room for it alone.
            Overflow::DropOldest => is_over(&self.limits, Total::default().plus(size)),
            Overflow::Off => false,
        };
        if is_refused {
            return batch.outcomes.push((reply, Appended::Full));
        }
        growth.unsettled = unsettled;
        growth.total = growth.total.plus(size);
        self.last_seq += 1;
        let (seq, id) = (self.last_seq, self.ids.next(self.last_seq, now));
        let source = event.origin.source.clone();
        growth.entries.push(Entry {
            seq,
            size,
            source,
            event_type: event.origin.event_type.as_deref().map(Into::into),
        });
        if let Some(key) = dedupe {
            batch.keys.insert((app_id, key), seq);
        }
        let total = growth.total;
        batch.outcomes.push((reply, Appended::Stored(event_id(id))));
        batch.events.push(Accepted { seq, app_id, id, received_at: now, size, total, event });
    }

    /// Makes the committed events visible, and wakes the consumers that receive them.
    fn publish(&self, batch: &mut Batch) {
        let events: Vec<_> = batch
            .events
            .drain(..)
            .map(|accepted| (accepted.seq, accepted.size, accepted.into_event()))
            .collect();
        for (app, growth) in &batch.apps {
            let of_app = growth.entries.iter().filter_map(|entry| {
                let place = events.binary_search_by_key(&entry.seq, |(seq, ..)| *seq).ok()?;
                Some((entry.size, &events[place].2))
            });
            self.shared.taps.publish(app, &of_app);
        }
        // Before the index says that they are there.
        self.shared.ring.extend(events);
        for growth in batch.apps.values_mut() {
            let entries = std::mem::take(&mut growth.entries);
            growth.push(&self.shared, &entries);
            let consumers = growth.app.all_consumers();
            for consumer in consumers {
                let mut matching = entries.iter().filter(|entry| consumer.filter.matches(entry)).peekable();
                if matching.peek().is_none() {
                    continue;
                }
                if !consumer.filter.is_empty() {
                    let mut cursor = consumer.cursor();
                    matching.for_each(|entry| cursor.appended(entry.seq, entry.size));
                }
                consumer.arrived.notify_one();
            }
            if growth.overflow == Overflow::DropOldest {
                self.apply_overflow(&growth.app);
            }
        }
    }
}

impl Batch {
    fn answer(self, error: Option<&StoreError>) {
        for (reply, outcome) in self.outcomes {
            let outcome = match (error, outcome) {
                // The event of a duplicate may be one of this batch.
                (Some(error), Appended::Stored(_) | Appended::Duplicate) => Err(error.clone()),
                (_, outcome) => Ok(outcome),
            };
            answer(reply, outcome);
        }
    }
}

impl Growth {
    fn new(app: Arc<App>, limits: &Limits) -> Self {
        let (default, overflow) = of_default(&app, limits).unzip();
        let unsettled = default.map_or_else(Total::default, |default| app.unsettled(&default));
        let total = app.log.lock().total;
        let overflow = overflow.unwrap_or(Overflow::Reject);
        Self { app, unsettled, overflow, total, entries: Vec::new() }
    }

    /// Adds the committed entries to the log. A switched off `default` moves over them before a lease can see them.
    fn push(&self, shared: &Shared, entries: &[Entry]) {
        let push = || {
            let mut log = self.app.log.lock();
            for entry in entries {
                log.push(entry.clone());
            }
            log.total
        };
        let default = self.app.consumers.read().get(&ConsumerName::default()).map(Arc::clone);
        match (default.filter(|_| self.overflow == Overflow::Off), entries.last()) {
            (Some(default), Some(last)) => {
                shared.update(&default, |cursor| cursor.pass_all(last.seq, push()));
            }
            _ => drop(push()),
        }
    }
}

impl Accepted {
    fn write(&self, db: &Connection, scratch: &mut Vec<u8>) -> rusqlite::Result<()> {
        let origin = &self.event.origin;
        let (event_type, delivery_id) = (origin.event_type.as_deref(), origin.delivery_id.as_deref());
        let head = encode_head(&self.event);
        let body = &self.event.body[..];
        let fields = Fields {
            seq: self.seq,
            app_id: self.app_id,
            id: self.id,
            received_at: self.received_at,
            source: origin.source.as_str(),
            event_type,
            delivery_id,
            head: &head,
            body,
        };
        let checksum = fields.checksum(scratch);
        let seq = self.seq.cast_signed();
        let inline = (body.len() <= MAX_INLINE).then_some(body);
        db.prepare_cached(
            "INSERT INTO events(seq, app_id, id, received_at, source, type, delivery_id, size, app_count, app_bytes, \
             checksum, head, body) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute((
            seq,
            self.app_id,
            self.id.as_bytes().as_slice(),
            self.received_at,
            fields.source,
            event_type,
            delivery_id,
            self.size,
            self.total.count.cast_signed(),
            self.total.bytes.cast_signed(),
            checksum,
            &head,
            inline,
        ))?;
        if inline.is_none() {
            db.prepare_cached("INSERT INTO bodies(seq, body) VALUES(?, ?)")?.execute((seq, body))?;
        }
        Ok(())
    }

    fn into_event(self) -> Arc<Event> {
        Arc::new(self.event.into_event(event_id(self.id), from_micros(self.received_at)))
    }
}
