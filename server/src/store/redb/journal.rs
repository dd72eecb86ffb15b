//! The journal, a write-ahead log (WAL): what was committed and is not in the database yet.
//!
//! A commit is one frame, written and synced once; the database follows later, with many commits in one go.
//! The journal is written over and over: once its first frames are in the database, new ones take their place.
//! So it stays small, and a sync need not tell the disk where a file that grows now ends.
//!
//! A frame begins on a page of its own, so that writing it touches nothing that was synced before. Its head: the
//! store it belongs to (16 bytes), its number (8), the try of writing it (4), the length of its payload (4), a
//! checksum over all of these and the payload (16, XXH3). Numbers go up by one. The store's name is secret and random:
//! no webhook can hold what looks like a frame. So the checksum need only tell what was cut off in writing, and is one
//! that keeps nobody waiting: SHA-256 took as long for a large event as writing it.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt, io,
    time::{Duration, Instant},
};

use redb::StorageBackend;
use twox_hash::XxHash3_128;

use super::change::{self, Change};

/// What a frame begins at a multiple of, in bytes: what a system writes to a disk as one.
const PAGE: u64 = 4096;
const HEAD: usize = 48;
const CHECKSUM: usize = 16;
/// The journal goes back to its beginning rather than beyond this, in bytes. Only a frame that finds no room so
/// goes beyond it. It has room for three of the longest events that a server takes unless it is told to take longer ones.
pub(super) const ROOM: u64 = 32 * GROWTH;
/// Until then it grows by so much at once, in bytes: less where the journal itself is tested, many times over.
const GROWTH: u64 = if cfg!(test) { 64 << 10 } else { 1 << 20 };
/// How long after it could not grow it is tried again: to try fills the disk for a moment, which the database may need.
const GROWTH_PAUSE: Duration = Duration::from_secs(1);
/// What is left to commits that only delete, in bytes: on a full disk they are what makes room again.
const RESERVE: u64 = GROWTH / 4;

/// Which journal belongs to which database.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct StoreName(pub(super) [u8; 16]);

impl fmt::Debug for StoreName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreName")
    }
}

/// Where frames are written.
pub(super) struct Journal {
    bytes: Box<dyn StorageBackend>,
    store: StoreName,
    /// The number of the next frame, and how often writing it failed.
    next: u64,
    tries: u32,
    /// Where the last frame ends.
    end: u64,
    /// How long the file is.
    len: u64,
    /// When it could not be made longer, and why.
    refused: Option<(Instant, io::ErrorKind)>,
    /// The frames that are not in the database yet.
    live: VecDeque<Live>,
}

#[derive(Debug, Clone, Copy)]
struct Live {
    number: u64,
    offset: u64,
    size: u64,
}

/// A frame as it was found.
struct Found {
    offset: u64,
    tries: u32,
    payload: Vec<u8>,
}

/// What a commit does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It stores something.
    Store,
    /// It only deletes.
    Delete,
}

/// One commit, ready to be written.
pub(super) struct Frame {
    kind: Kind,
    bytes: Vec<u8>,
}

impl Frame {
    pub(super) fn new(kind: Kind, changes: &[Change]) -> Self {
        let mut bytes = Vec::with_capacity(HEAD + change::size(changes));
        bytes.resize(HEAD, 0);
        change::encode(changes, &mut bytes);
        Self { kind, bytes }
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// What it takes in the journal, in bytes.
    pub(super) fn size(&self) -> u64 {
        size(self.bytes.len())
    }

    /// What it takes, with what it has to leave.
    fn size_and_reserve(&self) -> u64 {
        match self.kind {
            Kind::Store => self.size() + RESERVE,
            Kind::Delete => self.size(),
        }
    }

    fn seal(&mut self, store: &StoreName, number: u64, tries: u32) {
        let (head, payload) = self.bytes.split_at_mut(HEAD);
        let length = u32::try_from(payload.len()).expect("a batch is far below 4 GiB");
        head[..16].copy_from_slice(&store.0);
        head[16..24].copy_from_slice(&number.to_be_bytes());
        head[24..28].copy_from_slice(&tries.to_be_bytes());
        head[28..32].copy_from_slice(&length.to_be_bytes());
        let checksum = checksum(&head[..32], payload);
        head[32..].copy_from_slice(&checksum);
    }
}

impl Journal {
    /// Takes up these bytes, where all frames up to this number are in the database, and gives the payloads of those
    /// after it, by number.
    pub(super) fn open(
        bytes: Box<dyn StorageBackend>,
        store: StoreName,
        filed: u64,
    ) -> io::Result<(Self, BTreeMap<u64, Vec<u8>>)> {
        let len = bytes.len()?;
        let found = read(&*bytes, store, filed)?;
        let live = found.iter().map(|(&number, found)| Live {
            number,
            offset: found.offset,
            size: size(HEAD + found.payload.len()),
        });
        let mut journal = Self {
            bytes,
            store,
            next: filed + 1,
            tries: 0,
            end: 0,
            len,
            refused: None,
            live: live.collect(),
        };
        if let Some(&Live { number, offset, size }) = journal.live.back() {
            (journal.next, journal.end) = (number + 1, offset + size);
            journal.make_sure(offset, HEAD + found[&number].payload.len())?;
        }
        Ok((journal, found.into_iter().map(|(number, found)| (number, found.payload)).collect()))
    }

    /// Writes again what may be in the system's memory alone, as the last writer's sync failed or was never called. No
    /// frame but the last one is: each is synced before the next.
    fn make_sure(&self, offset: u64, length: usize) -> io::Result<()> {
        let mut frame = vec![0; length];
        self.bytes.read(offset, &mut frame)?;
        self.bytes.write(offset, &frame)?;
        self.bytes.sync_data()
    }

    /// Where a frame can be written before more of those in the journal are in the database. The file grows for it
    /// where it has to and the disk lets it.
    ///
    /// # Errors
    /// It does not, and there is nothing in the journal that could make room.
    pub(super) fn make_room(&mut self, frame: &Frame) -> io::Result<Option<u64>> {
        let needed = frame.size_and_reserve();
        let Some(offset) = self.place(needed, ROOM) else { return Ok(None) };
        if offset + needed <= self.len {
            return Ok(Some(offset));
        }
        match self.grow(offset + needed) {
            Ok(()) => Ok(Some(offset)),
            Err(error) if self.live.is_empty() => Err(error),
            Err(_) => Ok(self.place(needed, self.len)),
        }
    }

    /// Writes a frame where it has [room](Self::make_room), and says its number. Durable when it returns. After an
    /// error the frame may be there or not, until another one is written.
    pub(super) fn append(&mut self, mut frame: Frame, offset: u64) -> io::Result<u64> {
        let (size, number) = (frame.size(), self.next);
        frame.seal(&self.store, number, self.tries);
        self.tries += 1;
        let mut bytes = frame.bytes;
        bytes.resize(usize::try_from(size).unwrap_or(usize::MAX), 0);
        self.bytes.write(offset, &bytes)?;
        self.bytes.sync_data()?;
        self.live.push_back(Live { number, offset, size });
        (self.next, self.tries, self.end) = (number + 1, 0, offset + size);
        Ok(number)
    }

    /// Makes the file so long at least.
    fn grow(&mut self, least: u64) -> io::Result<()> {
        if let Some((_, kind)) = self.refused.filter(|(when, _)| when.elapsed() < GROWTH_PAUSE) {
            return Err(kind.into());
        }
        let grown = self.extend(least.next_multiple_of(GROWTH));
        self.refused = grown.as_ref().err().map(|error| (Instant::now(), error.kind()));
        grown.or_else(|_| self.extend(least))
    }

    /// Makes the file so long. Zeros are written, as otherwise the disk would not have to have the room.
    fn extend(&mut self, len: u64) -> io::Result<()> {
        let zeros = vec![0; usize::try_from(len - self.len).unwrap_or(usize::MAX)];
        if let Err(error) = self.bytes.write(self.len, &zeros) {
            // What it got of a full disk the database may need. If this fails too, it is a little less.
            let _ = self.bytes.set_len(self.len);
            return Err(error);
        }
        self.len = len;
        Ok(())
    }

    /// The last frame of those that are in the database.
    pub(super) fn filed(&self) -> u64 {
        self.live.front().map_or(self.next, |frame| frame.number) - 1
    }

    /// The numbers of those that are not, and what each takes, in bytes.
    pub(super) fn frames(&self) -> impl Iterator<Item = (u64, u64)> {
        self.live.iter().map(|frame| (frame.number, frame.size))
    }

    /// All frames up to this number are in the database.
    pub(super) fn release(&mut self, filed: u64) {
        while self.live.front().is_some_and(|frame| frame.number <= filed) {
            self.live.pop_front();
        }
    }

    /// Where the next frame goes, if it needs so much and may not go beyond this.
    fn place(&self, needed: u64, room: u64) -> Option<u64> {
        let Some(first) = self.live.front() else { return Some(0) };
        let fits = |offset: u64, end: u64| (offset + needed <= end).then_some(offset);
        if self.end <= first.offset {
            return fits(self.end, first.offset);
        }
        fits(self.end, room).or_else(|| fits(0, first.offset))
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { next, end, len, live, .. } = self;
        let mut fields = f.debug_struct("Journal");
        fields.field("next", next).field("end", end).field("len", len).field("live", &live.len());
        fields.finish_non_exhaustive()
    }
}

/// A store's frames with numbers above this one, by number. What is not whole is not there: it was being written when
/// its writer ended.
fn read(bytes: &dyn StorageBackend, store: StoreName, filed: u64) -> io::Result<BTreeMap<u64, Found>> {
    let len = bytes.len()?;
    let mut frames: BTreeMap<u64, Found> = BTreeMap::new();
    let mut next = 0;
    while next + HEAD as u64 <= len {
        let (offset, mut head) = (next, [0; HEAD]);
        bytes.read(offset, &mut head)?;
        let start = offset + HEAD as u64;
        next += PAGE;
        let (number, tries) = (u64::from_be_bytes(part(&head, 16)), u32::from_be_bytes(part(&head, 24)));
        let length = u64::from(u32::from_be_bytes(part(&head, 28)));
        if head[..16] != store.0 || number <= filed || start + length > len {
            continue;
        }
        let mut payload = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        bytes.read(start, &mut payload)?;
        if head[32..] != checksum(&head[..32], &payload) {
            continue;
        }
        next = (start + length).next_multiple_of(PAGE);
        // One that failed may be whole all the same. The later try counts.
        if frames.get(&number).is_none_or(|earlier| earlier.tries < tries) {
            frames.insert(number, Found { offset, tries, payload });
        }
    }
    Ok(frames)
}

/// What so many bytes take, in bytes.
fn size(bytes: usize) -> u64 {
    (bytes as u64).next_multiple_of(PAGE)
}

fn part<const N: usize>(head: &[u8; HEAD], from: usize) -> [u8; N] {
    head[from..from + N].try_into().expect("it is so long")
}

fn checksum(head: &[u8], payload: &[u8]) -> [u8; CHECKSUM] {
    let mut hash = XxHash3_128::default();
    hash.write(head);
    hash.write(payload);
    hash.finish_128().to_be_bytes()
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    };

    use proptest::prelude::*;
    use redb::backends::InMemoryBackend;

    use super::*;

    const STORE: StoreName = StoreName([7; 16]);

    /// Bytes that can be opened again, whose syncs fail when they are told to, on a disk that has room for so many.
    #[derive(Debug, Clone)]
    struct Bytes(Arc<(InMemoryBackend, AtomicBool, AtomicU64)>);

    impl Default for Bytes {
        fn default() -> Self {
            Self(Arc::new((InMemoryBackend::new(), AtomicBool::new(false), AtomicU64::new(u64::MAX))))
        }
    }

    impl Bytes {
        fn set_room(&self, room: u64) {
            self.0.2.store(room, Ordering::Relaxed);
        }
    }

    impl StorageBackend for Bytes {
        fn len(&self) -> io::Result<u64> {
            self.0.0.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.0.0.read(offset, out)
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.0.0.set_len(len)
        }

        fn sync_data(&self) -> io::Result<()> {
            if self.0.1.load(Ordering::Relaxed) { Err(io::ErrorKind::Other.into()) } else { Ok(()) }
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            let (end, len) = (offset + data.len() as u64, self.0.0.len()?);
            let room = self.0.2.load(Ordering::Relaxed).max(len);
            // A disk that is full takes as much as it can.
            self.0.0.set_len(end.min(room).max(len))?;
            if end > room {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.0.0.write(offset, data)
        }
    }

    fn open(bytes: &Bytes, filed: u64) -> Journal {
        Journal::open(Box::new(bytes.clone()), STORE, filed).unwrap().0
    }

    /// Changes that tell their number and take so many bytes.
    fn changes(number: u64, bytes: usize) -> Vec<Change> {
        vec![Change::Delete(vec![number; 1 + bytes / 8])]
    }

    fn found(bytes: &Bytes, filed: u64) -> Vec<(u64, u64)> {
        let frames = read(bytes, STORE, filed).unwrap();
        let tell = |(number, found): (u64, Found)| match &change::decode(&found.payload).unwrap()[..] {
            [Change::Delete(numbers)] => (number, numbers[0]),
            _ => panic!("{number} says something else"),
        };
        frames.into_iter().map(tell).collect()
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        /// Writes a frame of about so many bytes, and files those before if it needs their room.
        Append(Kind, usize),
        /// The same, and it fails.
        Fail(Kind, usize),
        /// So many more frames are filed.
        File(usize),
        /// The store is opened again.
        Open,
    }

    fn step() -> impl Strategy<Value = Step> {
        let kind = prop_oneof![Just(Kind::Store), Just(Kind::Delete)];
        let size = prop_oneof![4 => 0..9000_usize, 2 => 0..300_000_usize, 1 => Just(20 * 65_536)];
        prop_oneof![
            12 => (kind.clone(), size.clone()).prop_map(|(kind, size)| Step::Append(kind, size)),
            2 => (kind, size).prop_map(|(kind, size)| Step::Fail(kind, size)),
            3 => (1..9_usize).prop_map(Step::File),
            1 => Just(Step::Open),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn what_is_not_filed_is_there(steps in prop::collection::vec(step(), 1..80)) {
            let bytes = Bytes::default();
            let mut journal = open(&bytes, 0);
            let mut live: VecDeque<(u64, u64)> = VecDeque::new();
            let mut filed = 0;
            // So full a disk that many a frame begins anew.
            let mut room = 2 * GROWTH;
            bytes.set_room(room);
            for (name, step) in (1000..).zip(steps) {
                match step {
                    Step::Append(kind, size) | Step::Fail(kind, size) => {
                        let frame = Frame::new(kind, &changes(name, size));
                        let offset = loop {
                            match journal.make_room(&frame) {
                                Ok(Some(offset)) => break offset,
                                Ok(None) => {
                                    filed = live.pop_front().expect("an empty journal has room").0;
                                    journal.release(filed);
                                }
                                Err(_) => {
                                    prop_assert!(live.is_empty());
                                    // As if the pause were over, and there were room then.
                                    journal.refused = None;
                                    room = room.max(frame.size_and_reserve().next_multiple_of(GROWTH));
                                    bytes.set_room(room);
                                }
                            }
                        };
                        let fails = matches!(step, Step::Fail(..));
                        bytes.0.1.store(fails, Ordering::Relaxed);
                        let appended = journal.append(frame, offset);
                        prop_assert_eq!(appended.is_err(), fails);
                        let Ok(number) = appended else {
                            // It may be there, until the next one is written.
                            let there = found(&bytes, filed);
                            prop_assert_eq!(&there[..live.len()], live.make_contiguous());
                            continue;
                        };
                        live.push_back((number, name));
                    }
                    Step::File(count) => {
                        for _ in 0..count.min(live.len()) {
                            filed = live.pop_front().unwrap().0;
                        }
                        journal.release(filed);
                        continue;
                    }
                    Step::Open => {
                        let there = found(&bytes, filed);
                        prop_assert_eq!(&there[..live.len()], live.make_contiguous());
                        live = there.into();
                        bytes.0.1.store(false, Ordering::Relaxed);
                        journal = open(&bytes, filed);
                    }
                }
                prop_assert_eq!(found(&bytes, filed), live.make_contiguous());
            }
        }
    }

    /// Whether there was room for a frame of one page.
    fn append(journal: &mut Journal, kind: Kind, number: u64) -> bool {
        let frame = Frame::new(kind, &changes(number, 3000));
        journal.make_room(&frame).unwrap().is_some_and(|offset| journal.append(frame, offset).is_ok())
    }

    #[test]
    fn a_journal_that_is_filed_stays_small() {
        let bytes = Bytes::default();
        let mut journal = open(&bytes, 0);
        for number in 1..2000 {
            assert!(append(&mut journal, Kind::Store, number), "{number}");
            journal.release(number.saturating_sub(100));
        }
        assert_eq!(bytes.len().unwrap(), ROOM);
        for number in 2000..3000 {
            journal.release(number - 1);
            assert!(append(&mut journal, Kind::Store, number), "{number}");
            assert_eq!(journal.live[0].offset, 0, "nothing else is touched");
        }
    }

    #[test]
    fn on_a_full_disk_it_gets_by_with_what_it_has_and_later_grows() {
        let bytes = Bytes::default();
        let mut journal = open(&bytes, 0);
        let full = 2 * GROWTH + PAGE;
        for (numbers, room, len) in [(1..1000, full + 100, full), (1000..2000, u64::MAX, ROOM)] {
            bytes.set_room(room);
            // As if the pause were over.
            journal.refused = None;
            for number in numbers {
                assert!(append(&mut journal, Kind::Store, number), "{number}");
                journal.release(number.saturating_sub(10));
            }
            assert_eq!(bytes.len().unwrap(), len, "what it cannot use it gives back");
        }
    }

    #[test]
    fn deletions_have_room_that_nothing_else_takes() {
        let mut journal = open(&Bytes::default(), 0);
        let stores = (0..).take_while(|&number| append(&mut journal, Kind::Store, number));
        assert_eq!(stores.count() as u64, (ROOM - RESERVE) / PAGE);
        let deletions = (0..).take_while(|&number| append(&mut journal, Kind::Delete, number));
        assert_eq!(deletions.count() as u64, RESERVE / PAGE);
    }

    #[test]
    fn what_is_no_frame_of_this_store_is_not_read() {
        let bytes = Bytes::default();
        let mut journal = open(&bytes, 0);
        for number in 1..=3 {
            let frame = Frame::new(Kind::Store, &changes(number, 10_000));
            let offset = journal.make_room(&frame).unwrap().unwrap();
            journal.append(frame, offset).unwrap();
        }
        assert!(read(&bytes, StoreName([8; 16]), 0).unwrap().is_empty(), "another store's");
        // One bit of the second one, in its last page.
        let at = journal.live[1].offset + 2 * PAGE + 5;
        let mut byte = [0];
        bytes.read(at, &mut byte).unwrap();
        bytes.write(at, &[byte[0] ^ 1]).unwrap();
        assert_eq!(found(&bytes, 0), [(1, 1), (3, 3)]);
    }
}
