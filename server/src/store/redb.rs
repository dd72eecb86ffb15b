//! The embedded durable store: a journal, a database behind it, one writer.
//!
//! Bodies are on disk; their order, sizes and leases are in memory ([`queues`](super::queues)) and
//! rebuilt when the store is opened. All changes go through one thread ([`writer`]) that commits
//! what came during its last fsync to the [`journal`] as one frame. Another one ([`filer`]) moves there
//! from what is left of many frames into the database. Reads run beside both.

mod batch;
mod change;
mod commands;
mod disk;
mod events;
mod file;
mod filer;
mod journal;
mod occupancy;
mod pending;
mod record;
mod registration;
mod sweep;
mod unfiled;
mod waiting;
mod writer;

use std::{
    collections::HashMap,
    io,
    path::Path,
    sync::{Arc, RwLock},
};

use wwproxy_protocol::{AppId, Event, Source};

pub use self::file::OpenError;
#[cfg(fuzzing)]
pub use self::record::fuzz as fuzz_record;
use self::{
    commands::{Append, Command, WriterHandle},
    file::{Contents, DATABASE_NAME, File, Files, JOURNAL_NAME},
    pending::Pending,
    writer::Writer,
};
use super::{
    Appended, DedupeKey, Delivery, Lease, Limits, NewEvent, Registration, Settled, Settlement, Stats, Store,
    StoreError, StoreFuture, Tap,
    dedupe::{self, Recent},
    queue::Taken,
    queues::Queues,
    sequence::{Seq, Sequence},
    spill::Spill,
    stored_source,
};
use crate::log_limit::LogLimit;

/// The scratch file of long queues, in the folder of the store.
const SPILL_NAME: &str = "backlog.tmp";

/// How often refused writes are logged in a minute.
const LOGGED_REFUSALS: u32 = 10;

/// Keeps everything in a folder that is its own.
#[derive(Debug)]
pub struct RedbStore {
    shared: Arc<Shared>,
    writer: WriterHandle,
}

/// What the writer changes and others read.
#[derive(Debug)]
struct Shared {
    file: File,
    pending: Pending,
    queues: Queues,
    registrations: RwLock<HashMap<AppId, Registered>>,
    /// Writes that the disk refused.
    refusals: LogLimit,
}

#[derive(Debug, Clone)]
struct Registered {
    registration: Arc<Registration>,
    epoch: u128,
}

impl RedbStore {
    /// Whether there is a store in this folder.
    pub fn exists(folder: impl AsRef<Path>) -> io::Result<bool> {
        let folder = folder.as_ref();
        Ok(folder.join(DATABASE_NAME).try_exists()? || folder.join(JOURNAL_NAME).try_exists()?)
    }

    /// Opens the store in this folder, which is made if need be.
    pub fn open(folder: impl AsRef<Path>, limits: Limits) -> Result<Self, OpenError> {
        let folder = folder.as_ref();
        let Files { database, journal } = Files::open(folder)?;
        let file = File::open(folder, database)?;
        let failed = |error| OpenError::Io(folder.to_owned(), error);
        let spill = Spill::create(&folder.join(SPILL_NAME)).map_err(failed)?;
        Self::over(folder, file, journal, Some(spill), limits)
    }

    /// Opens the store in these bytes, those of the database and of its journal, whatever they are kept in: a disk
    /// that fails when it is told to, for one. Errors speak of it as being in this folder. Queues are in memory as
    /// a whole.
    pub fn open_on(
        folder: impl AsRef<Path>,
        database: impl redb::StorageBackend,
        journal: impl redb::StorageBackend,
        limits: Limits,
    ) -> Result<Self, OpenError> {
        let folder = folder.as_ref();
        let file = File::open(folder, Box::new(database))?;
        Self::over(folder, file, Box::new(journal), None, limits)
    }

    fn over(
        folder: &Path,
        file: File,
        journal: Box<dyn redb::StorageBackend>,
        spill: Option<Arc<Spill>>,
        limits: Limits,
    ) -> Result<Self, OpenError> {
        let (journal, unfiled) = file.take_up(journal)?;
        let unreadable = |error| OpenError::Unreadable(folder.to_owned(), error);
        let mut contents = file.contents().map_err(unreadable)?;
        unfiled.add_to(&mut contents).map_err(unreadable)?;
        file.compact(contents.bytes());
        let last_event = contents.events.last().map_or(0, |&(_, slot)| slot.seq);
        let last_key = contents.keys.last().map_or(0, |&(seq, _)| seq);
        let sequence = Sequence::after(last_event.max(last_key));
        let pending = Pending::new(journal.filed(), unfiled);
        let shared = Shared {
            file,
            pending,
            queues: Queues::new(spill),
            registrations: RwLock::default(),
            refusals: LogLimit::per_minute(LOGGED_REFUSALS),
        };
        let (recent, nobodys) = shared.take_up(contents, &limits);
        let shared = Arc::new(shared);
        let writer = Writer::new(Arc::clone(&shared), limits, sequence, recent, nobodys, journal).spawn();
        Ok(Self { shared, writer })
    }

    /// Reads the events of a lease. One that is not there, or is damaged, is taken off the queue, as it would block
    /// all others forever; it stays in the file. While the file is open for reading alone, or where the disk
    /// did not give it, it may come back: it is looked for again when the lease ends.
    async fn deliveries(&self, mut leased: super::queues::Leased) -> Result<Vec<Delivery>, StoreError> {
        if leased.events().is_empty() {
            return Ok(Vec::new());
        }
        let mut all_there = self.shared.file.is_writable();
        let mut read = self.read_or_reopen(leased.events()).await?;
        if read.is_none() {
            // The engine was closed under it, or refuses everything since it failed.
            read = self.read_or_reopen(leased.events()).await?;
        }
        let events = if let Some(events) = read {
            events
        } else {
            all_there = false;
            self.read_one_by_one(leased.events()).await?
        };
        let taken = leased.events().to_vec();
        let mut deliveries = Vec::with_capacity(taken.len());
        for (taken, event) in taken.into_iter().zip(events) {
            match event {
                Some(event) => {
                    let receipt = leased.receipt(taken.seq);
                    deliveries.push(Delivery { event, attempt: taken.attempt, receipt });
                }
                None if all_there => leased.discard(taken.seq),
                None => {}
            }
        }
        leased.keep();
        Ok(deliveries)
    }

    /// Reads events without those that the disk does not give, each of which has the engine refuse everything
    /// until it is opened again.
    async fn read_one_by_one(&self, taken: &[Taken]) -> Result<Vec<Option<Event>>, StoreError> {
        let mut events = Vec::with_capacity(taken.len());
        for one in taken {
            if let Some(event) = self.read_or_reopen(std::slice::from_ref(one)).await? {
                events.extend(event);
            } else {
                tracing::error!(seq = one.seq, "the disk does not give an event, which has to wait for that");
                events.push(None);
            }
        }
        Ok(events)
    }

    /// Reads events, or has the engine opened again where it gives none.
    async fn read_or_reopen(&self, taken: &[Taken]) -> Result<Option<Vec<Option<Event>>>, StoreError> {
        let opened = self.shared.file.opened();
        if let Ok(events) = self.read(taken).await {
            return Ok(Some(events));
        }
        self.shared.pending.reopen(opened).await?;
        Ok(None)
    }

    async fn read(&self, taken: &[Taken]) -> Result<Vec<Option<Event>>, StoreError> {
        // First what is not filed: it goes to the database before it leaves there.
        let records = self.shared.pending.records(taken.iter().map(|taken| taken.seq));
        let filed: Vec<_> = taken
            .iter()
            .zip(&records)
            .filter(|(_, record)| record.is_none())
            .map(|(taken, _)| taken.seq)
            .collect();
        let mut filed = if filed.is_empty() {
            Vec::new()
        } else {
            let shared = Arc::clone(&self.shared);
            let read = tokio::task::spawn_blocking(move || shared.file.read(&filed));
            read.await.map_err(StoreError::engine)?.map_err(StoreError::engine)?
        }
        .into_iter();
        let event = |(taken, record): (&Taken, Option<_>)| match record {
            Some(record) => file::decode(taken.seq, &record),
            None => filed.next().flatten(),
        };
        Ok(taken.iter().zip(records).map(event).collect())
    }
}

impl Store for RedbStore {
    fn put_registration<'a>(&'a self, app: &'a AppId, registration: Registration) -> StoreFuture<'a, ()> {
        Box::pin(self.writer.register(app, Some(registration)))
    }

    fn registration<'a>(&'a self, app: &'a AppId) -> StoreFuture<'a, Option<Arc<Registration>>> {
        let found = read(&self.shared.registrations).get(app).map(|found| Arc::clone(&found.registration));
        Box::pin(std::future::ready(Ok(found)))
    }

    fn remove_registration<'a>(&'a self, app: &'a AppId) -> StoreFuture<'a, ()> {
        Box::pin(self.writer.register(app, None))
    }

    fn append<'a>(
        &'a self,
        app: &'a AppId,
        source: Arc<Source>,
        event: NewEvent,
        dedupe: Option<DedupeKey>,
    ) -> StoreFuture<'a, Appended> {
        Box::pin(self.writer.append(Append { app: app.clone(), source, event, dedupe }))
    }

    fn lease<'a>(&'a self, app: &'a AppId, lease: Lease) -> StoreFuture<'a, Vec<Delivery>> {
        Box::pin(async move { self.deliveries(self.shared.queues.lease(app, &lease).await).await })
    }

    fn settle<'a>(&'a self, app: &'a AppId, settlement: Settlement) -> StoreFuture<'a, Settled> {
        Box::pin(async move {
            // The lease ends here and now; the deletion follows with the next commit. There is no waiting
            // between the two: who asked may go, and the event would be in the file and in no queue.
            let place = self.writer.place().await?;
            let (settled, deleted) = self.shared.queues.settle(app, settlement);
            if !deleted.is_empty() {
                place.send(Command::Delete { numbers: deleted })?;
            }
            Ok(settled)
        })
    }

    fn tap<'a>(&'a self, app: &'a AppId) -> StoreFuture<'a, Option<Tap>> {
        Box::pin(std::future::ready(Ok(self.shared.queues.tap(app))))
    }

    fn stats<'a>(&'a self, app: &'a AppId) -> StoreFuture<'a, Stats> {
        Box::pin(std::future::ready(Ok(self.shared.queues.stats(app))))
    }

    fn ready(&self) -> StoreFuture<'_, ()> {
        Box::pin(self.writer.ask(|reply| Command::Probe { reply }))
    }

    fn close(&self) -> StoreFuture<'_, ()> {
        Box::pin(self.writer.ask(|reply| Command::Close { reply }))
    }
}

impl Shared {
    /// Takes into memory what the files say, and gives the keys that it knows and the events of apps that are not
    /// registered: accepted ones whose deletion was on its way when their app was removed.
    fn take_up(&self, contents: Contents, limits: &Limits) -> (Recent, Vec<Seq>) {
        let mut recent = Recent::new(limits.dedupe_window, contents.keys.len());
        for (seq, key) in contents.keys {
            recent.insert(seq, key);
        }
        let registered = contents.registrations.into_iter().map(|(app, (registration, epoch))| {
            (app, Registered { registration: Arc::new(registration), epoch })
        });
        *write(&self.registrations) = registered.collect();
        self.log_unreadable_sources();
        for (app, dropped) in contents.dropped {
            self.queues.app(&app).lock().add_dropped(dropped);
        }
        let mut events = contents.events;
        events.sort_unstable_by_key(|&(app, slot)| (app, slot.seq));
        let mut nobodys = Vec::new();
        for events in events.chunk_by(|(one, _), (other, _)| one == other) {
            let app = &contents.apps[events[0].0];
            if self.registered(app).is_none() {
                nobodys.extend(events.iter().map(|(_, slot)| slot.seq));
                continue;
            }
            let queue = self.queues.app(app);
            let mut queue = queue.lock();
            for &(_, slot) in events {
                queue.push(slot);
            }
        }
        (recent, nobodys)
    }

    fn log_unreadable_sources(&self) {
        for (app, registered) in read(&self.registrations).iter() {
            stored_source::log_unreadable(app, &registered.registration);
        }
    }

    fn registered(&self, app: &AppId) -> Option<Registered> {
        read(&self.registrations).get(app).cloned()
    }

    fn epoch(&self, app: &AppId) -> u128 {
        self.registered(app).map_or_else(dedupe::new_epoch, |registered| registered.epoch)
    }
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(std::sync::PoisonError::into_inner)
}
