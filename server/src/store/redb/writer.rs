//! The one thread that changes the file.
//!
//! It takes everything that is queued, up to a limit, commits it as one transaction with one fsync,
//! and then answers all of it: the batch is what arrived during the last fsync, so a lone sender
//! never waits for a timer. Where apps compete, [`waiting`](super::waiting) says whose events go first.
//! Only deletions of accepted events may wait: they go with the next append, or after [`DELETE_LINGER`]
//! where none comes.
//!
//! Memory follows the file: queues, registrations and keys change after the commit, never before.

use std::{
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use redb::WriteTransaction;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use wwproxy_protocol::AppId;

use super::{
    Registered, Shared,
    batch::{Batch, Deletions},
    file::{DROPPED, Events, PROBE, REGISTRATIONS},
    record,
    waiting::Waiting,
    write,
};
use crate::store::{
    Appended, DedupeKey, Limits, NewEvent, Registration, StoreError,
    dedupe::Recent,
    sequence::{Seq, Sequence},
};

/// How much waits for the writer, in pieces of [`PIECE_BYTES`]: 128 MiB. A further command waits for room.
const MAX_QUEUED_PIECES: u32 = 8192;
/// The room that any command takes; an event takes as many as it fills, and one more.
const PIECE_BYTES: usize = 16 << 10;
/// How long a deletion waits for an append to go with.
const DELETE_LINGER: Duration = Duration::from_millis(20);
/// Deletions do not wait once there are this many.
const MAX_LINGERING: usize = 10_000;
/// How long after a refused write the file is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Where trying takes long, as with a large file, the pause is so many times as long.
const RETRY_SHARE: u32 = 10;
/// How much is written to see whether there is room again.
const PROBE_BYTES: usize = 64 << 10;
/// How long after the last commit the file is made one that opens at once whatever happens.
const REST: Duration = Duration::from_secs(1);
/// How often old events and keys are looked for, at most and at least.
const SWEEP: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;
type Queue = mpsc::Receiver<(Command, OwnedSemaphorePermit)>;

/// What the writer is asked to do.
#[derive(Debug)]
pub(super) enum Command {
    Append {
        app: AppId,
        event: NewEvent,
        dedupe: Option<DedupeKey>,
        reply: Reply<Appended>,
    },
    Register {
        app: AppId,
        registration: Arc<Registration>,
        reply: Reply<()>,
    },
    Unregister {
        app: AppId,
        reply: Reply<()>,
    },
    Delete {
        app: AppId,
        numbers: Vec<Seq>,
    },
    Probe {
        reply: Reply<()>,
    },
    /// Opens the file again, if it was not since it had been opened so often.
    Reopen {
        opened: u64,
        reply: Reply<()>,
    },
    Close {
        reply: Reply<()>,
    },
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
    pub(super) shared: Arc<Shared>,
    pub(super) limits: Limits,
    pub(super) sequence: Sequence,
    pub(super) recent: Recent,
    /// Appends that are in no batch yet.
    waiting: Waiting,
    /// Accepted events that are still in the file.
    pub(super) to_delete: Deletions,
    /// When the file was last committed to, until it is at rest.
    committed: Option<Instant>,
    /// The file refused a write and has to be opened again.
    pub(super) failure: Option<Failure>,
    /// A write was refused, and none that stores an event has gone through since.
    pub(super) refused: bool,
}

/// Why nothing is written.
#[derive(Debug)]
pub(super) struct Failure {
    error: StoreError,
    /// When it is tried again.
    retry: Instant,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, limits: Limits, sequence: Sequence, recent: Recent) -> Self {
        Self {
            shared,
            limits,
            sequence,
            recent,
            waiting: Waiting::default(),
            to_delete: Deletions::default(),
            committed: Some(Instant::now()),
            failure: None,
            refused: false,
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

    /// Until it is closed or nobody can send any more: waits for commands, the end of the linger, the next
    /// sweep and the time to put the file to rest, whichever comes first.
    fn run(mut self, queue: &Queue) {
        let pause = self.limits.retention.min(self.limits.dedupe_window) / 4;
        let pause = pause.clamp(SWEEP.0, SWEEP.1);
        let mut next_sweep = Instant::now() + pause;
        let mut next_delete = None;
        loop {
            let rest = self.committed.map(|committed| committed + REST);
            let wake = [next_delete, rest].into_iter().flatten().fold(next_sweep, Instant::min);
            let idle = if self.waiting.is_empty() {
                wake.saturating_duration_since(Instant::now())
            } else {
                Duration::ZERO
            };
            let command = match queue.recv_timeout(idle) {
                Ok(command) => Some(command),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) if !self.waiting.is_empty() => None,
                Err(RecvTimeoutError::Disconnected) => {
                    // Nobody is left to be told, and the log was.
                    let _ = self.finish();
                    return;
                }
            };
            let other = self.gather(command, queue);
            let batch = self.waiting.batch(Instant::now());
            let now = Instant::now();
            let linger_over =
                next_delete.is_some_and(|next| next <= now) || self.to_delete.len() >= MAX_LINGERING;
            if !batch.is_empty() || linger_over {
                // Told to those who wait for it; the deletions are tried again.
                let _ = self.commit(batch);
            }
            next_delete = match &self.failure {
                Some(failure) => Some(failure.retry),
                None if self.to_delete.is_empty() => None,
                None => next_delete.filter(|next| *next > now).or(Some(now + DELETE_LINGER)),
            };
            if next_sweep <= now {
                self.sweep();
                next_sweep = now + pause;
            }
            if self.committed.is_some_and(|committed| committed + REST <= now) {
                self.rest();
            }
            match other {
                Some(Command::Register { app, registration, reply }) => {
                    answer(reply, self.register(app, registration));
                }
                Some(Command::Unregister { app, reply }) => answer(reply, self.unregister(&app)),
                Some(Command::Probe { reply }) => answer(reply, self.probe()),
                Some(Command::Reopen { opened, reply }) => answer(reply, self.reopen_since(opened)),
                Some(Command::Close { reply }) => return answer(reply, self.finish()),
                Some(Command::Append { .. } | Command::Delete { .. }) | None => {}
            }
        }
    }

    /// Takes what is queued: appends wait for their turn, deletions are noted, and the first command that
    /// is neither is done after the next batch.
    fn gather(
        &mut self,
        mut next: Option<(Command, OwnedSemaphorePermit)>,
        queue: &Queue,
    ) -> Option<Command> {
        while let Some((command, room)) = next {
            match command {
                Command::Append { app, event, dedupe, reply } => {
                    self.waiting.add((app, event, dedupe), reply, room);
                }
                Command::Delete { app, numbers } => self.to_delete.add(app, numbers),
                other => return Some(other),
            }
            next = queue.try_recv().ok();
        }
        None
    }

    /// Commits what is left, and closes the file.
    fn finish(&mut self) -> Result<(), StoreError> {
        while !self.waiting.is_empty() {
            let batch = self.waiting.batch(Instant::now());
            // Told to those who wait for it.
            let _ = self.commit(batch);
        }
        if let Some(failure) = &mut self.failure {
            // There is no later.
            failure.retry = Instant::now();
        }
        let deleted = if self.to_delete.is_empty() { Ok(()) } else { self.commit(Batch::default()) };
        self.shared.file.close();
        deleted
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
        let numbers = queue.lock().all().map_err(StoreError::engine)?;
        self.transaction(|_, transaction| {
            transaction.open_table(REGISTRATIONS)?.remove(app.as_str())?;
            transaction.open_table(DROPPED)?.remove(app.as_str())?;
            let mut events = Events::open(transaction)?;
            for &seq in &numbers {
                events.remove(seq)?;
            }
            Ok(())
        })?;
        write(&self.shared.registrations).remove(app);
        queue.clear();
        drop(queue);
        self.shared.queues.prune();
        Ok(())
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

    /// Writes all of it or nothing. Where the last write failed the file is opened again first, when it is
    /// time for that.
    pub(super) fn transaction<T>(
        &mut self,
        write: impl FnOnce(&mut Self, &WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        self.transaction_if(|writer, transaction| Ok((write(writer, transaction)?, true)))
    }

    /// The same for what may turn out to change nothing, as its second part says: that costs no fsync.
    pub(super) fn transaction_if<T>(
        &mut self,
        write: impl FnOnce(&mut Self, &WriteTransaction) -> Result<(T, bool), redb::Error>,
    ) -> Result<T, StoreError> {
        let began = Instant::now();
        if let Some(failure) = &self.failure
            && began < failure.retry
        {
            return Err(failure.error.share());
        }
        let reopened = if self.failure.is_some() { self.reopen() } else { Ok(()) };
        let result = reopened.and_then(|()| {
            let transaction = self.shared.file.begin_write();
            let transaction = transaction.map_err(StoreError::engine)?;
            let (written, changed) = write(self, &transaction).map_err(StoreError::engine)?;
            if changed {
                transaction.commit().map_err(StoreError::engine)?;
                self.committed = Some(Instant::now());
            } else {
                transaction.abort().map_err(StoreError::engine)?;
            }
            Ok(written)
        });
        result.inspect_err(|error| self.fail(error, began))
    }

    /// Leaves the file in a state that opens at once, as nothing was committed for a while.
    fn rest(&mut self) {
        let began = Instant::now();
        self.committed = None;
        if self.failure.is_none()
            && let Err(error) = self.shared.file.write_down_free()
        {
            self.fail(&StoreError::engine(error), began);
        }
    }

    /// Takes note of a write that began at that time and failed. What is stored can be read on.
    fn fail(&mut self, error: &StoreError, began: Instant) {
        tracing::error!(cause = cause(error), "the store refused a write; senders are asked to come again");
        self.refused = true;
        if self.shared.file.is_writable()
            && let Err(error) = self.shared.file.open_for_reading()
        {
            tracing::error!(cause = cause(&error), "the store cannot be read either");
        }
        let retry = Instant::now() + RETRY.max(began.elapsed() * RETRY_SHARE);
        self.failure = Some(Failure { error: error.share(), retry });
    }

    /// Opens the file again and makes memory what it says: a commit whose fsync failed may stand there all
    /// the same, and then its events have to be delivered.
    fn reopen(&mut self) -> Result<(), StoreError> {
        self.shared.file.reopen().map_err(StoreError::engine)?;
        let contents = self.shared.file.contents()?;
        self.recent = self.shared.follow(contents, &self.limits);
        self.failure = None;
        tracing::info!("the store is open again");
        Ok(())
    }

    /// Opens the file again for somebody who could not read it when it had been opened so often.
    fn reopen_since(&mut self, opened: u64) -> Result<(), StoreError> {
        if self.shared.file.opened() != opened {
            return Ok(());
        }
        if self.failure.is_some() {
            return self.shared.file.open_for_reading().map_err(StoreError::engine);
        }
        let began = Instant::now();
        self.reopen().inspect_err(|error| self.fail(error, began))
    }
}

/// Who asked may have gone meanwhile, which changes nothing.
pub(super) fn answer<T>(reply: Reply<T>, outcome: Result<T, StoreError>) {
    let _ = reply.send(outcome);
}

/// What stands behind an error that says only what it means for the store.
fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    error.source().unwrap_or(error).to_string()
}
