//! Deduplication: the keys of recent events, to recognise a sender's repetition.
//!
//! The keys of an app are in generations, each a hash table that is dropped as a whole, so that forgetting costs nothing and a key
//! takes about 30 bytes. They are durable with their events: one row a commit.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use rusqlite::Connection;

use super::Seq;
use crate::store::DedupeKey;

/// Keys in memory and keys in the database, at most: beyond it the oldest are forgotten before their time.
const MAX_KEYS: usize = 1_000_000;
/// Keys of one app, at most: no app can take the room of all others.
const MAX_APP_KEYS: usize = MAX_KEYS / 4;
/// Keys of a generation, at most: a hash table of 65,536 places has room for as many.
const GENERATION_KEYS: usize = 57_344;
/// Old rows that a commit deletes, at most.
const DELETED_ROWS: usize = 8;
/// Events with repetitions that wait for a commit to be counted, at most. While the disk fails, further ones are not counted.
const MAX_COUNTED: usize = 10_000;
/// A key in its row: the app's id (8 bytes), how far the event is before the last one of the commit (4), and the key (16).
const PACKED_BYTES: usize = 28;

/// The keys of a batch that is not committed yet: of each the app's id, and its event.
pub(super) type NewKeys = HashMap<(i64, DedupeKey), Seq>;

/// The keys within the dedupe window.
#[derive(Debug)]
pub(super) struct Recent {
    /// In microseconds, as all times here.
    window: u64,
    apps: HashMap<i64, VecDeque<Generation>>,
    /// The keys in memory.
    count: usize,
    /// The keys in the database.
    stored: usize,
    expired_at: i64,
    /// How often events were repeated since the last commit.
    repeated: HashMap<Seq, u32>,
}

/// Keys of one app, which came one after another.
#[derive(Debug)]
struct Generation {
    first_seq: Seq,
    first_at: i64,
    last_seq: Seq,
    last_at: i64,
    /// Each with the distance of its seq to the first one, and of its time in milliseconds.
    keys: HashMap<DedupeKey, (i32, u32)>,
}

impl Recent {
    /// Reads the keys within the window.
    pub(super) fn load(db: &Connection, window: Duration, now: i64) -> rusqlite::Result<Self> {
        let window = u64::try_from(window.as_micros()).unwrap_or(u64::MAX);
        let mut recent = Self {
            window,
            apps: HashMap::new(),
            count: 0,
            stored: 0,
            expired_at: now,
            repeated: HashMap::new(),
        };
        let mut rows = db.prepare("SELECT seq, at, length(keys), keys FROM recent_keys ORDER BY seq")?;
        let mut rows = rows.query([])?;
        while let Some(row) = rows.next()? {
            let (seq, at): (i64, i64) = (row.get(0)?, row.get(1)?);
            recent.stored += row.get::<_, u32>(2)? as usize / PACKED_BYTES;
            if recent.is_recent(at, now) {
                for packed in row.get_ref(3)?.as_blob()?.chunks_exact(PACKED_BYTES) {
                    let (app, key, event) = unpack(packed, seq.cast_unsigned());
                    recent.insert(app, key, event, at);
                }
            }
        }
        Ok(recent)
    }

    pub(super) fn is_off(&self) -> bool {
        self.window == 0
    }

    /// Finds the event with this key of the app, in the batch or before it, and counts the repetition.
    pub(super) fn is_duplicate(&mut self, app: i64, key: DedupeKey, now: i64, batch: &NewKeys) -> bool {
        let mut generations = self.apps.get(&app).into_iter().flatten().rev();
        let known = generations.find_map(|generation| generation.find(&key));
        let known = known.filter(|(_, at)| self.is_recent(*at, now)).map(|(seq, _)| seq);
        let Some(seq) = batch.get(&(app, key)).copied().or(known) else { return false };
        if self.repeated.len() < MAX_COUNTED || self.repeated.contains_key(&seq) {
            *self.repeated.entry(seq).or_default() += 1;
        }
        true
    }

    /// Whether repetitions wait for a commit to be counted.
    pub(super) fn is_changed(&self) -> bool {
        !self.repeated.is_empty()
    }

    /// Writes the keys of a batch that ends at `last`, counts repetitions, and deletes old rows. Returns how many keys it deleted.
    pub(super) fn write(
        &self,
        db: &Connection,
        keys: &NewKeys,
        last: Seq,
        now: i64,
    ) -> rusqlite::Result<usize> {
        if !keys.is_empty() {
            let packed: Vec<u8> =
                keys.iter().flat_map(|((app, key), seq)| pack(*app, key, last - seq)).collect();
            db.prepare_cached("INSERT OR REPLACE INTO recent_keys(seq, at, keys) VALUES(?, ?, ?)")?
                .execute((last.cast_signed(), now, packed))?;
        }
        let mut count = db.prepare_cached("UPDATE events SET duplicates = duplicates + ? WHERE seq = ?")?;
        for (seq, repetitions) in &self.repeated {
            // The event may have been removed.
            count.execute((repetitions, seq.cast_signed()))?;
        }
        if self.stored == 0 {
            return Ok(0);
        }
        let is_over = self.stored + keys.len() > MAX_KEYS;
        let window = i64::try_from(self.window).unwrap_or(i64::MAX);
        let mut deleted = db.prepare_cached(&format!(
            "DELETE FROM recent_keys WHERE seq IN (SELECT seq FROM recent_keys ORDER BY seq LIMIT {DELETED_ROWS}) \
             AND (? OR abs(at - ?) >= ?) RETURNING length(keys) / {PACKED_BYTES}"
        ))?;
        deleted.query_map((is_over, now, window), |row| Ok(row.get::<_, u32>(0)? as usize))?.sum()
    }

    /// The transaction was committed.
    pub(super) fn committed(&mut self, keys: NewKeys, deleted: usize, now: i64) {
        self.stored = (self.stored + keys.len()).saturating_sub(deleted);
        self.repeated = HashMap::new();
        for ((app, key), seq) in keys {
            self.insert(app, key, seq, now);
        }
        if self.expired_at.abs_diff(now) > self.window / 4 {
            self.expired_at = now;
            let window = self.window;
            self.retain(|generation| generation.last_at.abs_diff(now) < window);
        }
    }

    /// The transaction failed: no event after `last` is stored.
    pub(super) fn failed(&mut self, last: Seq) {
        self.repeated.retain(|seq, _| *seq <= last);
    }

    /// Whether the key of this time is within the window. One from the future is not: the clock was set back.
    fn is_recent(&self, at: i64, now: i64) -> bool {
        at.abs_diff(now) < self.window
    }

    fn insert(&mut self, app: i64, key: DedupeKey, seq: Seq, at: i64) {
        let generations = self.apps.entry(app).or_default();
        let is_new = generations.back_mut().and_then(|newest| newest.insert(key, seq, at, self.window / 2));
        self.count += usize::from(is_new.unwrap_or(true));
        if is_new.is_none() {
            generations.push_back(Generation::new(key, seq, at));
        }
        while generations.iter().map(|generation| generation.keys.len()).sum::<usize>() > MAX_APP_KEYS
            && let Some(oldest) = generations.pop_front()
        {
            self.count -= oldest.keys.len();
        }
        if self.count > MAX_KEYS {
            self.evict();
        }
    }

    /// Forgets the oldest generations of all apps, a 16th of the keys at once so that this is rare.
    fn evict(&mut self) {
        let generations = self.apps.values().flatten();
        let mut ends: Vec<_> =
            generations.map(|generation| (generation.last_seq, generation.keys.len())).collect();
        ends.sort_unstable();
        let (mut evicted, mut floor) = (0, 0);
        for (last, keys) in ends {
            if evicted >= MAX_KEYS / 16 {
                break;
            }
            evicted += keys;
            floor = last;
        }
        self.retain(|generation| generation.last_seq > floor);
    }

    fn retain(&mut self, keep: impl Fn(&Generation) -> bool) {
        self.apps.retain(|_, generations| {
            generations.retain(&keep);
            !generations.is_empty()
        });
        self.count = self.apps.values().flatten().map(|generation| generation.keys.len()).sum();
    }
}

impl Generation {
    fn new(key: DedupeKey, seq: Seq, at: i64) -> Self {
        Self { first_seq: seq, first_at: at, last_seq: seq, last_at: at, keys: [(key, (0, 0))].into() }
    }

    /// Inserts a key, and returns whether it is new. `None` if it belongs into the next generation, since this one is full or begins more
    /// than `span` before.
    fn insert(&mut self, key: DedupeKey, seq: Seq, at: i64, span: u64) -> Option<bool> {
        let age = u64::try_from(at - self.first_at).ok().filter(|age| *age <= span)?;
        if self.keys.len() >= GENERATION_KEYS {
            return None;
        }
        // A key is not forgotten too early: up.
        let millis = u32::try_from(age.div_ceil(1000)).ok()?;
        let distance = i32::try_from(seq.cast_signed() - self.first_seq.cast_signed()).ok()?;
        (self.last_seq, self.last_at) = (self.last_seq.max(seq), at);
        Some(self.keys.insert(key, (distance, millis)).is_none())
    }

    fn find(&self, key: &DedupeKey) -> Option<(Seq, i64)> {
        let (distance, millis) = self.keys.get(key)?;
        Some((
            self.first_seq.wrapping_add_signed(i64::from(*distance)),
            self.first_at + i64::from(*millis) * 1000,
        ))
    }
}

fn pack(app: i64, key: &DedupeKey, distance: u64) -> [u8; PACKED_BYTES] {
    let mut packed = [0; PACKED_BYTES];
    packed[..8].copy_from_slice(&app.to_le_bytes());
    packed[8..12].copy_from_slice(&u32::try_from(distance).unwrap_or(u32::MAX).to_le_bytes());
    packed[12..].copy_from_slice(key);
    packed
}

fn unpack(packed: &[u8], last: Seq) -> (i64, DedupeKey, Seq) {
    let (app, rest) = packed.split_at(8);
    let (distance, key) = rest.split_at(4);
    let (app, distance) = (app.try_into().expect("8 bytes"), distance.try_into().expect("4 bytes"));
    let seq = last.saturating_sub(u32::from_le_bytes(distance).into());
    (i64::from_le_bytes(app), key.try_into().expect("16 bytes"), seq)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    fn recent(window: i64) -> Recent {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch("CREATE TABLE recent_keys(seq, at, keys)").unwrap();
        Recent::load(&db, Duration::from_micros(window.unsigned_abs()), 0).unwrap()
    }

    fn key(n: u64) -> DedupeKey {
        u128::from(n).to_le_bytes()
    }

    fn knows(recent: &mut Recent, app: i64, n: u64, now: i64) -> bool {
        recent.is_duplicate(app, key(n), now, &NewKeys::new())
    }

    fn commit(recent: &mut Recent, app: i64, n: u64, now: i64) {
        recent.committed([((app, key(n)), n)].into(), 0, now);
    }

    #[test]
    fn a_key_is_known_for_its_window_and_its_last_time_counts() {
        let mut recent = recent(60 * SECOND);
        commit(&mut recent, 1, 1, SECOND);
        commit(&mut recent, 1, 2, 2 * SECOND);
        assert!(knows(&mut recent, 1, 1, 61 * SECOND - 1));
        assert!(!knows(&mut recent, 1, 1, 61 * SECOND));
        commit(&mut recent, 1, 1, 61 * SECOND);
        assert!(knows(&mut recent, 1, 1, 100 * SECOND));
        assert!(!knows(&mut recent, 2, 1, 100 * SECOND), "it is a key of another app");
        // Its memory is freed when any app goes on.
        commit(&mut recent, 2, 9, 500 * SECOND);
        assert_eq!((recent.count, recent.apps.len()), (1, 1));
    }

    #[test]
    fn a_clock_that_is_set_back_forgets_keys() {
        let mut recent = recent(60 * SECOND);
        commit(&mut recent, 1, 1, 10_000 * SECOND);
        assert!(!knows(&mut recent, 1, 1, 5000 * SECOND));
        commit(&mut recent, 1, 1, 5000 * SECOND);
        assert!(knows(&mut recent, 1, 1, 5059 * SECOND));
        assert!(!knows(&mut recent, 1, 1, 5060 * SECOND));
    }

    #[test]
    fn an_app_has_a_share_of_the_keys_and_the_oldest_are_forgotten_first() {
        let mut recent = recent(600 * SECOND);
        commit(&mut recent, 0, 0, 0);
        // More keys than its share for each of ten apps.
        let mut seq = 0;
        for app in 1..=10 {
            for _ in 0..MAX_APP_KEYS + 1000 {
                seq += 1;
                recent.insert(app, key(seq), seq, 0);
                assert!(recent.count <= MAX_KEYS);
            }
            let of_app: usize = recent.apps[&app].iter().map(|generation| generation.keys.len()).sum();
            assert!((MAX_APP_KEYS - GENERATION_KEYS..=MAX_APP_KEYS).contains(&of_app));
            if app == 4 {
                assert!(knows(&mut recent, 0, 0, 0), "four apps leave room");
            }
        }
        assert!(recent.count > MAX_KEYS * 3 / 4);
        assert!(knows(&mut recent, 10, seq, 0) && !knows(&mut recent, 0, 0, 0));
        let sum: usize = recent.apps.values().flatten().map(|generation| generation.keys.len()).sum();
        assert_eq!(recent.count, sum);
    }

    #[test]
    fn a_packed_key_is_unpacked() {
        assert_eq!(unpack(&pack(-5, &key(9), 3), 10), (-5, key(9), 7));
    }
}
