//! Group commit: appends and deletions of many callers, committed as one.
//!
//! An append to a full queue is refused here, which is the backpressure to its sender (503).
//!
//! Memory follows the journal: queues and keys change after the commit, never before.

use std::{
    collections::{HashMap, HashSet},
    time::SystemTime,
};

use uuid::Uuid;
use wwproxy_protocol::AppId;

use super::{
    change::Change,
    commands::{Append, Reply, Room, answer},
    events::slot_size,
    journal::Kind,
    record,
    writer::Writer,
};
use crate::store::{
    Appended, NewEvent, Overflow,
    dedupe::{self, Key},
    queue::{Evicted, Slot},
    queues::{AppQueue, Queues},
    sequence::{self, Seq},
};

/// The most appends of one commit.
const MAX_BATCH: usize = 1024;
/// A commit takes no further append once it has this many bytes of events. More of them in one commit store no more in a
/// second, and who posts now and then waits for all of the commit that is under way.
const MAX_BATCH_BYTES: usize = 512 << 10;

/// The appends of one batch, and who waits for them.
#[derive(Debug, Default)]
pub(super) struct Batch {
    appends: Vec<Append>,
    replies: Vec<Reply<Appended>>,
    bytes: usize,
    /// What the appends occupy until they are durable.
    room: Vec<Room>,
}

/// What a batch changes in memory once it is durable.
#[derive(Default)]
struct Changes {
    /// The events' records, for the journal.
    stored: Vec<Change>,
    pushed: Vec<Arrival>,
    /// Those of this very batch that had to make room again. An app's came before all that it has in `pushed`.
    passed: Vec<Arrival>,
    /// In order of arrival, and to look up.
    keys: Vec<(Seq, Key)>,
    known: HashSet<Key>,
    /// Taken out of their queues already, so that nobody leases them meanwhile.
    evicted: Vec<(AppId, Evicted)>,
    /// How each app's queue grows.
    growth: HashMap<AppId, Growth>,
}

/// An event that is in the file once the batch is.
struct Arrival {
    app: AppId,
    slot: Slot,
    uuid: Uuid,
    received_at: SystemTime,
    event: NewEvent,
}

#[derive(Default)]
struct Growth {
    events: usize,
    bytes: u64,
    /// What the journal has of it, those included that had to make room again.
    written: u64,
    /// Events of this very batch that had to make room again.
    dropped: u64,
    /// Events from before it that had to.
    evicted: u64,
}

impl Changes {
    /// Takes out what is to be written for it, where there is something.
    fn take_writes(&mut self, queues: &Queues) -> Vec<Change> {
        let mut changes = std::mem::take(&mut self.stored);
        let passed = self.passed.iter().map(|arrival| arrival.slot.seq);
        let gone: Vec<_> = passed.chain(self.evicted.iter().map(|(_, evicted)| evicted.slot.seq)).collect();
        if !gone.is_empty() {
            changes.push(Change::Delete(gone));
        }
        for (app, growth) in self.growth.iter().filter(|(_, growth)| growth.dropped + growth.evicted > 0) {
            let count = queues.app(app).lock().dropped() + growth.dropped;
            changes.push(Change::Drop { app: app.clone(), count });
        }
        if !self.keys.is_empty() {
            changes.push(Change::Know(self.keys.clone()));
        }
        changes
    }
}

impl Batch {
    pub(super) fn add(&mut self, append: Append, reply: Reply<Appended>, room: Room) {
        self.bytes += append.event.size();
        self.appends.push(append);
        self.replies.push(reply);
        self.room.push(room);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.appends.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.appends.len() >= MAX_BATCH || self.bytes >= MAX_BATCH_BYTES
    }

    /// Of events.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    #[cfg(test)]
    pub(super) fn appends(&self) -> &[Append] {
        &self.appends
    }
}

impl Writer {
    /// Commits appends together with the deletions that wait, and answers them. Where nothing is stored, nothing is
    /// written.
    pub(super) fn commit(&mut self, batch: Batch) {
        let Batch { appends, replies, room, .. } = batch;
        let mut changes = Changes::default();
        let outcomes: Vec<_> = appends.into_iter().map(|append| self.append(append, &mut changes)).collect();
        let stored = changes.take_writes(&self.shared.queues);
        let written = if stored.is_empty() { Ok(()) } else { self.write(Kind::Store, stored) };
        drop(room);
        match written {
            Ok(()) => {
                let written = changes.growth.iter().filter(|(_, growth)| growth.written > 0);
                self.occupancy.last_is_of(written.map(|(app, growth)| (app.clone(), growth.written)));
                self.apply(changes);
                for (reply, outcome) in replies.into_iter().zip(outcomes) {
                    answer(reply, Ok(outcome));
                }
            }
            Err(error) => {
                for (app, evicted) in changes.evicted {
                    self.shared.queues.app(&app).restore(&evicted);
                }
                for reply in replies {
                    answer(reply, Err(error.share()));
                }
            }
        }
    }

    /// Updates the state in memory after the changes have been committed.
    fn apply(&mut self, changes: Changes) {
        for (seq, key) in changes.keys {
            self.recent.insert(seq, key);
        }
        for arrival in changes.passed {
            let queue = self.shared.queues.app(&arrival.app);
            arrival.show(&queue);
        }
        for arrival in changes.pushed {
            self.refused = false;
            let queue = self.shared.queues.app(&arrival.app);
            queue.push(arrival.slot);
            arrival.show(&queue);
        }
        for (app, Growth { dropped, evicted, .. }) in changes.growth {
            if dropped > 0 {
                self.shared.queues.app(&app).lock().add_dropped(dropped);
            }
            self.shared.queues.log_evicted(&app, dropped + evicted);
        }
    }

    /// Adds one append to the changes. It takes effect with their commit.
    fn append(&mut self, append: Append, changes: &mut Changes) -> Appended {
        let Append { app, source, event, dedupe } = append;
        // Only this thread changes registrations, so the source is still the same when the batch is committed.
        let registered = self.shared.registered(&app);
        let Some(registered) = registered.filter(|app| app.registration.has(&event.origin.source, &source))
        else {
            return Appended::SourceChanged;
        };
        let key = dedupe.map(|delivery| dedupe::key(&delivery, registered.epoch));
        if key.is_some_and(|key| self.recent.contains(key) || changes.known.contains(&key)) {
            return Appended::Duplicate;
        }
        let seq = self.sequence.next();
        let uuid = sequence::new_uuid(seq);
        // To the microsecond, as the record keeps it.
        let received_at = sequence::time(sequence::at(SystemTime::now()));
        let record = record::encode_event(&app, uuid, received_at, &event);
        let slot = Slot { seq, size: slot_size(record.len()) };
        if !self.make_room(&app, slot.size, changes) {
            return Appended::Full;
        }
        changes.stored.push(Change::Store { seq, record: record.into() });
        if let Some(key) = key {
            changes.keys.push((seq, key));
            changes.known.insert(key);
        }
        let growth = changes.growth.entry(app.clone()).or_default();
        growth.events += 1;
        growth.bytes += u64::from(slot.size);
        growth.written += u64::from(slot.size);
        changes.pushed.push(Arrival { app, slot, uuid, received_at, event });
        Appended::Stored(sequence::event_id(uuid))
    }

    /// Whether an event of this size has room, which `drop-oldest` makes where it can.
    fn make_room(&self, app: &AppId, size: u32, changes: &mut Changes) -> bool {
        let queue = self.shared.queues.app(app);
        let mut queue = queue.lock();
        let Changes { pushed, passed, evicted, growth, .. } = changes;
        let growth = growth.entry(app.clone()).or_default();
        let now = tokio::time::Instant::now();
        loop {
            if self.limits.have_room(queue.len() + growth.events, queue.bytes() + growth.bytes, size) {
                return true;
            }
            if self.limits.overflow == Overflow::Reject || !self.limits.have_room(0, 0, size) {
                return false;
            }
            if let Some(oldest) = queue.evict_oldest(now) {
                evicted.push((app.clone(), oldest));
                growth.evicted += 1;
            } else if let Some(first) = pushed.iter().position(|arrival| arrival.app == *app) {
                let arrival = pushed.remove(first);
                growth.events -= 1;
                growth.bytes -= u64::from(arrival.slot.size);
                growth.dropped += 1;
                passed.push(arrival);
            } else {
                return false;
            }
        }
    }
}

impl Arrival {
    fn show(self, queue: &AppQueue) {
        queue
            .taps()
            .show(self.slot.size, || self.event.into_event(sequence::event_id(self.uuid), self.received_at));
    }
}
