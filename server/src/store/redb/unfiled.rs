//! What the journal has and the database has not yet.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use redb::WriteTransaction;
use wwproxy_protocol::AppId;

use super::{
    change::Change,
    events::Events,
    file::{DROPPED, KEYS, REGISTRATIONS},
    record,
};
use crate::store::{dedupe::Key, sequence::Seq};

/// Changes as what they come to: an event that was stored and deleted is not in it at all.
#[derive(Default)]
pub(super) struct Unfiled {
    records: BTreeMap<Seq, Bytes>,
    /// Events that are in the database, or in what is being filed.
    deleted: Vec<Seq>,
    keys: Vec<(Seq, Key)>,
    /// Keys of lower numbers need not be known.
    forgotten: Seq,
    dropped: HashMap<AppId, Option<u64>>,
    registrations: HashMap<AppId, Option<Vec<u8>>>,
    /// The number of the last frame that it comes from, and what all of them take in the journal, in bytes.
    last: u64,
    bytes: u64,
}

impl Unfiled {
    /// Adds what a frame of this number and size says.
    pub(super) fn add(&mut self, number: u64, size: u64, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Store { seq, record } => drop(self.records.insert(seq, record)),
                Change::Delete(numbers) => self.delete(numbers),
                Change::Know(keys) => self.keys.extend(keys),
                Change::Forget { below } => self.forgotten = below,
                Change::Drop { app, count } => drop(self.dropped.insert(app, Some(count))),
                Change::Register { app, record } => drop(self.registrations.insert(app, Some(record))),
                Change::Unregister(app) => {
                    self.dropped.insert(app.clone(), None);
                    self.registrations.insert(app, None);
                }
            }
        }
        self.last = number;
        self.bytes += size;
    }

    /// Adds what came after it.
    pub(super) fn append(&mut self, newer: Self) {
        if newer.is_empty() {
            return;
        }
        self.delete(newer.deleted);
        self.records.extend(newer.records);
        self.keys.extend(newer.keys);
        self.forgotten = self.forgotten.max(newer.forgotten);
        self.dropped.extend(newer.dropped);
        self.registrations.extend(newer.registrations);
        self.last = newer.last;
        self.bytes += newer.bytes;
    }

    fn delete(&mut self, numbers: Vec<Seq>) {
        self.deleted.extend(numbers.into_iter().filter(|seq| self.records.remove(seq).is_none()));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn last(&self) -> u64 {
        self.last
    }

    pub(super) fn record(&self, seq: Seq) -> Option<&Bytes> {
        self.records.get(&seq)
    }

    /// Writes all of it to the tables.
    pub(super) fn write(&self, transaction: &WriteTransaction) -> Result<(), redb::Error> {
        self.write_deletions(transaction)?;
        let mut events = Events::open(transaction)?;
        for (&seq, record) in &self.records {
            events.insert(seq, record)?;
        }
        let mut keys = transaction.open_table(KEYS)?;
        if let Some(&(last, _)) = self.keys.last() {
            keys.insert(last, record::encode_keys(&self.keys).as_slice())?;
        }
        if self.forgotten > 0 {
            keys.retain_in(..self.forgotten, |_, _| false)?;
        }
        let mut registrations = transaction.open_table(REGISTRATIONS)?;
        for (app, record) in &self.registrations {
            match record {
                Some(record) => drop(registrations.insert(app.as_str(), record.as_slice())?),
                None => drop(registrations.remove(app.as_str())?),
            }
        }
        let mut dropped = transaction.open_table(DROPPED)?;
        for (app, count) in &self.dropped {
            match count {
                Some(count) => drop(dropped.insert(app.as_str(), count)?),
                None => drop(dropped.remove(app.as_str())?),
            }
        }
        Ok(())
    }

    /// Deletes from the tables what is to be deleted. The rest may follow: to delete twice changes nothing.
    pub(super) fn write_deletions(&self, transaction: &WriteTransaction) -> Result<(), redb::Error> {
        Events::open(transaction)?.remove_all(&self.deleted)
    }
}
