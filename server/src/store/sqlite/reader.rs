//! Reads of the database: short, on connections of their own, and checked.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, RwLock};
use rusqlite::{Connection, OptionalExtension, Row};
use uuid::Uuid;
use wwproxy_protocol::Event;

use super::{
    Seq,
    app_log::Entry,
    record::{DamagedRecord, Record},
    schema::{OTHER_CACHE_KIB, connect},
};

/// The longest that a read transaction lasts: a checkpoint cannot pass an open one, so the WAL would grow.
pub(super) const MAX_READ: Duration = Duration::from_millis(250);
/// Instructions of SQLite's virtual machine between two checks of the deadline.
const CHECK_EVERY: i32 = 10_000;
/// Connections that are kept open while no read runs.
const KEPT: usize = 4;
/// Reads that run at once, at most: each has three open files. Further ones wait.
const MAX_RUNNING: usize = 32;

/// The connections for reading.
#[derive(Debug)]
pub(super) struct Readers {
    database: PathBuf,
    idle: Mutex<Vec<Connection>>,
    /// Held while a read runs, which is short, so that [`Readers::pause`] can wait for its end.
    running: RwLock<()>,
    /// How many reads run.
    count: Mutex<usize>,
    ended: Condvar,
}

/// One of the [`MAX_RUNNING`] reads.
struct Running<'a>(&'a Readers);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        *self.0.count.lock() -= 1;
        self.0.ended.notify_one();
    }
}

/// The outcome of reading one event.
#[derive(Debug)]
pub(super) enum Read {
    Event(Arc<Event>),
    /// The event is not in the database any more.
    Missing,
    Damaged(DamagedRecord),
    /// Its pages cannot be read, now or ever.
    Failed(rusqlite::Error),
}

impl Readers {
    pub(super) fn new(database: PathBuf) -> Self {
        Self {
            database,
            idle: Mutex::default(),
            running: RwLock::default(),
            count: Mutex::default(),
            ended: Condvar::new(),
        }
    }

    /// Runs a read transaction, which is interrupted after [`MAX_READ`].
    pub(super) fn read<T>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let _running = (self.wait_for_place(), self.running.read_recursive());
        let idle = self.idle.lock().pop();
        let mut connection = if let Some(connection) = idle { connection } else { self.connect()? };
        let deadline = Instant::now() + MAX_READ;
        connection.progress_handler(CHECK_EVERY, Some(move || Instant::now() > deadline))?;
        let result = connection.transaction().and_then(|transaction| {
            let result = read(&transaction)?;
            transaction.finish()?;
            Ok(result)
        });
        let mut idle = self.idle.lock();
        if result.is_ok() && idle.len() < KEPT {
            idle.push(connection);
        }
        result
    }

    fn wait_for_place(&self) -> Running<'_> {
        let mut count = self.count.lock();
        while *count >= MAX_RUNNING {
            self.ended.wait(&mut count);
        }
        *count += 1;
        Running(self)
    }

    fn connect(&self) -> rusqlite::Result<Connection> {
        let connection = connect(&self.database, OTHER_CACHE_KIB, false)?;
        connection.execute_batch("PRAGMA query_only = ON;")?;
        Ok(connection)
    }

    pub(super) fn database(&self) -> &Path {
        &self.database
    }

    /// Closes all connections, and lets no read begin until the value is dropped.
    pub(super) fn pause(&self) -> impl Drop + '_ {
        let paused = self.running.write();
        self.close();
        paused
    }

    /// Closes the connections.
    pub(super) fn close(&self) {
        self.idle.lock().clear();
    }
}

/// Reads an event of an app, and checks it.
pub(super) fn read_event(db: &Connection, app_id: i64, seq: Seq) -> rusqlite::Result<Read> {
    let found = db
        .prepare_cached(&format!("SELECT {EVENT_COLUMNS} FROM events WHERE seq = ?"))?
        .query_row([seq.cast_signed()], |row| verify(db, row, seq))
        .optional()?;
    Ok(match found {
        None => Read::Missing,
        Some(Ok((found, _))) if found != app_id => {
            Read::Damaged(DamagedRecord { seq, what: "it belongs to another app" })
        }
        Some(Ok((_, event))) => Read::Event(Arc::new(event)),
        Some(Err(damaged)) => Read::Damaged(damaged),
    })
}

/// The columns that [`verify`] reads.
pub(super) const EVENT_COLUMNS: &str =
    "app_id, id, received_at, source, type, delivery_id, head, body, checksum";

/// Checks a row of [`EVENT_COLUMNS`] and decodes it. Also returns its app.
pub(super) fn verify(
    db: &Connection,
    row: &Row<'_>,
    seq: Seq,
) -> rusqlite::Result<Result<(i64, Event), DamagedRecord>> {
    let (record, checksum, is_apart) = match decode(row, seq) {
        Ok(decoded) => decoded,
        Err(damaged) => return Ok(Err(damaged)),
    };
    let body = if is_apart {
        let mut bodies = db.prepare_cached("SELECT body FROM bodies WHERE seq = ?")?;
        let body: Option<Vec<u8>> = bodies.query_row([seq.cast_signed()], |row| row.get(0)).optional()?;
        match body {
            Some(body) => body.into(),
            None => return Ok(Err(DamagedRecord { seq, what: "its body is missing" })),
        }
    } else {
        record.body.clone()
    };
    let app_id = record.app_id;
    Ok(Record { body, ..record }.into_event(checksum).map(|event| (app_id, event)))
}

type Decoded = Result<(Record, i64, bool), DamagedRecord>;

/// Decodes a row: a value of the wrong type is damage of this row, not a failure of the read.
fn decode(row: &Row<'_>, seq: Seq) -> Decoded {
    let decoded = (|| -> rusqlite::Result<_> {
        let source: String = row.get(3)?;
        let body: Option<Vec<u8>> = row.get(7)?;
        let is_apart = body.is_none();
        let record = Record {
            seq,
            app_id: row.get(0)?,
            id: Uuid::from_bytes(row.get(1)?),
            received_at: row.get(2)?,
            source: source.parse().map_err(|_| rusqlite::Error::InvalidQuery)?,
            event_type: row.get(4)?,
            delivery_id: row.get(5)?,
            head: row.get(6)?,
            body: body.map_or_else(Bytes::new, Bytes::from),
        };
        Ok((record, row.get(8)?, is_apart))
    })();
    decoded.map_err(|_| DamagedRecord { seq, what: "a column has a value of the wrong kind" })
}

/// Decodes the index row `seq, size, source, type`.
pub(super) fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let event_type: Option<Box<str>> = row.get(3)?;
    Ok(Entry {
        seq: row.get::<_, i64>(0)?.cast_unsigned(),
        size: row.get(1)?,
        // A name that is not valid is found when the event is read.
        source: row.get::<_, String>(2)?.parse().unwrap_or_default(),
        event_type: event_type.map(Into::into),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_read_is_interrupted_and_the_next_one_succeeds() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("log.sqlite");
        connect(&file, OTHER_CACHE_KIB, true).unwrap();
        let readers = Readers::new(file);
        let count = |limit: &str| {
            let count = format!(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n {limit}) SELECT count(*) FROM n"
            );
            readers.read(|db| db.query_row(&count, [], |row| row.get::<_, i64>(0)))
        };
        assert_eq!(count("LIMIT 5").unwrap(), 5);
        let started = Instant::now();
        let interrupted = count("").unwrap_err();
        assert_eq!(interrupted.sqlite_error_code(), Some(rusqlite::ErrorCode::OperationInterrupted));
        assert!(started.elapsed() >= MAX_READ);
        assert_eq!(count("LIMIT 5").unwrap(), 5);
    }
}
