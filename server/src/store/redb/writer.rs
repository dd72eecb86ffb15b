//! The writer thread: the only one that changes what is stored, by group commit.
//!
//! It takes everything that is queued, up to a limit, commits it to the journal with one fsync, and then answers
//! all of it: the batch is what arrived during the last fsync, so a lone sender never waits for a timer. Where apps
//! compete, [`waiting`](super::waiting) says whose events go first. Only deletions of accepted events may wait:
//! they go with the next append, or after [`DELETE_LINGER`] where none comes. The database follows later, by the
//! [`filer`](super::filer).
//!
//! Memory follows the journal: queues, registrations and keys change after the commit, never before.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, mpsc::RecvTimeoutError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use wwproxy_protocol::AppId;

use super::{
    Registered, Shared,
    batch::Batch,
    change::Change,
    commands::{Command, Queue, Register, Reply, Room, WriterHandle, answer},
    filer::{Filer, RETRY},
    journal::{Frame, Journal, Kind},
    occupancy::Occupancy,
    pending::Filed,
    registration,
    waiting::Waiting,
    write,
};
use crate::store::{
    Limits, Registration, StoreError,
    dedupe::Recent,
    sequence::{Seq, Sequence},
};

/// How long a deletion waits for an append to go with.
const DELETE_LINGER: Duration = Duration::from_millis(20);
/// How soon it is looked again whether the journal has room for an app's events, where it had none.
const ROOM_PAUSE: Duration = Duration::from_millis(1);
/// How much is written to see whether it can be again, in bytes.
const PROBE_BYTES: usize = 64 << 10;
/// How often old events and keys are looked for, at most and at least.
const SWEEP: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

#[derive(Debug)]
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) limits: Limits,
    pub(super) sequence: Sequence,
    pub(super) recent: Recent,
    /// Appends that are in no batch yet.
    waiting: Waiting,
    /// One of them goes between two batches, however many there are.
    registers: VecDeque<(Register, Room)>,
    probes: Vec<Reply<()>>,
    closing: Option<Reply<()>>,
    /// Accepted events that are not deleted yet.
    to_delete: Vec<Seq>,
    /// How often deletions went to the filer alone.
    alone: u64,
    journal: Journal,
    pub(super) occupancy: Occupancy,
    failure: Option<Failure>,
    /// A write was refused, and none that stores an event has gone through since.
    pub(super) refused: bool,
    filer: Option<JoinHandle<()>>,
}

/// Why nothing is stored.
#[derive(Debug)]
struct Failure {
    error: StoreError,
    /// When it is tried again.
    retry: Instant,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        limits: Limits,
        sequence: Sequence,
        recent: Recent,
        to_delete: Vec<Seq>,
        journal: Journal,
    ) -> Self {
        let filer = Some(Filer::spawn(Arc::clone(&shared)));
        let mut occupancy = Occupancy::default();
        for (number, size) in journal.frames() {
            occupancy.add(number, size);
        }
        Self {
            shared,
            limits,
            sequence,
            recent,
            waiting: Waiting::default(),
            registers: VecDeque::new(),
            probes: Vec::new(),
            closing: None,
            to_delete,
            alone: 0,
            journal,
            occupancy,
            failure: None,
            refused: false,
            filer,
        }
    }

    pub(super) fn spawn(self) -> WriterHandle {
        let (handle, queue) = WriterHandle::new();
        thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || self.run(&queue))
            .expect("the system has a thread left when the server starts");
        handle
    }

    /// Until it is closed or nobody can send any more: waits for commands, the end of the linger and the next
    /// sweep, whichever comes first.
    fn run(mut self, queue: &Queue) {
        let pause = self.limits.retention.min(self.limits.dedupe_window) / 4;
        let pause = pause.clamp(SWEEP.0, SWEEP.1);
        let mut next_sweep = Instant::now() + pause;
        let mut next_delete: Option<Instant> = None;
        let mut next_batch: Option<Instant> = None;
        loop {
            let now = Instant::now();
            let wake = [next_delete, next_batch].into_iter().flatten().fold(next_sweep, Instant::min);
            let command = match queue.recv_timeout(wake.saturating_duration_since(now)) {
                Ok(command) => Some(command),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => {
                    // No caller waits for the error any more, and it was logged.
                    let _ = self.finish();
                    return;
                }
            };
            self.gather(command, queue);
            let now = Instant::now();
            let batch = self.batch(now);
            let has_batch = !batch.is_empty();
            let time_to_delete = next_delete.is_some_and(|next| next <= now);
            if has_batch {
                self.commit(batch);
            }
            if time_to_delete {
                // Alone, where they did not go with the batch.
                self.delete(Vec::new());
            }
            let linger = if self.refused { RETRY } else { DELETE_LINGER };
            next_delete = if self.to_delete.is_empty() {
                None
            } else {
                next_delete.filter(|next| *next > now).or(Some(Instant::now() + linger))
            };
            if next_sweep <= now {
                self.sweep();
                next_sweep = now + pause;
            }
            if let Some((register, room)) = self.registers.pop_front() {
                self.register(register, room);
            }
            self.answer_probes();
            if let Some(reply) = self.closing.take() {
                return answer(reply, self.finish());
            }
            next_batch = if self.waiting.is_empty() && self.registers.is_empty() {
                None
            } else if has_batch || !self.registers.is_empty() {
                Some(now)
            } else {
                Some(now + ROOM_PAUSE)
            };
        }
    }

    /// The next appends, of apps that the journal has room for.
    fn batch(&mut self, now: Instant) -> Batch {
        if let (_, Some(_)) = self.release() {
            // All are told that nothing is stored.
            return self.waiting.without_turns();
        }
        let Self { waiting, occupancy, .. } = self;
        waiting.batch(now, |app| occupancy.room_of(app))
    }

    /// Takes what is queued, to be done when its turn comes.
    fn gather(&mut self, mut next: Option<(Command, Room)>, queue: &Queue) {
        while let Some((command, room)) = next {
            match command {
                Command::Append { append, reply } => self.waiting.add(*append, reply, room),
                Command::Delete { numbers } => self.to_delete.extend(numbers),
                Command::Register(register) => self.registers.push_back((register, room)),
                Command::Probe { reply } => self.probes.push(reply),
                Command::Close { reply } => self.closing = Some(reply),
            }
            next = queue.try_recv().ok();
        }
    }

    /// Commits what is left, and lets the filer end.
    fn finish(&mut self) -> Result<(), StoreError> {
        if let Some(failure) = &mut self.failure {
            // There is no later.
            failure.retry = Instant::now();
        }
        while !self.waiting.is_empty() {
            let batch = self.waiting.without_turns();
            self.commit(batch);
        }
        while let Some((register, room)) = self.registers.pop_front() {
            self.register(register, room);
        }
        self.delete(Vec::new());
        self.shared.pending.close();
        if let Some(filer) = self.filer.take()
            && filer.join().is_err()
        {
            tracing::error!("what was not filed is in the journal, and filed after the next start");
        }
        match self.shared.pending.filed() {
            (filed, Some(failure)) if filed.alone < self.alone => Err(failure),
            _ => Ok(()),
        }
    }

    /// Nothing else of the app waits here: a registration has all of its room.
    fn register(&mut self, register: Register, room: Room) {
        let Register { app, registration, reply } = register;
        let done = match registration {
            Some(registration) => self.put_registration(app, registration),
            None => self.remove_registration(&app),
        };
        drop(room);
        answer(reply, done);
    }

    fn put_registration(&mut self, app: AppId, registration: Arc<Registration>) -> Result<(), StoreError> {
        let epoch = self.shared.epoch(&app);
        let record = registration::encode(&registration, epoch);
        self.write(Kind::Store, vec![Change::Register { app: app.clone(), record }])?;
        write(&self.shared.registrations).insert(app, Registered { registration, epoch });
        Ok(())
    }

    fn remove_registration(&mut self, app: &AppId) -> Result<(), StoreError> {
        let queue = self.shared.queues.app(app);
        let numbers = queue.lock().all().map_err(StoreError::engine)?;
        self.write(Kind::Delete, vec![Change::Unregister(app.clone()), Change::Delete(numbers)])?;
        write(&self.shared.registrations).remove(app);
        queue.clear();
        drop(queue);
        self.shared.queues.prune();
        Ok(())
    }

    fn answer_probes(&mut self) {
        if self.probes.is_empty() {
            return;
        }
        let outcome = self.probe();
        for reply in std::mem::take(&mut self.probes) {
            answer(reply, outcome.as_ref().copied().map_err(StoreError::share));
        }
    }

    /// Whether an event would be stored. Where the last write was refused, one as long as an event is tried.
    fn probe(&mut self) -> Result<(), StoreError> {
        if let (_, Some(failure)) = self.shared.pending.filed() {
            return Err(failure);
        }
        if self.refused {
            // No event has this number.
            self.write(Kind::Store, vec![Change::Delete(vec![0; PROBE_BYTES / size_of::<Seq>()])])?;
            self.refused = false;
        }
        Ok(())
    }

    /// Commits these deletions and those that wait, where there are any. Where the journal refuses them they go to the
    /// filer alone, and are durable once they are filed: on a full disk they may be what makes room for that.
    pub(super) fn delete(&mut self, mut changes: Vec<Change>) {
        if !self.to_delete.is_empty() {
            changes.push(Change::Delete(std::mem::take(&mut self.to_delete)));
        }
        if changes.is_empty() {
            return;
        }
        if let Ok((number, size)) = self.append_frame(Frame::new(Kind::Delete, &changes)) {
            self.shared.pending.add(number, size, changes);
        } else {
            self.refused = true;
            self.alone += 1;
            self.shared.pending.add_alone(self.alone, changes);
        }
    }

    /// Commits these changes, and the deletions that wait: all of it or nothing.
    pub(super) fn write(&mut self, kind: Kind, mut changes: Vec<Change>) -> Result<(), StoreError> {
        if let Some(failure) = self.failure.as_ref().filter(|_| kind == Kind::Store)
            && Instant::now() < failure.retry
        {
            return Err(failure.error.share());
        }
        if !self.to_delete.is_empty() {
            changes.push(Change::Delete(self.to_delete.clone()));
        }
        let (number, size) = self.append_frame(Frame::new(kind, &changes))?;
        self.to_delete.clear();
        self.shared.pending.add(number, size, changes);
        Ok(())
    }

    /// Writes a frame to the journal, and says its number and size.
    fn append_frame(&mut self, frame: Frame) -> Result<(u64, u64), StoreError> {
        let (kind, size) = (frame.kind(), frame.size());
        let offset = self.wait_for_room(&frame)?;
        let writes = Instant::now();
        let number = self.journal.append(frame, offset).map_err(|error| {
            let error = self.refuse(error);
            self.failure = Some(Failure { error: error.share(), retry: Instant::now() + RETRY });
            error
        })?;
        self.waiting.committed(writes.elapsed());
        if kind == Kind::Store && self.failure.take().is_some() {
            tracing::info!("the store can be written to again");
        }
        self.occupancy.add(number, size);
        Ok((number, size))
    }

    /// Waits until the journal has room for a frame, which it has where the database follows, and says where.
    fn wait_for_room(&mut self, frame: &Frame) -> Result<u64, StoreError> {
        loop {
            let (filed, failure) = self.release();
            // Deletions may make the room that the database needs.
            if frame.kind() == Kind::Store {
                if let Some(failure) = failure {
                    self.refused = true;
                    return Err(failure);
                }
                // What is stored after a deletion is not there without it: an app would find what it accepted before
                // it registered anew.
                if filed.alone < self.alone {
                    self.shared.pending.wait_for(|now| now.alone >= self.alone)?;
                    continue;
                }
            }
            // A smaller one may have room where this has none.
            if let Some(offset) = self.journal.make_room(frame).map_err(|error| self.refuse(error))? {
                return Ok(offset);
            }
            self.shared.pending.wait_for(|now| now.frame > filed.frame)?;
        }
    }

    /// Takes note of what the disk refused.
    fn refuse(&mut self, error: io::Error) -> StoreError {
        let error = StoreError::engine(error);
        self.shared.tell_refusal(&error);
        self.refused = true;
        error
    }

    /// Lets go of the frames that the database has: how far the filer is, and why it goes no further.
    fn release(&mut self) -> (Filed, Option<StoreError>) {
        let (filed, failure) = self.shared.pending.filed();
        self.journal.release(filed.frame);
        self.occupancy.release(filed.frame);
        (filed, failure)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.pending.close();
    }
}
