//! The index of events by app, which is written late.
//!
//! Written with each event, the index would touch a page for each app in a commit: with 1,000 apps half of the throughput. So the
//! entries of many events are gathered in memory, sorted by app, and written in runs, some rows with each commit. The watermark is
//! the seq up to which the index is complete; it moves when a run is complete. At open, the entries above it are read from the
//! events again.

use std::{collections::HashSet, sync::Arc};

use rusqlite::Connection;

use super::{
    Seq,
    app_log::Entry,
    state::{App, Shared},
};

/// A run begins with this many entries. While it is written as many again may arrive: 50,000 entries in memory at most.
const RUN_ENTRIES: usize = 25_000;
/// Rows that a commit writes, unless it has more events than that.
const ROWS: usize = 256;

/// The writer's side of the index.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Entries that no run has taken yet.
    gathered: usize,
    run: Option<Run>,
    /// Apps whose row is damaged. They are not served, and what they have is kept.
    pub(super) damaged: Vec<Arc<App>>,
}

#[derive(Debug)]
struct Run {
    /// Sorted by app and seq.
    rows: Vec<(Arc<App>, Entry)>,
    written: usize,
    up_to: Seq,
    /// The rows of the transaction that is under way.
    writing: usize,
}

impl Index {
    /// At open: this many entries are above the watermark.
    pub(super) fn new(gathered: usize, damaged: Vec<Arc<App>>) -> Self {
        Self { gathered, run: None, damaged }
    }

    /// Takes events that left the database out of the run.
    pub(super) fn remove(&mut self, seqs: &HashSet<Seq>) {
        if let Some(run) = &mut self.run {
            run.rows.drain(..std::mem::take(&mut run.written));
            run.rows.retain(|(_, entry)| !seqs.contains(&entry.seq));
        }
    }

    /// Writes the next rows, as a part of a transaction with this many new events, the last of which is `newest`.
    pub(super) fn write(
        &mut self,
        db: &Connection,
        shared: &Shared,
        events: usize,
        committed: Seq,
    ) -> rusqlite::Result<()> {
        if self.run.is_none() && self.gathered >= RUN_ENTRIES {
            self.start(shared, committed);
        }
        let Some(run) = &mut self.run else { return Ok(()) };
        let rows = &run.rows[run.written..];
        let rows = &rows[..rows.len().min(events.max(ROWS))];
        // Rows of a run that a crash cut off are there already.
        let mut insert = db.prepare_cached(
            "INSERT OR IGNORE INTO by_app(app_id, seq, source, type, size) VALUES(?, ?, ?, ?, ?)",
        )?;
        for (app, entry) in rows {
            let seq = entry.seq.cast_signed();
            insert.execute((app.id, seq, entry.source.as_str(), entry.event_type.as_deref(), entry.size))?;
        }
        run.writing = rows.len();
        if run.written + run.writing == run.rows.len() {
            db.prepare_cached("UPDATE watermark SET seq = ?")?.execute([run.up_to.cast_signed()])?;
        }
        Ok(())
    }

    fn start(&mut self, shared: &Shared, up_to: Seq) {
        let mut apps: Vec<_> = shared.apps.read().values().map(Arc::clone).collect();
        // The events of unregistered apps are found by the index when they are purged.
        apps.extend(shared.ended.lock().iter().chain(&self.damaged).map(Arc::clone));
        apps.sort_unstable_by_key(|app| app.id);
        let mut rows = Vec::with_capacity(self.gathered);
        for app in apps {
            let log = app.log.lock();
            rows.extend(log.tail_up_to(up_to).map(|entry| (Arc::clone(&app), entry.clone())));
        }
        self.gathered = 0;
        self.run = Some(Run { rows, written: 0, up_to, writing: 0 });
    }

    /// The transaction was committed: its rows leave the memory of their apps.
    pub(super) fn committed(&mut self, events: usize) {
        self.gathered += events;
        let Some(run) = &mut self.run else { return };
        let written = &run.rows[run.written..run.written + run.writing];
        for rows in written.chunk_by(|(one, _), (other, _)| one.id == other.id) {
            if let Some((app, entry)) = rows.last() {
                app.log.lock().indexed(entry.seq);
            }
        }
        run.written += std::mem::take(&mut run.writing);
        if run.written == run.rows.len() {
            self.run = None;
        }
    }
}
