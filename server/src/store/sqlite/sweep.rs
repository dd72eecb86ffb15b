//! The search for events that may be removed before their retention, in bounded steps that go on where the last one ended.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use rusqlite::Connection;
use wwproxy_protocol::ConsumerName;

use super::{
    Seq,
    app_log::{Entry, Next},
    progress::Swept,
    state::App,
    writer::Writer,
};
use crate::store::StoreError;

/// Events of a batch, at most.
pub(super) const BATCH_EVENTS: u16 = 256;
/// A batch takes no further event once it has this many bytes: 4 MiB.
pub(super) const BATCH_BYTES: u64 = 4 << 20;
/// The search for events of a batch takes about this time, at most.
const BATCH_TIME: Duration = Duration::from_millis(10);

/// Which events a sweep finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Those that every consumer has settled.
    Settled,
    /// Those that are not pending for `default`, whatever other consumers have settled.
    NotPending,
}

/// A batch that is being gathered.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) found: Vec<(Arc<App>, Vec<Entry>)>,
    events: usize,
    bytes: u64,
    max_bytes: u64,
    started: Instant,
}

impl Batch {
    pub(super) fn new(max_bytes: u64) -> Self {
        let max_bytes = max_bytes.min(BATCH_BYTES);
        Self { found: Vec::new(), events: 0, bytes: 0, max_bytes, started: Instant::now() }
    }

    pub(super) fn is_full(&self) -> bool {
        self.events >= usize::from(BATCH_EVENTS) || self.bytes >= self.max_bytes
    }

    /// Whether the search is to end for now.
    pub(super) fn is_over(&self) -> bool {
        self.is_full() || self.started.elapsed() > BATCH_TIME
    }

    pub(super) fn push(&mut self, app: &Arc<App>, entry: Entry) {
        self.events += 1;
        self.bytes += u64::from(entry.size);
        match self.found.last_mut() {
            Some((last, entries)) if last.id == app.id => entries.push(entry),
            _ => self.found.push((Arc::clone(app), vec![entry])),
        }
    }
}

impl Writer {
    /// Adds the next events of one app to a batch, if they were received up to this time.
    pub(super) fn sweep(
        &mut self,
        app: &Arc<App>,
        wanted: Wanted,
        up_to: i64,
        batch: &mut Batch,
    ) -> Result<(), StoreError> {
        while !batch.is_over() && self.sweep_slice(app, wanted, up_to, batch)? {}
        Ok(())
    }

    /// Returns whether there may be more.
    fn sweep_slice(
        &mut self,
        app: &Arc<App>,
        wanted: Wanted,
        up_to: i64,
        batch: &mut Batch,
    ) -> Result<bool, StoreError> {
        let sweeps = self.retention.swept.entry(app.id).or_default();
        if app.lost_ephemeral.swap(false, Ordering::AcqRel) {
            *sweeps = Default::default();
        }
        // After the question: one that ends from here on is found the next time.
        let mut consumers = app.all_consumers();
        for consumer in &consumers {
            let Some(lowest) = consumer.cursor().take_lowest_settled() else { continue };
            for swept in sweeps.iter_mut().filter(|swept| lowest <= swept.up_to) {
                *swept = Swept { up_to: lowest - 1, next_at: i64::MIN };
            }
        }
        let swept = &mut sweeps[wanted as usize];
        if wanted == Wanted::NotPending {
            consumers =
                app.consumers.read().get(&ConsumerName::default()).map(Arc::clone).into_iter().collect();
        }
        let position = consumers.iter().map(|consumer| consumer.cursor().position()).min().unwrap_or(0);
        if swept.up_to >= position || swept.next_at > up_to {
            return Ok(false);
        }
        let next = app.log.lock().after(swept.up_to, BATCH_EVENTS.into());
        let entries = match next {
            Next::End => return Ok(false),
            Next::Memory(entries) => entries,
            Next::Database(indexed) => {
                let entries = self.shared.read_index(app.id, swept.up_to, BATCH_EVENTS.into())?;
                if entries.is_empty() {
                    swept.up_to = indexed;
                }
                entries
            }
        };
        let seqs: Vec<_> = entries.iter().map(|entry| entry.seq).take_while(|seq| *seq <= position).collect();
        let times = self.shared.readers.read(|db| times(db, &seqs)).map_err(StoreError::engine)?;
        if times.is_empty() && !entries.is_empty() {
            // Positions are seqs of the whole store: the next event of the app is after it.
            swept.up_to = position;
        }
        for (entry, received_at) in entries.into_iter().zip(times) {
            if batch.is_full() {
                return Ok(true);
            }
            if received_at > up_to {
                swept.next_at = received_at;
                return Ok(false);
            }
            swept.up_to = entry.seq;
            let is_wanted = consumers.iter().all(|consumer| match wanted {
                Wanted::Settled => consumer.cursor().is_settled(entry.seq),
                Wanted::NotPending => consumer.cursor().is_settled_or_dead(entry.seq),
            });
            if is_wanted {
                batch.push(app, entry);
            }
        }
        Ok(swept.up_to < position)
    }
}

/// When events were received. One that is missing or damaged was received long ago.
fn times(db: &Connection, seqs: &[Seq]) -> rusqlite::Result<Vec<i64>> {
    let mut time = db.prepare_cached("SELECT received_at FROM events WHERE seq = ?")?;
    let received = |seq: &Seq| time.query_row([seq.cast_signed()], |row| row.get(0)).unwrap_or(0);
    Ok(seqs.iter().map(received).collect())
}
