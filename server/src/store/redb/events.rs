//! The tables of events: their records, and their heads.

use redb::{ReadableTable, ReadableTableMetadata, Table, TableDefinition, WriteTransaction};

use super::record::{self, InvalidRecord};
use crate::{coop::yield_if_due, store::sequence::Seq};

/// Events by their number alone: an append touches the right edge of the tree only.
pub(super) const EVENTS: TableDefinition<'_, Seq, &[u8]> = TableDefinition::new("events");
/// What opening the store needs to know of each event, so that it reads no bodies: the bytes that the event
/// counts for, and whose it is.
pub(super) const HEADS: TableDefinition<'_, Seq, (u32, &str)> = TableDefinition::new("heads");
/// How many are removed in one go where nothing stands between them. Ten times as many make it no faster.
const RUN: usize = 256;

/// The tables of events, within one transaction.
pub(super) struct Events<'t> {
    records: Table<'t, Seq, &'static [u8]>,
    heads: Table<'t, Seq, (u32, &'static str)>,
}

impl<'t> Events<'t> {
    pub(super) fn open(transaction: &'t WriteTransaction) -> Result<Self, redb::Error> {
        Ok(Self { records: transaction.open_table(EVENTS)?, heads: transaction.open_table(HEADS)? })
    }

    pub(super) fn insert(&mut self, seq: Seq, record: &[u8]) -> Result<(), redb::Error> {
        yield_if_due();
        let app = record::decode_app(record).map_err(|error| redb::Error::Corrupted(error.to_string()))?;
        self.records.insert(seq, record)?;
        self.heads.insert(seq, (slot_size(record.len()), app.as_str()))?;
        Ok(())
    }

    fn remove(&mut self, seq: Seq) -> Result<(), redb::Error> {
        yield_if_due();
        self.records.remove(seq)?;
        self.heads.remove(seq)?;
        Ok(())
    }

    /// Removes these events. What stands in a row goes in one go, in a quarter of the time.
    pub(super) fn remove_all(&mut self, numbers: &[Seq]) -> Result<(), redb::Error> {
        let mut numbers = numbers.to_vec();
        numbers.sort_unstable();
        for run in numbers.chunks(RUN) {
            let [first, .., last] = *run else {
                self.remove(run[0])?;
                continue;
            };
            if self.heads.range(first..=last)?.nth(2 * run.len()).is_some() {
                for &seq in run {
                    self.remove(seq)?;
                }
            } else {
                yield_if_due();
                let stays = |seq: Seq| run.binary_search(&seq).is_err();
                self.records.retain_in(first..=last, |seq, _| stays(seq))?;
                self.heads.retain_in(first..=last, |seq, _| stays(seq))?;
            }
        }
        Ok(())
    }

    /// Whether there is a head for each event. As numbers only rise, as many of both and the same last number say
    /// that they belong together.
    pub(super) fn have_heads(&self) -> Result<bool, redb::Error> {
        let last_event = self.records.last()?.map(|(seq, _)| seq.value());
        let last_head = self.heads.last()?.map(|(seq, _)| seq.value());
        Ok(self.heads.len()? == self.records.len()? && last_head == last_event)
    }

    /// Makes the heads anew where there is not one for each event, as in a file that a server without heads
    /// wrote to: an event without one would never be delivered.
    pub(super) fn make_heads(&mut self) -> Result<(), redb::Error> {
        if self.have_heads()? {
            return Ok(());
        }
        self.heads.retain(|_, _| false)?;
        for row in self.records.iter()? {
            let (seq, value) = row?;
            let (seq, value) = (seq.value(), value.value());
            if let Ok(app) = record::decode_app(value).inspect_err(|error| tell_damage(seq, error)) {
                self.heads.insert(seq, (slot_size(value.len()), app.as_str()))?;
            }
        }
        Ok(())
    }
}

pub(super) fn tell_damage(seq: Seq, error: &InvalidRecord) {
    tracing::error!(seq, %error, "an event cannot be read and is left in the file");
}

/// How many bytes an event counts for, by the size of its record.
pub(super) fn slot_size(record: usize) -> u32 {
    u32::try_from(record).unwrap_or(u32::MAX)
}
