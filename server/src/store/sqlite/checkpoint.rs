//! Checkpoints: the WAL is moved into the database on a thread and connection of its own.
//!
//! The thread runs PASSIVE checkpoints, which block no other connection. Under load they never reach the end of the WAL, so the writer then
//! runs a RESTART for the few frames that are left, after which the WAL begins anew. With a busy timeout of 0 that never waits
//! for a reader.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
};

use rusqlite::{Connection, ffi::SQLITE_IOERR_FSYNC};

/// A checkpoint begins when the WAL has this many pages: 4 MiB.
const START_PAGES: u64 = 1024;
/// If a reader keeps the WAL from beginning anew, the next attempt is after this many further pages: 1 MiB.
const RETRY_PAGES: u64 = 256;
/// Frames that are left to the writer's RESTART, at most.
const LEFT_FRAMES: i64 = 128;
/// PASSIVE checkpoints in a row: under load each leaves fewer frames.
const MAX_PASSES: usize = 4;
/// A longer WAL is reported once: 256 MiB. No read of this server holds it, because each is interrupted long before.
const WARN_PAGES: u64 = 65_536;

/// The checkpoint thread.
#[derive(Debug)]
pub(super) struct Checkpointer {
    wake: Option<mpsc::SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
    state: Arc<State>,
    /// The pages of the WAL at the last attempt.
    attempted: u64,
    warned: bool,
}

#[derive(Debug, Default)]
struct State {
    /// The pages in the WAL after the last commit.
    wal_pages: AtomicU64,
    running: AtomicBool,
    /// The thread has done its part.
    finished: AtomicBool,
    /// An fsync of a checkpoint failed.
    failed: AtomicBool,
}

impl Checkpointer {
    /// Starts the thread, and observes the commits of the writer's connection.
    pub(super) fn start(connection: Connection, writer: &mut Connection) -> io::Result<Self> {
        let state = Arc::<State>::default();
        let pages = Arc::clone(&state);
        let hook = move |_: &mut rusqlite::hooks::Wal, frames: i32| {
            pages.wal_pages.store(u64::try_from(frames).unwrap_or(0), Ordering::Relaxed);
            Ok(())
        };
        writer.wal_hook(Some(hook)).map_err(io::Error::other)?;
        let (wake, woken) = mpsc::sync_channel(1);
        let of_thread = Arc::clone(&state);
        let thread = spawn("checkpointer", move || {
            while woken.recv().is_ok() {
                passive(&connection, &of_thread);
                of_thread.finished.store(true, Ordering::Release);
                of_thread.running.store(false, Ordering::Release);
            }
        })?;
        Ok(Self { wake: Some(wake), thread: Some(thread), state, attempted: 0, warned: false })
    }

    /// Called after each commit: starts a checkpoint if the WAL is long enough, and finishes one with a RESTART.
    pub(super) fn after_commit(&mut self, writer: &Connection) {
        if self.has_failed() {
            return;
        }
        let pages = self.state.wal_pages.load(Ordering::Relaxed);
        if self.state.finished.swap(false, Ordering::AcqRel) {
            match checkpoint(writer, "RESTART") {
                Ok((blocked, _, _)) => {
                    self.attempted = if blocked { pages } else { 0 };
                    let is_long = blocked && pages > WARN_PAGES;
                    if is_long && !self.warned {
                        tracing::warn!(
                            pages,
                            "the WAL grows: a backup or a read of another process holds it"
                        );
                    }
                    // It is reported once until it begins anew.
                    self.warned = blocked && (self.warned || is_long);
                    return;
                }
                Err(error) => {
                    tracing::error!(%error, "the WAL could not be restarted");
                    self.state.failed(&error);
                    return;
                }
            }
        }
        let due = START_PAGES.max(self.attempted + RETRY_PAGES);
        if pages >= due && !self.state.running.swap(true, Ordering::AcqRel) {
            // A full channel means that the thread is about to run.
            let _ = self.wake.as_ref().map(|wake| wake.try_send(()));
        }
    }

    /// Whether an fsync of a checkpoint failed. Pages that it wrote may be lost, and SQLite would not write them again: no
    /// checkpoint may follow until the database was opened again.
    pub(super) fn has_failed(&self) -> bool {
        self.state.failed.load(Ordering::Acquire)
    }

    /// Ends the thread.
    pub(super) fn stop(&mut self) {
        self.wake = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl State {
    fn failed(&self, error: &rusqlite::Error) {
        if error.sqlite_error().is_some_and(|error| error.extended_code == SQLITE_IOERR_FSYNC) {
            self.failed.store(true, Ordering::Release);
        }
    }
}

fn passive(connection: &Connection, state: &State) {
    for _ in 0..MAX_PASSES {
        match checkpoint(connection, "PASSIVE") {
            Ok((_, frames, done)) if frames - done > LEFT_FRAMES => {}
            Ok(_) => return,
            Err(error) => {
                tracing::error!(%error, "a checkpoint failed, the next one repeats it");
                state.failed(&error);
                return;
            }
        }
    }
}

/// Runs a checkpoint. Returns whether it was blocked, the frames in the WAL, and how many of them are in the database.
pub(super) fn checkpoint(connection: &Connection, mode: &str) -> rusqlite::Result<(bool, i64, i64)> {
    connection
        .prepare_cached(&format!("PRAGMA wal_checkpoint({mode})"))?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
}

/// Starts a thread with a name.
pub(super) fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(run)
}
