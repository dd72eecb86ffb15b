//! What all threads share: the apps, their logs and consumers, the ring, the disk's health.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
        mpsc,
    },
    time::{Instant, SystemTime},
};

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;
use wwproxy_protocol::{AppId, ConsumerName, ConsumerSettings, Overflow};

use super::{
    Seq,
    app_log::{AppLog, Next, Total},
    commands::Command,
    cursor::Cursor,
    filter::Filter,
    health::DiskHealth,
    last_use::LastUse,
    reader::Readers,
    record::{from_micros, micros},
    ring::Ring,
    tap::Taps,
};
use crate::{
    coop::yield_task_if_due,
    store::{ConsumerStatus, Registration, StoreError},
};

/// Entries that a consumer reads ahead from the log, at most.
pub(super) const READ_AHEAD: usize = 256;

/// The state that all threads share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) apps: RwLock<HashMap<AppId, Arc<App>>>,
    /// Ended epochs whose events are not purged yet.
    pub(super) ended: Mutex<Vec<Arc<App>>>,
    pub(super) ring: Ring,
    pub(super) taps: Arc<Taps>,
    pub(super) readers: Readers,
    pub(super) health: DiskHealth,
    /// Consumers with changes that are not flushed.
    dirty: Mutex<Vec<Arc<Consumer>>>,
    /// Wakes the writer for a flush.
    flush: mpsc::Sender<Command>,
    /// Lease numbers begin at a random number, so that a receipt from before a restart is stale.
    next_lease: AtomicU64,
    /// What happens at the limits of `default`, unless its settings say otherwise.
    overflow: Overflow,
    /// Wakes leases that wait for the registration of their app.
    pub(super) registered: Notify,
}

/// One epoch of an app.
#[derive(Debug)]
pub(super) struct App {
    /// `None`: unregistered, or damaged.
    pub(super) name: Option<AppId>,
    pub(super) id: i64,
    pub(super) registration: RwLock<Arc<Registration>>,
    pub(super) log: Mutex<AppLog>,
    pub(super) consumers: RwLock<BTreeMap<ConsumerName, Arc<Consumer>>>,
    /// Consumers that are in memory only.
    pub(super) ephemeral: RwLock<HashMap<ConsumerName, Arc<Consumer>>>,
    /// One of them ended: retention has to look again for events that only it had not settled.
    pub(super) lost_ephemeral: AtomicBool,
}

/// One consumer of an app.
#[derive(Debug)]
pub(super) struct Consumer {
    pub(super) id: i64,
    /// The checksum of its app, name and settings, as the database should have them. Only the writer uses it.
    pub(super) identity: AtomicI64,
    pub(super) settings: Mutex<ConsumerSettings>,
    pub(super) filter: Filter,
    /// Its position when it was created.
    pub(super) started: Seq,
    /// Wakes one waiting lease.
    pub(super) arrived: Notify,
    cursor: Mutex<Cursor>,
    /// The consumer is in the list of dirty ones.
    is_dirty: AtomicBool,
    pub(super) last_use: LastUse,
    /// The consumer or its app was deleted.
    pub(super) deleted: AtomicBool,
}

impl Shared {
    pub(super) fn new(database: PathBuf, flush: mpsc::Sender<Command>, overflow: Overflow) -> Self {
        let mut random = [0; 8];
        // Without randomness the numbers begin at 0, and a receipt from before a restart may look valid: it then settles its event.
        let _ = getrandom::fill(&mut random);
        Self {
            readers: Readers::new(database),
            apps: RwLock::default(),
            ended: Mutex::default(),
            ring: Ring::default(),
            taps: Arc::default(),
            health: DiskHealth::default(),
            dirty: Mutex::default(),
            flush,
            next_lease: AtomicU64::new(u64::from_le_bytes(random) >> 8),
            overflow,
            registered: Notify::new(),
        }
    }

    pub(super) fn app(&self, app: &AppId) -> Option<Arc<App>> {
        self.apps.read().get(app).map(Arc::clone)
    }

    pub(super) fn consumer(&self, app: &AppId, name: &ConsumerName) -> Option<(Arc<App>, Arc<Consumer>)> {
        let app = self.app(app)?;
        let named = app.consumers.read().get(name).map(Arc::clone);
        let consumer = named.or_else(|| app.ephemeral.read().get(name).map(Arc::clone))?;
        Some((app, consumer))
    }

    /// Whether the consumer is `default` and receives no events.
    pub(super) fn is_off(&self, name: &ConsumerName, consumer: &Consumer) -> bool {
        name.is_default() && consumer.settings.lock().overflow.unwrap_or(self.overflow) == Overflow::Off
    }

    pub(super) fn lease_number(&self) -> u64 {
        self.next_lease.fetch_add(1, Ordering::Relaxed)
    }

    /// Changes a consumer's cursor, and has the writer flush the change if there is one.
    pub(super) fn update<T>(&self, consumer: &Arc<Consumer>, change: impl FnOnce(&mut Cursor) -> T) -> T {
        let mut cursor = consumer.cursor.lock();
        let result = change(&mut cursor);
        let is_changed = cursor.is_changed();
        if is_changed && consumer.is_ephemeral() {
            drop(cursor.take_changes());
            return result;
        }
        drop(cursor);
        if is_changed && !consumer.is_dirty.swap(true, Ordering::AcqRel) {
            let mut dirty = self.dirty.lock();
            dirty.push(Arc::clone(consumer));
            if dirty.len() == 1 {
                // The writer is gone only after close.
                let _ = self.flush.send(Command::Flush);
            }
        }
        result
    }

    /// Takes the consumers that have changes.
    pub(super) fn take_dirty(&self) -> Vec<Arc<Consumer>> {
        let dirty = std::mem::take(&mut *self.dirty.lock());
        for consumer in &dirty {
            consumer.is_dirty.store(false, Ordering::Release);
        }
        dirty
    }

    /// Reads on in the log until the cursor has `max_events` fresh events, or there are no more.
    pub(super) async fn read_ahead(
        self: &Arc<Self>,
        app: &App,
        consumer: &Arc<Consumer>,
        max_events: usize,
    ) -> Result<(), StoreError> {
        loop {
            let (from, next) = {
                let mut cursor = consumer.cursor.lock();
                let Some(from) = cursor.wants_fresh(max_events) else { return Ok(()) };
                let log = app.log.lock();
                let next = log.after(from, READ_AHEAD);
                if matches!(next, Next::End) {
                    cursor.reached_end(log.total);
                }
                (from, next)
            };
            let entries = match next {
                Next::End => return Ok(()),
                Next::Memory(entries) => entries,
                Next::Database(indexed) => {
                    let (shared, app_id) = (Arc::clone(self), app.id);
                    let read = move || shared.read_index(app_id, from, READ_AHEAD);
                    let entries = tokio::task::spawn_blocking(read).await.map_err(StoreError::engine)??;
                    if entries.is_empty() {
                        // What was there has been removed.
                        self.update(consumer, |cursor| cursor.add_fresh(from, indexed, []));
                        continue;
                    }
                    entries
                }
            };
            let scanned = entries.last().map_or(from, |entry| entry.seq);
            let matching = entries.into_iter().filter(|entry| consumer.filter.matches(entry));
            consumer.cursor.lock().add_fresh(from, scanned, matching);
            yield_task_if_due().await;
        }
    }
}

impl App {
    /// The consumers, those in memory included.
    pub(super) fn all_consumers(&self) -> Vec<Arc<Consumer>> {
        let named = self.consumers.read();
        named.values().chain(self.ephemeral.read().values()).map(Arc::clone).collect()
    }

    /// Events and bytes that the consumer has not settled.
    pub(super) fn unsettled(&self, consumer: &Consumer) -> Total {
        // The consumer first: the lock of a log is always taken last.
        let cursor = consumer.cursor.lock();
        let total = self.log.lock().total;
        cursor.unsettled(total)
    }

    pub(super) fn status(&self, name: &ConsumerName, consumer: &Consumer) -> ConsumerStatus {
        let mut cursor = consumer.cursor.lock();
        let ((leased, dead), dropped) = (cursor.leased_and_dead(Instant::now()), cursor.dropped());
        drop(cursor);
        let unsettled = if consumer.filter.is_empty() {
            Some(self.unsettled(consumer))
        } else {
            consumer.cursor.lock().unsettled_matching()
        };
        ConsumerStatus {
            name: name.clone(),
            settings: consumer.settings.lock().clone(),
            pending: unsettled.map(|total| total.count),
            pending_bytes: unsettled.map(|total| total.bytes),
            leased,
            dead,
            dropped,
            oldest_pending_age: None,
            last_used: from_micros(consumer.last_use.get()),
        }
    }
}

impl Consumer {
    pub(super) fn new(id: i64, identity: i64, settings: ConsumerSettings, cursor: Cursor) -> Self {
        Self {
            id,
            identity: AtomicI64::new(identity),
            filter: Filter::new(&settings),
            started: 0,
            settings: Mutex::new(settings),
            arrived: Notify::new(),
            cursor: Mutex::new(cursor),
            is_dirty: AtomicBool::new(false),
            last_use: LastUse::new(micros(SystemTime::now())),
            deleted: AtomicBool::new(false),
        }
    }

    pub(super) fn started(self, started: Seq) -> Self {
        Self { started, ..self }
    }

    /// The cursor, for what no flush has to learn.
    pub(super) fn cursor(&self) -> parking_lot::MutexGuard<'_, Cursor> {
        self.cursor.lock()
    }

    /// Wakes all waiting leases.
    pub(super) fn wake_all(&self) {
        self.arrived.notify_waiters();
    }

    /// Marks the consumer as deleted, and wakes its waiting leases, which end.
    pub(super) fn end(&self) {
        self.deleted.store(true, Ordering::Release);
        self.wake_all();
    }

    /// Whether the consumer is in memory only.
    pub(super) fn is_ephemeral(&self) -> bool {
        self.id < 0
    }

    pub(super) fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }
}

/// The seq and the lease number in a receipt: `{consumer}-{seq}-{lease}`, in hexadecimal.
pub(super) fn encode_receipt(consumer: i64, seq: Seq, lease: u64) -> String {
    format!("{consumer:x}-{seq:x}-{lease:x}")
}

/// Decodes a receipt of this consumer. `None` for any other text.
pub(super) fn decode_receipt(consumer: i64, receipt: &str) -> Option<(Seq, u64)> {
    let mut parts = receipt.splitn(3, '-').skip(1);
    let mut number = || u64::from_str_radix(parts.next()?, 16).ok();
    let (seq, lease) = (number()?, number()?);
    // Only the text that was given out counts: not `+7`, leading zeros or upper case.
    (encode_receipt(consumer, seq, lease) == receipt).then_some((seq, lease))
}
