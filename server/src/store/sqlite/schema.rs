//! The schema of the database, its version, and connections to it.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, OpenFlags};

/// The version of the schema, in `PRAGMA user_version`.
pub(super) const VERSION: i64 = 1;
/// The version while the database is being recovered from another one.
pub(super) const UNFINISHED: i64 = -1;
/// Marks the database as a store of this program, in `PRAGMA application_id`: "wwpx".
pub(super) const APPLICATION: i64 = 0x7777_7078;

/// The page cache of the writer, in KiB.
pub(super) const WRITER_CACHE_KIB: u32 = 32 << 10;
/// The page cache of any other connection, in KiB.
pub(super) const OTHER_CACHE_KIB: u32 = 4 << 10;
/// Prepared statements that a connection keeps.
const STATEMENTS: usize = 64;

/// `received_at` and `not_before` are microseconds since 1970. A `seq` ascends over the whole store, and never depends on the clock.
const SCHEMA: &str = "
-- One row an epoch of an app: from its registration until it unregisters.
-- removed_count and removed_bytes are the totals of the events that retention or a client removed; total_count and total_bytes are
-- the running totals at the last removal, which may have removed the newest event. The checksum covers app_id, name and removed.
-- Names are unique because one thread writes them: a UNIQUE index could not be built again after a name was damaged.
CREATE TABLE apps(app_id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, epoch BLOB NOT NULL, removed INTEGER NOT NULL,
  removed_count INTEGER NOT NULL DEFAULT 0, removed_bytes INTEGER NOT NULL DEFAULT 0,
  total_count INTEGER NOT NULL DEFAULT 0, total_bytes INTEGER NOT NULL DEFAULT 0,
  checksum INTEGER NOT NULL DEFAULT 0);
CREATE INDEX registered_apps ON apps(name) WHERE removed = 0;
CREATE TABLE sources(app_id INTEGER NOT NULL, name TEXT NOT NULL, settings TEXT NOT NULL, checksum INTEGER NOT NULL,
  PRIMARY KEY(app_id, name)) WITHOUT ROWID;
-- Appended at the right edge only. app_count and app_bytes are the app's running totals, this event included.
-- A body of more than a few KiB is a row of bodies instead.
CREATE TABLE events(seq INTEGER PRIMARY KEY, app_id INTEGER NOT NULL, id BLOB NOT NULL, received_at INTEGER NOT NULL,
  source TEXT NOT NULL, type TEXT, delivery_id TEXT, size INTEGER NOT NULL, app_count INTEGER NOT NULL, app_bytes INTEGER NOT NULL,
  checksum INTEGER NOT NULL, duplicates INTEGER NOT NULL DEFAULT 0, head TEXT NOT NULL, body BLOB);
CREATE TABLE bodies(seq INTEGER PRIMARY KEY, body BLOB NOT NULL);
-- The events of an app in order. Written late, many rows at once: complete up to the watermark only.
CREATE TABLE by_app(app_id INTEGER NOT NULL, seq INTEGER NOT NULL, source TEXT NOT NULL, type TEXT, size INTEGER NOT NULL,
  PRIMARY KEY(app_id, seq)) WITHOUT ROWID;
-- The dedupe keys of a commit's events, one row a commit; seq is the last of these events. Rows outside of the dedupe window are deleted.
CREATE TABLE recent_keys(seq INTEGER PRIMARY KEY, at INTEGER NOT NULL, keys BLOB NOT NULL);
-- The number and the size of the events that were removed between a stored event and the next one. None for those before the oldest.
CREATE TABLE holes(app_id INTEGER NOT NULL, seq INTEGER NOT NULL, count INTEGER NOT NULL, bytes INTEGER NOT NULL,
  PRIMARY KEY(app_id, seq)) WITHOUT ROWID;
-- last_seq is the last assigned seq at the last removal of events.
CREATE TABLE watermark(id INTEGER PRIMARY KEY CHECK(id = 1), seq INTEGER NOT NULL, last_seq INTEGER NOT NULL);
-- position_count and position_bytes are the app's totals at the position. dropped counts events that were removed before they were
-- settled. The checksum covers the columns up to dropped.
-- started is the position at the creation; it only serves the history. A negative app_id is that of a deleted consumer, until what it
-- has open is purged.
CREATE TABLE consumers(consumer_id INTEGER PRIMARY KEY AUTOINCREMENT, app_id INTEGER NOT NULL, name TEXT NOT NULL,
  settings TEXT NOT NULL, checksum INTEGER NOT NULL, position_seq INTEGER NOT NULL, position_count INTEGER NOT NULL,
  position_bytes INTEGER NOT NULL, dropped INTEGER NOT NULL DEFAULT 0, started INTEGER NOT NULL DEFAULT 0, created INTEGER NOT NULL DEFAULT 0,
  last_used INTEGER NOT NULL DEFAULT 0);
CREATE INDEX consumer_names ON consumers(app_id, name);
-- The exceptions at or below a consumer's position: events that are leased, wait for a retry, or are dead. After a move back there
-- are some above it, settled ones included, until it has passed them.
CREATE TABLE open(consumer_id INTEGER NOT NULL, seq INTEGER NOT NULL, state TEXT NOT NULL, attempt INTEGER NOT NULL,
  replay INTEGER NOT NULL DEFAULT 0, not_before INTEGER NOT NULL, size INTEGER NOT NULL, reason TEXT, checksum INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY(consumer_id, seq)) WITHOUT ROWID;
-- The timeline. Acknowledged first attempts are packed, one row a consumer and commit; any other outcome is a row of its own.
CREATE TABLE deliveries(consumer_id INTEGER NOT NULL, last_seq INTEGER NOT NULL, at INTEGER NOT NULL, first_seq INTEGER NOT NULL,
  attempt INTEGER NOT NULL, outcome TEXT NOT NULL, reason TEXT, packed BLOB, PRIMARY KEY(consumer_id, last_seq, at)) WITHOUT ROWID;
INSERT INTO watermark VALUES(1, 0, 0);
";

/// Opens a connection for reading and writing. Creates the database only if `create` is set.
pub(super) fn connect(file: &Path, cache_kib: u32, create: bool) -> rusqlite::Result<Connection> {
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    flags.set(OpenFlags::SQLITE_OPEN_CREATE, create);
    let connection = Connection::open_with_flags(file, flags)?;
    // No connection ever waits for another: there is one writer, and readers see a snapshot.
    connection.busy_timeout(Duration::ZERO)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    if create {
        connection.execute_batch("PRAGMA auto_vacuum = INCREMENTAL;")?;
    }
    connection.execute_batch(&format!(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0; \
         PRAGMA cache_size = -{cache_kib}; PRAGMA temp_store = MEMORY; PRAGMA foreign_keys = OFF;"
    ))?;
    Ok(connection)
}

/// Creates the tables of a new database, in one transaction.
pub(super) fn create(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(&format!(
        "BEGIN IMMEDIATE; {SCHEMA} PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION}; COMMIT;"
    ))
}

/// Whether an app was ever registered in this database.
pub(super) fn is_used(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("SELECT exists(SELECT 1 FROM apps)", [], |row| row.get(0))
}

/// Reads the application and the version of a database.
pub(super) fn identify(connection: &Connection) -> rusqlite::Result<(i64, i64)> {
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get(0));
    Ok((pragma("application_id")?, pragma("user_version")?))
}
