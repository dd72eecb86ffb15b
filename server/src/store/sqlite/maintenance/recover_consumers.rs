//! The consumers of a recovered store. One of which anything is damaged starts again from the oldest event: an event may be delivered
//! again, but is not lost.

use rusqlite::{Row, types::Value};
use wwproxy_protocol::{ConsumerName, ConsumerSettings};

use super::{
    super::{
        app_log::Total,
        record::micros,
        registry::{self, checksum},
    },
    check::open_row,
    recovery::{RecoverError, Recovery},
    scan::is_damage,
};

type Rows = Vec<Vec<Value>>;

/// Copies the consumers, with their open events and their timeline.
pub(super) fn copy_all(recovery: &mut Recovery<'_>) -> Result<(), RecoverError> {
    let sql = "SELECT consumer_id AS key, app_id, name, settings, checksum, position_seq, dropped, created, last_used \
               FROM consumers NOT INDEXED WHERE consumer_id >= ? ORDER BY consumer_id";
    recovery.scan("the consumers", sql, copy)?;
    // The names are in the index, too, which is on other pages.
    let sql = "SELECT consumer_id AS key, app_id, name FROM consumers INDEXED BY sqlite_autoindex_consumers_1 \
               WHERE consumer_id >= ? ORDER BY consumer_id";
    recovery.scan("the names of consumers", sql, |this, row| {
        restart(this, row.get(1)?, &row.get::<_, String>(2)?, None)
    })?;
    for id in recovery.apps.keys().copied().collect::<Vec<_>>() {
        restart(recovery, id, ConsumerName::default().as_str(), None)?;
    }
    Ok(())
}

fn copy(recovery: &mut Recovery<'_>, row: &Row<'_>) -> Result<(), RecoverError> {
    let (id, app_id): (i64, i64) = (row.get(0)?, row.get(1)?);
    let (name, text): (String, String) = (row.get(2)?, row.get(3)?);
    let settings = registry::decode(&text);
    let is_whole = checksum(app_id, &name, &text) == row.get::<_, i64>(4)?;
    let (Ok(valid), Some(settings), true, Some(open)) =
        (name.parse(), settings.clone(), is_whole, open(recovery, id)?)
    else {
        return restart(recovery, app_id, &name, settings);
    };
    if !recovery.apps.contains_key(&app_id) {
        return Ok(());
    }
    let position: i64 = row.get(5)?;
    let passed = recovery.to.query_row(
        "SELECT count(*), ifnull(sum(size), 0) FROM by_app WHERE app_id = ? AND seq <= ?",
        (app_id, position),
        |row| Total::from_row(row, 0),
    )?;
    let new =
        registry::insert_consumer(recovery.to, app_id, &valid, &settings, position.cast_unsigned(), passed)?;
    let now = micros(std::time::SystemTime::now());
    let [dropped, created, last_used] =
        [(6, 0), (7, now), (8, now)].map(|(n, otherwise)| row.get(n).unwrap_or(otherwise));
    recovery.to.execute(
        "UPDATE consumers SET dropped = ?, created = ?, last_used = ? WHERE consumer_id = ?",
        (dropped, created, last_used, new),
    )?;
    insert(recovery, "open", new, "SELECT 1 FROM events WHERE seq = ?", open)?;
    let timeline = timeline(recovery, id)?;
    insert(recovery, "deliveries", new, "SELECT 1 FROM watermark WHERE ? IS NOT NULL", timeline)
}

/// Creates a consumer that starts from the oldest event, unless it was copied.
fn restart(
    recovery: &mut Recovery<'_>,
    app_id: i64,
    name: &str,
    settings: Option<ConsumerSettings>,
) -> Result<(), RecoverError> {
    let (Some(app), Ok(valid)) = (recovery.apps.get(&app_id).cloned(), name.parse::<ConsumerName>()) else {
        return Ok(());
    };
    let mut known = recovery.to.prepare_cached("SELECT 1 FROM consumers WHERE app_id = ? AND name = ?")?;
    if known.exists((app_id, name))? {
        return Ok(());
    }
    let filter = if settings.is_some() { "" } else { " and without its filter" };
    let new = registry::insert_consumer(
        recovery.to,
        app_id,
        &valid,
        &settings.unwrap_or_default(),
        0,
        Total::default(),
    )?;
    let now = micros(std::time::SystemTime::now());
    recovery
        .to
        .execute("UPDATE consumers SET created = ?1, last_used = ?1 WHERE consumer_id = ?2", (now, new))?;
    recovery.left_out(&format!(
        "consumer {name} of app {app}: it is damaged, and starts again from the oldest event{filter}"
    ));
    Ok(())
}

/// The open events of a consumer. `None` if one cannot be read or is not valid: which events are settled is then not known.
fn open(recovery: &Recovery<'_>, consumer: i64) -> Result<Option<Rows>, RecoverError> {
    let read = || {
        let mut rows = recovery.from.prepare("SELECT * FROM open WHERE consumer_id = ?")?;
        rows.query_map([consumer], open_row)?.collect()
    };
    match read() {
        Err(error) if is_damage(&error) => Ok(None),
        rows => Ok(rows?),
    }
}

/// The timeline of a consumer, up to the first page that cannot be read.
fn timeline(recovery: &Recovery<'_>, consumer: i64) -> rusqlite::Result<Rows> {
    let mut rows = recovery.from.prepare("SELECT * FROM deliveries WHERE consumer_id = ?")?;
    let columns = rows.column_count();
    let rows = rows.query_map([consumer], |row| (0..columns).map(|n| row.get(n)).collect())?;
    Ok(rows.map_while(Result::ok).collect())
}

/// Inserts rows for a consumer's new id, if their second column passes a query.
fn insert(
    recovery: &Recovery<'_>,
    table: &str,
    consumer: i64,
    accepts: &str,
    rows: Rows,
) -> Result<(), RecoverError> {
    let mut accepts = recovery.to.prepare_cached(accepts)?;
    for mut row in rows {
        if accepts.exists([&row[1]])? {
            row[0] = consumer.into();
            let marks = vec!["?"; row.len()].join(", ");
            let mut insert =
                recovery.to.prepare_cached(&format!("INSERT OR IGNORE INTO {table} VALUES({marks})"))?;
            insert.execute(rusqlite::params_from_iter(row))?;
        }
    }
    Ok(())
}
