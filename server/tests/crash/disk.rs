//! A disk in memory that loses what was not synced when its power is cut, and fails when it is told to.
//!
//! It behaves as a file on a disk behind the system's page cache: what is written can be read at once,
//! is on the disk after the next sync, and perhaps before. A sync that fails forgets what it could not
//! write: it stays readable and never gets to the disk, as Linux does it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard},
};

use redb::StorageBackend;
use wwproxy_server::store::{Limits, OpenError, RedbStore};

use crate::random::Random;

/// The names of the store's files.
pub(crate) const DATABASE: &str = "database";
pub(crate) const JOURNAL: &str = "journal";

/// What a disk writes as one.
const SECTOR: usize = 512;
/// What a page cache writes as one.
const PAGE: usize = 4096;

/// Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk(Arc<(Mutex<State>, Condvar)>);

/// A file on it.
#[derive(Debug)]
struct File {
    disk: Disk,
    name: &'static str,
}

#[derive(Default)]
struct State {
    files: BTreeMap<&'static str, Contents>,
    fault: Option<Fault>,
    /// How many pages have room, and which ones have been written.
    capacity: Option<usize>,
    occupied: BTreeSet<(&'static str, usize)>,
    /// So many changes before the power is cut, where it is to be.
    life: Option<u64>,
    dead: bool,
}

/// What a file is.
#[derive(Clone, Default)]
struct Contents {
    /// What is read.
    cache: Vec<u8>,
    /// What is on the disk for sure.
    durable: Vec<u8>,
    /// What has been done since the last sync, and is on the disk perhaps.
    unsynced: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

/// What is wrong with the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing can be written: the file system went read-only.
    ReadOnly,
    /// What is written does not get to the disk, and is forgotten.
    Sync,
    /// The same once, of this file, after so many that succeed: not where it only grows, before anything is written.
    OneSync(&'static str, u32),
    /// A sync of the journal fails once, and then one of the database takes for ever.
    JournalThenStuck,
    /// Reading fails, once.
    OneRead,
    /// Reading what has these bytes in it fails, always.
    BadSector(&'static [u8]),
    /// A sync of this file takes for ever.
    Stuck(&'static str),
}

impl Disk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap()
    }

    /// Nothing that is asked of it is done before this is dropped.
    pub(crate) fn hold(&self) -> impl Drop {
        self.state()
    }

    /// Opens the store on it.
    pub(crate) fn open(&self, limits: Limits) -> Result<RedbStore, OpenError> {
        let file = |name| File { disk: self.clone(), name };
        RedbStore::open_on("/nowhere", file(DATABASE), file(JOURNAL), limits)
    }

    /// Breaks it, or mends it.
    pub(crate) fn set_fault(&self, fault: Option<Fault>) {
        self.state().fault = fault;
        self.0.1.notify_all();
    }

    /// What is wrong with it now.
    pub(crate) fn fault(&self) -> Option<Fault> {
        self.state().fault
    }

    /// Leaves room for so many pages beyond those that were ever written, or as many as one likes.
    pub(crate) fn set_room(&self, pages: Option<usize>) {
        let mut state = self.state();
        state.capacity = pages.map(|pages| state.occupied.len() + pages);
    }

    /// Cuts the power after so many more changes: all that is asked of it from then on fails.
    pub(crate) fn die_after(&self, changes: u64) {
        self.state().life = Some(changes);
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.state().dead
    }

    /// What the next server finds where only this one ended.
    pub(crate) fn after_kill(&self) -> Self {
        let state = self.state();
        let (files, occupied) = (state.files.clone(), state.occupied.clone());
        Self(Arc::new((Mutex::new(State { files, occupied, ..State::default() }), Condvar::new())))
    }

    /// What is found when the power is back: of what was not synced, any part.
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

    /// Each block as it was after any of the writes to it, whatever became of the others, and any of the
    /// lengths there were.
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
    /// One change more, if the power lasts.
    fn change(&mut self) -> io::Result<()> {
        if let Some(life) = &mut self.life {
            if *life == 0 {
                self.dead = true;
            } else {
                *life -= 1;
            }
        }
        self.check_power()
    }

    fn check_power(&self) -> io::Result<()> {
        if self.dead { Err(io::Error::other("there is no power")) } else { Ok(()) }
    }

    fn check_writable(&self) -> io::Result<()> {
        match self.fault {
            Some(Fault::ReadOnly) => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
            _ => Ok(()),
        }
    }
}

/// The blocks that these bytes touch.
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
        let is_stuck = |state: &mut State| state.fault == Some(Fault::Stuck(self.name));
        let mut state = self.disk.0.1.wait_while(self.disk.state(), is_stuck).unwrap();
        state.change()?;
        let fault = state.fault;
        let file = state.files.entry(self.name).or_default();
        match fault {
            // With nothing to write there is nothing that fails.
            Some(Fault::ReadOnly) if !file.unsynced.is_empty() => {
                return Err(io::ErrorKind::ReadOnlyFilesystem.into());
            }
            Some(Fault::Sync) if !file.unsynced.is_empty() => {
                file.unsynced.clear();
                return Err(io::Error::other("what was written is lost"));
            }
            Some(Fault::OneSync(name, before))
                if name == self.name
                    && file.unsynced.iter().any(|change| matches!(change, Change::Write(..))) =>
            {
                if before == 0 {
                    file.unsynced.clear();
                    state.fault = None;
                    return Err(io::Error::other("what was written is lost"));
                }
                state.fault = Some(Fault::OneSync(name, before - 1));
            }
            Some(Fault::JournalThenStuck) if self.name == JOURNAL => {
                file.unsynced.clear();
                state.fault = Some(Fault::Stuck(DATABASE));
                return Err(io::Error::other("what was written is lost"));
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
