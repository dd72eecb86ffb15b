//! The log of one app in memory: its running totals, and the tail of its index that is not in the database yet.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use wwproxy_protocol::SourceName;

use super::Seq;

/// What the index says about an event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) seq: Seq,
    /// The event's size against the limits, in bytes.
    pub(super) size: u32,
    pub(super) source: SourceName,
    pub(super) event_type: Option<Arc<str>>,
}

/// The number of events and of their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Total {
    pub(super) count: u64,
    pub(super) bytes: u64,
}

impl Total {
    /// Reads the columns `count, bytes` of a row, from this column on.
    pub(super) fn from_row(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Self> {
        let (count, bytes): (i64, i64) = (row.get(column)?, row.get(column + 1)?);
        Ok(Self { count: count.cast_unsigned(), bytes: bytes.cast_unsigned() })
    }

    pub(super) fn plus(self, size: u32) -> Self {
        Self { count: self.count + 1, bytes: self.bytes + u64::from(size) }
    }

    pub(super) fn add(self, other: Self) -> Self {
        Self { count: self.count + other.count, bytes: self.bytes + other.bytes }
    }

    /// The later one of two running totals.
    pub(super) fn max(self, other: Self) -> Self {
        if self.count < other.count { other } else { self }
    }

    pub(super) fn minus(self, other: Self) -> Self {
        Self { count: self.count.saturating_sub(other.count), bytes: self.bytes.saturating_sub(other.bytes) }
    }
}

/// Where the events after a position are found.
#[derive(Debug)]
pub(super) enum Next {
    /// There are none.
    End,
    /// In memory: these. There may be more after them.
    Memory(Vec<Entry>),
    /// In the database, at least up to this seq.
    Database(Seq),
}

/// The log of one app.
#[derive(Debug, Default)]
pub(super) struct AppLog {
    /// The events ever appended in this epoch.
    pub(super) total: Total,
    /// Those of them that retention or a client removed.
    pub(super) removed: Total,
    /// The app's entries up to this seq are in the database.
    indexed: Seq,
    tail: VecDeque<Entry>,
}

impl AppLog {
    pub(super) fn new(total: Total, removed: Total, indexed: Seq) -> Self {
        Self { total, removed, indexed, tail: VecDeque::new() }
    }

    /// Adds the entry of a committed event.
    pub(super) fn push(&mut self, entry: Entry) {
        self.total = self.total.plus(entry.size);
        self.tail.push_back(entry);
    }

    /// Adds an entry at open, with the totals that its event has.
    pub(super) fn restore(&mut self, entry: Entry, total: Total) {
        self.total = self.total.max(total);
        self.tail.push_back(entry);
    }

    /// Removes the entries up to a seq from memory, since they were written to the database.
    pub(super) fn indexed(&mut self, seq: Seq) {
        self.indexed = self.indexed.max(seq);
        while self.tail.front().is_some_and(|entry| entry.seq <= seq) {
            self.tail.pop_front();
        }
        if self.tail.capacity() > 64 && self.tail.len() < self.tail.capacity() / 4 {
            self.tail.shrink_to_fit();
        }
    }

    /// Removes events that left the database.
    pub(super) fn remove(&mut self, events: &BTreeMap<Seq, u32>, removed: Total) {
        self.removed = self.removed.add(removed);
        self.tail.retain(|entry| !events.contains_key(&entry.seq));
    }

    /// The size of the stored events, in bytes.
    pub(super) fn stored_bytes(&self) -> u64 {
        self.total.minus(self.removed).bytes
    }

    /// Finds the events after a position, at most `limit`.
    pub(super) fn after(&self, position: Seq, limit: usize) -> Next {
        if position < self.indexed {
            return Next::Database(self.indexed);
        }
        let from = self.tail.partition_point(|entry| entry.seq <= position);
        let entries: Vec<_> = self.tail.iter().skip(from).take(limit).cloned().collect();
        if entries.is_empty() { Next::End } else { Next::Memory(entries) }
    }

    /// Finds the events in memory between two seqs, the newest first, and the seq up to which all others are in the database.
    pub(super) fn before(&self, before: Seq, after: Seq, limit: usize) -> (Vec<Entry>, Seq) {
        let newest = self.tail.partition_point(|entry| entry.seq < before);
        let entries = self.tail.range(..newest).rev().take_while(|entry| entry.seq > after);
        (entries.take(limit).cloned().collect(), self.indexed)
    }

    /// The entries of this app that a run of the index writes.
    pub(super) fn tail_up_to(&self, seq: Seq) -> impl Iterator<Item = &Entry> {
        self.tail.iter().take_while(move |entry| entry.seq <= seq)
    }

    /// The oldest event in memory beside these.
    pub(super) fn oldest_except(&self, events: &BTreeMap<Seq, u32>) -> Option<Seq> {
        self.tail.iter().map(|entry| entry.seq).find(|seq| !events.contains_key(seq))
    }

    /// The newest event in memory before a seq, beside these.
    pub(super) fn newest_except(&self, before: Seq, events: &BTreeMap<Seq, u32>) -> Option<Seq> {
        let newest = self.tail.partition_point(|entry| entry.seq < before);
        self.tail.range(..newest).rev().map(|entry| entry.seq).find(|seq| !events.contains_key(seq))
    }
}
