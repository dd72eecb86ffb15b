//! The scratch file of the queues: what is in the middle of a long one lies here and not in memory.
//!
//! It is no part of what is stored. It is emptied when the store is opened, and never synced: after a
//! crash the queues are made again from the store's file.

use std::{
    fs,
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
    sync::{Arc, Mutex},
};

use super::{queue::Slot, queues::lock};
use crate::log_limit::LogLimit;

/// The most slots of a block.
pub(super) const BLOCK_SLOTS: usize = 64;
/// A slot in the file: its number and its size.
const SLOT_BYTES: usize = 12;
const BLOCK_BYTES: usize = BLOCK_SLOTS * SLOT_BYTES;

/// Blocks of slots in a file.
#[derive(Debug)]
pub(super) struct Spill {
    blocks: Mutex<Blocks>,
    /// Writes that failed. On a full disk each block of a long queue does.
    pub(super) refused: LogLimit,
}

#[derive(Debug)]
struct Blocks {
    file: fs::File,
    /// How many there are in the file, and which of them are nobody's.
    count: u32,
    free: Vec<u32>,
}

impl Spill {
    /// Makes the file, or empties it. For its owner only, as it tells who gets how much.
    pub(super) fn create(path: &Path) -> io::Result<Arc<Self>> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let blocks = Blocks { file: options.open(path)?, count: 0, free: Vec::new() };
        Ok(Arc::new(Self { blocks: Mutex::new(blocks), refused: LogLimit::per_minute(1) }))
    }

    /// Writes a block of up to [`BLOCK_SLOTS`], and says which it is.
    pub(super) fn write(&self, slots: impl Iterator<Item = Slot>) -> io::Result<u32> {
        let mut bytes = Vec::with_capacity(BLOCK_BYTES);
        for slot in slots {
            bytes.extend(slot.seq.to_le_bytes());
            bytes.extend(slot.size.to_le_bytes());
        }
        debug_assert!(bytes.len() <= BLOCK_BYTES);
        let mut blocks = lock(&self.blocks);
        let block = blocks.free.last().copied().unwrap_or(blocks.count);
        blocks.seek(block)?;
        blocks.file.write_all(&bytes)?;
        if blocks.free.pop().is_none() {
            blocks.count += 1;
        }
        Ok(block)
    }

    /// The first so many slots of a block.
    pub(super) fn read(&self, block: u32, count: usize) -> io::Result<impl Iterator<Item = Slot> + use<>> {
        let mut bytes = [0; BLOCK_BYTES];
        let mut blocks = lock(&self.blocks);
        blocks.seek(block)?;
        blocks.file.read_exact(&mut bytes[..count * SLOT_BYTES])?;
        let (slots, _) = bytes.as_chunks::<SLOT_BYTES>();
        let slots: [[u8; SLOT_BYTES]; BLOCK_SLOTS] = slots.try_into().expect("so many are in a block");
        Ok(slots.into_iter().take(count).map(|[a, b, c, d, e, f, g, h, size @ ..]| Slot {
            seq: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            size: u32::from_le_bytes(size),
        }))
    }

    /// Nobody needs this block any more.
    pub(super) fn free(&self, block: u32) {
        let mut blocks = lock(&self.blocks);
        blocks.free.push(block);
        if blocks.free.len() == blocks.count as usize {
            // Where that fails the blocks are taken again.
            if blocks.file.set_len(0).is_ok() {
                blocks.count = 0;
                blocks.free = Vec::new();
            }
        }
    }
}

impl Blocks {
    fn seek(&mut self, block: u32) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(u64::from(block) * BLOCK_BYTES as u64)).map(drop)
    }
}
