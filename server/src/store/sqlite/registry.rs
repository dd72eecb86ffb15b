//! Registrations and consumers in the database: rows, and their checksums.

use std::time::{Duration, SystemTime};

use rusqlite::{Connection, OptionalExtension, Row};
use serde::{Deserialize, Serialize};
use twox_hash::xxhash3_64::Hasher;
use wwproxy_protocol::{AppId, ConsumerName, ConsumerSettings, EventId, Overflow, SourceName, Start};
use zeroize::Zeroizing;

use super::{
    Seq,
    app_log::Total,
    checksum,
    record::{from_micros, micros},
};
use crate::store::{Registration, stored_source};

/// The settings of a consumer as its row has them.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredSettings {
    types: Vec<String>,
    sources: Vec<SourceName>,
    start: StoredStart,
    max_attempts: u32,
    overflow: Option<Overflow>,
    idle_expiry_micros: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum StoredStart {
    New,
    All,
    /// In microseconds since 1970.
    At(i64),
    After(EventId),
}

/// The checksum of a row: of its owner, its name and its settings.
pub(super) fn checksum(owner: i64, name: &str, settings: &str) -> i64 {
    let text = Zeroizing::new(format!("{owner}\0{name}\0{settings}"));
    Hasher::oneshot(text.as_bytes()).cast_signed()
}

/// Inserts the row of a new epoch, and returns its id.
pub(super) fn insert_app(db: &Connection, app: &AppId) -> rusqlite::Result<i64> {
    let epoch = uuid::Uuid::now_v7();
    db.execute(
        "INSERT INTO apps(name, epoch, removed) VALUES(?, ?, 0)",
        (app.as_str(), epoch.as_bytes().as_slice()),
    )?;
    let app_id = db.last_insert_rowid();
    let checksum = app_checksum(app_id, app.as_str(), false);
    db.execute("UPDATE apps SET checksum = ? WHERE app_id = ?", (checksum, app_id))?;
    Ok(app_id)
}

/// The checksum of an app's row.
pub(super) fn app_checksum(app_id: i64, name: &str, is_removed: bool) -> i64 {
    checksum(app_id, name, if is_removed { "removed" } else { "registered" })
}

/// Replaces the sources of an app. The row of a source that cannot be read stays: a new one would give damaged settings a valid
/// checksum.
pub(super) fn put_sources(db: &Connection, app_id: i64, registration: &Registration) -> rusqlite::Result<()> {
    let unreadable = registration.sources.iter().filter(|(_, source)| source.is_err());
    let unreadable: Vec<_> = unreadable.map(|(name, _)| name.as_str()).collect();
    let unreadable = serde_json::to_string(&unreadable).expect("texts have a JSON form");
    db.execute(
        "DELETE FROM sources WHERE app_id = ? AND name NOT IN (SELECT value FROM json_each(?))",
        (app_id, unreadable),
    )?;
    let mut insert = db.prepare_cached(
        "INSERT OR IGNORE INTO sources(app_id, name, settings, checksum) VALUES(?, ?, ?, ?)",
    )?;
    for (name, source) in &registration.sources {
        let settings = stored_source::encode(source);
        let checksum = checksum(app_id, name.as_str(), &settings);
        insert.execute((app_id, name.as_str(), settings.as_str(), checksum))?;
    }
    Ok(())
}

/// Reads the sources of an app. A row whose name is damaged belongs to no source: it is left out and logged.
pub(super) fn sources(db: &Connection, app_id: i64) -> rusqlite::Result<Registration> {
    let mut registration = Registration::default();
    let mut rows = db.prepare_cached("SELECT name, settings, checksum FROM sources WHERE app_id = ?")?;
    let mut rows = rows.query([app_id])?;
    while let Some(row) = rows.next()? {
        // A damaged text may be no UTF-8. With the replacement character it does not have its checksum.
        let text =
            |column| Ok::<_, rusqlite::Error>(String::from_utf8_lossy(row.get_ref(column)?.as_bytes()?));
        let (name, settings) = (text(0)?, Zeroizing::new(text(1)?.into_owned()));
        let source = if checksum(app_id, &name, &settings) == row.get::<_, i64>(2)? {
            stored_source::decode(&settings)
        } else {
            Err(stored_source::damaged(&settings))
        };
        match name.parse() {
            Ok(name) => drop(registration.sources.insert(name, source)),
            Err(_) => {
                tracing::error!(app_id, %name, "the name of a stored source is damaged: register it again");
            }
        }
    }
    Ok(registration)
}

/// Ends an epoch. Its events and consumers stay until they are purged; no later registration sees them, because it has another id.
pub(super) fn remove_app(db: &Connection, app_id: i64, name: &AppId) -> rusqlite::Result<()> {
    let checksum = app_checksum(app_id, name.as_str(), true);
    db.execute("UPDATE apps SET removed = 1, checksum = ? WHERE app_id = ?", (checksum, app_id))?;
    db.execute("DELETE FROM sources WHERE app_id = ?", [app_id])?;
    Ok(())
}

/// Inserts a consumer at this position, and returns its id.
pub(super) fn insert_consumer(
    db: &Connection,
    app_id: i64,
    name: &ConsumerName,
    settings: &ConsumerSettings,
    position: Seq,
    passed: Total,
) -> rusqlite::Result<i64> {
    db.execute(
        "INSERT INTO consumers(app_id, name, settings, checksum, position_seq, position_count, position_bytes, started, created, \
          last_used) VALUES(?1, ?2, ?3, 0, ?4, ?5, ?6, ?4, ?7, ?7)",
        (
            app_id,
            name.as_str(),
            encode(settings),
            position.cast_signed(),
            passed.count.cast_signed(),
            passed.bytes.cast_signed(),
            micros(SystemTime::now()),
        ),
    )?;
    let id = db.last_insert_rowid();
    // The checksum covers the id.
    update_consumer(db, id, app_id, name, settings)?;
    Ok(id)
}

/// Changes the settings of a consumer.
pub(super) fn update_consumer(
    db: &Connection,
    id: i64,
    app_id: i64,
    name: &ConsumerName,
    settings: &ConsumerSettings,
) -> rusqlite::Result<()> {
    let checksum = db
        .prepare_cached(
            "SELECT position_seq, position_count, position_bytes, dropped FROM consumers WHERE consumer_id = ?",
        )?
        .query_row([id], |row| {
            let (position, dropped): (i64, i64) = (row.get(0)?, row.get(3)?);
            let (position, dropped) = (position.cast_unsigned(), dropped.cast_unsigned());
            let identity = identity(app_id, name, settings);
            Ok(checksum::consumer(id, identity, position, Total::from_row(row, 1)?, dropped))
        })?;
    db.execute(
        "UPDATE consumers SET settings = ?, checksum = ? WHERE consumer_id = ?",
        (encode(settings), checksum, id),
    )?;
    Ok(())
}

/// The checksum of what no flush of a consumer changes.
pub(super) fn identity(app_id: i64, name: &ConsumerName, settings: &ConsumerSettings) -> i64 {
    checksum(app_id, name.as_str(), &encode(settings))
}

/// Ends a consumer: its app's id becomes negative. What is open of it may be many rows, which are purged later.
pub(super) fn end_consumer(
    db: &Connection,
    id: i64,
    app_id: i64,
    name: &ConsumerName,
    settings: &ConsumerSettings,
) -> rusqlite::Result<()> {
    db.execute("UPDATE consumers SET app_id = ? WHERE consumer_id = ?", (-app_id, id))?;
    update_consumer(db, id, -app_id, name, settings)
}

/// Deletes a consumer and what is open of it.
pub(super) fn delete_consumer(db: &Connection, id: i64) -> rusqlite::Result<()> {
    db.execute("DELETE FROM open WHERE consumer_id = ?", [id])?;
    db.execute("DELETE FROM consumers WHERE consumer_id = ?", [id])?;
    Ok(())
}

/// The app, the id and the running total at an event. `None` if the event is not stored.
pub(super) fn totals_at(db: &Connection, seq: Seq) -> rusqlite::Result<Option<(i64, uuid::Uuid, Total)>> {
    db.prepare_cached("SELECT app_id, id, app_count, app_bytes FROM events WHERE seq = ?")?
        .query_row([seq.cast_signed()], |row| {
            Ok((row.get(0)?, uuid::Uuid::from_bytes(row.get(1)?), Total::from_row(row, 2)?))
        })
        .optional()
}

/// The columns of [`StoredConsumer::read`].
pub(super) const CONSUMER_COLUMNS: &str =
    "consumer_id, app_id, name, settings, checksum, position_seq, position_count, position_bytes, dropped";

/// What of a consumer's row is whole.
pub(super) struct StoredConsumer {
    pub(super) name: Option<ConsumerName>,
    pub(super) settings: Option<ConsumerSettings>,
    /// The position, the totals at it, and the number of dropped events: only if the whole row is.
    pub(super) progress: Option<(Seq, Total, u64)>,
}

impl StoredConsumer {
    pub(super) fn read(row: &Row<'_>) -> Self {
        let text = |column| row.get::<_, String>(column).ok();
        let name: Option<ConsumerName> = text(2).and_then(|name| name.parse().ok());
        let settings = (|| {
            let (name, settings) = (name.as_ref()?, text(3)?);
            let identity = checksum(row.get(1).ok()?, name.as_str(), &settings);
            let is_whole = checksum::is_same_identity(identity, row.get(4).ok()?);
            Some((decode(&settings).filter(|_| is_whole)?, identity))
        })();
        let progress = settings.as_ref().and_then(|(_, identity)| {
            let number = |column| row.get::<_, i64>(column).map(i64::cast_unsigned).ok();
            let (position, passed, dropped) = (number(5)?, Total::from_row(row, 6).ok()?, number(8)?);
            let checksum = checksum::consumer(row.get(0).ok()?, *identity, position, passed, dropped);
            (row.get(4) == Ok(checksum)).then_some((position, passed, dropped))
        });
        Self { name, settings: settings.map(|(settings, _)| settings), progress }
    }
}

fn encode(settings: &ConsumerSettings) -> String {
    let stored = StoredSettings {
        types: settings.types.iter().cloned().collect(),
        sources: settings.sources.iter().cloned().collect(),
        start: match &settings.start {
            Start::New => StoredStart::New,
            Start::All => StoredStart::All,
            Start::At(time) => StoredStart::At(micros(*time)),
            Start::After(id) => StoredStart::After(id.clone()),
        },
        max_attempts: settings.max_attempts,
        overflow: settings.overflow,
        idle_expiry_micros: settings
            .idle_expiry
            .map(|expiry| u64::try_from(expiry.as_micros()).unwrap_or(u64::MAX)),
    };
    serde_json::to_string(&stored).expect("texts have a JSON form")
}

/// The settings as they are read again: times have microseconds.
pub(super) fn as_stored(settings: ConsumerSettings) -> ConsumerSettings {
    decode(&encode(&settings)).unwrap_or(settings)
}

/// Decodes the settings of a consumer. `None` if they are damaged.
pub(super) fn decode(text: &str) -> Option<ConsumerSettings> {
    let stored: StoredSettings = serde_json::from_str(text).ok()?;
    Some(ConsumerSettings {
        types: stored.types.into_iter().collect(),
        sources: stored.sources.into_iter().collect(),
        start: match stored.start {
            StoredStart::New => Start::New,
            StoredStart::All => Start::All,
            StoredStart::At(at) => Start::At(from_micros(at)),
            StoredStart::After(id) => Start::After(id),
        },
        max_attempts: stored.max_attempts,
        overflow: stored.overflow,
        idle_expiry: stored.idle_expiry_micros.map(Duration::from_micros),
    })
}
