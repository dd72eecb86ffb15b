//! What a store holds: its files, apps and consumers, with their counts.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use humantime::format_rfc3339_seconds;
use rusqlite::{Connection, OptionalExtension};
use serde::Serialize;

use super::{
    super::{
        app_log::{Entry, Total},
        error::OpenError,
        filter::Filter,
        reader::entry,
        record::from_micros,
        registry,
        schema::VERSION,
    },
    read_only::ReadOnly,
};

/// What a store holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreInfo {
    /// The version of its format.
    pub format: i64,
    /// Whether a server runs on it.
    pub server_runs: bool,
    /// Its files with their sizes in bytes. That of the WAL ends in `-wal`.
    pub files: BTreeMap<String, u64>,
    /// When its oldest event was received, in RFC 3339.
    pub oldest: Option<String>,
    /// When its newest event was received, in RFC 3339.
    pub newest: Option<String>,
    /// The registered apps.
    pub apps: Vec<AppInfo>,
}

/// What a store holds of an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AppInfo {
    /// Its id.
    pub app: String,
    /// Its events, history included.
    pub events: u64,
    /// Their size in bytes.
    pub bytes: u64,
    /// Its sources.
    pub sources: Vec<String>,
    /// Its consumers.
    pub consumers: Vec<ConsumerInfo>,
}

/// What a store holds of a consumer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConsumerInfo {
    /// Its name.
    pub consumer: String,
    /// Events that it has not settled.
    pub pending: u64,
    /// Their size in bytes.
    pub pending_bytes: u64,
    /// Dead events.
    pub dead: u64,
    /// Events that were removed before it settled them.
    pub dropped: u64,
}

/// Reads what the store in a folder, or a backup file, holds. A running server goes on.
pub fn info(path: &Path) -> Result<StoreInfo, OpenError> {
    let store = ReadOnly::open(path)?;
    let read = || {
        let snapshot = store.db.unchecked_transaction()?;
        let time = |sql| {
            let at: Option<i64> = store.db.query_row(sql, [], |row| row.get(0)).optional()?;
            Ok::<_, rusqlite::Error>(at.map(|at| format_rfc3339_seconds(from_micros(at)).to_string()))
        };
        let info = StoreInfo {
            format: VERSION,
            server_runs: store.server_runs,
            files: store.files(),
            oldest: time("SELECT received_at FROM events ORDER BY seq LIMIT 1")?,
            newest: time("SELECT received_at FROM events ORDER BY seq DESC LIMIT 1")?,
            apps: apps(&store.db)?,
        };
        snapshot.finish()?;
        Ok(info)
    };
    read().map_err(|error| OpenError::Unreadable(store.file.clone(), error))
}

fn apps(db: &Connection) -> rusqlite::Result<Vec<AppInfo>> {
    let tail = tail(db)?;
    let mut indexed = db.prepare(
        "SELECT count(*), ifnull(sum(size), 0) FROM by_app WHERE app_id = ? AND seq <= (SELECT seq FROM watermark)",
    )?;
    let mut rows = db.prepare("SELECT app_id, name FROM apps WHERE removed = 0 ORDER BY name")?;
    let rows = rows.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))?;
    rows.map(|row| {
        let (id, app) = row?;
        let tail = tail.get(&id).map_or(&[][..], Vec::as_slice);
        let total = indexed.query_row([id], |row| Total::from_row(row, 0))?;
        let total = tail.iter().fold(total, |total, entry| total.plus(entry.size));
        let sources = registry::sources(db, id)?.sources.into_keys().map(|name| name.to_string()).collect();
        Ok(AppInfo {
            app,
            events: total.count,
            bytes: total.bytes,
            sources,
            consumers: consumers(db, id, tail)?,
        })
    })
    .collect()
}

/// The events that are not in the index yet, by app.
fn tail(db: &Connection) -> rusqlite::Result<HashMap<i64, Vec<Entry>>> {
    let mut tail = HashMap::<_, Vec<_>>::new();
    let mut rows = db.prepare(
        "SELECT seq, size, source, type, app_id FROM events WHERE seq > (SELECT seq FROM watermark) ORDER BY seq",
    )?;
    let mut rows = rows.query([])?;
    while let Some(row) = rows.next()? {
        tail.entry(row.get(4)?).or_default().push(entry(row)?);
    }
    Ok(tail)
}

fn consumers(db: &Connection, app_id: i64, tail: &[Entry]) -> rusqlite::Result<Vec<ConsumerInfo>> {
    let mut indexed = db.prepare_cached(
        "SELECT seq, size, source, type FROM by_app \
         WHERE app_id = ? AND seq > ? AND seq <= (SELECT seq FROM watermark)",
    )?;
    let mut open = db.prepare_cached(
        "SELECT count(*), ifnull(sum(size), 0) FROM open WHERE consumer_id = ? AND (state = 'dead') = ?",
    )?;
    let mut rows = db.prepare_cached(
        "SELECT consumer_id, name, settings, position_seq, dropped FROM consumers WHERE app_id = ? ORDER BY name",
    )?;
    let mut rows = rows.query([app_id])?;
    let mut consumers = Vec::new();
    while let Some(row) = rows.next()? {
        let (id, position): (i64, i64) = (row.get(0)?, row.get(3)?);
        let filter = Filter::new(&registry::decode(&row.get::<_, String>(2)?).unwrap_or_default());
        let mut pending = open.query_row((id, false), |row| Total::from_row(row, 0))?;
        let dead = open.query_row((id, true), |row| Total::from_row(row, 0))?.count;
        let mut fresh = indexed.query((app_id, position))?;
        while let Some(row) = fresh.next()? {
            let entry = entry(row)?;
            pending = if filter.matches(&entry) { pending.plus(entry.size) } else { pending };
        }
        let fresh = tail.iter().filter(|entry| entry.seq > position.cast_unsigned() && filter.matches(entry));
        pending = fresh.fold(pending, |pending, entry| pending.plus(entry.size));
        consumers.push(ConsumerInfo {
            consumer: row.get(1)?,
            pending: pending.count,
            pending_bytes: pending.bytes,
            dead,
            dropped: row.get::<_, i64>(4)?.cast_unsigned(),
        });
    }
    Ok(consumers)
}
