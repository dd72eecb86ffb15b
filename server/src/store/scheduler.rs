//! Fair queueing between apps (deficit round robin) of the appends that wait for a group commit.
//!
//! While several apps append, each has a share of every commit, so that one app adds at most the time of its share to another's
//! latency. An event that is larger than a share waits until the app's deficit counter has grown to its size, unless no other
//! app has anything to append. An app that appends alone has the whole batch.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use wwproxy_protocol::AppId;

/// The most appends of one commit.
const MAX_BATCH_EVENTS: usize = 1024;
/// A batch takes no further append once it has this many bytes.
const MAX_BATCH_BYTES: usize = 512 << 10;
/// The smallest share of an app, in events. With 8 the median latency beside a flood was 1.5 times as high as alone.
const MIN_SHARE: usize = 4;
/// A share takes at most this part of a commit's time. Fewer events would not make the commit shorter.
const COMMIT_PART: u32 = 8;
/// The commit time is an exponential average over this number of commits.
const COMMITS: u32 = 32;
/// The writer's time for one event, without the commit.
const EVENT_COST: Duration = Duration::from_micros(15);
/// The quantum of bytes for each event of a share.
const EVENT_BYTES: usize = 8 << 10;
/// The largest quantum, in bytes.
const MAX_QUANTUM: usize = 256 << 10;
/// Apps that appended within this time of each other compete.
const COMPETITION: Duration = Duration::from_secs(1);

/// What the scheduler must know of an append.
pub(super) trait Item {
    /// Its app.
    fn app(&self) -> &AppId;
    /// Its size, in bytes.
    fn bytes(&self) -> usize;
    /// Whether its caller no longer waits. The caller got no answer, so the append is dropped.
    fn is_cancelled(&self) -> bool;
}

/// The waiting appends of all apps.
#[derive(Debug)]
pub(super) struct Scheduler<T> {
    queues: HashMap<AppId, Queue<T>>,
    /// The apps that have waiting appends, the next one first.
    round: VecDeque<AppId>,
    /// The app that appended last, and when.
    last: Option<(AppId, Instant)>,
    /// When a second app last appended within [`COMPETITION`] of the first.
    competed: Option<Instant>,
    /// The average time of a commit.
    commit_time: Duration,
}

#[derive(Debug)]
struct Queue<T> {
    items: VecDeque<T>,
    /// Bytes that the app may append in this round.
    deficit: usize,
}

#[derive(Debug, Clone, Copy)]
struct Share {
    events: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Batch<T> {
    items: Vec<T>,
    bytes: usize,
}

impl<T> Batch<T> {
    fn is_full(&self) -> bool {
        self.items.len() >= MAX_BATCH_EVENTS || self.bytes >= MAX_BATCH_BYTES
    }
}

impl<T> Default for Scheduler<T> {
    fn default() -> Self {
        Self {
            queues: HashMap::new(),
            round: VecDeque::new(),
            last: None,
            competed: None,
            commit_time: Duration::ZERO,
        }
    }
}

impl<T: Item> Scheduler<T> {
    /// Adds an append to its app's queue.
    pub(super) fn push(&mut self, item: T) {
        if let Some(queue) = self.queues.get_mut(item.app()) {
            queue.items.push_back(item);
            return;
        }
        let app = item.app().clone();
        self.round.push_back(app.clone());
        self.queues.insert(app, Queue { items: [item].into(), deficit: 0 });
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.round.is_empty()
    }

    /// Records the time of a commit.
    pub(super) fn committed(&mut self, time: Duration) {
        self.commit_time = (self.commit_time * (COMMITS - 1) + time) / COMMITS;
    }

    /// Takes the next batch. It is empty only if every append was cancelled.
    pub(super) fn next_batch(&mut self, now: Instant) -> Vec<T> {
        let mut batch = Batch { items: Vec::new(), bytes: 0 };
        let share =
            if self.competes(now) { self.share() } else { Share { events: usize::MAX, bytes: usize::MAX } };
        // If each app's first event is larger than its deficit, further rounds add to it.
        while batch.items.is_empty() && !self.round.is_empty() {
            self.serve_round(share, &mut batch);
        }
        batch.items
    }

    fn share(&self) -> Share {
        let events = (self.commit_time / COMMIT_PART).as_micros() / EVENT_COST.as_micros();
        let events = usize::try_from(events).unwrap_or(usize::MAX).max(MIN_SHARE);
        Share { events, bytes: events.saturating_mul(EVENT_BYTES).min(MAX_QUANTUM) }
    }

    fn serve_round(&mut self, share: Share, batch: &mut Batch<T>) {
        for _ in 0..self.round.len() {
            if batch.is_full() {
                return;
            }
            let Some(app) = self.round.pop_front() else { return };
            let Some(queue) = self.queues.get_mut(&app) else { continue };
            queue.serve(share, batch);
            if queue.items.is_empty() {
                self.queues.remove(&app);
            } else {
                self.round.push_back(app);
            }
        }
    }

    /// Whether several apps appended lately.
    fn competes(&mut self, now: Instant) -> bool {
        let is_recent = |at: Instant| now.duration_since(at) < COMPETITION;
        let last = self.last.take().filter(|(_, at)| is_recent(*at));
        let is_last = |app: &AppId| last.as_ref().is_some_and(|(last, _)| last == app);
        let other = self.round.iter().find(|app| !is_last(app));
        if other.is_some() && (last.is_some() || self.round.len() > 1) {
            self.competed = Some(now);
        }
        self.last = other.or(self.round.front()).map(|app| (app.clone(), now)).or(last);
        self.competed.is_some_and(is_recent)
    }
}

impl<T: Item> Queue<T> {
    /// Adds the quantum to the deficit counter, and moves what it allows to the batch.
    fn serve(&mut self, share: Share, batch: &mut Batch<T>) {
        self.deficit = self.deficit.saturating_add(share.bytes);
        let mut taken = 0;
        while taken < share.events
            && !batch.is_full()
            && self.items.front().is_some_and(|item| item.bytes() <= self.deficit)
            && let Some(item) = self.items.pop_front()
        {
            if item.is_cancelled() {
                continue;
            }
            self.deficit -= item.bytes();
            batch.bytes += item.bytes();
            batch.items.push(item);
            taken += 1;
        }
        // Only an event that is larger than the deficit carries it over: otherwise an app could save shares for a burst.
        if self.items.front().is_none_or(|item| item.bytes() <= self.deficit) {
            self.deficit = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Append(AppId, usize);

    impl Item for Append {
        fn app(&self) -> &AppId {
            &self.0
        }

        fn bytes(&self) -> usize {
            self.1
        }

        fn is_cancelled(&self) -> bool {
            self.0.as_str() == "cancelled"
        }
    }

    fn push(scheduler: &mut Scheduler<Append>, app: &'static str, count: usize, bytes: usize) {
        for _ in 0..count {
            scheduler.push(Append(app.parse().unwrap(), bytes));
        }
    }

    /// How many events of each app are in the next batch.
    fn next<const N: usize>(scheduler: &mut Scheduler<Append>, now: Instant, apps: [&str; N]) -> [usize; N] {
        let batch = scheduler.next_batch(now);
        apps.map(|app| batch.iter().filter(|append| append.0.as_str() == app).count())
    }

    #[test]
    fn an_app_alone_has_the_whole_batch() {
        let (mut scheduler, now) = (Scheduler::default(), Instant::now());
        push(&mut scheduler, "one", 500, 1);
        assert_eq!(next(&mut scheduler, now, ["one"]), [500]);
        assert!(scheduler.is_empty());
        push(&mut scheduler, "one", 9, MAX_BATCH_BYTES / 4);
        assert_eq!(next(&mut scheduler, now, ["one"]), [4]);
    }

    #[test]
    fn competing_apps_have_a_share_each() {
        let (mut scheduler, now) = (Scheduler::default(), Instant::now());
        push(&mut scheduler, "flood", 50, 1);
        push(&mut scheduler, "other", 3, 1);
        assert_eq!(next(&mut scheduler, now, ["flood", "other"]), [MIN_SHARE, 3]);
        assert_eq!(next(&mut scheduler, now, ["flood", "other"]), [MIN_SHARE, 0], "the other app may return");
        let later = now + COMPETITION;
        assert_eq!(next(&mut scheduler, later, ["flood"]), [50 - 2 * MIN_SHARE]);
    }

    #[test]
    fn a_large_event_waits_for_its_deficit_but_not_forever() {
        let (mut scheduler, now) = (Scheduler::default(), Instant::now());
        push(&mut scheduler, "large", 2, 3 * MIN_SHARE * EVENT_BYTES);
        push(&mut scheduler, "small", 20, 1);
        let batches: Vec<_> = (0..5).map(|_| next(&mut scheduler, now, ["large", "small"])).collect();
        assert_eq!(batches, [[0, 4], [0, 4], [1, 4], [0, 4], [0, 4]]);
        assert_eq!(next(&mut scheduler, now, ["large", "small"]), [1, 0]);
    }

    #[test]
    fn a_share_grows_with_the_time_of_a_commit() {
        let (mut scheduler, now) = (Scheduler::default(), Instant::now());
        push(&mut scheduler, "flood", 500, 1);
        push(&mut scheduler, "other", 1, 1);
        scheduler.commit_time = Duration::from_millis(12);
        assert_eq!(next(&mut scheduler, now, ["flood", "other"]), [100, 1]);
    }

    #[test]
    fn a_cancelled_append_is_dropped() {
        let (mut scheduler, now) = (Scheduler::default(), Instant::now());
        push(&mut scheduler, "cancelled", 3, 1);
        assert_eq!(next(&mut scheduler, now, ["cancelled"]), [0]);
        assert!(scheduler.is_empty());
    }
}
