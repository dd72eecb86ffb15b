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
    sync::{Arc, mpsc::RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use redb::WriteTransaction;
use wwproxy_protocol::AppId;

use super::{
    Registered, Shared,
    batch::Batch,
    commands::{Command, Queue, Room, WriterHandle, answer},
    deletions::Deletions,
    events::Events,
    file::{DROPPED, PROBE, REGISTRATIONS},
    record,
    waiting::Waiting,
    write,
};
use crate::store::{Appended, Limits, Registration, StoreError, dedupe::Recent, sequence::Sequence};

/// How long a deletion waits for an append to go with.
const DELETE_LINGER: Duration = Duration::from_millis(20);
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
        let (handle, queue) = WriterHandle::new();
        thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || self.run(&queue))
            .expect("the system has a thread left when the server starts");
        handle
    }

    /// Until it is closed or nobody can send any more: waits for commands, the end of the linger, the next
    /// sweep and the time to put the file to rest, whichever comes first.
    fn run(mut self, queue: &Queue) {
        let pause = self.limits.retention.min(self.limits.dedupe_window) / 4;
        let pause = pause.clamp(SWEEP.0, SWEEP.1);
        let mut next_sweep = Instant::now() + pause;
        let mut next_delete = None;
        loop {
            let now = Instant::now();
            let rest = self.committed.map(|committed| committed + REST);
            let retry = self.failure.as_ref().map(|failure| failure.retry);
            let wake = [next_delete, rest, retry].into_iter().flatten().fold(next_sweep, Instant::min);
            let is_busy = !self.waiting.is_empty() || (self.to_delete.are_many() && retry.is_none());
            let idle = if is_busy { Duration::ZERO } else { wake.saturating_duration_since(now) };
            let command = match queue.recv_timeout(idle) {
                Ok(command) => Some(command),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => {
                    // Nobody is left to be told, and the log was.
                    let _ = self.finish();
                    return;
                }
            };
            let other = self.gather(command, queue);
            let now = Instant::now();
            let batch = self.waiting.batch(now);
            let time_to_delete =
                next_delete.or(retry).is_some_and(|next| next <= now) || self.to_delete.are_many();
            if !batch.is_empty() || time_to_delete {
                // Told to those who wait for it; the deletions are tried again.
                let _ = self.commit(batch);
                self.waiting.committed(now.elapsed());
            }
            next_delete = if self.to_delete.is_empty() || self.failure.is_some() {
                None
            } else {
                next_delete.filter(|next| *next > now).or(Some(now + DELETE_LINGER))
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
    fn gather(&mut self, mut next: Option<(Command, Room)>, queue: &Queue) -> Option<Command> {
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
        if let Some(failure) = &mut self.failure {
            // There is no later.
            failure.retry = Instant::now();
        }
        while !self.waiting.is_empty() {
            let batch = self.waiting.without_turns();
            // Told to those who wait for it.
            let _ = self.commit(batch);
        }
        let mut deleted = Ok(());
        while deleted.is_ok() && !self.to_delete.is_empty() {
            deleted = self.commit(Batch::default());
        }
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
            Events::open(transaction)?.remove_all(&numbers)?;
            Ok(())
        })?;
        write(&self.shared.registrations).remove(app);
        // Their senders proved themselves to a registration that is gone.
        for reply in self.waiting.remove(app) {
            answer(reply, Ok(Appended::Unregistered));
        }
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
        // Where nothing can be stored there is no hurry, and a try that fails opens the file again.
        if self.failure.is_none()
            && !self.refused
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
        self.recent = Recent::new(self.limits.dedupe_window, 0);
        self.shared.file.reopen().map_err(StoreError::engine)?;
        self.committed = Some(Instant::now());
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

/// What stands behind an error that says only what it means for the store.
fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    error.source().unwrap_or(error).to_string()
}
