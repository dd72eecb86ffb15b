//! What the journal has and the database has not yet.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use redb::WriteTransaction;
use wwproxy_protocol::AppId;

use super::{
    change::Change,
    events::{Events, slot_size},
    file::{Contents, DROPPED, KEYS, REGISTRATIONS},
    record, registration,
};
use crate::{
    coop::yield_if_due,
    store::{StoreError, dedupe::Key, queue::Slot, sequence::Seq},
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
    /// The number of the last frame that it comes from, or that was before it where it comes from none, and what all of
    /// them take in the journal, in bytes.
    last: u64,
    bytes: u64,
    /// The last of those changes that no frame says.
    alone: u64,
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
        self.delete(newer.deleted);
        self.records.extend(newer.records);
        self.keys.extend(newer.keys);
        self.forgotten = self.forgotten.max(newer.forgotten);
        self.dropped.extend(newer.dropped);
        self.registrations.extend(newer.registrations);
        self.last = self.last.max(newer.last);
        self.bytes += newer.bytes;
        self.alone = self.alone.max(newer.alone);
    }

    fn delete(&mut self, numbers: Vec<Seq>) {
        let Self { records, was_refused, .. } = self;
        // To delete what is not there changes nothing.
        let is_filed = |seq: &Seq| records.remove(seq).is_none() || *was_refused;
        self.deleted.extend(numbers.into_iter().filter(is_filed));
    }

    /// Adds the so many-th of those changes that no frame says, the last one of which is in it or before it.
    pub(super) fn add_alone(&mut self, alone: u64, last: u64, changes: Vec<Change>) {
        self.add(last.max(self.last), 0, changes);
        self.alone = alone;
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

    pub(super) fn alone(&self) -> u64 {
        self.alone
    }

    pub(super) fn record(&self, seq: Seq) -> Option<&Bytes> {
        self.records.get(&seq)
    }

    /// Frees what it holds, which are some thousand events.
    pub(super) fn discard(mut self) {
        while self.records.pop_first().is_some() {
            yield_if_due();
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

    /// Changes what the tables were read as into what they say after [`write`](Self::write).
    pub(super) fn add_to(&self, contents: &mut Contents) -> Result<(), StoreError> {
        let deleted: HashSet<_> = self.deleted.iter().copied().collect();
        contents.events.retain(|(_, slot)| !deleted.contains(&slot.seq));
        for (&seq, record) in &self.records {
            let app = record::decode_app(record).map_err(StoreError::engine)?;
            contents
                .add(app.as_str(), Slot { seq, size: slot_size(record.len()) })
                .map_err(StoreError::engine)?;
        }
        contents.keys.retain(|&(seq, _)| seq >= self.forgotten);
        contents.keys.extend(&self.keys);
        for (app, record) in &self.registrations {
            match record {
                Some(record) => {
                    let registration = registration::decode(record).map_err(StoreError::engine)?;
                    contents.registrations.insert(app.clone(), registration);
                }
                None => drop(contents.registrations.remove(app)),
            }
        }
        for (app, count) in &self.dropped {
            match count {
                Some(count) => drop(contents.dropped.insert(app.clone(), *count)),
                None => drop(contents.dropped.remove(app)),
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
    use std::path::Path;

    use redb::{Database, ReadableDatabase, ReadableTableMetadata, backends::InMemoryBackend};
    use wwproxy_protocol::Secret;

    use super::*;
    use crate::store::{
        NewEvent, Registration,
        redb::{events::EVENTS, file::File},
        sequence,
    };

    fn stored(seq: Seq) -> Change {
        let event = NewEvent::new(Vec::new(), None, Bytes::new());
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
    fn memory_has_the_same_of_it_before_it_is_filed_and_after() {
        let file = File::open(Path::new("/nowhere"), Box::new(InMemoryBackend::new())).unwrap();
        let app = |name: &str| name.parse::<AppId>().unwrap();
        let register = |name, secret: &str| {
            let registration = Registration::watson_work(Secret::new(secret));
            Change::Register { app: app(name), record: registration::encode(&registration, 1) }
        };
        let steps = [
            vec![register("bot", "1"), register("gone", "2"), Change::Drop { app: app("gone"), count: 1 }],
            vec![stored(1), stored(2), stored(3), Change::Know(vec![(1, 10), (3, 30)])],
            vec![stored(4), stored(5), Change::Know(vec![(5, 50)]), Change::Delete(vec![1])],
            vec![
                Change::Delete(vec![2, 4]),
                Change::Forget { below: 4 },
                Change::Unregister(app("gone")),
                register("bot", "3"),
                register("new", "4"),
                Change::Drop { app: app("bot"), count: 2 },
                stored(6),
                Change::Know(vec![(6, 60)]),
            ],
        ];
        for (number, changes) in (1..).zip(steps) {
            let mut unfiled = Unfiled::default();
            unfiled.add(number, 4096, changes);
            let mut before = file.contents().unwrap();
            unfiled.add_to(&mut before).unwrap();
            file.file(&unfiled).unwrap();
            assert_eq!(before, file.contents().unwrap(), "{number}");
        }
        let contents = file.contents().unwrap();
        assert_eq!(contents.events.iter().map(|(_, slot)| slot.seq).collect::<Vec<_>>(), [3, 5, 6]);
        assert_eq!(contents.keys, [(5, 50), (6, 60)]);
        assert_eq!((contents.registrations.len(), &contents.dropped[&app("bot")]), (2, &2));
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
