//! What waits for the next checkpoint (a memtable), between the writer who adds to it, the filer who takes it, and readers
//! for whom it makes no difference where an event is.

use std::{
    fmt,
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{change::Change, commands::Reply, unfiled::Unfiled};
use crate::store::{StoreError, queues::lock, sequence::Seq};

/// How much of the journal is filed at once, in bytes: an eighth of it, so that there is always room. Deletions count
/// for more than they take there.
const FILE_BYTES: u64 = 4 << 20;
/// How long the first change waits for others to be filed with it. What is deleted meanwhile is never filed.
const LINGER: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(super) struct Pending {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// What the filer has not taken yet, and since when there is something.
    waiting: Unfiled,
    since: Option<Instant>,
    /// What it is writing to the database.
    taken: Option<Arc<Unfiled>>,
    filed: Filed,
    /// Why the filer gets nowhere.
    failure: Option<StoreError>,
    /// The writer waits for it.
    is_urgent: bool,
    is_closing: bool,
    reopenings: Vec<(u64, Reply<()>)>,
}

/// How far the filer is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Filed {
    /// The last frame of which everything is in the database.
    pub(super) frame: u64,
    /// The last of those changes that no frame says.
    pub(super) alone: u64,
}

/// What the filer has to do.
pub(super) enum Work {
    File(Arc<Unfiled>),
    /// Open the database again, if it was not since it had been opened so often.
    Reopen(u64, Reply<()>),
    /// End: nothing more comes.
    End,
}

impl Pending {
    /// Where everything up to this frame is filed, and this is what came after it.
    pub(super) fn new(frame: u64, unfiled: Unfiled) -> Self {
        let filed = Filed { frame, alone: 0 };
        let since = (!unfiled.is_empty()).then(Instant::now);
        let state = State { waiting: unfiled, since, filed, ..State::default() };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// The records of these events, where they are not in the database yet.
    pub(super) fn records(&self, numbers: impl Iterator<Item = Seq>) -> Vec<Option<Bytes>> {
        let state = lock(&self.state);
        let taken = |seq| state.taken.as_ref().and_then(|taken| taken.record(seq));
        numbers.map(|seq| state.waiting.record(seq).or_else(|| taken(seq)).cloned()).collect()
    }

    /// Adds what is in the journal as a frame of this number and size.
    pub(super) fn add(&self, number: u64, size: u64, changes: Vec<Change>) {
        let mut state = lock(&self.state);
        state.waiting.add(number, size, changes);
        let is_first = state.since.is_none();
        state.since.get_or_insert_with(Instant::now);
        let is_enough = state.waiting.bytes() >= FILE_BYTES;
        drop(state);
        if is_first || is_enough {
            self.changed.notify_all();
        }
    }

    /// Adds the so many-th changes that no frame says, which are durable only once they are in the database.
    pub(super) fn add_alone(&self, alone: u64, changes: Vec<Change>) {
        let mut state = lock(&self.state);
        let last = state.taken.as_ref().map_or(state.filed.frame, |taken| taken.last());
        state.waiting.add_alone(alone, last, changes);
        state.since.get_or_insert_with(Instant::now);
        drop(state);
        self.changed.notify_all();
    }

    /// How far the filer is, and why it goes no further.
    pub(super) fn filed(&self) -> (Filed, Option<StoreError>) {
        let state = lock(&self.state);
        (state.filed, state.failure.as_ref().map(StoreError::share))
    }

    /// Waits until so much is filed, which is begun at once.
    pub(super) fn wait_for(&self, is_enough: impl Fn(Filed) -> bool) -> Result<(), StoreError> {
        let mut state = lock(&self.state);
        state.is_urgent = true;
        self.changed.notify_all();
        while !is_enough(state.filed) {
            if let Some(error) = &state.failure {
                return Err(error.share());
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    /// Has the database opened again, if it was not since it had been opened so often.
    pub(super) async fn reopen(&self, opened: u64) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        {
            let mut state = lock(&self.state);
            if state.is_closing {
                return Err(StoreError::Closed);
            }
            state.reopenings.push((opened, reply));
        }
        self.changed.notify_all();
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Nothing more is added.
    pub(super) fn close(&self) {
        lock(&self.state).is_closing = true;
        self.changed.notify_all();
    }

    pub(super) fn is_closing(&self) -> bool {
        lock(&self.state).is_closing
    }

    /// Nothing is filed any more.
    pub(super) fn end(&self) {
        let mut state = lock(&self.state);
        state.is_closing = true;
        state.failure.get_or_insert(StoreError::Closed);
        state.reopenings.clear();
        drop(state);
        self.changed.notify_all();
    }

    /// Waits for something to do. Nothing is filed before the time of a retry, but when it is the last one.
    pub(super) fn work(&self, retry: Option<Instant>) -> Work {
        let mut state = lock(&self.state);
        loop {
            if let Some((opened, reply)) = state.reopenings.pop() {
                return Work::Reopen(opened, reply);
            }
            let due = state.due().map(|due| retry.map_or(due, |retry| retry.max(due)));
            let wait = due.map(|due| due.saturating_duration_since(Instant::now()));
            state = match wait {
                None if state.is_closing => return Work::End,
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(wait) if wait.is_zero() || state.is_closing => return Work::File(state.take()),
                Some(wait) => {
                    self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// What was taken is in the database.
    pub(super) fn done(&self, taken: Arc<Unfiled>) {
        let mut state = lock(&self.state);
        state.taken = None;
        state.filed = Filed { frame: taken.last(), alone: state.filed.alone.max(taken.alone()) };
        state.failure = None;
        drop(state);
        self.changed.notify_all();
        whole(taken).discard();
    }

    /// What was taken could not be filed, and waits with all that came after it.
    pub(super) fn failed(&self, taken: Arc<Unfiled>, error: &StoreError) {
        let mut state = lock(&self.state);
        state.taken = None;
        let mut all = whole(taken);
        all.refused(std::mem::take(&mut state.waiting));
        state.waiting = all;
        state.since.get_or_insert_with(Instant::now);
        state.is_urgent = true;
        state.failure = Some(error.share());
        drop(state);
        self.changed.notify_all();
    }
}

/// What was taken, when it is taken no more.
fn whole(taken: Arc<Unfiled>) -> Unfiled {
    Arc::into_inner(taken).expect("readers look at it under the lock only")
}

impl State {
    /// When it is time to file, where there is something.
    fn due(&self) -> Option<Instant> {
        let is_enough = self.is_urgent || self.waiting.bytes() >= FILE_BYTES;
        self.since.map(|since| if is_enough { since } else { since + LINGER })
    }

    fn take(&mut self) -> Arc<Unfiled> {
        let taken = Arc::new(std::mem::take(&mut self.waiting));
        self.taken = Some(Arc::clone(&taken));
        self.since = None;
        self.is_urgent = false;
        taken
    }
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.state);
        let mut fields = f.debug_struct("Pending");
        fields.field("bytes", &state.waiting.bytes()).field("filed", &state.filed);
        fields.finish_non_exhaustive()
    }
}
