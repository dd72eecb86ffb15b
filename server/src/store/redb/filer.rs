//! The checkpoint thread: the only one that writes to the database.
//!
//! It moves there what the journal has, many commits in one transaction. Nobody waits for it but a writer whose
//! journal is full. Each transaction also writes down which parts of the file are free, so the database opens at
//! once however the server ends.

use std::{
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{Shared, commands::answer, pending::Work, unfiled::Unfiled};
use crate::store::StoreError;

/// How long after a refused write the database, or the journal, is tried again.
pub(super) const RETRY: Duration = Duration::from_secs(1);

pub(super) struct Filer {
    shared: Arc<Shared>,
    /// The database refused a write and has to be opened again, at this time.
    retry: Option<Instant>,
}

impl Filer {
    pub(super) fn spawn(shared: Arc<Shared>) -> JoinHandle<()> {
        let filer = Self { shared, retry: None };
        let thread = thread::Builder::new().name("store-filer".into()).spawn(move || filer.run());
        thread.expect("the system has a thread left when the server starts")
    }

    /// Until the writer closed it, and all is filed or that failed once more.
    fn run(mut self) {
        loop {
            match self.shared.pending.work(self.retry) {
                Work::File(unfiled) => {
                    let filed = self.file(&unfiled);
                    match &filed {
                        Ok(()) => self.shared.pending.done(unfiled),
                        Err(error) => self.shared.pending.failed(unfiled, error),
                    }
                    if filed.is_err() && self.shared.pending.is_closing() {
                        tracing::warn!(
                            "what the database refused is in the journal, and filed after the next start; \
                             what was accepted meanwhile may come again"
                        );
                        break;
                    }
                }
                Work::Reopen(opened, reply) => answer(reply, self.reopen_since(opened)),
                Work::End => break,
            }
        }
        self.shared.file.close();
    }

    fn file(&mut self, unfiled: &Unfiled) -> Result<(), StoreError> {
        let filed = if self.retry.is_some() { self.reopen_and_file(unfiled) } else { self.write(unfiled) };
        filed.inspect_err(|error| self.fail(error))
    }

    fn reopen_and_file(&mut self, unfiled: &Unfiled) -> Result<(), StoreError> {
        self.reopen()?;
        // On a full disk they make room, which they cannot together with what needs it.
        self.shared
            .file
            .transaction(|transaction| unfiled.write_deletions(transaction))
            .map_err(StoreError::engine)?;
        self.write(unfiled)?;
        tracing::info!("the store is open again");
        Ok(())
    }

    fn write(&self, unfiled: &Unfiled) -> Result<(), StoreError> {
        self.shared.file.file(unfiled).map_err(StoreError::engine)
    }

    fn reopen(&mut self) -> Result<(), StoreError> {
        self.shared.file.reopen().map_err(StoreError::engine)?;
        self.retry = None;
        Ok(())
    }

    /// Takes note of a write that failed. What is stored can be read on.
    fn fail(&mut self, error: &StoreError) {
        self.shared.tell_refusal(error);
        if self.shared.file.is_writable()
            && let Err(error) = self.shared.file.open_for_reading()
        {
            tracing::error!(cause = cause(&error), "the store cannot be read either");
        }
        self.retry = Some(Instant::now() + RETRY);
    }

    /// Opens the file again for a reader that failed when it had been opened this many times.
    fn reopen_since(&mut self, opened: u64) -> Result<(), StoreError> {
        if self.shared.file.opened() != opened {
            return Ok(());
        }
        if self.retry.is_some() {
            return self.shared.file.open_for_reading().map_err(StoreError::engine);
        }
        self.reopen().inspect_err(|error| self.fail(error))
    }
}

impl Drop for Filer {
    fn drop(&mut self) {
        // However it ended, no task may wait for it forever.
        self.shared.pending.end();
    }
}

impl Shared {
    pub(super) fn tell_refusal(&self, error: &StoreError) {
        if let Some(times) = self.refusals.add(1) {
            tracing::error!(
                cause = cause(error),
                times,
                "the store refused a write; while it stores nothing senders are asked to come again"
            );
        }
    }
}

/// What stands behind an error that says only what it means for the store.
fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    error.source().unwrap_or(error).to_string()
}
