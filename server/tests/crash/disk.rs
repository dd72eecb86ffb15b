//! A simulated disk: it loses unsynced writes in a power cut, and fails on demand (fault injection).
//!
//! It models files behind the page cache: a write is readable at once, and durable after the next fsync, or possibly
//! before. A failed fsync drops the dirty pages: they stay readable and never reach the disk, as on Linux.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard},
};

use redb::StorageBackend;
use wwproxy_server::store::{Limits, OpenError, RedbStore};

use crate::random::Random;

/// The files of the store: the database, and the write-ahead log.
pub(crate) const DATABASE: &str = "database";
pub(crate) const WAL: &str = "journal";

/// The unit that a disk writes atomically, in bytes.
const SECTOR: usize = 512;
/// The unit of the page cache, in bytes.
const PAGE: usize = 4096;

/// A simulated disk. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk(Arc<(Mutex<State>, Condvar)>);

/// A file on the disk.
#[derive(Debug)]
struct File {
    disk: Disk,
    name: &'static str,
}

#[derive(Default)]
struct State {
    files: BTreeMap<&'static str, Contents>,
    fault: Option<Fault>,
    /// The capacity in pages, and the pages that have been written.
    capacity: Option<usize>,
    occupied: BTreeSet<(&'static str, usize)>,
    /// The number of changes until the power is cut, if it is to be cut.
    changes_left: Option<u64>,
    powered_off: bool,
}

/// The contents of a file.
#[derive(Clone, Default)]
struct Contents {
    /// The page cache, which reads return.
    cache: Vec<u8>,
    /// The contents after the last successful fsync.
    durable: Vec<u8>,
    /// The changes since then, which may or may not have reached the disk.
    unsynced: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

/// A fault of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Writes fail: the file system is read-only.
    ReadOnly,
    /// Every fsync fails and drops the dirty pages.
    EverySync,
    /// One fsync of this file fails, after N that succeed. An fsync after only a change of length does not count.
    OneSync(&'static str, u32),
    /// One fsync of the write-ahead log fails, and then every fsync of the database hangs.
    WalThenHang,
    /// One read fails.
    OneRead,
    /// Every read of these bytes fails.
    BadSector(&'static [u8]),
    /// Every fsync of this file hangs.
    Hang(&'static str),
}

impl Disk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap()
    }

    /// Blocks all operations until the guard is dropped.
    pub(crate) fn block(&self) -> impl Drop {
        self.state()
    }

    /// Opens a store on this disk.
    pub(crate) fn open(&self, limits: Limits) -> Result<RedbStore, OpenError> {
        let file = |name| File { disk: self.clone(), name };
        RedbStore::open_on("/simulated", file(DATABASE), file(WAL), limits)
    }

    /// Injects a fault, or clears it.
    pub(crate) fn set_fault(&self, fault: Option<Fault>) {
        self.state().fault = fault;
        self.0.1.notify_all();
    }

    /// The current fault.
    pub(crate) fn fault(&self) -> Option<Fault> {
        self.state().fault
    }

    /// Limits the free space to `pages` new pages, or removes the limit.
    pub(crate) fn set_free_pages(&self, pages: Option<usize>) {
        let mut state = self.state();
        state.capacity = pages.map(|pages| state.occupied.len() + pages);
    }

    /// Cuts the power after this number of changes: every later operation fails.
    pub(crate) fn cut_power_after(&self, changes: u64) {
        self.state().changes_left = Some(changes);
    }

    pub(crate) fn is_powered_off(&self) -> bool {
        self.state().powered_off
    }

    /// The disk after a kill of the server: the page cache survives.
    pub(crate) fn after_kill(&self) -> Self {
        let state = self.state();
        let (files, occupied) = (state.files.clone(), state.occupied.clone());
        Self(Arc::new((Mutex::new(State { files, occupied, ..State::default() }), Condvar::new())))
    }

    /// The disk after a power cut: any subset of the unsynced changes survives.
    pub(crate) fn after_power_cut(&self, random: &mut Random) -> Self {
        let mut files = BTreeMap::new();
        let mut occupied = BTreeSet::new();
        for (&name, file) in &self.state().files {
            let image = file.after_power_cut(random);
            occupied.extend((0..image.len() / PAGE).map(|page| (name, page)));
            files.insert(name, Contents { durable: image.clone(), cache: image, unsynced: Vec::new() });
        }
        Self(Arc::new((Mutex::new(State { files, occupied, ..State::default() }), Condvar::new())))
    }
}

impl Change {
    fn apply(&self, image: &mut Vec<u8>) {
        match self {
            Self::Write(offset, data) => {
                if image.len() < offset + data.len() {
                    image.resize(offset + data.len(), 0);
                }
                image[*offset..offset + data.len()].copy_from_slice(data);
            }
            Self::Length(length) => image.resize(*length, 0),
        }
    }
}

impl Contents {
    fn after_power_cut(&self, random: &mut Random) -> Vec<u8> {
        let mut image = self.durable.clone();
        match random.below(5) {
            0 => {}
            1 => self.unsynced.iter().for_each(|change| change.apply(&mut image)),
            2 => {
                let kept = random.below(self.unsynced.len() as u64 + 1);
                self.unsynced[..usize::try_from(kept).unwrap()].iter().for_each(|c| c.apply(&mut image));
            }
            3 => self.scatter(PAGE, random, &mut image),
            _ => self.scatter(SECTOR, random, &mut image),
        }
        image
    }

    /// Each block independently keeps any prefix of the writes to it (reordered and torn writes), and the file has any of
    /// the lengths that it had.
    fn scatter(&self, block: usize, random: &mut Random, image: &mut Vec<u8>) {
        let mut lengths = vec![image.len()];
        let mut writes: BTreeMap<usize, u64> = BTreeMap::new();
        for change in &self.unsynced {
            match change {
                Change::Write(offset, data) => {
                    blocks(*offset, data, block).for_each(|n| *writes.entry(n).or_default() += 1);
                }
                Change::Length(length) => lengths.push(*length),
            }
        }
        image.resize(*lengths.iter().max().unwrap(), 0);
        for count in writes.values_mut() {
            *count = random.below(*count + 1);
        }
        for change in &self.unsynced {
            let Change::Write(offset, data) = change else { continue };
            for n in blocks(*offset, data, block) {
                let kept = writes.get_mut(&n).unwrap();
                if *kept > 0 {
                    *kept -= 1;
                    let from = (n * block).max(*offset);
                    let to = ((n + 1) * block).min(offset + data.len());
                    image[from..to].copy_from_slice(&data[from - offset..to - offset]);
                }
            }
        }
        image.truncate(lengths[usize::try_from(random.below(lengths.len() as u64)).unwrap()]);
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.cache);
        self.unsynced.push(change);
    }
}

impl State {
    /// Counts a change, and fails after the power cut.
    fn change(&mut self) -> io::Result<()> {
        if let Some(left) = &mut self.changes_left {
            if *left == 0 {
                self.powered_off = true;
            } else {
                *left -= 1;
            }
        }
        self.check_power()
    }

    fn check_power(&self) -> io::Result<()> {
        if self.powered_off { Err(io::Error::other("the power is off")) } else { Ok(()) }
    }

    fn check_writable(&self) -> io::Result<()> {
        match self.fault {
            Some(Fault::ReadOnly) => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
            _ => Ok(()),
        }
    }
}

/// The blocks that a write of `data` at `offset` touches.
fn blocks(offset: usize, data: &[u8], block: usize) -> impl Iterator<Item = usize> + use<> {
    offset / block..=(offset + data.len() - 1) / block
}

impl StorageBackend for File {
    fn len(&self) -> io::Result<u64> {
        let mut state = self.disk.state();
        Ok(state.files.entry(self.name).or_default().cache.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        state.check_power()?;
        if state.fault == Some(Fault::OneRead) {
            state.fault = None;
            return Err(io::Error::other("a bad sector"));
        }
        let offset = usize::try_from(offset).unwrap();
        let cache = &state.files[self.name].cache;
        out.copy_from_slice(cache.get(offset..offset + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        match state.fault {
            Some(Fault::BadSector(bytes)) if out.windows(bytes.len()).any(|window| window == bytes) => {
                Err(io::Error::other("a bad sector"))
            }
            _ => Ok(()),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.change()?;
        state.check_writable()?;
        state.files.entry(self.name).or_default().change(Change::Length(usize::try_from(len).unwrap()));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let hangs = |state: &mut State| state.fault == Some(Fault::Hang(self.name));
        let mut state = self.disk.0.1.wait_while(self.disk.state(), hangs).unwrap();
        state.change()?;
        let fault = state.fault;
        let file = state.files.entry(self.name).or_default();
        match fault {
            // An fsync without dirty pages succeeds.
            Some(Fault::ReadOnly) if !file.unsynced.is_empty() => {
                return Err(io::ErrorKind::ReadOnlyFilesystem.into());
            }
            Some(Fault::EverySync) if !file.unsynced.is_empty() => {
                file.unsynced.clear();
                return Err(io::Error::other("the fsync failed, the dirty pages are lost"));
            }
            Some(Fault::OneSync(name, before))
                if name == self.name
                    && file.unsynced.iter().any(|change| matches!(change, Change::Write(..))) =>
            {
                if before == 0 {
                    file.unsynced.clear();
                    state.fault = None;
                    return Err(io::Error::other("the fsync failed, the dirty pages are lost"));
                }
                state.fault = Some(Fault::OneSync(name, before - 1));
            }
            Some(Fault::WalThenHang) if self.name == WAL => {
                file.unsynced.clear();
                state.fault = Some(Fault::Hang(DATABASE));
                return Err(io::Error::other("the fsync failed, the dirty pages are lost"));
            }
            _ => {}
        }
        let Contents { durable, unsynced, .. } = state.files.entry(self.name).or_default();
        unsynced.drain(..).for_each(|change| change.apply(durable));
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        state.change()?;
        state.check_writable()?;
        let offset = usize::try_from(offset).unwrap();
        let pages = || blocks(offset, data, PAGE).map(|page| (self.name, page));
        let new = pages().filter(|page| !state.occupied.contains(page)).count();
        if state.capacity.is_some_and(|capacity| new > 0 && state.occupied.len() + new > capacity) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.occupied.extend(pages());
        state.files.entry(self.name).or_default().change(Change::Write(offset, data.to_vec()));
        Ok(())
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("pages", &self.occupied.len()).finish_non_exhaustive()
    }
}
