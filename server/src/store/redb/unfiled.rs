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
use crate::{
    give_way::give_way,
    store::{dedupe::Key, sequence::Seq},
};

/// What a deletion costs, in bytes of the journal that are filed in the same time: it writes a page anew.
const DELETION_BYTES: u64 = 256;

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
    /// The database refused it, and may have all of it nevertheless.
    was_refused: bool,
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

    /// Adds what came after it, as the database refused it.
    pub(super) fn refused(&mut self, newer: Self) {
        self.was_refused = true;
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
        let Self { records, was_refused, .. } = self;
        // To delete what is not there changes nothing.
        let is_filed = |seq: &Seq| records.remove(seq).is_none() || *was_refused;
        self.deleted.extend(numbers.into_iter().filter(is_filed));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// How much it is to file, in bytes of the journal.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes + self.deleted.len() as u64 * DELETION_BYTES
    }

    pub(super) fn last(&self) -> u64 {
        self.last
    }

    pub(super) fn record(&self, seq: Seq) -> Option<&Bytes> {
        self.records.get(&seq)
    }

    /// Frees what it holds, which are some thousand events.
    pub(super) fn discard(mut self) {
        while self.records.pop_first().is_some() {
            give_way();
        }
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

#[cfg(test)]
mod tests {
    use redb::{Database, ReadableDatabase, ReadableTableMetadata, backends::InMemoryBackend};

    use super::*;
    use crate::store::{NewEvent, redb::events::EVENTS, sequence};

    fn stored(seq: Seq) -> Change {
        let event = NewEvent { headers: Vec::new(), query: None, body: Bytes::new() };
        let uuid = sequence::new_uuid(seq);
        let record = record::encode_event(&"bot".parse().unwrap(), uuid, sequence::time(seq), &event);
        Change::Store { seq, record: record.into() }
    }

    fn file(database: &Database, unfiled: &Unfiled) -> u64 {
        let transaction = database.begin_write().unwrap();
        unfiled.write(&transaction).unwrap();
        transaction.commit().unwrap();
        database.begin_read().unwrap().open_table(EVENTS).unwrap().len().unwrap()
    }

    #[test]
    fn what_is_deleted_before_it_is_filed_never_is() {
        let database = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let mut unfiled = Unfiled::default();
        unfiled.add(1, 4096, vec![stored(1), stored(2)]);
        unfiled.add(2, 4096, vec![Change::Delete(vec![1])]);
        assert!(unfiled.deleted.is_empty() && unfiled.record(1).is_none());
        assert_eq!(file(&database, &unfiled), 1);
    }

    #[test]
    fn what_the_database_has_although_it_refused_it_is_deleted() {
        let database = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let mut unfiled = Unfiled::default();
        unfiled.add(1, 4096, (1..=4).map(stored).collect());
        assert_eq!(file(&database, &unfiled), 4);
        // Deleted while it was filed, and after that was refused.
        let mut newer = Unfiled::default();
        newer.add(2, 4096, vec![Change::Delete(vec![1])]);
        unfiled.refused(newer);
        unfiled.add(3, 4096, vec![Change::Delete(vec![2])]);
        assert_eq!(file(&database, &unfiled), 2);
    }
}
