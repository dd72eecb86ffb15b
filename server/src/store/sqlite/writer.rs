//! The writer: the one thread that changes the database.

use std::{
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use super::{
    Seq,
    commands::{Append, Command, Reply, answer},
    database::Database,
    dedupe::Recent,
    flush::Flush,
    index::Index,
    progress::Retention,
    record::EventIds,
    state::Shared,
};
use crate::store::{Limits, scheduler::Scheduler};

/// Changes of consumers become durable within about this time: they ride on the first commit after it.
const FLUSH: Duration = Duration::from_millis(20);

/// The writer's state.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) database: Database,
    pub(super) limits: Limits,
    pub(super) last_seq: Seq,
    pub(super) ids: EventIds,
    pub(super) index: Index,
    pub(super) recent: Recent,
    pub(super) retention: Retention,
    /// A buffer for checksums.
    pub(super) scratch: Vec<u8>,
    scheduler: Scheduler<Append>,
    /// When the changes of consumers are to be flushed.
    flush_at: Option<Instant>,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        database: Database,
        limits: Limits,
        last_seq: Seq,
        ids: EventIds,
        index: Index,
        recent: Recent,
    ) -> Self {
        let retention = Retention::new(Instant::now(), ids.newest(), limits.retention);
        Self {
            shared,
            database,
            limits,
            last_seq,
            ids,
            index,
            recent,
            retention,
            scratch: Vec::new(),
            scheduler: Scheduler::default(),
            flush_at: None,
        }
    }

    /// Serves commands until the store is closed. A batch is what arrived during the commit before: no append waits for a timer.
    pub(super) fn run(mut self, commands: &mpsc::Receiver<Command>) {
        loop {
            let mut next =
                if self.scheduler.is_empty() { self.wait(commands) } else { commands.try_recv().ok() };
            while let Some(command) = next {
                match command {
                    Command::Append(append) => self.scheduler.push(append),
                    Command::Flush => self.flush_at = self.flush_at.or_else(|| Some(Instant::now() + FLUSH)),
                    Command::Control(control, room) => {
                        self.control(control);
                        drop(room);
                        if !self.scheduler.is_empty() {
                            // Each of them is a transaction: without an end they would keep appends waiting.
                            break;
                        }
                    }
                    Command::Close(reply) => return self.close(reply),
                }
                next = commands.try_recv().ok();
            }
            self.commit_next();
            self.retain(self.scheduler.is_empty());
            self.database.probe();
        }
    }

    /// Waits for a command, or until it is time for a flush, for retention or to try the disk again.
    fn wait(&self, commands: &mpsc::Receiver<Command>) -> Option<Command> {
        let others = [self.flush_at, self.database.probe_at()];
        let at = others.into_iter().flatten().fold(self.retention.due, Instant::min);
        // The shared state has a sender, so that the channel is never disconnected.
        commands.recv_timeout(at.saturating_duration_since(Instant::now())).ok()
    }

    /// Commits the next batch, and flushes the changes of consumers if their time has come.
    fn commit_next(&mut self) {
        let now = Instant::now();
        let appends = self.scheduler.next_batch(now);
        let is_due = self.flush_at.is_some_and(|at| at <= now);
        let flush = if is_due {
            self.flush_at = None;
            Flush::take(&self.shared)
        } else {
            Flush::default()
        };
        if appends.is_empty() && flush.is_empty() && !(is_due && self.recent.is_changed()) {
            return;
        }
        // A failure is in the answers and in the disk's health.
        let _ = self.commit(appends, flush);
        if self.recent.is_changed() {
            self.flush_at = self.flush_at.or_else(|| Some(now + FLUSH));
        }
        self.scheduler.committed(now.elapsed());
        self.database.mark(self.last_seq);
    }

    /// Commits what waits and closes the database. The lock on the folder is released before the answer.
    fn close(mut self, reply: Option<Reply<()>>) {
        while !self.scheduler.is_empty() {
            self.commit_next();
        }
        let flush = Flush::take(&self.shared);
        let outcome = self.commit(Vec::new(), flush);
        self.database.close(self.last_seq);
        if let Some(reply) = reply {
            answer(reply, outcome);
        }
    }
}
