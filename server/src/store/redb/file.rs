//! The database: its tables, opening it, and opening it again after it failed.

use std::{
    collections::HashMap,
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use bytes::Bytes;
use redb::{
    Database, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable, StorageBackend,
    TableDefinition, WriteTransaction, backends::FileBackend,
};
use wwproxy_protocol::{AppId, Event, InvalidId};

use super::{
    change,
    disk::Disk,
    events::{EVENTS, Events, HEADS, tell_damage},
    journal::{Journal, StoreName},
    record, registration,
    unfiled::Unfiled,
};
use crate::{
    coop::yield_if_due,
    store::{Registration, StoreError, dedupe::Key, queue::Slot, sequence::Seq},
};

/// Registrations by app id.
pub(super) const REGISTRATIONS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("registrations");
/// Keys of deliveries, those of one batch by the number of its last event: a row for each would cost more
/// than the event's own to write, and to read at open.
pub(super) const KEYS: TableDefinition<'_, Seq, &[u8]> = TableDefinition::new("keys");
/// How many events were dropped, by app id.
pub(super) const DROPPED: TableDefinition<'_, &str, u64> = TableDefinition::new("dropped");
/// Whose journal is filed here, and up to which frame.
const JOURNAL: TableDefinition<'_, (), (&[u8; 16], u64)> = TableDefinition::new("journal");

/// The database and its journal, in the folder of the store.
pub(super) const DATABASE_NAME: &str = "events.redb";
pub(super) const JOURNAL_NAME: &str = "events.journal";
/// How much of the file is kept in memory at most, in bytes. Named, as the engine's default is 1 GiB.
const CACHE_BYTES: usize = 64 << 20;
/// The same while it is read only, in bytes.
const READING_CACHE_BYTES: usize = 16 << 20;
/// A file of this size or more is compacted at open where most of it is empty.
const COMPACT_BYTES: u64 = 64 << 20;

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another server has it.
    #[error(
        "the store in {0} is in use by another server: stop that one, or give this one a folder of its own"
    )]
    InUse(PathBuf),
    /// The folder or the file cannot be used.
    #[error("the store in {0} cannot be opened: check that the folder is writable and the disk not full")]
    Io(PathBuf, #[source] io::Error),
    /// The file is no store, is damaged, or was written by a newer server.
    #[error(
        "the store in {0} cannot be read: move it away to begin with an empty one, or use the server that wrote it"
    )]
    Unreadable(PathBuf, #[source] StoreError),
}

/// The open database. Readers take it for a short while; only the filer opens it again.
#[derive(Debug)]
pub(super) struct File {
    folder: PathBuf,
    disk: Arc<Disk>,
    engine: RwLock<Engine>,
    /// Which journal is filed in it.
    name: StoreName,
}

#[derive(Debug)]
struct Engine {
    database: Option<Database>,
    /// Whether it is the disk that it writes to.
    writes: bool,
    /// How often it was opened.
    opened: u64,
}

/// What a store has in its files when it is opened.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(PartialEq))]
pub(super) struct Contents {
    pub(super) registrations: HashMap<AppId, (Registration, u128)>,
    pub(super) dropped: HashMap<AppId, u64>,
    /// Those that have events, or had some, and the place of each.
    pub(super) apps: Vec<AppId>,
    places: HashMap<AppId, usize>,
    /// In order of arrival, each with the place of its app among those.
    pub(super) events: Vec<(usize, Slot)>,
    pub(super) keys: Vec<(Seq, Key)>,
}

impl Contents {
    /// An event that came after those that are there.
    pub(super) fn add(&mut self, app: &str, slot: Slot) -> Result<(), InvalidId> {
        let place = if let Some(&place) = self.places.get(app) {
            place
        } else {
            let (app, place): (AppId, _) = (app.parse()?, self.apps.len());
            self.apps.push(app.clone());
            self.places.insert(app, place);
            place
        };
        self.events.push((place, slot));
        Ok(())
    }

    /// What the events take.
    pub(super) fn bytes(&self) -> u64 {
        self.events.iter().map(|(_, slot)| u64::from(slot.size)).sum()
    }
}

impl File {
    /// Opens the database that these bytes are, whatever they are kept in. It is told of as being in
    /// this folder.
    pub(super) fn open(folder: &Path, bytes: Box<dyn StorageBackend>) -> Result<Self, OpenError> {
        let failed = |error| OpenError::Io(folder.to_owned(), error);
        let disk = Disk::new(bytes);
        let database = match open_database(folder, &disk) {
            Err(OpenError::Unreadable(..)) if disk.clear_if_unfinished().map_err(failed)? => {
                open_database(folder, &disk)?
            }
            opened => opened?,
        };
        let engine = Engine { database: Some(database), writes: true, opened: 1 };
        let mut name = [0; 16];
        getrandom::fill(&mut name).map_err(|error| failed(io::Error::other(error)))?;
        let mut file =
            Self { folder: folder.to_owned(), disk, engine: RwLock::new(engine), name: StoreName(name) };
        file.name = file.create_tables().map_err(|error| file.explain(error))?;
        Ok(file)
    }

    /// Makes sure that all tables are there, and says whose journal is filed. Where nothing is missing nothing is
    /// committed: the disk may be full.
    fn create_tables(&self) -> Result<StoreName, redb::Error> {
        if let Some(name) = self.name_if_whole()? {
            return Ok(name);
        }
        self.transaction(|transaction| {
            Events::open(transaction)?.make_heads()?;
            transaction.open_table(REGISTRATIONS)?;
            transaction.open_table(KEYS)?;
            transaction.open_table(DROPPED)?;
            let mut journal = transaction.open_table(JOURNAL)?;
            if let Some(row) = journal.get(())? {
                return Ok(StoreName(*row.value().0));
            }
            journal.insert((), (&self.name.0, 0))?;
            Ok(self.name)
        })
    }

    fn name_if_whole(&self) -> Result<Option<StoreName>, redb::Error> {
        // What it opens it makes, and forgets again where it is not committed.
        let transaction = self.begin_write()?;
        let journal = transaction.open_table(JOURNAL)?;
        // Written when all tables were made.
        let Some(row) = journal.get(())? else { return Ok(None) };
        let is_whole = Events::open(&transaction)?.have_heads()?;
        Ok(is_whole.then(|| StoreName(*row.value().0)))
    }

    /// Takes up this journal, and what it has that is not in the database yet.
    pub(super) fn take_up(&self, journal: Box<dyn StorageBackend>) -> Result<(Journal, Unfiled), OpenError> {
        let broken = |error| OpenError::Io(self.folder.clone(), error);
        let filed = self.filed().map_err(|error| self.explain(error))?;
        let (journal, payloads) = Journal::open(journal, self.name, filed).map_err(broken)?;
        let mut unfiled = Unfiled::default();
        let mut next = filed + 1;
        for ((number, size), payload) in journal.frames().zip(payloads.into_values()) {
            if number > next {
                tracing::error!(
                    missing = number - next,
                    "the store's journal is damaged: what these commits stored is lost"
                );
            }
            let changes = change::decode(&payload).map_err(|error| self.unreadable(error))?;
            unfiled.add(number, size, changes);
            next = number + 1;
        }
        Ok((journal, unfiled))
    }

    fn unreadable(&self, error: impl std::error::Error + Send + Sync + 'static) -> OpenError {
        OpenError::Unreadable(self.folder.clone(), StoreError::engine(error))
    }

    fn explain(&self, error: redb::Error) -> OpenError {
        match error {
            redb::Error::Io(error) if error.kind() != ErrorKind::InvalidData => {
                OpenError::Io(self.folder.clone(), error)
            }
            error => self.unreadable(error),
        }
    }

    /// The last frame of the journal of which everything is here.
    fn filed(&self) -> Result<u64, redb::Error> {
        let journal = self.begin_read()?.open_table(JOURNAL)?;
        Ok(journal.get(())?.map_or(0, |row| row.value().1))
    }

    /// Files all of it or nothing.
    pub(super) fn file(&self, unfiled: &Unfiled) -> Result<(), redb::Error> {
        self.transaction(|transaction| {
            unfiled.write(transaction)?;
            transaction.open_table(JOURNAL)?.insert((), (&self.name.0, unfiled.last()))?;
            Ok(())
        })
    }

    /// Writes all of it or nothing, and which parts of the file are free: so it opens at once however the server
    /// ends, and does not have to be read as a whole. That takes a second fsync.
    pub(super) fn transaction<T>(
        &self,
        write: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, redb::Error> {
        let mut transaction = self.begin_write()?;
        transaction.set_quick_repair(true);
        let written = write(&transaction)?;
        transaction.commit()?;
        Ok(written)
    }

    /// A snapshot. It does not keep the file open: once that is closed, reading on is an error.
    fn begin_read(&self) -> Result<ReadTransaction, redb::Error> {
        let engine = self.engine.read().unwrap_or_else(PoisonError::into_inner);
        Ok(engine.database.as_ref().ok_or(redb::Error::DatabaseClosed)?.begin_read()?)
    }

    fn begin_write(&self) -> Result<WriteTransaction, redb::Error> {
        let engine = self.engine.read().unwrap_or_else(PoisonError::into_inner);
        let database = engine.database.as_ref().filter(|_| engine.writes);
        Ok(database.ok_or(redb::Error::DatabaseClosed)?.begin_write()?)
    }

    /// How often it was opened. Who could not read asks for one opening more.
    pub(super) fn opened(&self) -> u64 {
        self.engine.read().unwrap_or_else(PoisonError::into_inner).opened
    }

    /// Whether it is open for more than reading.
    pub(super) fn is_writable(&self) -> bool {
        self.engine.read().unwrap_or_else(PoisonError::into_inner).writes
    }

    /// Opens the file again: after a failed write or read the engine refuses everything until then. Where
    /// it is open for reading it stays so while this is tried, and if it fails.
    pub(super) fn reopen(&self) -> Result<(), OpenError> {
        if self.is_writable() {
            // Two engines must not write to one file.
            self.engine.write().unwrap_or_else(PoisonError::into_inner).database = None;
        }
        self.disk.make_sure().map_err(|error| OpenError::Io(self.folder.clone(), error))?;
        let database = open_database(&self.folder, &self.disk)?;
        self.replace(database, true);
        Ok(())
    }

    /// Opens the file for reading alone, as nothing can be written to it.
    pub(super) fn open_for_reading(&self) -> Result<(), OpenError> {
        self.engine.write().unwrap_or_else(PoisonError::into_inner).database = None;
        let aside = self.disk.aside().map_err(|error| OpenError::Io(self.folder.clone(), error))?;
        let mut builder = redb::Builder::new();
        let opened = builder.set_cache_size(READING_CACHE_BYTES).create_with_backend(aside);
        self.replace(opened.map_err(|error| explain(&self.folder, error))?, false);
        Ok(())
    }

    fn replace(&self, database: Database, writes: bool) {
        let mut engine = self.engine.write().unwrap_or_else(PoisonError::into_inner);
        *engine = Engine { database: Some(database), writes, opened: engine.opened + 1 };
    }

    /// Makes the file smaller where it is large and has little in it, so many bytes. Only before anybody reads.
    pub(super) fn compact(&self, stored: u64) {
        let size = self.disk.len().unwrap_or(0);
        let mut engine = self.engine.write().unwrap_or_else(PoisonError::into_inner);
        let Some(database) = engine.database.as_mut().filter(|_| size >= COMPACT_BYTES && stored < size / 4)
        else {
            return;
        };
        let compacted = database.compact().map_err(redb::Error::from);
        drop(engine);
        // A file that stays large does no harm beyond its size.
        if let Err(error) = compacted.and_then(|_| self.transaction(|_| Ok(()))) {
            tracing::warn!(%error, "the store could not be compacted");
        }
    }

    /// Closes the file and lets go of it. Snapshots that are still read from do not hold it.
    pub(super) fn close(&self) {
        let mut engine = self.engine.write().unwrap_or_else(PoisonError::into_inner);
        let closed = engine.database.take().map_or(Ok(()), Database::close);
        if let Err(error) = closed {
            tracing::warn!(%error, "the store's file was not closed well, and will take longer to open");
        }
        if let Err(error) = self.disk.unlock() {
            tracing::warn!(%error, "the store's file could not be let go of before the server ends");
        }
    }

    /// Memory's share of everything in the database.
    pub(super) fn contents(&self) -> Result<Contents, StoreError> {
        let read = || -> Result<Contents, Box<dyn std::error::Error + Send + Sync>> {
            let transaction = self.begin_read()?;
            let mut contents = Contents::default();
            for row in transaction.open_table(REGISTRATIONS)?.iter()? {
                let (app, value) = row?;
                let (registration, epoch) = registration::decode(value.value())?;
                contents.registrations.insert(app.value().parse()?, (registration, epoch));
            }
            for row in transaction.open_table(DROPPED)?.iter()? {
                let (app, count) = row?;
                contents.dropped.insert(app.value().parse()?, count.value());
            }
            for row in transaction.open_table(HEADS)?.iter()? {
                let (seq, value) = row?;
                let (size, app) = value.value();
                contents.add(app, Slot { seq: seq.value(), size })?;
            }
            for row in transaction.open_table(KEYS)?.iter()? {
                contents.keys.extend(record::decode_keys(row?.1.value())?);
            }
            Ok(contents)
        };
        read().map_err(|error| StoreError::Engine(error.into()))
    }

    /// The events of these numbers; `None` for one that is not there, or is damaged.
    pub(super) fn read(&self, numbers: &[Seq]) -> Result<Vec<Option<Event>>, redb::Error> {
        let events = self.begin_read()?.open_table(EVENTS)?;
        let mut found = Vec::with_capacity(numbers.len());
        for &seq in numbers {
            yield_if_due();
            found.push(match events.get(seq)? {
                Some(value) => decode(seq, &Bytes::copy_from_slice(value.value())),
                None => None,
            });
        }
        Ok(found)
    }
}

/// The two files of a store.
pub(super) struct Files {
    pub(super) database: Box<dyn StorageBackend>,
    pub(super) journal: Box<dyn StorageBackend>,
}

impl Files {
    /// Opens those of the store in this folder, which are made if need be, their names durable; nobody else may read
    /// them, as they hold webhook secrets.
    pub(super) fn open(folder: &Path) -> Result<Self, OpenError> {
        let failed = |error| OpenError::Io(folder.to_owned(), error);
        make_private_folder(folder).map_err(failed)?;
        let open = |name| -> Result<Box<dyn StorageBackend>, OpenError> {
            let file = open_private_file(&folder.join(name)).map_err(failed)?;
            Ok(Box::new(FileBackend::new(file).map_err(|error| explain(folder, error))?))
        };
        let files = Self { database: open(DATABASE_NAME)?, journal: open(JOURNAL_NAME)? };
        #[cfg(unix)]
        fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        Ok(files)
    }
}

pub(super) fn decode(seq: Seq, record: &Bytes) -> Option<Event> {
    record::decode_event(record).inspect_err(|error| tell_damage(seq, error)).ok()
}

fn open_database(folder: &Path, disk: &Arc<Disk>) -> Result<Database, OpenError> {
    let mut builder = redb::Builder::new();
    builder.set_cache_size(CACHE_BYTES).set_repair_callback(|repair| {
        if repair.progress() == 0.0 {
            tracing::warn!("all of the store's file is checked, which takes some 2 s for each GiB");
        }
    });
    builder.create_with_backend(disk.writer()).map_err(|error| explain(folder, error))
}

fn explain(folder: &Path, error: DatabaseError) -> OpenError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => OpenError::InUse(folder.to_owned()),
        DatabaseError::Storage(redb::StorageError::Io(error)) if error.kind() != ErrorKind::InvalidData => {
            OpenError::Io(folder.to_owned(), error)
        }
        error => OpenError::Unreadable(folder.to_owned(), StoreError::engine(error)),
    }
}

fn make_private_folder(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// Opens a file of the store, which is made if need be, readable by its owner only.
fn open_private_file(path: &Path) -> io::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}
