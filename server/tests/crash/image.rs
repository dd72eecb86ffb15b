//! What is on the disk after a power cut: the durable contents of the files, and any part of the changes since their last fsync.

use std::{collections::BTreeMap, fs, path::Path};

use crate::random::Random;

/// The unit that a disk writes atomically, in bytes.
const SECTOR: usize = 512;
/// The unit of the page cache, in bytes.
const PAGE: usize = 4096;

/// The files of a folder.
#[derive(Debug, Default)]
pub(crate) struct Image {
    /// All files that ever had a name.
    files: Vec<Contents>,
    /// The files by name, as a process sees them.
    names: Names,
    /// The names after the last fsync of the folder.
    durable_names: Names,
    /// The changes of names since then. They survive in order, as in a journaling file system.
    unsynced_names: Vec<NameChange>,
}

type Names = BTreeMap<String, usize>;
/// These names now belong to these files, or to none.
type NameChange = Vec<(String, Option<usize>)>;

/// The contents of a file.
#[derive(Debug, Default)]
struct Contents {
    /// The contents after the last successful fsync.
    durable: Vec<u8>,
    /// The changes since then, which may or may not have reached the disk.
    unsynced: Vec<Change>,
}

#[derive(Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

impl Image {
    /// Applies the records of a journal. The last one may be cut off, if the process was killed: its change was not made.
    pub(crate) fn replay(&mut self, journal: &[u8]) {
        let mut rest = journal;
        while let Some(record) = Record::read(&mut rest) {
            self.apply(record);
        }
    }

    fn apply(&mut self, record: Record<'_>) {
        let Record { operation, name, offset, data } = record;
        let file = self.names.get(&name).copied();
        match operation {
            0 => {
                self.files.push(Contents::default());
                self.rename(vec![(name, Some(self.files.len() - 1))]);
            }
            1 => self.contents(&name).unsynced.push(Change::Write(offset, data.to_vec())),
            2 => self.contents(&name).unsynced.push(Change::Length(offset)),
            3 => {
                let Contents { durable, unsynced } = self.contents(&name);
                unsynced.drain(..).for_each(|change| change.apply(durable));
                // The file's own name becomes durable with it, and so do all changes of names before.
                let is_own = |change: &NameChange| change.iter().any(|(_, target)| *target == file);
                if let Some(last) = self.unsynced_names.iter().rposition(is_own) {
                    self.sync_names(last + 1);
                }
            }
            4 => self.contents(&name).unsynced.clear(),
            5 => self.rename(vec![(name, None)]),
            6 => {
                let target = String::from_utf8(data.to_vec()).unwrap();
                self.rename(vec![(name, None), (target, file)]);
            }
            7 => self.sync_names(self.unsynced_names.len()),
            unknown => panic!("operation {unknown}"),
        }
    }

    fn contents(&mut self, name: &str) -> &mut Contents {
        &mut self.files[self.names[name]]
    }

    fn rename(&mut self, change: NameChange) {
        set_names(&mut self.names, &change);
        self.unsynced_names.push(change);
    }

    fn sync_names(&mut self, count: usize) {
        for change in self.unsynced_names.drain(..count) {
            set_names(&mut self.durable_names, &change);
        }
    }

    /// Replaces the contents by what survives a power cut.
    pub(crate) fn cut_power(&mut self, random: &mut Random) {
        let kept = random.below(self.unsynced_names.len() as u64 + 1);
        self.sync_names(usize::try_from(kept).unwrap());
        let mut after = Self::default();
        for (name, file) in &self.durable_names {
            let durable = self.files[*file].after_power_cut(random);
            after.names.insert(name.clone(), after.files.len());
            after.files.push(Contents { durable, unsynced: Vec::new() });
        }
        after.durable_names.clone_from(&after.names);
        *self = after;
    }

    /// Writes the files into this folder, in place of what it contains, except the key of the tokens: `disk.c` leaves it alone.
    pub(crate) fn write(&self, folder: &Path) {
        fs::create_dir_all(folder).unwrap();
        for file in fs::read_dir(folder).unwrap() {
            let file = file.unwrap();
            if file.file_name() != "token.key" {
                fs::remove_file(file.path()).unwrap();
            }
        }
        for (name, file) in &self.names {
            fs::write(folder.join(name), &self.files[*file].durable).unwrap();
        }
    }
}

fn set_names(names: &mut Names, change: &NameChange) {
    for (name, file) in change {
        match file {
            Some(file) => names.insert(name.clone(), *file),
            None => names.remove(name),
        };
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
            let length = lengths[lengths.len() - 1];
            match change {
                Change::Write(offset, data) => {
                    blocks(*offset, data, block).for_each(|n| *writes.entry(n).or_default() += 1);
                    lengths.push(length.max(offset + data.len()));
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

/// The blocks that a write of `data` at `offset` touches.
fn blocks(offset: usize, data: &[u8], block: usize) -> impl Iterator<Item = usize> + use<> {
    offset / block..(offset + data.len()).div_ceil(block)
}

/// A record of the journal that `disk.c` writes.
struct Record<'a> {
    operation: u32,
    name: String,
    offset: usize,
    data: &'a [u8],
}

impl<'a> Record<'a> {
    fn read(rest: &mut &'a [u8]) -> Option<Self> {
        let operation = u32::from_ne_bytes(take(rest)?);
        let name_length = u32::from_ne_bytes(take(rest)?);
        let offset = u64::from_ne_bytes(take(rest)?);
        let data_length = u64::from_ne_bytes(take(rest)?);
        let name = rest.split_off(..usize::try_from(name_length).unwrap())?;
        let data = rest.split_off(..usize::try_from(data_length).unwrap())?;
        let name = String::from_utf8(name.to_vec()).unwrap();
        Some(Self { operation, name, offset: usize::try_from(offset).unwrap(), data })
    }
}

/// Takes a number of N bytes.
fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    rest.split_off(..N)?.try_into().ok()
}
