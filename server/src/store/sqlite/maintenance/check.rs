//! Checks a store: what SQLite says about its pages, the checksums of all records, and whether its tables agree.

use std::{collections::BTreeMap, path::Path};

use rusqlite::{Connection, OptionalExtension, Row, types::Value};
use wwproxy_protocol::{ConsumerName, Event};

use super::{
    super::{
        Seq,
        app_log::Total,
        checksum::read_open,
        commit::event_size,
        error::OpenError,
        reader::{EVENT_COLUMNS, verify},
        record::{DamagedRecord, decode_id, event_id},
        registry::{self, CONSUMER_COLUMNS, StoredConsumer, checksum},
    },
    read_only::ReadOnly,
    report::Report,
    scan::{is_damage, scan},
};
use crate::store::NewEvent;

/// The outcome of a check.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checked {
    /// Whole events.
    pub events: u64,
    /// What was reported as damaged.
    pub damages: u64,
}

/// Checks the store in a folder, or a backup file, and reports what is damaged. A running server goes on; its WAL grows meanwhile.
pub fn check(path: &Path, report: &mut dyn Report) -> Result<Checked, OpenError> {
    let store = ReadOnly::open(path)?;
    // Before the snapshot, which then has all that the mark has.
    let mark = store.high_water().unwrap_or(0);
    let mut check =
        Check { db: &store.db, report, mark, done: Checked::default(), apps: BTreeMap::new(), last: 0 };
    check.run().map_err(|error| OpenError::Unreadable(store.file.clone(), error))?;
    Ok(check.done)
}

struct Check<'a> {
    db: &'a Connection,
    report: &'a mut dyn Report,
    mark: Seq,
    done: Checked,
    /// The names of the registered apps.
    apps: BTreeMap<i64, String>,
    last: Seq,
}

type Step<'a> = fn(&mut Check<'a>) -> rusqlite::Result<()>;

impl<'a> Check<'a> {
    fn run(&mut self) -> rusqlite::Result<()> {
        let steps: [(&str, Step<'a>); 7] = [
            ("the pages", Check::pages),
            ("the apps", Check::apps),
            ("the sources", Check::sources),
            ("the consumers", Check::consumers),
            ("the open events", Check::open),
            ("the events", Check::events),
            ("the index", Check::index),
        ];
        // One snapshot of the tables that are compared.
        let snapshot = self.db.unchecked_transaction()?;
        self.last = last_seq(self.db);
        if self.mark > self.last {
            self.damaged(&format!("the newest events are missing: {} to {}", self.last + 1, self.mark));
        }
        for (what, step) in steps {
            match step(self) {
                Err(error) if is_damage(&error) => self.damaged(&format!("{what} cannot be read: {error}")),
                checked => checked?,
            }
        }
        snapshot.finish()
    }

    fn damaged(&mut self, what: &str) {
        self.done.damages += 1;
        self.report.damaged(what);
    }

    fn pages(&mut self) -> rusqlite::Result<()> {
        let mut rows = self.db.prepare("PRAGMA integrity_check")?;
        let mut rows = rows.query([])?;
        while let Some(row) = rows.next()? {
            let line: String = row.get(0)?;
            if line != "ok" {
                self.damaged(&format!("SQLite: {line}"));
            }
        }
        Ok(())
    }

    fn apps(&mut self) -> rusqlite::Result<()> {
        let mut rows = self.db.prepare("SELECT app_id, name, checksum FROM apps WHERE removed = 0")?;
        let mut rows = rows.query([])?;
        while let Some(row) = rows.next()? {
            let (id, name): (i64, String) = (row.get(0)?, row.get(1)?);
            if registry::app_checksum(id, &name, false) != row.get::<_, i64>(2)? {
                self.damaged(&format!("app {name} ({id}): its checksum does not match"));
            }
            self.apps.insert(id, name);
        }
        let mut default = self.db.prepare("SELECT 1 FROM consumers WHERE app_id = ? AND name = ?")?;
        for (id, name) in self.apps.clone() {
            if name.parse::<wwproxy_protocol::AppId>().is_err() {
                self.damaged(&format!("app {id}: its name is not valid"));
            }
            if !default.exists((id, ConsumerName::default().as_str()))? {
                self.damaged(&format!("app {name}: it has no consumer default"));
            }
        }
        Ok(())
    }

    fn sources(&mut self) -> rusqlite::Result<()> {
        let mut rows = self.db.prepare("SELECT app_id, name, settings, checksum FROM sources")?;
        let mut rows = rows.query([])?;
        while let Some(row) = rows.next()? {
            let (app, name): (i64, Value) = (row.get(0)?, row.get(1)?);
            if !is_whole_source(app, &name, &row.get(2)?, &row.get(3)?) {
                self.damaged(&format!("a source of {}: its checksum does not match", self.app(app)));
            }
        }
        Ok(())
    }

    fn consumers(&mut self) -> rusqlite::Result<()> {
        let mut rows = self.db.prepare(&format!("SELECT {CONSUMER_COLUMNS} FROM consumers"))?;
        let mut rows = rows.query([])?;
        while let Some(row) = rows.next()? {
            let (app, name): (i64, String) = (row.get(1)?, row.get(2)?);
            if StoredConsumer::read(row).progress.is_none() {
                self.damaged(&format!("consumer {name} of {}: its checksum does not match", self.app(app)));
            }
        }
        Ok(())
    }

    fn open(&mut self) -> rusqlite::Result<()> {
        let mut rows = self.db.prepare("SELECT * FROM open")?;
        let mut rows = rows.query([])?;
        while let Some(row) = rows.next()? {
            if read_open(row).is_none() {
                let (consumer, seq): (i64, i64) = (row.get(0)?, row.get(1)?);
                self.damaged(&format!("event {seq} at consumer {consumer}: its state is not valid"));
            }
        }
        Ok(())
    }

    fn events(&mut self) -> rusqlite::Result<()> {
        let watermark: i64 = self.db.query_row("SELECT seq FROM watermark", [], |row| row.get(0))?;
        let (db, last) = (self.db, self.last);
        let mut before: (Seq, BTreeMap<i64, Total>) = (0, BTreeMap::new());
        let mut gaps = Vec::new();
        let sql = events_from();
        scan(
            db,
            &sql,
            last,
            |seq, row| {
                self.report.progress(seq, last);
                let trouble = match read(db, row, seq)? {
                    Err(damaged) => Some(damaged.what),
                    Ok(_) if seq <= before.0 => Some("it is out of order"),
                    Ok((app, event)) => {
                        disagrees(db, row, app, event, &mut before.1, seq.cast_signed() <= watermark)?
                    }
                };
                if let Some(what) = trouble {
                    self.damaged(&format!("{}: {what}", describe(seq, row)));
                    return Ok(false);
                }
                before.0 = seq;
                self.done.events += 1;
                Ok::<_, rusqlite::Error>(true)
            },
            |first, last| gaps.push((first, last)),
        )?;
        for (first, last) in gaps {
            self.damaged(&format!("events {first} to {last}: they are on pages that cannot be read"));
        }
        Ok(())
    }

    fn index(&mut self) -> rusqlite::Result<()> {
        let mut rows = self.db.prepare(
            "SELECT app_id, seq FROM by_app WHERE seq <= (SELECT seq FROM watermark) \
             AND NOT EXISTS(SELECT 1 FROM events WHERE events.seq = by_app.seq)",
        )?;
        let mut rows = rows.query([])?;
        while let Some(row) = rows.next()? {
            let app = self.app(row.get(0)?);
            self.damaged(&format!(
                "event {}: it is in the index of {app}, but not stored",
                row.get::<_, i64>(1)?
            ));
        }
        Ok(())
    }

    fn app(&self, id: i64) -> String {
        self.apps.get(&id).map_or_else(|| format!("an unregistered app ({id})"), |name| format!("app {name}"))
    }
}

/// First and last events of ranges.
pub(super) type Gaps = BTreeMap<Seq, Seq>;

/// Whether the row of a source has its checksum.
pub(super) fn is_whole_source(app: i64, name: &Value, settings: &Value, sum: &Value) -> bool {
    match (name, settings, sum) {
        (Value::Text(name), Value::Text(settings), Value::Integer(sum)) => {
            checksum(app, name, settings) == *sum
        }
        _ => false,
    }
}

/// The query of [`scan`] for events.
pub(super) fn events_from() -> String {
    format!(
        "SELECT {EVENT_COLUMNS}, seq AS key, size, app_count, app_bytes, duplicates FROM events WHERE seq >= ? ORDER BY seq"
    )
}

/// Names an event by its number, and by its id if that belongs to the number.
pub(super) fn describe(seq: Seq, row: &Row<'_>) -> String {
    let id = row.get("id").map(|id| event_id(uuid::Uuid::from_bytes(id))).ok();
    match id.filter(|id| decode_id(id).is_some_and(|(of_id, _)| of_id == seq)) {
        Some(id) => format!("event {seq} ({id})"),
        None => format!("event {seq}"),
    }
}

/// The last event that the store says it has. A table that cannot be read says nothing.
pub(super) fn last_seq(db: &Connection) -> Seq {
    const NEWEST: [&str; 5] = [
        "SELECT last_seq FROM watermark",
        "SELECT max(seq) FROM events",
        "SELECT seq FROM watermark",
        "SELECT max(position_seq) FROM consumers",
        "SELECT max(seq) FROM by_app",
    ];
    let newest = NEWEST.iter().filter_map(|sql| db.query_row(sql, [], |row| row.get::<_, i64>(0)).ok());
    newest.max().unwrap_or(0).cast_unsigned()
}

/// Reads and verifies an event of [`events_from`], and returns its app, too.
pub(super) fn read(
    db: &Connection,
    row: &Row<'_>,
    seq: Seq,
) -> rusqlite::Result<Result<(i64, Event), DamagedRecord>> {
    match verify(db, row, seq) {
        Err(error) if is_damage(&error) => Ok(Err(DamagedRecord { seq, what: "its body cannot be read" })),
        verified => verified,
    }
}

/// The event as it was appended.
pub(super) fn stored(event: Event) -> NewEvent {
    let Event { id: _, received_at: _, origin, headers, query, body, encoding } = event;
    NewEvent { origin, headers, query, body, encoding }
}

/// How a whole event disagrees with its size, with the totals of its app, or with the index.
fn disagrees(
    db: &Connection,
    row: &Row<'_>,
    app: i64,
    event: Event,
    totals: &mut BTreeMap<i64, Total>,
    is_indexed: bool,
) -> rusqlite::Result<Option<&'static str>> {
    let (size, total): (u32, _) =
        (row.get("size")?, Total { count: count(row, "app_count")?, bytes: count(row, "app_bytes")? });
    let event = stored(event);
    if size != event_size(&event) {
        return Ok(Some("its size is wrong"));
    }
    let before = totals.insert(app, total).unwrap_or_default().plus(size);
    if total.count < before.count || total.bytes < before.bytes {
        return Ok(Some("the totals of its app are wrong"));
    }
    if !is_indexed {
        return Ok(None);
    }
    let indexed = db
        .prepare_cached("SELECT source, type, size FROM by_app WHERE app_id = ? AND seq = ?")?
        .query_row((app, row.get::<_, i64>("key")?), |row| {
            let (source, event_type): (String, Option<String>) = (row.get(0)?, row.get(1)?);
            let is_same = source == event.origin.source.as_str() && event_type == event.origin.event_type;
            Ok(is_same && row.get::<_, u32>(2)? == size)
        })
        .optional()?;
    Ok(match indexed {
        None => Some("the index does not list it"),
        Some(false) => Some("the index says something else about it"),
        Some(true) => None,
    })
}

fn count(row: &Row<'_>, column: &str) -> rusqlite::Result<u64> {
    row.get(column).map(i64::cast_unsigned)
}
