//! Which deliveries came lately, to tell a sender's repetition from a new event.

use std::{
    collections::VecDeque,
    hash::{BuildHasher, RandomState},
    time::{Duration, SystemTime},
};

use hashbrown::HashTable;

use super::{
    DedupeKey,
    sequence::{self, Seq},
};

/// The most keys remembered, over all apps; beyond it the oldest are forgotten before their time.
/// 1 million keys take about 36 MB.
const MAX_KEYS: usize = 1_000_000;

/// A [`DedupeKey`] within one epoch of a registration, which lasts until the app unregisters. Unregistering purges the app's
/// events, so a repetition of one of them in the next epoch is a new event.
pub(super) type Key = u128;

pub(super) fn key(delivery: &DedupeKey, epoch: u128) -> Key {
    u128::from_be_bytes(*delivery) ^ epoch
}

/// A unique number for the epoch of a new registration.
pub(super) fn new_epoch() -> u128 {
    uuid::Uuid::now_v7().as_u128()
}

/// Keys with the event they came with.
#[derive(Debug)]
pub(super) struct Recent {
    window: Duration,
    order: Order,
    /// The turn in which each key was seen last: a fifth of what a map with the keys in it would take.
    turns: HashTable<u32>,
    hasher: RandomState,
    /// There were more than [`MAX_KEYS`].
    overflowed: bool,
}

/// In order of arrival, each in its turn. Turns count up, and around.
#[derive(Debug)]
struct Order {
    first: u32,
    seen: VecDeque<Seen>,
}

#[derive(Debug)]
struct Seen {
    seq: Seq,
    /// As bytes it takes no room to be aligned.
    key: [u8; size_of::<Key>()],
}

impl Recent {
    /// With room for so many at once.
    pub(super) fn new(window: Duration, keys: usize) -> Self {
        let keys = keys.min(MAX_KEYS);
        Self {
            window,
            order: Order { first: 0, seen: VecDeque::with_capacity(keys) },
            turns: HashTable::with_capacity(keys),
            hasher: RandomState::new(),
            overflowed: false,
        }
    }

    pub(super) fn contains(&self, key: Key) -> bool {
        let turn = self.turns.find(self.hasher.hash_one(key), |&turn| self.order.at(turn).key() == key);
        turn.is_some_and(|&turn| sequence::age(self.order.at(turn).seq) < self.window)
    }

    pub(super) fn insert(&mut self, seq: Seq, key: Key) {
        if self.order.seen.len() == MAX_KEYS {
            self.forget_first();
            self.overflowed = true;
        }
        let Self { order, turns, hasher, .. } = self;
        let turn = order.push(Seen { seq, key: key.to_ne_bytes() });
        let hash = hasher.hash_one(key);
        match turns.find_mut(hash, |&turn| order.at(turn).key() == key) {
            Some(last) => *last = turn,
            None => drop(turns.insert_unique(hash, turn, |&turn| hasher.hash_one(order.at(turn).key()))),
        }
    }

    /// The number below which keys are to be forgotten, or `None` where there are none.
    pub(super) fn floor(&self) -> Option<Seq> {
        let by_age = sequence::at(SystemTime::now().checked_sub(self.window)?);
        let first = self.order.seen.front()?.seq;
        (self.overflowed || first < by_age).then_some(by_age.max(first))
    }

    pub(super) fn forget_below(&mut self, floor: Seq) {
        while self.order.seen.front().is_some_and(|seen| seen.seq < floor) {
            self.forget_first();
        }
        self.overflowed = false;
        let Self { order, turns, hasher, .. } = self;
        if order.seen.len() < order.seen.capacity() / 4 {
            order.seen.shrink_to_fit();
            turns.shrink_to_fit(|&turn| hasher.hash_one(order.at(turn).key()));
        }
    }

    fn forget_first(&mut self) {
        let first = self.order.first;
        let Some(key) = self.order.pop() else { return };
        // A key that came again since stands at its later turn.
        if let Ok(last) = self.turns.find_entry(self.hasher.hash_one(key), |&turn| turn == first) {
            last.remove();
        }
    }
}

impl Order {
    fn push(&mut self, seen: Seen) -> u32 {
        let turns = u32::try_from(self.seen.len()).expect("it is below MAX_KEYS");
        self.seen.push_back(seen);
        self.first.wrapping_add(turns)
    }

    fn pop(&mut self) -> Option<Key> {
        let seen = self.seen.pop_front()?;
        self.first = self.first.wrapping_add(1);
        Some(seen.key())
    }

    fn at(&self, turn: u32) -> &Seen {
        &self.seen[turn.wrapping_sub(self.first) as usize]
    }
}

impl Seen {
    fn key(&self) -> Key {
        Key::from_ne_bytes(self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_remembered_for_its_window() {
        let now = sequence::at(SystemTime::now());
        let mut recent = Recent::new(Duration::from_secs(60), 0);
        recent.insert(now - 61_000_000, 1);
        recent.insert(now, 2);
        assert!(!recent.contains(1));
        assert!(recent.contains(2));
        recent.insert(now + 1, 1);
        recent.forget_below(recent.floor().unwrap());
        assert!(recent.contains(1), "its second time counts");
        assert_eq!(recent.floor(), None);
        assert_eq!(recent.order.seen.len(), 2);
    }

    #[test]
    fn the_oldest_keys_make_room_for_new_ones() {
        let now = sequence::at(SystemTime::now());
        let mut recent = Recent::new(Duration::from_secs(60), 0);
        // Turns go around on the way.
        recent.order.first = u32::MAX - 1000;
        for number in 0..MAX_KEYS as u64 + 5 {
            recent.insert(now + number, Key::from(number / 2));
        }
        assert_eq!(recent.order.seen.len(), MAX_KEYS);
        assert_eq!(recent.floor(), Some(now + 5), "those before are still in the file");
        assert!(!recent.contains(1));
        assert!(recent.contains(2), "its second time counts");
        assert!(recent.contains(MAX_KEYS as Key / 2));
        recent.forget_below(now + 5);
        assert_eq!(recent.floor(), None);
        recent.forget_below(now + MAX_KEYS as u64);
        assert_eq!((recent.order.seen.len(), recent.turns.len()), (5, 3));
        assert!(recent.order.seen.capacity() < 1000 && recent.turns.capacity() < 1000);
        assert!(!recent.contains(2) && recent.contains(MAX_KEYS as Key / 2 + 2));
    }

    #[test]
    fn unregistering_makes_all_deliveries_new() {
        assert_ne!(key(&[7; 16], 1), key(&[7; 16], 2));
    }
}
