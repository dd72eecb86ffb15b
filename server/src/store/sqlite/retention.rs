//! Retention: which events leave the log, and when.
//!
//! An event is removed after the retention, whatever its state; after the history, or earlier if the store is over its size, only
//! if every consumer has settled it. The writer removes events in small batches while it is idle, and once a second under load.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime},
};

use rusqlite::Connection;

use super::{
    Seq,
    app_log::{Entry, Next},
    clock::Clock,
    cursor::Cursor,
    overflow::log_dropped,
    reader::entry,
    record::micros,
    removal::Removal,
    state::App,
    writer::Writer,
};
use crate::{log_limit::LogLimit, store::StoreError};

/// Events of a batch, at most.
const BATCH_EVENTS: u16 = 256;
/// A batch takes no further event once it has this many bytes: 4 MiB.
const BATCH_BYTES: u64 = 4 << 20;
/// The search for events of a batch takes about this time, at most.
const BATCH_TIME: Duration = Duration::from_millis(10);
/// While there is room for fewer bytes than this, settled events are removed, so that history goes before a webhook is refused:
/// 64 MiB.
const MIN_ROOM: u64 = 64 << 20;
/// The time between two batches, if there is nothing more to remove, or under load.
const PERIOD: Duration = Duration::from_secs(1);
/// The time between two batches while the writer is idle.
const PAUSE: Duration = Duration::from_millis(50);

/// Events that were older than the retention before they were settled.
static EXPIRED: LogLimit = LogLimit::per_minute(1);

/// The writer's state of retention.
#[derive(Debug)]
pub(super) struct Retention {
    clock: Clock,
    /// When the next batch is due.
    pub(super) due: Instant,
    swept: HashMap<i64, Swept>,
    /// The app whose settled events were looked for last: the next search begins after it, so that no app takes the time of others.
    last_app: i64,
    /// When the store was opened.
    opened: Instant,
    /// Timelines from this consumer on may be of consumers that are gone.
    pub(super) timelines_from: Option<i64>,
}

/// How far the settled events of an app were removed.
#[derive(Debug, Default)]
struct Swept {
    /// What is left up to this event is not settled. Lower again once some of it is.
    up_to: Seq,
    /// The next event was received at this time: it is too young before.
    next_at: i64,
}

/// An event with what retention must know of it.
#[derive(Debug)]
struct Old {
    entry: Entry,
    app_id: i64,
    /// `None`: the value is damaged.
    received_at: Option<i64>,
}

/// A batch that is being gathered.
#[derive(Debug, Default)]
struct Batch {
    removals: Vec<Removal>,
    events: usize,
    bytes: u64,
}

impl Batch {
    fn is_full(&self, max_bytes: u64) -> bool {
        self.events >= usize::from(BATCH_EVENTS) || self.bytes >= max_bytes.min(BATCH_BYTES)
    }

    fn push(&mut self, app: &Arc<App>, entry: &Entry) {
        self.events += 1;
        self.bytes += u64::from(entry.size);
        if self.removals.last().is_none_or(|removal| removal.app.id != app.id) {
            self.removals.push(Removal::new(app));
        }
        if let Some(removal) = self.removals.last_mut() {
            removal.push(entry.seq, entry.size);
        }
    }
}

impl Retention {
    pub(super) fn new(now: Instant) -> Self {
        let clock = Clock::new(micros(SystemTime::now()), now);
        Self {
            clock,
            due: now + PAUSE,
            swept: HashMap::new(),
            last_app: 0,
            opened: now,
            timelines_from: Some(0),
        }
    }

    /// Settled events of an app may be anywhere again, since it lost a consumer or one moved.
    pub(super) fn sweep_again(&mut self, app: i64) {
        self.swept.remove(&app);
    }

    /// A consumer is gone, whose timeline is left.
    pub(super) fn purge_timelines(&mut self) {
        self.timelines_from = Some(0);
    }
}

impl Writer {
    /// Removes a batch of events, if it is time.
    pub(super) fn retain(&mut self, is_idle: bool) {
        let now = Instant::now();
        if now < self.retention.due {
            return;
        }
        let has_more = self.remove_batch(now).unwrap_or_else(|error| {
            tracing::debug!(%error, "retention is tried again");
            // The events of the failed batch are found again.
            self.retention.swept.clear();
            false
        });
        let is_urgent = has_more && self.database.room() < MIN_ROOM;
        let pause = match (is_urgent, has_more && is_idle) {
            (true, _) => Duration::ZERO,
            (false, true) => PAUSE,
            (false, false) => PERIOD,
        };
        self.retention.due = Instant::now() + pause;
    }

    /// Removes the next events. Returns whether there may be more.
    fn remove_batch(&mut self, now: Instant) -> Result<bool, StoreError> {
        let wall = micros(SystemTime::now());
        let before = |age: Duration| wall.saturating_sub(i64::try_from(age.as_micros()).unwrap_or(i64::MAX));
        // Retention goes on beside it: clients can cause it again and again.
        let has_purged = self.purge()?;
        if self.retention.clock.observe(wall, now) {
            self.expire_consumers(wall, self.retention.opened)?;
            let expired = self.expired(before(self.limits.retention))?;
            let settled = if expired.is_empty() {
                self.settled(&self.apps_in_turn(), before(self.limits.history), BATCH_BYTES, now)?
            } else {
                expired
            };
            if !settled.is_empty() {
                self.remove(&settled)?;
                return Ok(true);
            }
        }
        let excess = self.excess();
        if excess > 0 && self.free_history(excess)? {
            return Ok(true);
        }
        Ok(self.database.vacuum()? || has_purged)
    }

    /// Removes settled events of any age, the oldest of the largest app first. Returns whether there were any.
    pub(super) fn free_history(&mut self, bytes: u64) -> Result<bool, StoreError> {
        let mut apps = self.apps();
        apps.sort_by_cached_key(|app| std::cmp::Reverse(app.log.lock().stored_bytes()));
        let now = Instant::now();
        for app in apps {
            let settled = self.settled(&[app], i64::MAX, bytes, now)?;
            if !settled.is_empty() {
                self.remove(&settled)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// How many bytes are stored beyond the limit, or are missing on the disk.
    fn excess(&self) -> u64 {
        let stored: u64 = self.apps().iter().map(|app| app.log.lock().stored_bytes()).sum();
        let missing = MIN_ROOM.saturating_sub(self.database.room());
        stored.saturating_sub(self.limits.max_history_bytes).max(missing)
    }

    fn apps(&self) -> Vec<Arc<App>> {
        self.shared.apps.read().values().map(Arc::clone).collect()
    }

    fn apps_in_turn(&self) -> Vec<Arc<App>> {
        let mut apps = self.apps();
        apps.sort_unstable_by_key(|app| (app.id <= self.retention.last_app, app.id));
        apps
    }

    /// The oldest events, if they were received up to this time. Consumers that have not settled them lose them here, which is
    /// durable together with the removal.
    fn expired(&self, up_to: i64) -> Result<Vec<Removal>, StoreError> {
        let mut oldest = self.shared.readers.read(oldest).map_err(StoreError::engine)?;
        let is_young = |old: &Old| old.received_at.is_some_and(|at| at > up_to);
        oldest.truncate(oldest.iter().position(is_young).unwrap_or(oldest.len()));
        // The age of an event whose time is damaged is that of the next one.
        while oldest.last().is_some_and(|old| old.received_at.is_none()) {
            oldest.pop();
        }
        let apps = self.apps().into_iter().chain(self.index.damaged.iter().map(Arc::clone));
        let apps: HashMap<_, _> = apps.map(|app| (app.id, app)).collect();
        // Sorted by app, and by seq within an app.
        oldest.sort_by_key(|old| old.app_id);
        let mut batch = Batch::default();
        for old in oldest {
            // The events of an ended epoch are purged.
            let Some(app) = apps.get(&old.app_id) else { continue };
            if batch.is_full(BATCH_BYTES) {
                break;
            }
            for consumer in &app.all_consumers() {
                let matches = consumer.filter.matches(&old.entry);
                let remove = |cursor: &mut Cursor| cursor.remove(&old.entry, matches);
                let dropped = u64::from(self.shared.update(consumer, remove));
                log_dropped(&EXPIRED, app, dropped, "events older than the retention are dropped");
            }
            batch.push(app, &old.entry);
        }
        Ok(batch.removals)
    }

    /// Events that every consumer has settled, and that were received up to this time: at most those of one batch.
    fn settled(
        &mut self,
        apps: &[Arc<App>],
        up_to: i64,
        max_bytes: u64,
        started: Instant,
    ) -> Result<Vec<Removal>, StoreError> {
        let mut batch = Batch::default();
        for app in apps {
            self.retention.last_app = app.id;
            while self.settled_of(app, up_to, max_bytes, &mut batch)? && !batch.is_full(max_bytes) {
                if started.elapsed() > BATCH_TIME {
                    return Ok(batch.removals);
                }
            }
            if batch.is_full(max_bytes) || started.elapsed() > BATCH_TIME {
                break;
            }
        }
        Ok(batch.removals)
    }

    /// Adds settled events of one app to a batch. Returns whether there may be more.
    fn settled_of(
        &mut self,
        app: &Arc<App>,
        up_to: i64,
        max_bytes: u64,
        batch: &mut Batch,
    ) -> Result<bool, StoreError> {
        let swept = self.retention.swept.entry(app.id).or_default();
        if app.lost_ephemeral.swap(false, Ordering::AcqRel) {
            *swept = Swept::default();
        }
        // After the question: one that ends from here on is found the next time.
        let consumers = app.all_consumers();
        let mut position = Seq::MAX;
        for consumer in &consumers {
            let mut cursor = consumer.cursor();
            position = position.min(cursor.position());
            if let Some(lowest) = cursor.take_lowest_settled().filter(|lowest| *lowest <= swept.up_to) {
                *swept = Swept { up_to: lowest - 1, next_at: i64::MIN };
            }
        }
        if swept.up_to >= position || swept.next_at > up_to {
            return Ok(false);
        }
        let next = app.log.lock().after(swept.up_to, BATCH_EVENTS.into());
        let entries = match next {
            Next::End => return Ok(false),
            Next::Memory(entries) => entries,
            Next::Database(indexed) => {
                let entries = self.shared.read_index(app.id, swept.up_to, BATCH_EVENTS.into())?;
                if entries.is_empty() {
                    swept.up_to = indexed;
                }
                entries
            }
        };
        let seqs: Vec<_> = entries.iter().map(|entry| entry.seq).take_while(|seq| *seq <= position).collect();
        let times = self.shared.readers.read(|db| times(db, &seqs)).map_err(StoreError::engine)?;
        if times.is_empty() && !entries.is_empty() {
            // Positions are seqs of the whole store: the next event of the app is after it.
            swept.up_to = position;
        }
        for (entry, received_at) in entries.into_iter().zip(times) {
            if batch.is_full(max_bytes) {
                return Ok(true);
            }
            if received_at > up_to {
                swept.next_at = received_at;
                return Ok(false);
            }
            swept.up_to = entry.seq;
            if consumers.iter().all(|consumer| consumer.cursor().is_settled(entry.seq)) {
                batch.push(app, &entry);
            }
        }
        Ok(swept.up_to < position)
    }
}

/// The oldest events of the store.
fn oldest(db: &Connection) -> rusqlite::Result<Vec<Old>> {
    db.prepare_cached("SELECT seq, size, source, type, app_id, received_at FROM events ORDER BY seq LIMIT ?")?
        .query_map([BATCH_EVENTS], |row| {
            Ok(Old { entry: entry(row)?, app_id: row.get(4)?, received_at: row.get(5).ok() })
        })?
        .collect()
}

/// When events were received. One that is missing or damaged was received long ago.
fn times(db: &Connection, seqs: &[Seq]) -> rusqlite::Result<Vec<i64>> {
    let mut time = db.prepare_cached("SELECT received_at FROM events WHERE seq = ?")?;
    let received = |seq: &Seq| time.query_row([seq.cast_signed()], |row| row.get(0)).unwrap_or(0);
    Ok(seqs.iter().map(received).collect())
}
