//! The bytes of the database, under the engine.
//!
//! They are opened, and locked against other servers, once: the engine may come and go above them.

use std::{
    fmt, io,
    ops::Bound,
    sync::{Arc, Mutex},
};

use redb::{BackendError, StorageBackend};

use crate::store::queues::lock;

type Range = (Bound<u64>, Bound<u64>);

/// Where the bytes are, and which locks on them are held.
#[derive(Debug)]
pub(super) struct Disk {
    bytes: Box<dyn StorageBackend>,
    locked: Mutex<Vec<Range>>,
}

impl Disk {
    pub(super) fn new(bytes: impl StorageBackend) -> Arc<Self> {
        Arc::new(Self { bytes: Box::new(bytes), locked: Mutex::default() })
    }

    pub(super) fn len(&self) -> io::Result<u64> {
        self.bytes.len()
    }

    /// What the engine writes to. Closing it keeps the locks.
    pub(super) fn writer(self: &Arc<Self>) -> impl StorageBackend {
        Through(Arc::clone(self))
    }

    /// Lets another server have it.
    pub(super) fn unlock(&self) -> io::Result<()> {
        self.bytes.close()
    }
}

/// The way through to the disk.
struct Through(Arc<Disk>);

impl fmt::Debug for Through {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.bytes.fmt(f)
    }
}

impl StorageBackend for Through {
    fn len(&self) -> io::Result<u64> {
        self.0.bytes.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.bytes.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.bytes.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.bytes.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.bytes.write(offset, data)
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        let mut locked = lock(&self.0.locked);
        if locked.contains(&(start, end)) {
            return Ok(true);
        }
        let taken = self.0.bytes.try_lock_range(start, end)?;
        if taken {
            locked.push((start, end));
        }
        Ok(taken)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        lock(&self.0.locked).retain(|range| *range != (start, end));
        self.0.bytes.unlock_range(start, end)
    }
}
