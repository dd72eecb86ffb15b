//! Which deliveries came lately, to tell a sender's repetition from a new event.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, SystemTime},
};

use super::{
    DedupeKey,
    sequence::{self, Seq},
};

/// The most keys remembered, over all apps; beyond it the oldest are forgotten before their time.
/// 1 million keys take about 70 MB.
const MAX_KEYS: usize = 1_000_000;

/// A [`DedupeKey`] within one life of a registration. An app that unregistered has lost its events,
/// so a repetition of one of them has to be a new event.
pub(super) type Key = u128;

pub(super) fn key(delivery: &DedupeKey, registration: u128) -> Key {
    u128::from_be_bytes(*delivery) ^ registration
}

/// A number for one life of a registration, as no other has.
pub(super) fn new_life() -> u128 {
    uuid::Uuid::now_v7().as_u128()
}

/// Keys with the event they came with, in order of arrival.
#[derive(Debug)]
pub(super) struct Recent {
    window: Duration,
    seen: HashMap<Key, Seq>,
    order: VecDeque<(Seq, Key)>,
}

impl Recent {
    pub(super) fn new(window: Duration) -> Self {
        Self { window, seen: HashMap::new(), order: VecDeque::new() }
    }

    pub(super) fn contains(&self, key: Key) -> bool {
        self.seen.get(&key).is_some_and(|&seq| sequence::age(seq) < self.window)
    }

    pub(super) fn insert(&mut self, seq: Seq, key: Key) {
        self.seen.insert(key, seq);
        self.order.push_back((seq, key));
    }

    /// The number below which keys are to be forgotten, or `None` where there are none.
    pub(super) fn floor(&self) -> Option<Seq> {
        let by_age = sequence::at(SystemTime::now().checked_sub(self.window)?);
        let excess = self.order.len().saturating_sub(MAX_KEYS);
        let by_count = self.order.get(excess).map_or(0, |&(seq, _)| seq);
        let floor = by_age.max(by_count);
        (self.order.front()?.0 < floor).then_some(floor)
    }

    pub(super) fn forget_below(&mut self, floor: Seq) {
        while let Some(&(seq, key)) = self.order.front() {
            if seq >= floor {
                break;
            }
            self.order.pop_front();
            if self.seen.get(&key) == Some(&seq) {
                self.seen.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_remembered_for_its_window() {
        let now = sequence::at(SystemTime::now());
        let mut recent = Recent::new(Duration::from_secs(60));
        recent.insert(now - 61_000_000, 1);
        recent.insert(now, 2);
        assert!(!recent.contains(1));
        assert!(recent.contains(2));
        recent.insert(now + 1, 1);
        recent.forget_below(recent.floor().unwrap());
        assert!(recent.contains(1), "its second time counts");
        assert_eq!(recent.floor(), None);
        assert_eq!(recent.order.len(), 2);
    }

    #[test]
    fn unregistering_makes_all_deliveries_new() {
        assert_ne!(key(&[7; 16], 1), key(&[7; 16], 2));
    }
}
