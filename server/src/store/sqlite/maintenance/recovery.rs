//! The copying of a recovery: apps, sources and events.

use std::{collections::BTreeMap, io, path::PathBuf};

use rusqlite::{Connection, OptionalExtension, Row, types::Value};
use wwproxy_protocol::AppId;

use super::{
    super::{Seq, commit::event_size, error::OpenError, registry},
    check::{Gaps, describe, events_from, is_whole_source, read, stored},
    report::Report,
    scan::{is_wrong_kind, scan},
};

/// The outcome of a recovery.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Events that were copied.
    pub events: u64,
    /// What was reported as left out.
    pub left_out: u64,
}

/// Why a recovery failed.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The damaged store cannot be opened, or the new one not created.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A server runs on the damaged store.
    #[error("a server runs on the store in {}: stop it first", .0.display())]
    Running(PathBuf),
    /// The folder of the new store is not empty.
    #[error("{} is not empty: name a new folder for the recovered store", .0.display())]
    NotEmpty(PathBuf),
    /// Reading or writing failed.
    #[error(
        "the recovery failed: free the disk or replace it, delete the unfinished new store, and run this again"
    )]
    Sqlite(#[from] rusqlite::Error),
    /// The new store cannot be written.
    #[error("the new store in {} cannot be written", .0.display())]
    Io(PathBuf, #[source] io::Error),
}

/// A recovery under way.
pub(super) struct Recovery<'a> {
    pub(super) from: &'a Connection,
    pub(super) to: &'a Connection,
    pub(super) report: &'a mut dyn Report,
    /// The registered apps, and the epochs of which that is known.
    pub(super) apps: BTreeMap<i64, AppId>,
    /// The last event that the damaged store says it has.
    pub(super) last: Seq,
    pub(super) done: Recovered,
}

impl Recovery<'_> {
    /// Copies all but the consumers.
    pub(super) fn copy_log(&mut self) -> Result<(), RecoverError> {
        self.apps()?;
        self.sources()?;
        let gaps = self.events()?;
        self.missing(&gaps)?;
        // The totals count what was copied. The sorts are done by SQLite, in a file.
        self.to.execute_batch(
            "UPDATE events SET app_count = t.count, app_bytes = t.bytes FROM (SELECT seq, count(*) OVER app AS count, \
             sum(size) OVER app AS bytes FROM events WINDOW app AS (PARTITION BY app_id ORDER BY seq \
             ROWS UNBOUNDED PRECEDING)) AS t WHERE events.seq = t.seq;
             INSERT INTO by_app SELECT app_id, seq, source, type, size FROM events ORDER BY app_id, seq;
             UPDATE watermark SET seq = (SELECT ifnull(max(seq), 0) FROM events);",
        )?;
        Ok(())
    }

    pub(super) fn left_out(&mut self, what: &str) {
        self.done.left_out += 1;
        self.report.damaged(what);
    }

    /// Visits the rows of the damaged store, and reports if some cannot be read.
    pub(super) fn scan(
        &mut self,
        what: &str,
        sql: &str,
        mut visit: impl FnMut(&mut Self, &Row<'_>) -> Result<(), RecoverError>,
    ) -> Result<(), RecoverError> {
        let mut has_gap = false;
        let (from, last) = (self.from, self.last);
        let visit = |_, row: &Row<'_>| match visit(self, row) {
            Err(RecoverError::Sqlite(error)) if is_wrong_kind(&error) => {
                self.left_out(&format!("{what}: a row is damaged"));
                Ok(false)
            }
            visited => visited.map(|()| true),
        };
        scan(from, sql, last, visit, |_, _| has_gap = true)?;
        if has_gap {
            self.left_out(&format!("{what}: some are on pages that cannot be read"));
        }
        Ok(())
    }

    /// The apps are in their table and in its index, which are on different pages.
    fn apps(&mut self) -> Result<(), RecoverError> {
        for sql in [
            "SELECT app_id AS key, name, epoch, checksum FROM apps NOT INDEXED WHERE removed = 0 AND app_id >= ? ORDER BY app_id",
            "SELECT app_id AS key, name, NULL, NULL FROM apps INDEXED BY registered_apps \
             WHERE removed = 0 AND app_id >= ? ORDER BY app_id",
        ] {
            self.scan("the apps", sql, |this, row| {
                let (id, name): (i64, String) = (row.get(0)?, row.get(1)?);
                // The index has no checksum.
                let checksum: Option<i64> = row.get(3)?;
                let is_whole = checksum.is_none_or(|sum| sum == registry::app_checksum(id, &name, false));
                let (true, Ok(app)) = (is_whole, name.parse::<AppId>()) else {
                    this.left_out(&format!("app {id}: its name is damaged"));
                    return Ok(());
                };
                let epoch: [u8; 16] = row.get(2).unwrap_or_else(|_| *uuid::Uuid::now_v7().as_bytes());
                this.to.execute(
                    "INSERT OR IGNORE INTO apps(app_id, name, epoch, removed, checksum) VALUES(?, ?, ?, 0, ?)",
                    (id, &name, epoch, registry::app_checksum(id, &name, false)),
                )?;
                this.apps.entry(id).or_insert(app);
                Ok(())
            })?;
        }
        Ok(())
    }

    fn sources(&mut self) -> Result<(), RecoverError> {
        let sql =
            "SELECT app_id AS key, name, settings, checksum FROM sources WHERE app_id >= ? ORDER BY app_id";
        self.scan("the sources of apps", sql, |this, row| {
            let (app_id, values) =
                (row.get(0)?, (1..4).map(|n| row.get(n)).collect::<Result<Vec<Value>, _>>()?);
            let Some(app) = this.apps.get(&app_id).cloned() else { return Ok(()) };
            if let [name, settings, sum] = &values[..]
                && is_whole_source(app_id, name, settings, sum)
            {
                let mut insert =
                    this.to.prepare_cached("INSERT OR IGNORE INTO sources VALUES(?, ?, ?, ?)")?;
                insert.execute((app_id, name, settings, sum))?;
            } else {
                this.left_out(&format!("a source of app {app}: it is damaged, register it again"));
            }
            Ok(())
        })
    }

    /// Copies the events whose checksum matches. Returns those that were left out.
    fn events(&mut self) -> Result<Gaps, RecoverError> {
        let (from, last) = (self.from, self.last);
        let removed = self.removed_apps();
        let (mut gaps, mut damaged) = (Gaps::new(), Gaps::new());
        let copy = |seq: Seq, row: &Row<'_>| {
            self.report.progress(seq, last);
            let (app, event) = match read(from, row, seq)? {
                Ok(found) => found,
                Err(record) => {
                    damaged.insert(seq, seq);
                    self.left_out(&format!("{}: {}", describe(seq, row), record.what));
                    return Ok(false);
                }
            };
            if self.apps.contains_key(&app) {
                self.done.events += self.insert(seq, row, event_size(&stored(event)))?;
            } else if !removed.contains(&app) {
                self.left_out(&format!("{}: its app is not known", describe(seq, row)));
            }
            Ok::<_, RecoverError>(true)
        };
        scan(from, &events_from(), last, copy, |first, last| _ = gaps.insert(first, last))?;
        for (first, last) in &gaps {
            self.left_out(&format!("events {first} to {last}: on pages that cannot be read"));
        }
        gaps.append(&mut damaged);
        Ok(gaps)
    }

    /// Apps that have unregistered. Their events are not copied.
    fn removed_apps(&self) -> Vec<i64> {
        let apps = self
            .from
            .prepare("SELECT app_id FROM apps WHERE removed = 1")
            .and_then(|mut apps| apps.query_map([], |row| row.get(0))?.collect::<Result<Vec<_>, _>>());
        apps.unwrap_or_default()
    }

    /// Inserts a whole event. Returns 0 if it is there already.
    fn insert(&self, seq: Seq, row: &Row<'_>, size: u32) -> Result<u64, RecoverError> {
        let value = |column: &str| row.get::<_, Value>(column);
        let seq = seq.cast_signed();
        let inserted = self.to.prepare_cached(
            "INSERT OR IGNORE INTO events(seq, app_id, id, received_at, source, type, delivery_id, size, app_count, \
             app_bytes, checksum, duplicates, head, body) VALUES(?, ?, ?, ?, ?, ?, ?, ?, 0, 0, ?, ?, ?, ?)",
        )?.execute((
            seq, value("app_id")?, value("id")?, value("received_at")?, value("source")?, value("type")?,
            value("delivery_id")?, size, value("checksum")?, row.get::<_, u32>("duplicates").unwrap_or(0), value("head")?, value("body")?,
        ))?;
        if inserted > 0 && value("body")? == Value::Null {
            let body: Option<Vec<u8>> = self
                .from
                .prepare_cached("SELECT body FROM bodies WHERE seq = ?")?
                .query_row([seq], |row| row.get(0))
                .optional()?;
            self.to
                .prepare_cached("INSERT OR IGNORE INTO bodies(seq, body) VALUES(?, ?)")?
                .execute((seq, body))?;
        }
        Ok(inserted as u64)
    }

    /// Reports events that the index of the damaged store lists, but that were not found. A damaged page can hide them.
    fn missing(&mut self, gaps: &Gaps) -> Result<(), RecoverError> {
        for (id, app) in self.apps.clone() {
            let sql = format!("SELECT seq AS key FROM by_app WHERE app_id = {id} AND seq >= ? ORDER BY seq");
            let (from, last) = (self.from, self.last);
            scan(
                from,
                &sql,
                last,
                |seq, _| {
                    let in_gap = gaps.range(..=seq).next_back().is_some_and(|(_, last)| seq <= *last);
                    let is_copied = || {
                        self.to
                            .prepare_cached("SELECT 1 FROM events WHERE seq = ?")?
                            .exists([seq.cast_signed()])
                    };
                    if !in_gap && !is_copied()? {
                        self.left_out(&format!(
                            "event {seq} of app {app}: it is in the index, but not copied"
                        ));
                    }
                    Ok::<_, RecoverError>(true)
                },
                |_, _| {},
            )?;
        }
        Ok(())
    }
}
