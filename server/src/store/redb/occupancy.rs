//! Whose events fill the journal.
//!
//! A frame stays in the journal until the database has what it says. Where an app's events come faster than that
//! goes, the journal would be full of them, and nobody's would be stored meanwhile. So an app may have as much of
//! it as it leaves free: one that floods half, two of them a third each, and there is always room for another.

use std::collections::{HashMap, VecDeque};

use wwproxy_protocol::AppId;

use super::journal::ROOM;

#[derive(Debug, Default)]
pub(super) struct Occupancy {
    /// In order of their numbers.
    frames: VecDeque<Frame>,
    /// What all of them take, in bytes.
    bytes: u64,
    /// What the events of each app take, in bytes.
    apps: HashMap<AppId, u64>,
}

#[derive(Debug)]
struct Frame {
    number: u64,
    bytes: u64,
    apps: Vec<(AppId, u64)>,
}

impl Occupancy {
    /// A frame of this number and size was written.
    pub(super) fn add(&mut self, number: u64, bytes: u64) {
        self.bytes += bytes;
        self.frames.push_back(Frame { number, bytes, apps: Vec::new() });
    }

    /// The last frame has so many bytes of events of these apps.
    pub(super) fn last_is_of(&mut self, apps: impl Iterator<Item = (AppId, u64)>) {
        for (app, bytes) in apps {
            *self.apps.entry(app.clone()).or_default() += bytes;
            self.frames.back_mut().expect("what has events was written").apps.push((app, bytes));
        }
    }

    /// All frames up to this number are in the database.
    pub(super) fn release(&mut self, filed: u64) {
        while self.frames.front().is_some_and(|frame| frame.number <= filed) {
            let frame = self.frames.pop_front().expect("it is there");
            self.bytes -= frame.bytes;
            for (app, bytes) in frame.apps {
                let occupied = self.apps.get_mut(&app).expect("it was counted with the frame");
                *occupied -= bytes;
                if *occupied == 0 {
                    self.apps.remove(&app);
                }
            }
        }
    }

    /// How much more an app may have, in bytes. The last event of it may be longer.
    pub(super) fn room_of(&self, app: &AppId) -> u64 {
        let occupied = self.apps.get(app).copied().unwrap_or(0);
        ROOM.saturating_sub(self.bytes).saturating_sub(occupied)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(name: &str) -> AppId {
        name.parse().unwrap()
    }

    /// Writes frames of 4 KiB for as long as one of these apps may have more, and says how much each has.
    fn fill(occupancy: &mut Occupancy, names: &[&str]) -> Vec<u64> {
        let mut number = occupancy.frames.back().map_or(0, |frame| frame.number);
        loop {
            let mut is_full = true;
            for name in names {
                if occupancy.room_of(&app(name)) > 0 {
                    number += 1;
                    occupancy.add(number, 4096);
                    occupancy.last_is_of([(app(name), 4000)].into_iter());
                    is_full = false;
                }
            }
            if is_full {
                return names.iter().map(|name| occupancy.apps[&app(name)]).collect();
            }
        }
    }

    #[test]
    fn however_many_apps_flood_there_is_room_for_another() {
        let mut occupancy = Occupancy::default();
        let one = fill(&mut occupancy, &["one"]);
        assert!((ROOM * 45 / 100..=ROOM / 2).contains(&one[0]), "{one:?}");
        assert!(occupancy.room_of(&app("other")) >= ROOM * 45 / 100);
        occupancy.release(u64::MAX);
        let two = fill(&mut occupancy, &["one", "two"]);
        assert!(two.iter().all(|bytes| (ROOM * 30 / 100..=ROOM * 34 / 100).contains(bytes)), "{two:?}");
        assert!(occupancy.room_of(&app("other")) >= ROOM * 30 / 100);
    }

    #[test]
    fn what_is_filed_makes_room_for_its_app() {
        let mut occupancy = Occupancy::default();
        occupancy.add(1, 8192);
        occupancy.last_is_of([(app("one"), 5000), (app("two"), 3000)].into_iter());
        occupancy.add(2, 4096);
        occupancy.add(3, 4096);
        occupancy.last_is_of([(app("two"), 4000)].into_iter());
        assert_eq!(occupancy.room_of(&app("two")), ROOM - 16384 - 7000);
        occupancy.release(1);
        assert_eq!(occupancy.room_of(&app("one")), ROOM - 8192);
        assert_eq!(occupancy.room_of(&app("two")), ROOM - 8192 - 4000);
        occupancy.release(3);
        assert_eq!(occupancy.room_of(&app("two")), ROOM);
        assert!(occupancy.apps.is_empty() && occupancy.frames.is_empty());
    }
}
