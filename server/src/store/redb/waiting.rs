//! Fair queueing between apps (deficit round robin) of the appends that wait for a batch.
//!
//! Apps take turns. While several of them post, each has a share of a batch that takes less time than its commit:
//! what one app can add to another's wait is the time of that share, however much it posts. An event that is larger
//! than a share stands back for as many batches as it has shares, where they have events of others. An app that posts
//! alone has all of every batch.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use wwproxy_protocol::AppId;

use super::{
    batch::Batch,
    commands::{Append, Reply, Room},
};
use crate::store::Appended;

/// The events of one app in a batch while others post too, at least. With 8 the median beside a flood was half as
/// high again as alone, and with 4 it was the same; 2 gave nothing more.
const SHARE: usize = 4;
/// Where commits take long a share is what takes so small a part of one: fewer events would not make it shorter.
const COMMIT_PART: u32 = 8;
/// How many commits that is seen from: one that happened to take long makes no larger share.
const COMMITS: u32 = 32;
/// What an event costs the writer beside the commit.
const EVENT_COST: Duration = Duration::from_micros(15);
/// A share is used up with so many bytes for each of its events, though never by less than one event.
const EVENT_BYTES: usize = 8 << 10;
/// And with so many bytes in all: more of them are what makes a commit take longer.
const SHARE_BYTES: usize = 256 << 10;
/// How long after its last event an app counts as one that posts.
const LATELY: Duration = Duration::from_secs(1);

/// Their number is bounded by the room that each of them holds.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    apps: HashMap<AppId, Line>,
    /// Each app with something that waits, the next one first.
    turns: VecDeque<AppId>,
    /// An app that posted, and when it last did.
    last: Option<(AppId, Instant)>,
    /// When another one posted within [`LATELY`] of that.
    competed: Option<Instant>,
    /// How long a commit takes, of late.
    commit: Duration,
}

/// What one app may have of a batch, at most.
#[derive(Debug, Clone, Copy)]
struct Share {
    events: usize,
    bytes: usize,
}

impl Share {
    const ALL: Self = Self { events: usize::MAX, bytes: usize::MAX };
}

/// What waits of one app.
#[derive(Debug)]
struct Line {
    appends: VecDeque<(Append, Reply<Appended>, Room)>,
    /// The bytes of the shares that it had no event for, as the next one is larger.
    saved: usize,
}

impl Waiting {
    pub(super) fn add(&mut self, append: Append, reply: Reply<Appended>, room: Room) {
        let app = &append.app;
        if let Some(line) = self.apps.get_mut(app) {
            line.appends.push_back((append, reply, room));
            return;
        }
        self.turns.push_back(app.clone());
        self.apps.insert(app.clone(), Line { appends: VecDeque::from([(append, reply, room)]), saved: 0 });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Takes the next batch out. Of an app that has no room in the journal there is nothing in it.
    pub(super) fn batch(&mut self, now: Instant, room_of: impl Fn(&AppId) -> u64) -> Batch {
        let share = if self.compete(now) { self.share() } else { Share::ALL };
        self.take(share, |app| usize::try_from(room_of(app)).unwrap_or(usize::MAX))
    }

    /// Takes as much out as a batch can hold.
    pub(super) fn without_turns(&mut self) -> Batch {
        self.take(Share::ALL, |_| usize::MAX)
    }

    /// Something was written to the journal in this time.
    pub(super) fn committed(&mut self, took: Duration) {
        self.commit = (self.commit * (COMMITS - 1) + took) / COMMITS;
    }

    fn share(&self) -> Share {
        let events = (self.commit / COMMIT_PART).as_micros() / EVENT_COST.as_micros();
        let events = usize::try_from(events).unwrap_or(usize::MAX).max(SHARE);
        Share { events, bytes: events.saturating_mul(EVENT_BYTES).min(SHARE_BYTES) }
    }

    /// Takes a batch out that has a share of each app.
    fn take(&mut self, share: Share, room_of: impl Fn(&AppId) -> usize) -> Batch {
        let mut batch = Batch::default();
        let others_first = self.turns.iter().any(|app| self.apps[app].goes_with(share) && room_of(app) > 0);
        for _ in 0..self.turns.len() {
            if batch.is_full() {
                break;
            }
            let app = self.turns.pop_front().expect("so many have a turn");
            let line = self.apps.get_mut(&app).expect("whose turn it is has something that waits");
            line.take(&mut batch, share, room_of(&app), others_first);
            if line.appends.is_empty() {
                self.apps.remove(&app);
            } else {
                self.turns.push_back(app);
            }
        }
        batch
    }

    /// Whether several apps posted lately.
    fn compete(&mut self, now: Instant) -> bool {
        let is_lately = |at: Instant| now.duration_since(at) < LATELY;
        let last = self.last.take().filter(|(_, at)| is_lately(*at));
        let is_last = |app: &AppId| last.as_ref().is_some_and(|(last, _)| last == app);
        let other = self.turns.iter().find(|app| !is_last(app));
        if other.is_some() && (last.is_some() || self.turns.len() > 1) {
            self.competed = Some(now);
        }
        self.last = other.or(self.turns.front()).map(|app| (app.clone(), now)).or(last);
        self.competed.is_some_and(is_lately)
    }
}

impl Line {
    /// Whether its next event is no larger than its share, with what it saved of those before.
    fn goes_with(&self, share: Share) -> bool {
        let next = self.appends.front().expect("it has something that waits");
        next.0.event.size() <= share.bytes.saturating_add(self.saved)
    }

    /// Moves a share of it to a batch: one event where there is any room, and the last one may be longer. If others
    /// go first, an event that is larger than its share is none of them.
    fn take(&mut self, batch: &mut Batch, share: Share, room: usize, others_first: bool) {
        let before = batch.bytes();
        let enough = before.saturating_add(share.bytes.min(room));
        let mut taken = 0;
        while taken < share.events && batch.bytes() < enough && !batch.is_full() && !self.appends.is_empty() {
            if others_first && !self.goes_with(share) {
                self.saved += share.bytes - (batch.bytes() - before);
                break;
            }
            let (append, reply, room) = self.appends.pop_front().expect("one is left");
            // Who does not wait any more comes again: it was not answered.
            if !reply.is_closed() {
                batch.add(append, reply, room);
                taken += 1;
                self.saved = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, sync::Arc};

    use bytes::Bytes;
    use tokio::sync::oneshot;
    use wwproxy_protocol::{Secret, Source};

    use super::*;
    use crate::store::NewEvent;

    /// A share's.
    const BYTES: usize = SHARE * EVENT_BYTES;

    fn add(waiting: &mut Waiting, app: &str, count: usize) {
        for number in 0..count {
            add_one(waiting, app, number.to_string());
        }
    }

    fn add_one(waiting: &mut Waiting, app: &str, body: impl Into<Bytes>) {
        let event = NewEvent::new(Vec::new(), None, body.into());
        let (reply, answer) = oneshot::channel();
        // It goes on waiting.
        std::mem::forget(answer);
        let source = Arc::new(Source::watson_work(Secret::new("s")));
        let append = Append { app: app.parse().unwrap(), source, event, dedupe: None };
        waiting.add(append, reply, Room::none());
    }

    fn add_size(waiting: &mut Waiting, app: &str, size: usize) {
        let without_body = NewEvent::new(Vec::new(), None, Bytes::new()).size();
        add_one(waiting, app, vec![0; size - without_body]);
    }

    fn anything(_: &AppId) -> u64 {
        u64::MAX
    }

    /// How many of a batch are of these apps, each in the order in which they came.
    fn shares<const N: usize>(batch: &Batch, from: [usize; N], apps: [&str; N]) -> [usize; N] {
        let mut next = from;
        for Append { app, event, .. } in batch.appends() {
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
        assert_eq!(shares(&waiting.batch(now, anything), [0], ["one"]), [500]);
        assert!(waiting.is_empty());
        assert!(waiting.batch(now, anything).is_empty());
    }

    #[test]
    fn apps_that_compete_take_turns() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        add(&mut waiting, "flood", 50);
        add(&mut waiting, "other", 3);
        let apps = ["flood", "other"];
        assert_eq!(shares(&waiting.batch(now, anything), [0, 0], apps), [SHARE, 3]);
        assert_eq!(
            shares(&waiting.batch(now, anything), [SHARE, 3], apps),
            [SHARE, 0],
            "the other may come again"
        );
        add(&mut waiting, "other", 2);
        assert_eq!(shares(&waiting.batch(now, anything), [2 * SHARE, 0], apps), [SHARE, 2]);
        assert_eq!(shares(&waiting.batch(now, anything), [3 * SHARE, 0], apps), [SHARE, 0]);
        let alone = shares(&waiting.batch(now + LATELY, anything), [4 * SHARE, 0], apps);
        assert_eq!(alone, [50 - 4 * SHARE, 0]);
        assert!(waiting.is_empty() && waiting.apps.is_empty());
    }

    /// The sizes of a batch's events, in halves of a share.
    fn sizes(batch: &Batch) -> Vec<usize> {
        batch.appends().iter().map(|append| append.event.size() / (BYTES / 2)).collect()
    }

    #[test]
    fn large_events_use_up_a_share_sooner() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        for _ in 0..4 {
            add_size(&mut waiting, "large", BYTES / 2);
            add_size(&mut waiting, "other", BYTES / 2);
        }
        assert_eq!(sizes(&waiting.batch(now, anything)), [1, 1, 1, 1]);
        assert_eq!(sizes(&waiting.batch(now, anything)), [1, 1, 1, 1]);
        assert!(waiting.is_empty());
    }

    #[test]
    fn an_event_larger_than_a_share_stands_back_until_it_has_saved_enough() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        for _ in 0..3 {
            add_size(&mut waiting, "huge", 3 * BYTES);
        }
        for _ in 0..12 {
            add_size(&mut waiting, "other", BYTES / 2);
        }
        assert_eq!(sizes(&waiting.batch(now, anything)), [1, 1]);
        assert_eq!(sizes(&waiting.batch(now, anything)), [1, 1]);
        assert_eq!(sizes(&waiting.batch(now, anything)), [6, 1, 1], "it cannot wait forever");
        assert_eq!(sizes(&waiting.batch(now, anything)), [1, 1]);
        let no_other = |app: &AppId| if app.as_str() == "other" { 0 } else { u64::MAX };
        assert_eq!(sizes(&waiting.batch(now, no_other)), [6], "nobody else could go");
        assert_eq!(sizes(&waiting.batch(now, anything)), [1, 1]);
        assert_eq!(sizes(&waiting.batch(now, anything)), [1, 1]);
        assert_eq!(sizes(&waiting.batch(now, anything)), [6], "nobody else waits");
        assert!(waiting.is_empty());
    }

    #[test]
    fn an_event_larger_than_a_share_does_not_go_behind_a_small_one() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        add_size(&mut waiting, "flood", BYTES / 2);
        add_size(&mut waiting, "flood", 2 * BYTES);
        add_size(&mut waiting, "other", BYTES / 2);
        assert_eq!(sizes(&waiting.batch(now, anything)), [1, 1]);
        assert_eq!(sizes(&waiting.batch(now, anything)), [4]);
    }

    #[test]
    fn a_share_is_larger_where_commits_take_long() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        add(&mut waiting, "flood", 500);
        add(&mut waiting, "other", 3);
        waiting.committed(Duration::from_millis(12));
        assert_eq!(shares(&waiting.batch(now, anything), [0, 0], ["flood", "other"]), [SHARE, 3]);
        waiting.commit = Duration::from_millis(12);
        waiting.committed(Duration::from_millis(12));
        assert_eq!(shares(&waiting.batch(now, anything), [SHARE, 3], ["flood", "other"]), [100, 0]);
    }

    #[test]
    fn a_share_of_large_events_does_not_grow_with_the_time_that_they_take() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        for _ in 0..100 {
            add_size(&mut waiting, "large", SHARE_BYTES / 4);
            add_size(&mut waiting, "other", SHARE_BYTES / 4);
        }
        waiting.commit = Duration::from_millis(100);
        assert_eq!(waiting.batch(now, anything).appends().len(), 8);
    }

    #[test]
    fn who_has_no_room_waits_and_the_others_do_not() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        add(&mut waiting, "flood", 3);
        add(&mut waiting, "other", 1);
        let apps = ["flood", "other"];
        let no_flood = |app: &AppId| if app.as_str() == "flood" { 0 } else { u64::MAX };
        assert_eq!(shares(&waiting.batch(now, no_flood), [0, 0], apps), [0, 1]);
        assert!(waiting.batch(now, no_flood).is_empty() && !waiting.is_empty());
        assert_eq!(shares(&waiting.batch(now, |_| 1), [0, 1], apps), [1, 0], "the last one may be longer");
        assert_eq!(shares(&waiting.batch(now, anything), [1, 1], apps), [2, 0]);
    }

    #[test]
    fn an_app_that_posted_long_ago_does_not_compete() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        add(&mut waiting, "one", 1);
        assert_eq!(waiting.batch(now, anything).appends().len(), 1);
        add(&mut waiting, "two", 50);
        assert_eq!(waiting.batch(now + LATELY, anything).appends().len(), 50);
        add(&mut waiting, "one", 50);
        assert_eq!(waiting.batch(now + LATELY, anything).appends().len(), SHARE);
    }

    #[test]
    fn who_does_not_wait_any_more_has_no_turn() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        add(&mut waiting, "one", 3);
        for (_, reply, _) in waiting.apps.values_mut().flat_map(|line| &mut line.appends).take(2) {
            *reply = oneshot::channel().0;
        }
        add(&mut waiting, "two", 1);
        assert_eq!(waiting.batch(now, anything).appends().len(), 2);
        assert!(waiting.is_empty());
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
            let batch = waiting.batch(now, anything);
            assert!(batch.is_full());
            let fresh = batch.appends().iter().filter(|append| seen.insert(append.app.clone()));
            assert!(fresh.count() > 0, "some app waits for a second turn of another");
            batches += 1;
        }
        assert!(batches > 4);
    }
}
