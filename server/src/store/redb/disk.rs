//! The bytes of the database, under the engine.
//!
//! They are opened, and locked against other servers, once: the engine comes and goes above them.
//! After a write that failed it refuses everything until it is opened again, which writes. While
//! nothing can be written it is opened [`Aside`]: what it writes stays in memory, and what is
//! stored can be read on.

use std::{
    fmt, io,
    ops::Bound,
    sync::{Arc, Mutex},
};

use redb::{BackendError, StorageBackend};

use crate::store::queues::lock;

type Range = (Bound<u64>, Bound<u64>);

/// The engine writes so many bytes of a new database last: until then they are zero.
const FIRST_BYTES: usize = 9;
/// The head of a database, in bytes; what follows is written with the first commit.
const HEAD_BYTES: usize = 4096;
/// A database is made smaller than this, in bytes.
const UNFINISHED_BYTES: u64 = 8 << 20;

/// Where the bytes are, and which locks on them are held.
#[derive(Debug)]
pub(super) struct Disk {
    bytes: Box<dyn StorageBackend>,
    locked: Mutex<Vec<Range>>,
    /// What was written since the last sync that succeeded: offsets and lengths.
    unsure: Mutex<Vec<(u64, usize)>>,
}

impl Disk {
    pub(super) fn new(bytes: impl StorageBackend) -> Arc<Self> {
        Arc::new(Self { bytes: Box::new(bytes), locked: Mutex::default(), unsure: Mutex::default() })
    }

    pub(super) fn len(&self) -> io::Result<u64> {
        self.bytes.len()
    }

    /// What the engine writes to. Closing it keeps the locks.
    pub(super) fn writer(self: &Arc<Self>) -> impl StorageBackend {
        Through(Arc::clone(self))
    }

    /// What the engine writes to while nothing can be written.
    pub(super) fn aside(self: &Arc<Self>) -> io::Result<impl StorageBackend> {
        let memory = Memory { len: self.bytes.len()?, written: Vec::new() };
        Ok(Aside { disk: Arc::clone(self), memory: Mutex::new(memory) })
    }

    /// Writes again what a sync that failed may have lost. The system goes on to read it as if it had been
    /// written, and does not write it with the next sync: a commit could look whole and be on no disk.
    pub(super) fn make_sure(&self) -> io::Result<()> {
        let mut unsure = lock(&self.unsure);
        let end = self.bytes.len()?;
        for &(offset, length) in unsure.iter() {
            let left = usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX);
            let mut bytes = vec![0; length.min(left)];
            if !bytes.is_empty() {
                self.bytes.read(offset, &mut bytes)?;
                self.bytes.write(offset, &bytes)?;
            }
        }
        self.bytes.sync_data()?;
        unsure.clear();
        Ok(())
    }

    /// Empties it where it is a database whose making was cut off, which the engine does not open. Only to
    /// be asked for once the engine tried, and locked it. Says whether it was one.
    pub(super) fn clear_if_unfinished(&self) -> io::Result<bool> {
        let len = self.bytes.len()?;
        if len > UNFINISHED_BYTES {
            return Ok(false);
        }
        let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
        self.bytes.read(0, &mut bytes)?;
        let first = bytes.iter().take(FIRST_BYTES);
        let is_unfinished = first.chain(bytes.iter().skip(HEAD_BYTES)).all(|&byte| byte == 0);
        if is_unfinished {
            self.bytes.set_len(0)?;
        }
        Ok(is_unfinished)
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
        // The engine does not write meanwhile.
        self.0.bytes.sync_data()?;
        lock(&self.0.unsure).clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.bytes.write(offset, data)?;
        lock(&self.0.unsure).push((offset, data.len()));
        Ok(())
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

/// The disk as it is, and over it what was written since: that stays in memory.
struct Aside {
    disk: Arc<Disk>,
    memory: Mutex<Memory>,
}

struct Memory {
    len: u64,
    /// In order. The engine writes no more here than it takes to open the database.
    written: Vec<(u64, Vec<u8>)>,
}

impl fmt::Debug for Aside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Aside").field(&self.disk.bytes).finish()
    }
}

impl StorageBackend for Aside {
    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.memory).len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let memory = lock(&self.memory);
        let end = offset + out.len() as u64;
        if end > memory.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let on_disk = self.disk.bytes.len()?.clamp(offset, end) - offset;
        let (there, beyond) = out.split_at_mut(usize::try_from(on_disk).unwrap_or_default());
        if !there.is_empty() {
            self.disk.bytes.read(offset, there)?;
        }
        beyond.fill(0);
        for (start, data) in &memory.written {
            let (from, to) = ((*start).max(offset), (start + data.len() as u64).min(end));
            if from < to {
                let place = |base: u64| {
                    usize::try_from(from - base).unwrap_or_default()
                        ..usize::try_from(to - base).unwrap_or_default()
                };
                out[place(offset)].copy_from_slice(&data[place(*start)]);
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        lock(&self.memory).len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        lock(&self.memory).written.push((offset, data.to_vec()));
        Ok(())
    }
}
