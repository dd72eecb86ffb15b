//! Loading consumers and their open events: a damaged row stops neither the opening nor the others, and loses no event in silence.
//!
//! A consumer whose row is damaged is stored anew, before the oldest stored event: better duplicates than loss. It keeps its settings
//! if the checksum says that they are whole, otherwise it takes every event.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use rusqlite::{Connection, OptionalExtension};
use wwproxy_protocol::{ConsumerName, ConsumerSettings};

use super::{
    super::{
        Seq,
        app_log::Total,
        changes::StoredOpen,
        checksum,
        cursor::Cursor,
        holes,
        last_use::LastUse,
        record::micros,
        registry::{self, CONSUMER_COLUMNS, StoredConsumer},
        state::{App, Consumer},
    },
    AppState, Apps,
};

/// A consumer whose row was read.
struct Found {
    app: Arc<App>,
    /// `None`: it is damaged.
    name: Option<ConsumerName>,
    /// `None`: they are damaged.
    settings: Option<ConsumerSettings>,
    /// `None`: a row is damaged.
    cursor: Option<Cursor>,
}

/// Loads the consumers of registered apps. Returns the highest position.
pub(super) fn load(db: &Connection, apps: &Apps) -> rusqlite::Result<Seq> {
    let (mut found, position) = read_consumers(db, apps)?;
    read_open(db, &mut found)?;
    let mut damaged = Vec::new();
    for (id, found) in found {
        match found {
            Some(Found { app, name: Some(name), settings: Some(settings), cursor: Some(cursor) }) => {
                let identity = registry::identity(app.id, &name, &settings);
                let started: Option<i64> = db
                    .prepare_cached("SELECT started FROM consumers WHERE consumer_id = ?")?
                    .query_row([id], |row| Ok(row.get(0).ok()))?;
                let consumer = Consumer::new(id, identity, settings, cursor);
                let mut consumer = consumer.started(started.unwrap_or(0).cast_unsigned());
                consumer.last_use = LastUse::load(db, id)?;
                app.consumers.write().insert(name, Arc::new(consumer));
            }
            Some(found) => damaged.push((id, found)),
            None => {}
        }
    }
    let repair = db.unchecked_transaction()?;
    if !damaged.is_empty() || apps.values().any(|(state, app)| state.needs_repair(app)) {
        // A damaged name is not the one that the index has, and could not be deleted.
        repair.execute_batch("REINDEX registered_apps; REINDEX consumer_names;")?;
    }
    for (id, Found { app, name, settings, .. }) in damaged {
        registry::delete_consumer(&repair, id)?;
        let free = name.filter(|name| !app.consumers.read().contains_key(name));
        if let Some(name) = free {
            let keeps_settings = settings.is_some();
            tracing::error!(
                app_id = app.id, consumer = %name, keeps_settings,
                "a stored consumer is damaged: it begins at the oldest stored event"
            );
            store_anew(&repair, &app, name, settings.unwrap_or_default())?;
        } else {
            tracing::error!(
                app_id = app.id,
                consumer_id = id,
                "a stored consumer is damaged, and its name is lost: create it again"
            );
        }
    }
    for (state, app) in apps.values() {
        let default = ConsumerName::default();
        if matches!(state, AppState::Registered(_)) && !app.consumers.read().contains_key(&default) {
            tracing::error!(
                app_id = app.id,
                "the consumer default is lost: it begins at the oldest stored event"
            );
            store_anew(&repair, app, default, ConsumerSettings::default())?;
        }
    }
    repair.commit()?;
    Ok(position)
}

/// The consumers by their ids, without those of apps that are not served; and the highest position.
type AllFound = HashMap<i64, Option<Found>>;

fn read_consumers(db: &Connection, apps: &Apps) -> rusqlite::Result<(AllFound, Seq)> {
    let (mut all, mut highest) = (HashMap::new(), 0);
    let mut rows = db.prepare(&format!("SELECT {CONSUMER_COLUMNS} FROM consumers"))?;
    let mut rows = rows.query([])?;
    while let Some(row) = rows.next()? {
        let id = row.get(0)?;
        let found = match row.get(1).ok().and_then(|app_id| apps.get(&app_id)) {
            Some((AppState::Registered(_), app)) => {
                let StoredConsumer { name, settings, progress } = StoredConsumer::read(row);
                let cursor =
                    progress.zip(settings.as_ref()).map(|((position, passed, dropped), settings)| {
                        highest = position.max(highest);
                        let mut cursor = Cursor::new(position, passed, settings.max_attempts);
                        cursor.restore_dropped(dropped);
                        cursor
                    });
                Some(Found { app: Arc::clone(app), name, settings, cursor })
            }
            // It is served again when the row of its app is repaired.
            Some((AppState::Damaged | AppState::Removed, _)) => None,
            None if row.get(1).is_ok_and(i64::is_negative) => None,
            None => {
                tracing::error!(consumer_id = id, "a stored consumer belongs to no app: create it again");
                None
            }
        };
        all.insert(id, found);
    }
    Ok((all, highest))
}

/// Reads the open events of all consumers, in one scan: a search would not find a row whose key is damaged.
fn read_open(db: &Connection, all: &mut AllFound) -> rusqlite::Result<()> {
    let mut rows = db.prepare("SELECT * FROM open")?;
    let mut rows = rows.query([])?;
    let (now, today) = (Instant::now(), micros(SystemTime::now()));
    while let Some(row) = rows.next()? {
        let id = row.get(0).ok();
        let Some(of) = id.and_then(|id| all.get_mut(&id)) else {
            tracing::error!(
                consumer_id = id,
                "an open event belongs to no consumer: a consumer may miss an event"
            );
            continue;
        };
        let Some(found) = of else { continue };
        let (Some(cursor), Some(id)) = (&mut found.cursor, id) else { continue };
        let seq = row.get::<_, i64>("seq").unwrap_or_default().cast_unsigned();
        let stored = row.get("checksum").unwrap_or_default();
        if let Some((open, not_before)) = checksum::read_open(row) {
            let delay = Duration::from_micros(not_before.saturating_sub(today).max(0).cast_unsigned());
            let nacked_until = (not_before > 0).then_some(now + delay);
            cursor.restore(&StoredOpen { nacked_until, ..open });
        } else if checksum::is_same_identity(stored, checksum::open_identity(id, seq)) {
            tracing::error!(
                consumer_id = id,
                seq,
                "the state of an open event is damaged: the event is redelivered"
            );
            let size = db
                .prepare_cached("SELECT size FROM events WHERE seq = ?")?
                .query_row([seq.cast_signed()], |row| Ok(row.get(0).unwrap_or_default()))
                .optional()?;
            if let Some(size) = size {
                cursor.restore_damaged(seq, size);
            }
        } else {
            tracing::error!(
                consumer_id = id,
                seq,
                "an open event is damaged, and which one it is: a consumer may miss an event"
            );
            found.cursor = None;
        }
    }
    Ok(())
}

/// Stores a consumer before the oldest stored event of its app.
fn store_anew(
    db: &Connection,
    app: &App,
    name: ConsumerName,
    settings: ConsumerSettings,
) -> rusqlite::Result<()> {
    let oldest = db
        .prepare_cached(
            "SELECT seq, size, app_count, app_bytes FROM events WHERE seq = coalesce( \
             (SELECT min(seq) FROM by_app WHERE app_id = ?1), \
             (SELECT min(seq) FROM events WHERE app_id = ?1 AND seq > (SELECT seq FROM watermark)))",
        )?
        .query_row([app.id], |row| {
            let (seq, size) = (row.get::<_, i64>(0)?.cast_unsigned(), Total::default().plus(row.get(1)?));
            let removed = holes::after(db, app.id, seq)?;
            Ok((seq - 1, Total::from_row(row, 2)?.minus(size).add(removed)))
        })
        .optional()?;
    let (position, passed) = oldest.unwrap_or_else(|| (0, app.log.lock().total));
    let id = registry::insert_consumer(db, app.id, &name, &settings, position, passed)?;
    let identity = registry::identity(app.id, &name, &settings);
    let cursor = Cursor::new(position, passed, settings.max_attempts);
    app.consumers.write().insert(name, Arc::new(Consumer::new(id, identity, settings, cursor)));
    Ok(())
}
