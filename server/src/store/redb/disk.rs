//! The bytes of the database, under the engine.
//!
//! They are opened, and locked against other servers, once: the engine comes and goes above them.
//! After a write that failed it refuses everything until it is opened again, which writes. While
//! nothing can be written it is opened [`Aside`]: what it writes stays in memory, and what is
//! stored can be read on.

use std::{
    collections::BTreeMap,
    fmt, io,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard},
};

use redb::{BackendError, StorageBackend};

use crate::{coop::yield_if_due, store::queues::lock};

type Range = (Bound<u64>, Bound<u64>);

/// The engine writes so many bytes of a new database last: until then they are zero.
const FIRST_BYTES: usize = 9;
/// The head of a database, in bytes; what follows is written with the first commit.
const HEAD_BYTES: usize = 4096;
/// A database is made smaller than this, in bytes.
const UNFINISHED_BYTES: u64 = 8 << 20;

/// After so many bytes that were written there is a sync. The journal's next one waits until the disk has taken
/// all that is before it: where that were some MiB, an append now and then would take ten times as long.
const SYNC_BYTES: usize = 64 << 10;
/// So many bytes are held at most, to be written in order.
const HELD_BYTES: usize = 16 << 20;

/// Where the bytes are, and which locks on them are held.
#[derive(Debug)]
pub(super) struct Disk {
    bytes: Box<dyn StorageBackend>,
    locked: Mutex<Vec<Range>>,
    /// What was written since the last sync that succeeded: offsets and lengths.
    unsure: Mutex<Vec<(u64, usize)>>,
}

impl Disk {
    pub(super) fn new(bytes: Box<dyn StorageBackend>) -> Arc<Self> {
        Arc::new(Self { bytes, locked: Mutex::default(), unsure: Mutex::default() })
    }

    pub(super) fn len(&self) -> io::Result<u64> {
        self.bytes.len()
    }

    /// What the engine writes to. Closing it keeps the locks.
    pub(super) fn writer(self: &Arc<Self>) -> impl StorageBackend {
        Through { disk: Arc::clone(self), held: Mutex::default(), turn: Mutex::default() }
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

    /// A page of a large event can be much longer than what is written without a sync.
    fn write(&self, mut offset: u64, data: &[u8]) -> io::Result<()> {
        for piece in data.chunks(SYNC_BYTES) {
            self.bytes.write(offset, piece)?;
            let mut unsure = lock(&self.unsure);
            unsure.push((offset, piece.len()));
            let is_much = unsure.iter().map(|(_, length)| length).sum::<usize>() >= SYNC_BYTES;
            drop(unsure);
            if is_much {
                self.sync()?;
            }
            offset += piece.len() as u64;
        }
        Ok(())
    }

    /// Writes pages, those next to each other as one.
    fn write_all(&self, pages: &Pages) -> io::Result<()> {
        let (mut start, mut run) = (0, Vec::new());
        for (&offset, data) in pages {
            if start + run.len() as u64 != offset || run.len() >= SYNC_BYTES {
                self.write(start, &run)?;
                start = offset;
                run.clear();
            }
            run.extend_from_slice(data);
        }
        self.write(start, &run)
    }

    fn sync(&self) -> io::Result<()> {
        self.bytes.sync_data()?;
        lock(&self.unsure).clear();
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

/// The way through to the disk. The engine writes a transaction's pages in no order, and the disk takes them in a
/// tenth of the time where those next to each other come as one: they are held until they have to be there.
struct Through {
    disk: Arc<Disk>,
    held: Mutex<Held>,
    /// Who writes them out.
    turn: Mutex<()>,
}

/// Pages by offset. No two overlap.
type Pages = BTreeMap<u64, Vec<u8>>;

#[derive(Default)]
struct Held {
    pages: Pages,
    bytes: usize,
    /// Those that are being written out. Meanwhile others are read.
    leaving: Arc<Pages>,
    /// Some could not be written: nothing is true any more. The engine does not take every error for one.
    is_broken: bool,
}

impl Through {
    fn held(&self) -> io::Result<MutexGuard<'_, Held>> {
        let held = lock(&self.held);
        if held.is_broken { Err(io::Error::other("an earlier write failed")) } else { Ok(held) }
    }

    /// Writes out what is held.
    fn write_out(&self) -> io::Result<()> {
        let _turn = lock(&self.turn);
        let leaving = {
            let mut held = self.held()?;
            held.bytes = 0;
            held.leaving = Arc::new(std::mem::take(&mut held.pages));
            Arc::clone(&held.leaving)
        };
        let written = self.disk.write_all(&leaving);
        let mut held = lock(&self.held);
        held.leaving = Arc::default();
        held.is_broken |= written.is_err();
        written
    }
}

/// Whether one of them has bytes from here to there.
fn overlap(pages: &Pages, offset: u64, length: usize) -> bool {
    let last = pages.range(..offset + length as u64).next_back();
    last.is_some_and(|(start, data)| start + data.len() as u64 > offset)
}

impl fmt::Debug for Through {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.disk.bytes.fmt(f)
    }
}

impl StorageBackend for Through {
    fn len(&self) -> io::Result<u64> {
        self.disk.bytes.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let held = self.held()?;
        let is_held = overlap(&held.pages, offset, out.len()) || overlap(&held.leaving, offset, out.len());
        drop(held);
        if is_held {
            self.write_out()?;
        }
        self.disk.bytes.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.write_out()?;
        self.disk.bytes.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        // The engine does not write meanwhile.
        self.write_out()?;
        self.disk.sync().inspect_err(|_| lock(&self.held).is_broken = true)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut held = self.held()?;
        let is_same = held.pages.get(&offset).is_some_and(|page| page.len() == data.len());
        if !is_same && (overlap(&held.pages, offset, data.len()) || held.bytes >= HELD_BYTES) {
            drop(held);
            self.write_out()?;
            held = self.held()?;
        }
        if held.pages.insert(offset, data.to_vec()).is_none() {
            held.bytes += data.len();
        }
        drop(held);
        yield_if_due();
        Ok(())
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        let mut locked = lock(&self.disk.locked);
        if locked.contains(&(start, end)) {
            return Ok(true);
        }
        let taken = self.disk.bytes.try_lock_range(start, end)?;
        if taken {
            locked.push((start, end));
        }
        Ok(taken)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        lock(&self.disk.locked).retain(|range| *range != (start, end));
        self.disk.bytes.unlock_range(start, end)
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
