//! The event log on SQLite.
//!
//! One thread writes: it commits appends in groups (`commit`), together with what changed of consumers (`flush`) and the next rows
//! of the index (`index`). A consumer's cursor is in memory (`cursor`) and durable with a short delay. Live events are delivered
//! from a ring in memory (`ring`), older ones by short reads (`reader`), whose checksums are verified.

mod app_log;
mod backup;
mod changes;
mod checkpoint;
mod checksum;
mod clock;
mod commands;
mod commit;
mod control;
mod count;
mod cursor;
mod database;
mod dedupe;
mod delete;
mod ephemeral;
mod error;
mod fetch;
mod filter;
mod flush;
mod folder;
mod health;
mod history;
mod holes;
mod idle;
mod index;
mod last_use;
mod lease;
mod load;
pub mod maintenance;
mod overflow;
mod progress;
mod purge;
mod reader;
mod record;
mod registry;
mod removal;
mod replay;
mod retention;
mod ring;
mod schema;
mod settle;
mod start;
mod state;
mod sweep;
mod tap;
mod timeline;
mod writer;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::SystemTime,
};

use wwproxy_protocol::{AppId, ConsumerName, ConsumerSettings, EventId, Source, Start};

pub use self::error::OpenError;
use self::{
    checkpoint::Checkpointer,
    commands::{Commands, Control},
    database::Database,
    dedupe::Recent,
    folder::Folder,
    history::History,
    index::Index,
    load::Loaded,
    record::{EventIds, micros},
    state::Shared,
    writer::Writer,
};
use super::{
    Appended, ConsumerStatus, DedupeKey, Delivery, Ephemeral, EventPage, EventQuery, Health, Lease, Limits,
    NewEvent, PutConsumer, Registration, Replayed, Settled, Settlement, Sought, Store, StoreError,
    StoreFuture, StoredEvent, Tap,
};

/// An event's place in the order of arrival over the whole store, from 1.
type Seq = u64;

/// An event log in a folder.
#[derive(Debug)]
pub struct SqliteStore {
    shared: Arc<Shared>,
    commands: Commands,
}

impl SqliteStore {
    /// Opens the store in a folder, or creates it.
    pub async fn open(path: &Path, limits: Limits) -> Result<Self, OpenError> {
        let path = path.to_owned();
        Self::open_blocking(move || Folder::open(&path), limits).await
    }

    /// Opens a store that ends with this process: in a private temporary folder, which is removed when the store is closed or dropped.
    pub async fn in_memory(limits: Limits) -> Result<Self, OpenError> {
        Self::open_blocking(Folder::temporary, limits).await
    }

    async fn open_blocking(
        folder: impl FnOnce() -> Result<(Folder, bool), OpenError> + Send + 'static,
        limits: Limits,
    ) -> Result<Self, OpenError> {
        let open = move || folder().and_then(|(folder, is_new)| Self::open_in(folder, is_new, limits));
        // It fails only while the process ends.
        tokio::task::spawn_blocking(open).await.map_err(|error| OpenError::Thread(error.into()))?
    }

    fn open_in(folder: Folder, is_new: bool, limits: Limits) -> Result<Self, OpenError> {
        let file = folder.database();
        let unreadable = |error| OpenError::Unreadable(file.clone(), error);
        let connect = |cache, create| {
            let db = schema::connect(&file, cache, create)?;
            if folder.is_temporary() {
                // What is removed need not survive a power cut.
                db.execute_batch("PRAGMA synchronous = OFF;")?;
            }
            Ok(db)
        };
        let mut db = connect(schema::WRITER_CACHE_KIB, is_new)
            .or_else(|error| {
                // On a full disk the ballast is the room for SQLite's shared memory.
                folder.release_ballast().map_err(|_| error)?;
                connect(schema::WRITER_CACHE_KIB, is_new)
            })
            .map_err(unreadable)?;
        load::prepare(&db, &file, is_new)?;
        // After a failed fsync and a kill the WAL may have commits in the page cache only. A checkpoint makes them durable, before others
        // are appended to them. It fails on a full disk, and then runs later.
        if let Err(error) = checkpoint::checkpoint(&db, "TRUNCATE") {
            tracing::warn!(%error, "the WAL could not be checkpointed");
        }
        let Loaded { apps, ended, damaged, unindexed, last_seq, last_id } = load::load(&db, &file)?;
        let recent =
            Recent::load(&db, limits.dedupe_window, micros(SystemTime::now())).map_err(unreadable)?;
        let io = |error| OpenError::Io(folder.path().to_owned(), error);
        let last_seq = if is_new { last_seq } else { check_high_water(&folder, last_seq).map_err(io)? };
        folder.write_high_water(last_seq).map_err(io)?;
        if is_new {
            folder.end_creation().map_err(io)?;
        }
        if !folder.is_temporary()
            && let Err(error) = folder.write_ballast()
        {
            tracing::warn!(%error, "the disk has no room for the ballast: free some space");
        }
        let (sender, receiver) = mpsc::channel();
        let shared = Arc::new(Shared::new(file.clone(), sender.clone(), limits.overflow));
        *shared.apps.write() = apps;
        *shared.ended.lock() = ended;
        let other = connect(schema::OTHER_CACHE_KIB, false).map_err(unreadable)?;
        let checkpointer = Checkpointer::start(other, &mut db).map_err(OpenError::Thread)?;
        let database = Database::new(Arc::clone(&shared), db, folder, checkpointer, last_seq);
        let index = Index::new(unindexed, damaged);
        let writer = Writer::new(
            Arc::clone(&shared),
            database,
            limits,
            last_seq,
            EventIds::after(last_id),
            index,
            recent,
        );
        writer.apply_overflows();
        checkpoint::spawn("store", move || writer.run(&receiver)).map_err(OpenError::Thread)?;
        Ok(Self { shared, commands: Commands::new(sender) })
    }

    /// Whether the folder holds a store.
    pub fn exists(path: &Path) -> std::io::Result<bool> {
        Folder::exists(path)
    }

    fn history(&self) -> History<'_> {
        History { shared: &self.shared, commands: &self.commands }
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.commands.stop();
    }
}

/// Logs an error if the database lost commits, for example by a damaged WAL. Returns the last seq that was ever assigned, so that no seq
/// is assigned twice.
fn check_high_water(folder: &Folder, last_seq: Seq) -> std::io::Result<Seq> {
    let Some(mark) = folder.high_water()? else {
        tracing::warn!("the high-water mark is not readable: lost events would not be noticed");
        return Ok(last_seq);
    };
    if mark > last_seq {
        tracing::error!(
            missing = mark - last_seq,
            "the database lost the newest events, its WAL may be damaged or missing: restore it from a backup, or go on without"
        );
    }
    Ok(last_seq.max(mark))
}

impl Store for SqliteStore {
    fn put_registration<'a>(&'a self, app: &'a AppId, registration: Registration) -> StoreFuture<'a, ()> {
        let (app, registration) = (app.clone(), Some(registration));
        Box::pin(self.commands.control(|reply| Control::Register { app, registration, reply }))
    }

    fn registration<'a>(&'a self, app: &'a AppId) -> StoreFuture<'a, Option<Arc<Registration>>> {
        let found = self.shared.app(app).map(|app| Arc::clone(&app.registration.read()));
        Box::pin(std::future::ready(Ok(found)))
    }

    fn remove_registration<'a>(&'a self, app: &'a AppId) -> StoreFuture<'a, ()> {
        let app = app.clone();
        Box::pin(self.commands.control(|reply| Control::Register { app, registration: None, reply }))
    }

    fn append<'a>(
        &'a self,
        app: &'a AppId,
        source: Arc<Source>,
        event: NewEvent,
        dedupe: Option<DedupeKey>,
    ) -> StoreFuture<'a, Appended> {
        Box::pin(self.commands.append(app, source, event, dedupe))
    }

    fn put_consumer<'a>(
        &'a self,
        app: &'a AppId,
        name: &'a ConsumerName,
        settings: ConsumerSettings,
    ) -> StoreFuture<'a, PutConsumer> {
        let (app, name) = (app.clone(), name.clone());
        Box::pin(self.commands.control(|reply| Control::PutConsumer { app, name, settings, reply }))
    }

    fn consumers<'a>(&'a self, app: &'a AppId) -> StoreFuture<'a, Vec<ConsumerStatus>> {
        Box::pin(async move {
            let Some(app) = self.shared.app(app) else { return Ok(Vec::new()) };
            let consumers = app.consumers.read().clone();
            let mut statuses = Vec::with_capacity(consumers.len());
            for (name, consumer) in &consumers {
                let status = app.status(name, consumer);
                if status.pending.is_none() {
                    count::spawn(&self.shared, &app, consumer);
                }
                statuses.push(status);
            }
            let shared = Arc::clone(&self.shared);
            let read = move || shared.read_ages(&app, &consumers, &mut statuses).map(|()| statuses);
            tokio::task::spawn_blocking(read).await.map_err(StoreError::engine)?
        })
    }

    fn delete_consumer<'a>(&'a self, app: &'a AppId, name: &'a ConsumerName) -> StoreFuture<'a, bool> {
        let (app, name) = (app.clone(), name.clone());
        Box::pin(self.commands.control(|reply| Control::DeleteConsumer { app, name, reply }))
    }

    fn lease<'a>(
        &'a self,
        app: &'a AppId,
        consumer: &'a ConsumerName,
        lease: Lease,
    ) -> StoreFuture<'a, Vec<Delivery>> {
        Box::pin(lease::lease(&self.shared, app, consumer, lease))
    }

    fn settle<'a>(
        &'a self,
        app: &'a AppId,
        consumer: &'a ConsumerName,
        settlement: Settlement,
    ) -> StoreFuture<'a, Settled> {
        Box::pin(std::future::ready(settle::settle(&self.shared, app, consumer, settlement)))
    }

    fn seek<'a>(&'a self, app: &'a AppId, consumer: &'a ConsumerName, to: Start) -> StoreFuture<'a, Sought> {
        let (app, consumer) = (app.clone(), consumer.clone());
        Box::pin(self.commands.control(|reply| Control::Seek { app, consumer, to, reply }))
    }

    fn open_ephemeral<'a>(&'a self, app: &'a AppId, start: Start) -> StoreFuture<'a, Option<Ephemeral>> {
        let app = app.clone();
        Box::pin(self.commands.control(|reply| Control::OpenEphemeral { app, start, reply }))
    }

    fn replay<'a>(
        &'a self,
        app: &'a AppId,
        consumer: &'a ConsumerName,
        id: &'a EventId,
    ) -> StoreFuture<'a, Replayed> {
        let (app, consumer, id) = (app.clone(), consumer.clone(), id.clone());
        Box::pin(self.commands.control(|reply| Control::Replay { app, consumer, id, reply }))
    }

    fn events<'a>(&'a self, app: &'a AppId, query: EventQuery) -> StoreFuture<'a, EventPage> {
        Box::pin(self.history().events(app, query))
    }

    fn event<'a>(&'a self, app: &'a AppId, id: &'a EventId) -> StoreFuture<'a, Option<StoredEvent>> {
        Box::pin(self.history().event(app, id))
    }

    fn delete_event<'a>(&'a self, app: &'a AppId, id: &'a EventId) -> StoreFuture<'a, bool> {
        let (app, id) = (app.clone(), id.clone());
        Box::pin(self.commands.control(|reply| Control::DeleteEvent { app, id, reply }))
    }

    fn tap<'a>(&'a self, app: &'a AppId) -> StoreFuture<'a, Option<Tap>> {
        Box::pin(std::future::ready(Ok(tap::open(&self.shared.taps, app))))
    }

    fn health(&self) -> Health {
        self.shared.health.get()
    }

    fn backup(&self, to: PathBuf) -> StoreFuture<'_, ()> {
        let database = self.shared.readers.database().to_owned();
        let backup = tokio::task::spawn_blocking(move || backup::backup(&database, &to));
        Box::pin(async { backup.await.map_err(StoreError::engine)?.map_err(StoreError::engine) })
    }

    fn close(&self) -> StoreFuture<'_, ()> {
        Box::pin(self.commands.close())
    }
}
