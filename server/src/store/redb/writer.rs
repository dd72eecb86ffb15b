//! The one thread that changes the file.
//!
//! It takes everything that is queued, up to a limit, commits it as one transaction with one fsync,
//! and then answers all of it: the batch is what arrived during the last fsync, so a lone sender
//! never waits for a timer. Only deletions of accepted events may wait: they go with the next
//! append, or after [`DELETE_LINGER`] where none comes.
//!
//! Memory follows the file: queues, registrations and keys change after the commit, never before.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use redb::{Table, WriteTransaction};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use uuid::Uuid;
use wwproxy_protocol::{AppId, Event};

use super::{
    Registered, Shared,
    file::{DELIVERIES, DROPPED, EVENTS, PROBE, REGISTRATIONS, slot_size},
    record, write,
};
use crate::store::{
    Appended, DedupeKey, Limits, NewEvent, Overflow, Registration, StoreError,
    dedupe::{self, Key, Recent},
    queue::Slot,
    queues::AppQueue,
    sequence::{self, Seq, Sequence},
};

/// How much waits for the writer, in pieces of [`PIECE_BYTES`]: 128 MiB. A further command waits for room.
const MAX_QUEUED_PIECES: u32 = 8192;
/// The room that any command takes; an event takes as many as it fills, and one more.
const PIECE_BYTES: usize = 16 << 10;
/// The most commands of one transaction.
const MAX_BATCH: usize = 1024;
/// A transaction takes no further command once it has this many bytes of events.
const MAX_BATCH_BYTES: usize = 16 << 20;
/// How long a deletion waits for an append to go with.
const DELETE_LINGER: Duration = Duration::from_millis(20);
/// Deletions do not wait once there are this many.
const MAX_LINGERING: usize = 10_000;
/// How long after a refused write the file is tried again, where nobody asks before.
const RETRY: Duration = Duration::from_secs(1);
/// How much is written to see whether there is room again.
const PROBE_BYTES: usize = 64 << 10;
/// How often old events and keys are looked for, at most and at least.
const SWEEP: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;
type Queue = mpsc::Receiver<(Command, OwnedSemaphorePermit)>;

/// What the writer is asked to do.
#[derive(Debug)]
pub(super) enum Command {
    Append { app: AppId, event: NewEvent, dedupe: Option<DedupeKey>, reply: Reply<Appended> },
    Register { app: AppId, registration: Arc<Registration>, reply: Reply<()> },
    Unregister { app: AppId, reply: Reply<()> },
    Delete { numbers: Vec<Seq> },
    Probe { reply: Reply<()> },
    Close { reply: Reply<()> },
}

/// The way to the writer. When the last one is dropped the writer commits what is left and ends.
#[derive(Debug)]
pub(super) struct WriterHandle {
    commands: mpsc::Sender<(Command, OwnedSemaphorePermit)>,
    room: Arc<Semaphore>,
}

impl WriterHandle {
    /// Waits for room for a command with so many bytes of an event.
    pub(super) async fn place(&self, bytes: usize) -> Result<Place<'_>, StoreError> {
        let pieces =
            u32::try_from(1 + bytes / PIECE_BYTES).unwrap_or(MAX_QUEUED_PIECES).min(MAX_QUEUED_PIECES);
        let room = Arc::clone(&self.room).acquire_many_owned(pieces).await.map_err(|_| StoreError::Closed)?;
        Ok(Place { commands: &self.commands, room })
    }

    /// Queues a command and waits for what became of it.
    pub(super) async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let command = command(reply);
        let bytes = if let Command::Append { event, .. } = &command { event.body.len() } else { 0 };
        self.place(bytes).await?.send(command)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

/// Room for one command.
#[derive(Debug)]
pub(super) struct Place<'a> {
    commands: &'a mpsc::Sender<(Command, OwnedSemaphorePermit)>,
    room: OwnedSemaphorePermit,
}

impl Place<'_> {
    pub(super) fn send(self, command: Command) -> Result<(), StoreError> {
        self.commands.send((command, self.room)).map_err(|_| StoreError::Closed)
    }
}

#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
    limits: Limits,
    sequence: Sequence,
    recent: Recent,
    /// Accepted events that are still in the file.
    to_delete: Vec<Seq>,
    /// The file refused a write and has to be opened again.
    failed: bool,
    /// A write was refused, and none that stores an event has gone through since.
    refused: bool,
    /// The last event that is known to be in the file.
    last_committed: Seq,
}

/// The appends of one batch, and who waits for them.
#[derive(Default)]
struct Batch {
    appends: Vec<(AppId, NewEvent, Option<DedupeKey>)>,
    replies: Vec<Reply<Appended>>,
    bytes: usize,
    /// What the appends occupy until they are durable.
    room: Vec<OwnedSemaphorePermit>,
}

/// What a batch changes in memory once it is durable.
#[derive(Default)]
struct Changes {
    pushed: Vec<Arrival>,
    /// Those of this very batch that had to make room again. An app's came before all that it has in `pushed`.
    passed: Vec<Arrival>,
    keys: HashMap<Key, Seq>,
    /// Taken out of their queues already, so that nobody leases them meanwhile.
    evicted: Vec<(AppId, Slot)>,
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
    /// Events of this very batch that had to make room again.
    dropped: u64,
    /// Events from before it that had to.
    evicted: u64,
}

struct Tables<'t> {
    transaction: &'t WriteTransaction,
    events: Table<'t, Seq, &'static [u8]>,
    deliveries: Table<'t, Seq, Key>,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, limits: Limits, sequence: Sequence, recent: Recent) -> Self {
        let last_committed = sequence.last();
        Self {
            shared,
            limits,
            sequence,
            recent,
            to_delete: Vec::new(),
            failed: false,
            refused: false,
            last_committed,
        }
    }

    pub(super) fn spawn(self) -> WriterHandle {
        let (commands, queue) = mpsc::channel();
        thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || self.run(&queue))
            .expect("the system has a thread left when the server starts");
        let room = Semaphore::new(MAX_QUEUED_PIECES as usize);
        WriterHandle { commands, room: Arc::new(room) }
    }

    /// Until it is closed or nobody can send any more: waits for commands, the end of the linger and
    /// the next sweep, whichever comes first.
    fn run(mut self, queue: &Queue) {
        let pause = self.limits.retention.min(self.limits.dedupe_window) / 4;
        let pause = pause.clamp(SWEEP.0, SWEEP.1);
        let mut next_sweep = Instant::now() + pause;
        let mut next_delete = None;
        loop {
            let wake = next_delete.map_or(next_sweep, |next: Instant| next.min(next_sweep));
            let command = match queue.recv_timeout(wake.saturating_duration_since(Instant::now())) {
                Ok(command) => Some(command),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return self.finish(),
            };
            let (batch, other) = self.gather(command, queue);
            let now = Instant::now();
            let linger_over =
                next_delete.is_some_and(|next| next <= now) || self.to_delete.len() >= MAX_LINGERING;
            if !batch.appends.is_empty() || linger_over {
                self.commit(batch);
            }
            let linger = if self.failed { RETRY } else { DELETE_LINGER };
            next_delete = match next_delete {
                _ if self.to_delete.is_empty() && !self.failed => None,
                Some(next) if next > now => Some(next),
                _ => Some(now + linger),
            };
            if next_sweep <= now {
                self.sweep();
                next_sweep = now + pause;
            }
            match other {
                Some(Command::Register { app, registration, reply }) => {
                    answer(reply, self.register(app, registration));
                }
                Some(Command::Unregister { app, reply }) => answer(reply, self.unregister(&app)),
                Some(Command::Probe { reply }) => answer(reply, self.probe()),
                Some(Command::Close { reply }) => {
                    self.finish();
                    return answer(reply, Ok(()));
                }
                Some(Command::Append { .. } | Command::Delete { .. }) | None => {}
            }
        }
    }

    /// Takes what is queued: appends make up a batch, deletions are noted, and the first command that
    /// is neither is done after them.
    fn gather(
        &mut self,
        mut next: Option<(Command, OwnedSemaphorePermit)>,
        queue: &Queue,
    ) -> (Batch, Option<Command>) {
        let mut batch = Batch::default();
        while let Some((command, room)) = next {
            match command {
                Command::Append { app, event, dedupe, reply } => {
                    batch.bytes += event.body.len();
                    batch.appends.push((app, event, dedupe));
                    batch.replies.push(reply);
                    batch.room.push(room);
                }
                Command::Delete { numbers } => self.to_delete.extend(numbers),
                other => return (batch, Some(other)),
            }
            let full = batch.appends.len() >= MAX_BATCH || batch.bytes >= MAX_BATCH_BYTES;
            next = if full { None } else { queue.try_recv().ok() };
        }
        (batch, None)
    }

    /// Commits the deletions that are left, and closes the file.
    fn finish(&mut self) {
        if !self.to_delete.is_empty() {
            self.commit(Batch::default());
        }
        self.shared.file.close();
    }

    /// Commits appends together with the deletions that wait, and answers them.
    fn commit(&mut self, batch: Batch) {
        let Batch { appends, replies, room, .. } = batch;
        let mut changes = Changes::default();
        let deleted = std::mem::take(&mut self.to_delete);
        let outcomes = self.transaction(|writer, transaction| {
            let mut tables = Tables {
                transaction,
                events: transaction.open_table(EVENTS)?,
                deliveries: transaction.open_table(DELIVERIES)?,
            };
            for &seq in &deleted {
                tables.events.remove(seq)?;
            }
            let append = |(app, event, dedupe)| writer.append(&mut tables, app, event, dedupe, &mut changes);
            appends.into_iter().map(append).collect::<Result<Vec<_>, _>>()
        });
        drop(room);
        match outcomes {
            Ok(outcomes) => {
                self.apply(changes);
                for (reply, outcome) in replies.into_iter().zip(outcomes) {
                    answer(reply, Ok(outcome));
                }
            }
            Err(error) => {
                for (app, slot) in changes.evicted {
                    self.shared.queues.app(&app).lock().restore(slot);
                }
                self.to_delete = deleted;
                for reply in replies {
                    answer(reply, Err(error.share()));
                }
            }
        }
    }

    /// Makes true in memory what has become durable.
    fn apply(&mut self, changes: Changes) {
        let mut keys: Vec<_> = changes.keys.into_iter().map(|(key, seq)| (seq, key)).collect();
        keys.sort_unstable();
        for (seq, key) in keys {
            self.recent.insert(seq, key);
        }
        for arrival in changes.passed {
            let queue = self.shared.queues.app(&arrival.app);
            arrival.show(&queue);
        }
        for arrival in changes.pushed {
            self.refused = false;
            self.last_committed = arrival.slot.seq;
            let queue = self.shared.queues.app(&arrival.app);
            queue.push(arrival.slot);
            arrival.show(&queue);
        }
        for (app, Growth { dropped, evicted, .. }) in changes.growth {
            if dropped > 0 {
                self.shared.queues.app(&app).lock().add_dropped(dropped);
            }
            self.shared.queues.made_room.add(&app, dropped + evicted);
        }
    }

    /// Writes one append into the transaction. Nothing of it is true before the commit.
    fn append(
        &mut self,
        tables: &mut Tables<'_>,
        app: AppId,
        event: NewEvent,
        dedupe: Option<DedupeKey>,
        changes: &mut Changes,
    ) -> Result<Appended, redb::Error> {
        let Some(registered) = self.shared.registered(&app) else { return Ok(Appended::Unregistered) };
        let key = dedupe.map(|delivery| dedupe::key(&delivery, registered.life));
        if key.is_some_and(|key| self.recent.contains(key) || changes.keys.contains_key(&key)) {
            return Ok(Appended::Duplicate);
        }
        let seq = self.sequence.next();
        let uuid = sequence::new_uuid(seq);
        // To the microsecond, as the record keeps it.
        let received_at = sequence::time(sequence::at(SystemTime::now()));
        let record = record::encode_event(&app, uuid, received_at, &event);
        let slot = Slot { seq, size: slot_size(record.len()) };
        if !self.make_room(tables, &app, slot.size, changes)? {
            return Ok(Appended::Full);
        }
        tables.events.insert(seq, record.as_slice())?;
        if let Some(key) = key {
            tables.deliveries.insert(seq, key)?;
            changes.keys.insert(key, seq);
        }
        let growth = changes.growth.entry(app.clone()).or_default();
        growth.events += 1;
        growth.bytes += u64::from(slot.size);
        changes.pushed.push(Arrival { app, slot, uuid, received_at, event });
        Ok(Appended::Stored(sequence::event_id(uuid)))
    }

    /// Whether an event of this size has room, which `drop-oldest` makes where it can.
    fn make_room(
        &self,
        tables: &mut Tables<'_>,
        app: &AppId,
        size: u32,
        changes: &mut Changes,
    ) -> Result<bool, redb::Error> {
        let queue = self.shared.queues.app(app);
        let Changes { pushed, passed, evicted, growth, .. } = changes;
        let growth = growth.entry(app.clone()).or_default();
        let now = tokio::time::Instant::now();
        loop {
            let mut queue = queue.lock();
            if self.limits.have_room(queue.len() + growth.events, queue.bytes() + growth.bytes, size) {
                return Ok(true);
            }
            if self.limits.overflow == Overflow::Reject || !self.limits.have_room(0, 0, size) {
                return Ok(false);
            }
            let oldest = if let Some(slot) = queue.evict_oldest(now) {
                evicted.push((app.clone(), slot));
                growth.evicted += 1;
                slot
            } else if let Some(first) = pushed.iter().position(|arrival| arrival.app == *app) {
                let arrival = pushed.remove(first);
                let slot = arrival.slot;
                passed.push(arrival);
                growth.events -= 1;
                growth.bytes -= u64::from(slot.size);
                growth.dropped += 1;
                slot
            } else {
                return Ok(false);
            };
            let dropped = queue.dropped() + growth.dropped;
            drop(queue);
            tables.events.remove(oldest.seq)?;
            tables.transaction.open_table(DROPPED)?.insert(app.as_str(), dropped)?;
        }
    }

    fn register(&mut self, app: AppId, registration: Arc<Registration>) -> Result<(), StoreError> {
        let life = self.shared.life(&app);
        let record = record::encode_registration(&registration, life);
        self.transaction(|_, transaction| {
            transaction.open_table(REGISTRATIONS)?.insert(app.as_str(), record.as_slice())?;
            Ok(())
        })?;
        write(&self.shared.registrations).insert(app, Registered { registration, life });
        Ok(())
    }

    fn unregister(&mut self, app: &AppId) -> Result<(), StoreError> {
        let queue = self.shared.queues.app(app);
        let numbers = queue.lock().all();
        self.transaction(|_, transaction| {
            transaction.open_table(REGISTRATIONS)?.remove(app.as_str())?;
            transaction.open_table(DROPPED)?.remove(app.as_str())?;
            let mut events = transaction.open_table(EVENTS)?;
            for &seq in &numbers {
                events.remove(seq)?;
            }
            Ok(())
        })?;
        write(&self.shared.registrations).remove(app);
        queue.clear();
        Ok(())
    }

    /// Drops events whose time is over, and keys that need not be known any more.
    fn sweep(&mut self) {
        let floor = SystemTime::now().checked_sub(self.limits.retention).map_or(0, sequence::at);
        let mut old = Vec::new();
        for (app, queue) in self.shared.queues.all() {
            let (slots, dropped) = {
                let mut queue = queue.lock();
                (queue.older_than(tokio::time::Instant::now(), floor), queue.dropped())
            };
            if !slots.is_empty() {
                old.push((app, queue, slots, dropped));
            }
        }
        let keys = self.recent.floor();
        if old.is_empty() && keys.is_none() {
            return;
        }
        let swept = self.transaction(|_, transaction| {
            let mut events = transaction.open_table(EVENTS)?;
            for (app, _, slots, dropped) in &old {
                for slot in slots {
                    events.remove(slot.seq)?;
                }
                transaction.open_table(DROPPED)?.insert(app.as_str(), dropped + slots.len() as u64)?;
            }
            if let Some(floor) = keys {
                transaction.open_table(DELIVERIES)?.retain_in(..floor, |_, _| false)?;
            }
            Ok(())
        });
        // What could not be swept now is still there the next time.
        if swept.is_ok() {
            for (app, queue, slots, _) in old {
                self.shared.queues.too_old.add(&app, slots.len() as u64);
                let mut queue = queue.lock();
                for slot in slots {
                    queue.forget(slot);
                }
            }
            if let Some(floor) = keys {
                self.recent.forget_below(floor);
            }
        }
    }

    /// Whether an event would be stored. Where the last write was refused, one as long as an event is tried.
    fn probe(&mut self) -> Result<(), StoreError> {
        if !self.refused {
            return Ok(());
        }
        self.transaction(|_, transaction| {
            transaction.open_table(PROBE)?.insert((), vec![0; PROBE_BYTES].as_slice())?;
            Ok(())
        })?;
        self.transaction(|_, transaction| {
            transaction.open_table(PROBE)?.remove(())?;
            Ok(())
        })?;
        self.refused = false;
        Ok(())
    }

    fn transaction<T>(
        &mut self,
        write: impl FnOnce(&mut Self, &WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let reopened = if self.failed { self.reopen() } else { Ok(()) };
        let result = reopened.and_then(|()| {
            let transaction = self.shared.file.begin_write();
            let transaction = transaction.map_err(StoreError::engine)?;
            let written = write(self, &transaction).map_err(StoreError::engine)?;
            transaction.commit().map_err(StoreError::engine)?;
            Ok(written)
        });
        if let Err(error) = &result {
            let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
            tracing::error!(cause, "the store refused a write; senders are asked to come again");
            self.failed = true;
            self.refused = true;
        }
        result
    }

    /// Opens the file again and takes up what the failed write left in it: a commit whose fsync failed
    /// may stand there all the same, and then its events have to be delivered.
    fn reopen(&mut self) -> Result<(), StoreError> {
        self.shared.file.reopen().map_err(StoreError::engine)?;
        let contents = self.shared.file.contents(self.last_committed + 1)?;
        for (seq, key) in contents.deliveries {
            self.recent.insert(seq, key);
        }
        for (app, slot) in contents.events {
            self.last_committed = slot.seq;
            let queue = self.shared.queues.app(&app);
            queue.push(slot);
            // Its sender was told to come again, and its body is in the file alone.
            queue.taps().miss();
        }
        self.failed = false;
        tracing::info!("the store is open again");
        Ok(())
    }
}

impl Arrival {
    fn show(self, queue: &AppQueue) {
        queue.taps().show(self.slot.size, || {
            let NewEvent { headers, query, body } = self.event;
            let id = sequence::event_id(self.uuid);
            Event { id, received_at: self.received_at, headers, query, body }
        });
    }
}

/// Who asked may have gone meanwhile, which changes nothing.
fn answer<T>(reply: Reply<T>, outcome: Result<T, StoreError>) {
    let _ = reply.send(outcome);
}
