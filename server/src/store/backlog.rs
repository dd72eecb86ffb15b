//! The events of a queue that have never been handed out, first come first.
//!
//! Its two ends are in memory, so many slots each; what is between them lies in the [`Spill`] file, where
//! there is one. So a queue takes about as much memory however long it is, and less where nobody leases.

use std::{collections::VecDeque, io, sync::Arc};

use super::{
    queue::Slot,
    sequence::Seq,
    spill::{BLOCK_SLOTS, Spill},
};

/// A shorter backlog is in memory as a whole, in slots.
const SHORT: usize = 2 * BLOCK_SLOTS;
/// What stays in memory where nobody leases, in slots. In the file they would take about as much.
const RESTING: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Backlog {
    spill: Option<Arc<Spill>>,
    head: VecDeque<Slot>,
    /// What comes after the head, in the file.
    blocks: VecDeque<Block>,
    /// What comes after the blocks, or after the head where there are none.
    tail: VecDeque<Slot>,
    len: usize,
}

#[derive(Debug, Clone, Copy)]
struct Block {
    first: Seq,
    index: u32,
    count: u32,
}

impl Backlog {
    /// An empty one whose middle may go there.
    pub(super) fn new(spill: Option<Arc<Spill>>) -> Self {
        let mut backlog = Self::default();
        backlog.spill = spill;
        backlog
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The number of the first, where there is one.
    pub(super) fn first(&self) -> Option<Seq> {
        let block = || self.blocks.front().map(|block| block.first);
        let tail = || self.tail.front().map(|slot| slot.seq);
        self.head.front().map(|slot| slot.seq).or_else(block).or_else(tail)
    }

    /// Adds one that comes after all others.
    pub(super) fn push(&mut self, slot: Slot) {
        self.len += 1;
        let all_in_head = self.blocks.is_empty() && self.tail.is_empty();
        if all_in_head && (self.head.len() < SHORT || self.spill.is_none()) {
            self.head.push_back(slot);
            return;
        }
        self.tail.push_back(slot);
        if self.tail.len().is_multiple_of(BLOCK_SLOTS) {
            self.write_tail(BLOCK_SLOTS);
        }
    }

    /// The first one. `None` also where it cannot be read, which is told; it is tried again the next time.
    pub(super) fn front(&mut self) -> Option<Slot> {
        if self.head.is_empty() {
            self.load();
        }
        self.head.front().copied()
    }

    /// Takes out the first one.
    pub(super) fn pop_front(&mut self) -> Option<Slot> {
        let slot = self.front()?;
        self.head.pop_front();
        self.len -= 1;
        Some(slot)
    }

    /// Takes out the one of this number.
    pub(super) fn remove(&mut self, seq: Seq) -> Option<Slot> {
        while self.head.back().is_none_or(|last| last.seq < seq) && self.load() {}
        let place = self.head.binary_search_by_key(&seq, |slot| slot.seq).ok()?;
        self.len -= 1;
        self.head.remove(place)
    }

    /// Those with a number below this.
    pub(super) fn below(&self, floor: Seq) -> io::Result<Vec<Slot>> {
        if self.first().is_none_or(|first| first >= floor) {
            return Ok(Vec::new());
        }
        let mut found: Vec<_> = self.head.iter().copied().collect();
        for block in self.blocks.iter().take_while(|block| block.first < floor) {
            found.extend(self.read(*block)?);
        }
        found.extend(&self.tail);
        found.truncate(found.partition_point(|slot| slot.seq < floor));
        Ok(found)
    }

    pub(super) fn clear(&mut self) {
        *self = Self::new(self.spill.clone());
    }

    /// Leaves in memory what is needed of a queue where nobody leases.
    pub(super) fn rest(&mut self) {
        if self.spill.is_none() || self.head.len() + self.tail.len() <= RESTING {
            return;
        }
        if self.blocks.is_empty() {
            self.head.append(&mut self.tail);
            std::mem::swap(&mut self.head, &mut self.tail);
        } else {
            while !self.head.is_empty() {
                let from = self.head.len().saturating_sub(BLOCK_SLOTS);
                let Some(block) = self.write(self.head.range(from..)) else { return };
                self.blocks.push_front(block);
                self.head.truncate(from);
            }
            self.take_back_last();
        }
        self.write_tail(1);
        self.head.shrink_to_fit();
        self.tail.shrink_to_fit();
        self.blocks.shrink_to_fit();
    }

    /// Brings the next ones into the head. `false` where no more can follow: there are none, or they cannot be
    /// read.
    fn load(&mut self) -> bool {
        let Some(&block) = self.blocks.front() else {
            self.head.append(&mut self.tail);
            return false;
        };
        let Ok(slots) = self.read(block) else { return false };
        self.head.extend(slots);
        self.blocks.pop_front();
        self.free(block);
        true
    }

    /// Brings a last block that is not full back to the tail, to be written as one with it.
    fn take_back_last(&mut self) {
        let Some(&last) = self.blocks.back() else { return };
        if last.count as usize == BLOCK_SLOTS {
            return;
        }
        let Ok(slots) = self.read(last) else { return };
        self.tail = slots.chain(self.tail.drain(..)).collect();
        self.blocks.pop_back();
        self.free(last);
    }

    /// Writes the tail while it has so many slots.
    fn write_tail(&mut self, least: usize) {
        while self.tail.len() >= least {
            let count = self.tail.len().min(BLOCK_SLOTS);
            let Some(block) = self.write(self.tail.range(..count)) else { break };
            self.blocks.push_back(block);
            self.tail.drain(..count);
        }
    }

    fn write<'a>(&self, slots: impl ExactSizeIterator<Item = &'a Slot> + Clone) -> Option<Block> {
        let spill = self.spill.as_ref()?;
        let first = slots.clone().next()?.seq;
        let count = u32::try_from(slots.len()).ok()?;
        let failed = |error: &io::Error| {
            if let Some(times) = spill.refused.add(1) {
                tracing::error!(%error, times, "a long queue is kept in memory, as the store's scratch file cannot be written");
            }
        };
        let index = spill.write(slots.copied()).inspect_err(failed).ok()?;
        Some(Block { first, index, count })
    }

    fn read(&self, block: Block) -> io::Result<impl Iterator<Item = Slot> + use<>> {
        let spill = self.spill.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let slots = spill.read(block.index, block.count as usize);
        slots.inspect_err(|error| tracing::error!(%error, "the store's scratch file cannot be read: the events after these wait until it can, or until the next start"))
    }

    fn free(&self, block: Block) {
        if let Some(spill) = &self.spill {
            spill.free(block.index);
        }
    }
}

impl Drop for Backlog {
    fn drop(&mut self) {
        for &block in &self.blocks {
            self.free(block);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Push(usize),
        Pop(usize),
        Remove(usize),
        Below(usize),
        Rest,
        Clear,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (1..200_usize).prop_map(Step::Push),
            4 => (1..150_usize).prop_map(Step::Pop),
            2 => any::<usize>().prop_map(Step::Remove),
            2 => any::<usize>().prop_map(Step::Below),
            3 => Just(Step::Rest),
            1 => Just(Step::Clear),
        ]
    }

    /// Slots of ascending numbers with gaps.
    fn next(last: &mut Seq) -> Slot {
        *last += 1 + *last % 3;
        Slot { seq: *last, size: u32::try_from(*last * 7 % 1000).unwrap() }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn is_a_list(steps in prop::collection::vec((any::<bool>(), step()), 1..60)) {
            let folder = tempfile::tempdir().unwrap();
            let spill = Spill::create(&folder.path().join("spill")).unwrap();
            // Two in one file: neither has what is the other's.
            let mut pairs = [(); 2].map(|()| (Backlog::new(Some(Arc::clone(&spill))), VecDeque::new()));
            let mut last = 0;
            for (second, step) in steps {
                let (backlog, list) = &mut pairs[usize::from(second)];
                match step {
                    Step::Push(count) => {
                        for _ in 0..count {
                            let slot = next(&mut last);
                            backlog.push(slot);
                            list.push_back(slot);
                        }
                    }
                    Step::Pop(count) => {
                        for _ in 0..count {
                            prop_assert_eq!(backlog.pop_front(), list.pop_front());
                        }
                    }
                    Step::Remove(at) if !list.is_empty() => {
                        let slot = list.remove(at % list.len()).unwrap();
                        prop_assert_eq!(backlog.remove(slot.seq), Some(slot));
                        prop_assert_eq!(backlog.remove(slot.seq), None);
                    }
                    Step::Remove(_) => {}
                    Step::Below(at) => {
                        let at = if list.is_empty() { 0 } else { at % list.len() };
                        let floor = list.get(at).map_or(7, |slot: &Slot| slot.seq);
                        prop_assert_eq!(backlog.below(floor).unwrap(), list.range(..at).copied().collect::<Vec<_>>());
                    }
                    Step::Rest => {
                        backlog.rest();
                        prop_assert!(backlog.head.len() + backlog.tail.len() <= RESTING);
                    }
                    Step::Clear => {
                        backlog.clear();
                        list.clear();
                    }
                }
                prop_assert_eq!(backlog.len(), list.len());
                prop_assert_eq!(backlog.first(), list.front().map(|slot| slot.seq));
                prop_assert_eq!(backlog.front(), list.front().copied());
            }
            for (backlog, list) in pairs {
                prop_assert_eq!(backlog.below(Seq::MAX).unwrap(), Vec::from(list));
            }
            prop_assert_eq!(folder.path().join("spill").metadata().unwrap().len(), 0);
        }
    }

    #[test]
    fn a_long_one_takes_no_more_memory_than_a_short_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spill");
        let mut backlog = Backlog::new(Some(Spill::create(&path).unwrap()));
        let mut last = 0;
        for _ in 0..100_000 {
            backlog.push(next(&mut last));
            assert!(backlog.head.len() + backlog.tail.len() < SHORT + BLOCK_SLOTS);
        }
        let bytes = path.metadata().unwrap().len();
        assert!(bytes > 1_000_000, "{bytes}");
        for _ in 0..100_000 {
            let slot = next(&mut last);
            backlog.push(slot);
            assert!(backlog.pop_front().unwrap().seq < slot.seq);
        }
        let after = path.metadata().unwrap().len();
        assert!(after < bytes + 10_000, "its blocks are taken again: {after}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_that_cannot_be_written_leaves_all_in_memory() {
        // Always full.
        let mut backlog = Backlog::new(Some(Spill::create(std::path::Path::new("/dev/full")).unwrap()));
        let mut last = 0;
        let slots: Vec<_> = std::iter::repeat_with(|| next(&mut last)).take(1000).collect();
        for &slot in &slots {
            backlog.push(slot);
        }
        backlog.rest();
        assert_eq!(backlog.below(Seq::MAX).unwrap(), slots);
        for slot in slots {
            assert_eq!(backlog.pop_front(), Some(slot));
        }
    }
}
