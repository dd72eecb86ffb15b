//! Opening the database: checks its version, and loads apps, consumers and the tail of the index.
//!
//! Nothing that is read grows with the history: only the events above the index's watermark are, and the rows of what is open.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use parking_lot::{Mutex, RwLock};
use rusqlite::Connection;
use uuid::Uuid;
use wwproxy_protocol::{AppId, ConsumerName};

use super::{
    Seq,
    app_log::{AppLog, Total},
    changes::{StoredOpen, StoredState},
    cursor::Cursor,
    error::OpenError,
    reader::entry,
    record::micros,
    registry::{self, checksum},
    schema::{self, APPLICATION, VERSION},
    state::{App, Consumer},
};
use crate::store::{Registration, stored_source};

/// What the database holds.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) apps: HashMap<AppId, Arc<App>>,
    /// Ended epochs.
    pub(super) ended: Vec<Arc<App>>,
    /// Entries above the watermark.
    pub(super) unindexed: usize,
    pub(super) last_seq: Seq,
    pub(super) last_id: Option<Uuid>,
}

/// Why loading failed.
enum LoadError {
    Sqlite(rusqlite::Error),
    Damaged(String),
}

impl From<rusqlite::Error> for LoadError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// Creates the tables of a new database, or checks those of an existing one.
pub(super) fn prepare(db: &Connection, file: &Path, is_new: bool) -> Result<(), OpenError> {
    let unreadable = |error| OpenError::Unreadable(file.to_owned(), error);
    if is_new {
        return schema::create(db).map_err(unreadable);
    }
    match schema::identify(db).map_err(unreadable)? {
        (APPLICATION, VERSION) => Ok(()),
        (APPLICATION, version) => Err(OpenError::Version(file.to_owned(), version)),
        _ => Err(OpenError::Foreign(file.to_owned())),
    }
}

/// Loads what the database holds.
pub(super) fn load(db: &Connection, file: &Path) -> Result<Loaded, OpenError> {
    try_load(db).map_err(|error| match error {
        LoadError::Sqlite(error) => OpenError::Unreadable(file.to_owned(), error),
        LoadError::Damaged(what) => OpenError::Damaged(file.to_owned(), what),
    })
}

fn try_load(db: &Connection) -> Result<Loaded, LoadError> {
    let (watermark, removed_up_to): (i64, i64) =
        db.query_row("SELECT seq, last_seq FROM watermark", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let watermark = watermark.cast_unsigned();
    let mut apps = load_apps(db, watermark)?;
    let unindexed = load_tail(db, watermark, &apps)?;
    load_consumers(db, &mut apps)?;
    let newest = db
        .prepare("SELECT seq, id FROM events ORDER BY seq DESC LIMIT 1")?
        .query_map([], |row| Ok((row.get::<_, i64>(0)?, Uuid::from_bytes(row.get(1)?))))?
        .next()
        .transpose()?;
    // A position is never above an event, unless its events were lost.
    let positions: i64 =
        db.query_row("SELECT ifnull(max(position_seq), 0) FROM consumers", [], |row| row.get(0))?;
    let last_seq = newest.map_or(0, |(seq, _)| seq).max(positions).max(removed_up_to).cast_unsigned();
    let (mut registered, mut ended) = (HashMap::new(), Vec::new());
    for (name, app) in apps.into_values() {
        match name {
            Some(name) => drop(registered.insert(name, app)),
            None => ended.push(app),
        }
    }
    Ok(Loaded { apps: registered, ended, unindexed, last_seq, last_id: newest.map(|(_, id)| id) })
}

/// The apps by their ids. An unregistered one has no name.
type Apps = BTreeMap<i64, (Option<AppId>, Arc<App>)>;

fn load_apps(db: &Connection, watermark: Seq) -> Result<Apps, LoadError> {
    let mut apps = Apps::new();
    let mut rows = db.prepare(
        "SELECT app_id, name, removed, removed_count, removed_bytes, total_count, total_bytes FROM apps",
    )?;
    let mut rows = rows.query([])?;
    while let Some(row) = rows.next()? {
        let (id, name, removed): (i64, String, bool) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let registration = if removed { Registration::default() } else { registry::sources(db, id)? };
        let total = Total::from_row(row, 5)?;
        let total = if removed { total } else { total.max(indexed_total(db, id)?) };
        let app = App {
            id,
            registration: RwLock::new(Arc::new(registration)),
            log: Mutex::new(AppLog::new(total, Total::from_row(row, 3)?, watermark)),
            consumers: RwLock::default(),
            ephemeral: RwLock::default(),
        };
        let name = name.parse().map_err(|_| LoadError::Damaged(format!("the name of app {id}")))?;
        stored_source::log_unreadable(&name, &app.registration.read());
        apps.insert(id, ((!removed).then_some(name), Arc::new(app)));
    }
    Ok(apps)
}

/// The totals of an app at its newest event in the index.
fn indexed_total(db: &Connection, app_id: i64) -> rusqlite::Result<Total> {
    let newest: Option<i64> = db
        .prepare_cached("SELECT max(seq) FROM by_app WHERE app_id = ?")?
        .query_row([app_id], |row| row.get(0))?;
    let Some(newest) = newest else { return Ok(Total::default()) };
    let found = registry::totals_at(db, newest.cast_unsigned())?;
    Ok(found.map_or_else(Total::default, |(_, _, total)| total))
}

/// Reads the events above the watermark, whose index is in memory.
fn load_tail(db: &Connection, watermark: Seq, apps: &Apps) -> Result<usize, LoadError> {
    let mut rows = db.prepare(
        "SELECT seq, size, source, type, app_id, app_count, app_bytes FROM events WHERE seq > ? ORDER BY seq",
    )?;
    let mut rows = rows.query([watermark.cast_signed()])?;
    let mut count = 0;
    while let Some(row) = rows.next()? {
        count += 1;
        let Some((_, app)) = apps.get(&row.get(4)?) else { continue };
        app.log.lock().restore(entry(row)?, Total::from_row(row, 5)?);
    }
    Ok(count)
}

fn load_consumers(db: &Connection, apps: &mut Apps) -> Result<(), LoadError> {
    let mut rows = db.prepare(
        "SELECT consumer_id, app_id, name, settings, checksum, position_seq, position_count, position_bytes, \
         dropped FROM consumers",
    )?;
    let mut rows = rows.query([])?;
    while let Some(row) = rows.next()? {
        let (id, app_id, name, settings): (i64, i64, String, String) =
            (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        let Some((_, app)) = apps.get(&app_id) else { continue };
        let damaged = || LoadError::Damaged(format!("the consumer {name} of app {app_id}"));
        if checksum(app_id, &name, &settings) != row.get::<_, i64>(4)? {
            return Err(damaged());
        }
        let settings = registry::decode(&settings).ok_or_else(damaged)?;
        let consumer_name: ConsumerName = name.parse().map_err(|_| damaged())?;
        let passed = Total::from_row(row, 6)?;
        let position = row.get::<_, i64>(5)?.cast_unsigned();
        let mut cursor = Cursor::new(position, passed, settings.max_attempts);
        cursor.restore_dropped(row.get::<_, i64>(8)?.cast_unsigned());
        load_open(db, id, &mut cursor)?;
        let consumer = Consumer::new(id, settings, cursor);
        app.consumers.write().insert(consumer_name, Arc::new(consumer));
    }
    Ok(())
}

fn load_open(db: &Connection, consumer: i64, cursor: &mut Cursor) -> Result<(), LoadError> {
    let mut rows = db.prepare_cached(
        "SELECT seq, state, attempt, not_before, size, reason, replay FROM open WHERE consumer_id = ?",
    )?;
    let mut rows = rows.query([consumer])?;
    let (now, today) = (Instant::now(), micros(SystemTime::now()));
    while let Some(row) = rows.next()? {
        let name: String = row.get(1)?;
        let state =
            StoredState::parse(&name).ok_or_else(|| LoadError::Damaged(format!("the state {name:?}")))?;
        let not_before: i64 = row.get(3)?;
        let delay = Duration::from_micros(not_before.saturating_sub(today).max(0).cast_unsigned());
        let row = StoredOpen {
            seq: row.get::<_, i64>(0)?.cast_unsigned(),
            size: row.get(4)?,
            attempt: row.get(2)?,
            replay: row.get(6)?,
            state,
            nacked_until: (not_before > 0).then_some(now + delay),
            reason: row.get(5)?,
        };
        cursor.restore(row);
    }
    Ok(())
}
