//! The consumers of a recovered store. One of which anything is damaged starts again from the oldest event: an event may be delivered
//! again, but is not lost.

use rusqlite::{Row, types::Value};
use wwproxy_protocol::{ConsumerName, ConsumerSettings};

use super::{
    super::{
        app_log::Total,
        changes::StoredOpen,
        checksum::read_open,
        flush::put_open,
        record::micros,
        registry::{self, CONSUMER_COLUMNS, StoredConsumer},
    },
    recovery::{RecoverError, Recovery},
    scan::is_damage,
};

/// Copies the consumers, with their open events and their timeline.
pub(super) fn copy_all(recovery: &mut Recovery<'_>) -> Result<(), RecoverError> {
    let sql = format!(
        "SELECT {CONSUMER_COLUMNS}, created, last_used, consumer_id AS key FROM consumers NOT INDEXED \
         WHERE consumer_id >= ? ORDER BY consumer_id"
    );
    recovery.scan("the consumers", &sql, copy)?;
    // The names are in the index, too, which is on other pages.
    let sql = "SELECT consumer_id AS key, app_id, name FROM consumers INDEXED BY consumer_names \
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
    let StoredConsumer { name: Some(name), settings, progress } = StoredConsumer::read(row) else {
        recovery.left_out(&format!("consumer {id}: its name is damaged"));
        return Ok(());
    };
    let (Some(settings), Some((position, _, dropped)), Some(open)) =
        (settings.clone(), progress, open(recovery, id)?)
    else {
        return restart(recovery, app_id, name.as_str(), settings);
    };
    if !recovery.apps.contains_key(&app_id) {
        return Ok(());
    }
    let mut is_stored = recovery.to.prepare_cached("SELECT 1 FROM events WHERE seq = ?")?;
    let mut stored = Vec::with_capacity(open.len());
    for (open, not_before) in open {
        if is_stored.exists([open.seq.cast_signed()])? {
            stored.push((open, not_before));
        }
    }
    let passed = recovery.to.query_row(
        "SELECT count(*), ifnull(sum(size), 0) FROM by_app WHERE app_id = ? AND seq <= ?",
        (app_id, position.cast_signed()),
        |row| Total::from_row(row, 0),
    )?;
    let above = stored.iter().filter(|(open, _)| open.seq > position);
    let passed = above.fold(passed, |passed, (open, _)| passed.plus(open.size));
    let new = registry::insert_consumer(recovery.to, app_id, &name, &settings, position, passed)?;
    let now = micros(std::time::SystemTime::now());
    let [created, last_used] = ["created", "last_used"].map(|column| row.get(column).unwrap_or(now));
    recovery.to.execute(
        "UPDATE consumers SET dropped = ?, created = ?, last_used = ? WHERE consumer_id = ?",
        (dropped.cast_signed(), created, last_used, new),
    )?;
    // The checksum covers what was changed.
    registry::update_consumer(recovery.to, new, app_id, &name, &settings)?;
    for (open, not_before) in stored {
        put_open(recovery.to, new, &open, not_before)?;
    }
    copy_timeline(recovery, id, new)
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
fn open(recovery: &Recovery<'_>, consumer: i64) -> Result<Option<Vec<(StoredOpen, i64)>>, RecoverError> {
    let read = || {
        let mut rows = recovery.from.prepare("SELECT * FROM open WHERE consumer_id = ?")?;
        rows.query_map([consumer], |row| Ok(read_open(row)))?.collect()
    };
    match read() {
        Err(error) if is_damage(&error) => Ok(None),
        rows => Ok(rows?),
    }
}

/// Copies the timeline of a consumer, up to the first page that cannot be read.
fn copy_timeline(recovery: &Recovery<'_>, from: i64, to: i64) -> Result<(), RecoverError> {
    let mut rows = recovery.from.prepare("SELECT * FROM deliveries WHERE consumer_id = ?")?;
    let columns = rows.column_count();
    let rows =
        rows.query_map([from], |row| (0..columns).map(|n| row.get(n)).collect::<Result<Vec<Value>, _>>())?;
    let marks = vec!["?"; columns].join(", ");
    let mut insert =
        recovery.to.prepare_cached(&format!("INSERT OR IGNORE INTO deliveries VALUES({marks})"))?;
    for mut row in rows.map_while(Result::ok) {
        row[0] = to.into();
        insert.execute(rusqlite::params_from_iter(row))?;
    }
    Ok(())
}
