//! Appends that wait for a batch, and whose turn it is.
//!
//! Apps take turns. While several of them post, none has more than [`SHARE`] events or [`SHARE_BYTES`] in a
//! batch: what one app can add to another's wait is the time of so much, however much it posts. An app that
//! posts alone has all of every batch.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use tokio::sync::OwnedSemaphorePermit;
use wwproxy_protocol::AppId;

use super::{
    batch::{Append, Batch},
    writer::Reply,
};
use crate::store::Appended;

/// The most events of one app in a batch while others post too: less work than an fsync. With 16 the p99 beside
/// a flood was half as high again, and two apps stored no more together.
const SHARE: usize = 8;
/// How much of one app is in a batch then, in bytes of bodies, though never less than one event.
const SHARE_BYTES: usize = 64 << 10;
/// How long after its last event an app counts as one that posts.
const LATELY: Duration = Duration::from_secs(1);

/// Their number is bounded by the room that each of them holds.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    apps: HashMap<AppId, VecDeque<One>>,
    /// Each app with something that waits, the next one first.
    turns: VecDeque<AppId>,
    /// Who posted last.
    last: Option<AppId>,
    /// When somebody posted who had not posted last.
    competed: Option<Instant>,
}

type One = (Append, Reply<Appended>, OwnedSemaphorePermit);

impl Waiting {
    pub(super) fn add(&mut self, append: Append, reply: Reply<Appended>, room: OwnedSemaphorePermit) {
        let app = &append.0;
        if let Some(waiting) = self.apps.get_mut(app) {
            waiting.push_back((append, reply, room));
            return;
        }
        self.turns.push_back(app.clone());
        self.apps.insert(app.clone(), VecDeque::from([(append, reply, room)]));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Takes the next batch out.
    pub(super) fn batch(&mut self, now: Instant) -> Batch {
        let (events, bytes) = if self.compete(now) { (SHARE, SHARE_BYTES) } else { (usize::MAX, usize::MAX) };
        let mut batch = Batch::default();
        for _ in 0..self.turns.len() {
            if batch.is_full() {
                break;
            }
            let app = self.turns.pop_front().expect("so many have a turn");
            let waiting = self.apps.get_mut(&app).expect("whose turn it is has something that waits");
            let (mut taken, enough) = (0, batch.bytes().saturating_add(bytes));
            while taken < events
                && batch.bytes() < enough
                && !batch.is_full()
                && let Some((append, reply, room)) = waiting.pop_front()
            {
                batch.add(append, reply, room);
                taken += 1;
            }
            if waiting.is_empty() {
                self.apps.remove(&app);
            } else {
                self.turns.push_back(app);
            }
        }
        batch
    }

    /// Whether several apps posted lately.
    fn compete(&mut self, now: Instant) -> bool {
        let other = self.turns.iter().find(|app| Some(*app) != self.last.as_ref()).cloned();
        if let Some(other) = other
            && (self.last.replace(other).is_some() || self.turns.len() > 1)
        {
            self.competed = Some(now);
        }
        self.competed.is_some_and(|competed| now.duration_since(competed) < LATELY)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, sync::Arc};

    use bytes::Bytes;
    use tokio::sync::{Semaphore, oneshot};

    use super::*;
    use crate::store::NewEvent;

    fn add(waiting: &mut Waiting, app: &str, count: usize) {
        for number in 0..count {
            add_one(waiting, app, number.to_string());
        }
    }

    fn add_one(waiting: &mut Waiting, app: &str, body: impl Into<Bytes>) {
        let event = NewEvent { headers: Vec::new(), query: None, body: body.into() };
        let room = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        waiting.add((app.parse().unwrap(), event, None), oneshot::channel().0, room);
    }

    /// How many of a batch are of these apps, each in the order in which they came.
    fn shares<const N: usize>(batch: &Batch, from: [usize; N], apps: [&str; N]) -> [usize; N] {
        let mut next = from;
        for (app, event, _) in batch.appends() {
            let place = apps.iter().position(|one| *one == app.as_str()).unwrap();
            assert_eq!(event.body, next[place].to_string());
            next[place] += 1;
        }
        std::array::from_fn(|place| next[place] - from[place])
    }

    #[test]
    fn one_app_alone_has_all_of_a_batch() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        add(&mut waiting, "one", 500);
        assert_eq!(shares(&waiting.batch(now), [0], ["one"]), [500]);
        assert!(waiting.is_empty());
        assert!(waiting.batch(now).is_empty());
    }

    #[test]
    fn apps_that_compete_take_turns() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        add(&mut waiting, "flood", 50);
        add(&mut waiting, "other", 3);
        let apps = ["flood", "other"];
        assert_eq!(shares(&waiting.batch(now), [0, 0], apps), [SHARE, 3]);
        assert_eq!(shares(&waiting.batch(now), [SHARE, 3], apps), [SHARE, 0], "the other may come again");
        add(&mut waiting, "other", 2);
        assert_eq!(shares(&waiting.batch(now), [2 * SHARE, 0], apps), [SHARE, 2]);
        assert_eq!(shares(&waiting.batch(now), [3 * SHARE, 0], apps), [SHARE, 0]);
        let alone = shares(&waiting.batch(now + LATELY), [4 * SHARE, 0], apps);
        assert_eq!(alone, [50 - 4 * SHARE, 0]);
        assert!(waiting.is_empty() && waiting.apps.is_empty());
    }

    #[test]
    fn large_events_use_up_a_share_sooner() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        for _ in 0..4 {
            add_one(&mut waiting, "large", vec![0; SHARE_BYTES / 2]);
            add_one(&mut waiting, "huge", vec![0; 3 * SHARE_BYTES]);
        }
        let sizes = |batch: &Batch| -> Vec<_> {
            batch.appends().iter().map(|(_, event, _)| event.body.len() / (SHARE_BYTES / 2)).collect()
        };
        assert_eq!(sizes(&waiting.batch(now)), [1, 1, 6]);
        assert_eq!(sizes(&waiting.batch(now)), [1, 1, 6]);
        assert_eq!(sizes(&waiting.batch(now)), [6]);
    }

    #[test]
    fn who_found_a_batch_full_is_in_the_next() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        let apps: Vec<_> = (0..1500).map(|n| format!("app-{n}")).collect();
        for app in &apps {
            add(&mut waiting, app, SHARE + 1);
        }
        let mut seen = HashSet::new();
        let mut batches = 0;
        while seen.len() < apps.len() {
            let batch = waiting.batch(now);
            assert!(batch.is_full());
            let fresh = batch.appends().iter().filter(|(app, ..)| seen.insert(app.clone()));
            assert!(fresh.count() > 0, "some app waits for a second turn of another");
            batches += 1;
        }
        assert!(batches > 10);
    }
}
