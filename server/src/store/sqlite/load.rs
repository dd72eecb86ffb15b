//! Opening the database: checks its version, and loads apps, consumers and the tail of the index.
//!
//! Nothing that is read grows with the history: only the events above the index's watermark are, and the rows of what is open.

mod consumers;

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use parking_lot::{Mutex, RwLock};
use rusqlite::{Connection, OptionalExtension, Row};
use uuid::Uuid;
use wwproxy_protocol::{AppId, ConsumerName};

use super::{
    Seq,
    app_log::{AppLog, Entry, Total},
    error::OpenError,
    folder::HIGH_WATER,
    reader::entry,
    registry,
    schema::{self, APPLICATION, UNFINISHED, VERSION},
    state::App,
};
use crate::store::{Registration, stored_source};

/// What the database holds.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) apps: HashMap<AppId, Arc<App>>,
    /// Ended epochs.
    pub(super) ended: Vec<Arc<App>>,
    /// Apps whose row is damaged.
    pub(super) damaged: Vec<Arc<App>>,
    /// Entries above the watermark.
    pub(super) unindexed: usize,
    pub(super) last_seq: Seq,
    pub(super) last_id: Option<Uuid>,
}

/// Creates the tables of a new database, or checks those of an existing one.
pub(super) fn prepare(db: &Connection, file: &Path, is_new: bool) -> Result<(), OpenError> {
    let unreadable = |error| OpenError::Unreadable(file.to_owned(), error);
    let incomplete = || OpenError::Incomplete(file.parent().unwrap_or(file).to_owned(), HIGH_WATER);
    match schema::identify(db).map_err(unreadable)? {
        (0, 0) if is_new => schema::create(db).map_err(unreadable),
        (APPLICATION, UNFINISHED) => Err(incomplete()),
        (APPLICATION, VERSION) if is_new && schema::is_used(db).map_err(unreadable)? => Err(incomplete()),
        (APPLICATION, VERSION) => Ok(()),
        (APPLICATION, version) => Err(OpenError::Version(file.to_owned(), version)),
        _ => Err(OpenError::Foreign(file.to_owned())),
    }
}

/// Loads what the database holds.
pub(super) fn load(db: &Connection, file: &Path) -> Result<Loaded, OpenError> {
    try_load(db).map_err(|error| OpenError::Unreadable(file.to_owned(), error))
}

fn try_load(db: &Connection) -> rusqlite::Result<Loaded> {
    let (watermark, removed_up_to): (i64, i64) =
        db.query_row("SELECT seq, last_seq FROM watermark", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let watermark = watermark.cast_unsigned();
    let apps = load_apps(db, watermark)?;
    let unindexed = load_tail(db, watermark, &apps)?;
    // A position is never above an event, unless its events were lost.
    let position = consumers::load(db, &apps)?;
    let newest = db
        .prepare("SELECT seq, id FROM events ORDER BY seq DESC LIMIT 1")?
        .query_row([], |row| Ok((row.get::<_, i64>(0)?, row.get(1).ok().map(Uuid::from_bytes))))
        .optional()?;
    let newest_seq = newest.map_or(0, |(seq, _)| seq).max(removed_up_to).cast_unsigned();
    let (mut registered, mut ended, mut damaged) = (HashMap::new(), Vec::new(), Vec::new());
    for (state, app) in apps.into_values() {
        match state {
            AppState::Registered(name) => drop(registered.insert(name, app)),
            AppState::Removed => ended.push(app),
            AppState::Damaged => damaged.push(app),
        }
    }
    let (last_seq, last_id) = (newest_seq.max(position), newest.and_then(|(_, id)| id));
    Ok(Loaded { apps: registered, ended, damaged, unindexed, last_seq, last_id })
}

/// What the row of an app says.
enum AppState {
    Registered(AppId),
    Removed,
    /// Its name, or whether it was removed, is not known: it is not served, and its events are kept.
    Damaged,
}

impl AppState {
    /// Whether the row of the app or of its consumer `default` is damaged.
    fn needs_repair(&self, app: &App) -> bool {
        match self {
            Self::Registered(_) => !app.consumers.read().contains_key(&ConsumerName::default()),
            Self::Removed => false,
            Self::Damaged => true,
        }
    }
}

/// The apps by their ids.
type Apps = BTreeMap<i64, (AppState, Arc<App>)>;

fn load_apps(db: &Connection, watermark: Seq) -> rusqlite::Result<Apps> {
    let mut apps = Apps::new();
    let mut rows = db.prepare(
        "SELECT app_id, name, removed, removed_count, removed_bytes, total_count, total_bytes, checksum FROM apps",
    )?;
    let mut rows = rows.query([])?;
    while let Some(row) = rows.next()? {
        let id: i64 = row.get(0)?;
        let state = app_state(id, row);
        let is_registered = matches!(state, AppState::Registered(_));
        let registration = if is_registered { registry::sources(db, id)? } else { Registration::default() };
        let [removed, total] = [3, 5].map(|column| Total::from_row(row, column).unwrap_or_default());
        let is_removed = matches!(state, AppState::Removed);
        let total = if is_removed { total } else { total.max(indexed_total(db, id)?) };
        let name = match &state {
            AppState::Registered(name) => Some(name.clone()),
            _ => None,
        };
        let app = App {
            name,
            id,
            registration: RwLock::new(Arc::new(registration)),
            log: Mutex::new(AppLog::new(total, removed, watermark)),
            consumers: RwLock::default(),
            ephemeral: RwLock::default(),
            lost_ephemeral: AtomicBool::default(),
        };
        if let AppState::Registered(name) = &state {
            stored_source::log_unreadable(name, &app.registration.read());
        }
        apps.insert(id, (state, Arc::new(app)));
    }
    Ok(apps)
}

fn app_state(id: i64, row: &Row<'_>) -> AppState {
    let decoded = (row.get::<_, String>(1), row.get(2), row.get::<_, i64>(7));
    let whole = match &decoded {
        (Ok(name), Ok(is_removed), Ok(checksum))
            if registry::app_checksum(id, name, *is_removed) == *checksum =>
        {
            Some((name.parse(), *is_removed))
        }
        _ => None,
    };
    match whole {
        Some((_, true)) => AppState::Removed,
        Some((Ok(name), false)) => AppState::Registered(name),
        _ => {
            tracing::error!(
                app_id = id,
                "the row of an app is damaged: the app is not served, and its events are kept; to serve it again, stop the \
                 server, run \"UPDATE apps SET name = 'NAME', removed = 0 WHERE app_id = {id}\" with its name in log.sqlite, \
                 and start the server"
            );
            AppState::Damaged
        }
    }
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
fn load_tail(db: &Connection, watermark: Seq, apps: &Apps) -> rusqlite::Result<usize> {
    let mut rows = db.prepare(
        "SELECT seq, size, source, type, app_id, app_count, app_bytes FROM events WHERE seq > ? ORDER BY seq",
    )?;
    let mut rows = rows.query([watermark.cast_signed()])?;
    let mut count = 0;
    while let Some(row) = rows.next()? {
        count += 1;
        let Some((_, app)) = row.get(4).ok().and_then(|app_id| apps.get(&app_id)) else {
            tracing::error!(
                seq = row.get::<_, i64>(0)?,
                "a stored event belongs to no app: it is kept, but not delivered"
            );
            continue;
        };
        let mut log = app.log.lock();
        let total = Total::from_row(row, 5).unwrap_or(log.total);
        // A damaged event is found and counted when it is read.
        let seq = row.get::<_, i64>(0)?.cast_unsigned();
        log.restore(entry(row).unwrap_or_else(|_| Entry { seq, ..Entry::default() }), total);
    }
    Ok(count)
}
