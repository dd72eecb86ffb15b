//! The state of the disk, in one place.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rusqlite::{Error, ErrorCode};

use crate::store::Health;

/// A commit that takes longer means that the disk hangs.
const MAX_COMMIT: Duration = Duration::from_secs(2);

/// The state of the disk. The writer changes it with every transaction, readers if they find damage.
#[derive(Debug)]
pub(super) struct DiskHealth {
    state: Mutex<Health>,
    /// When the transaction under way began.
    began: Mutex<Option<Instant>>,
}

impl Default for DiskHealth {
    fn default() -> Self {
        Self { state: Mutex::new(Health::Ready), began: Mutex::default() }
    }
}

impl DiskHealth {
    pub(super) fn get(&self) -> Health {
        let state = self.state.lock().clone();
        let hangs = self.began.lock().is_some_and(|began| began.elapsed() > MAX_COMMIT);
        if hangs && state == Health::Ready { Health::Failing("a commit hangs".to_owned()) } else { state }
    }

    /// A transaction begins.
    pub(super) fn begin(&self) {
        *self.began.lock() = Some(Instant::now());
    }

    /// The transaction ended.
    pub(super) fn end(&self) {
        *self.began.lock() = None;
    }

    pub(super) fn is_full(&self) -> bool {
        *self.state.lock() == Health::Full
    }

    /// A transaction was committed.
    pub(super) fn succeeded(&self) {
        let mut health = self.state.lock();
        if matches!(*health, Health::Failing(_)) {
            tracing::info!("the store writes again");
            *health = Health::Ready;
        }
    }

    /// The disk has room again, ballast included.
    pub(super) fn has_room(&self) {
        let mut health = self.state.lock();
        if *health == Health::Full {
            tracing::info!("the disk has room again: the store accepts events");
            *health = Health::Ready;
        }
    }

    /// A transaction failed.
    pub(super) fn failed(&self, error: &Error) {
        let mut health = self.state.lock();
        let new = match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Health::Full,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Health::Damaged(error.to_string()),
            _ => Health::Failing(error.to_string()),
        };
        // Damage does not go away by itself, and a full disk is over when the ballast is back.
        if *health == new || matches!(*health, Health::Damaged(_)) || is_full(&health, &new) {
            return;
        }
        match &new {
            Health::Full => tracing::error!("the disk is full: events are refused until there is room"),
            Health::Damaged(what) => {
                tracing::error!(
                    what,
                    "the database is damaged: stop the server, and copy what is whole with `wwproxy-server store recover`"
                );
            }
            _ => tracing::error!(%error, "the store cannot write"),
        }
        *health = new;
    }

    /// A reader found that the database is damaged. Any other error of a reader says nothing about the disk.
    pub(super) fn read_failed(&self, error: &Error) {
        if matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)) {
            self.failed(error);
        }
    }
}

fn is_full(health: &Health, new: &Health) -> bool {
    *health == Health::Full && !matches!(new, Health::Damaged(_))
}
