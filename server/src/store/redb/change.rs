//! The changes of a commit, and how they are stored in the journal.
//!
//! Changes: version (1 byte), then for each its kind (1) and what it says. Numbers are big endian, texts and
//! records have their length before them (4).

use bytes::Bytes;
use wwproxy_protocol::AppId;

use super::record::{self, InvalidRecord, Reader};
use crate::store::{dedupe::Key, sequence::Seq};

/// The format that this server writes.
const VERSION: u8 = 1;

/// No `Debug`: registrations hold secrets.
#[cfg_attr(test, derive(PartialEq, Eq))]
pub(super) enum Change {
    /// An event is stored.
    Store { seq: Seq, record: Bytes },
    /// Events are deleted, for whatever reason.
    Delete(Vec<Seq>),
    /// Deliveries are known from now on.
    Know(Vec<(Seq, Key)>),
    /// Those before this number need not be known any more.
    Forget { below: Seq },
    /// So many events of an app have been dropped in all.
    Drop { app: AppId, count: u64 },
    /// An app is registered.
    Register { app: AppId, record: Vec<u8> },
    /// An app is not registered any more. Its events are deleted beside it.
    Unregister(AppId),
}

/// About how long the changes are in the journal, in bytes.
pub(super) fn size(changes: &[Change]) -> usize {
    let size = |change: &Change| match change {
        Change::Store { record, .. } => record.len(),
        Change::Delete(numbers) => size_of_val(numbers.as_slice()),
        Change::Know(keys) => size_of_val(keys.as_slice()),
        Change::Register { record, .. } => record.len(),
        Change::Forget { .. } | Change::Drop { .. } | Change::Unregister(_) => 0,
    };
    changes.iter().map(|change| size(change) + 160).sum()
}

pub(super) fn encode(changes: &[Change], out: &mut Vec<u8>) {
    out.push(VERSION);
    for change in changes {
        match change {
            Change::Store { seq, record } => {
                out.push(0);
                out.extend_from_slice(&seq.to_be_bytes());
                push(out, record);
            }
            Change::Delete(numbers) => {
                out.push(1);
                push(out, numbers.iter().map(|seq| seq.to_be_bytes()).collect::<Vec<_>>().as_flattened());
            }
            Change::Know(keys) => {
                out.push(2);
                push(out, &record::encode_keys(keys));
            }
            Change::Forget { below } => {
                out.push(3);
                out.extend_from_slice(&below.to_be_bytes());
            }
            Change::Drop { app, count } => {
                out.push(4);
                push(out, app.as_str().as_bytes());
                out.extend_from_slice(&count.to_be_bytes());
            }
            Change::Register { app, record } => {
                out.push(5);
                push(out, app.as_str().as_bytes());
                push(out, record);
            }
            Change::Unregister(app) => {
                out.push(6);
                push(out, app.as_str().as_bytes());
            }
        }
    }
}

fn push(out: &mut Vec<u8>, bytes: &[u8]) {
    record::push_counted(out, bytes, 0);
}

pub(super) fn decode(bytes: &[u8]) -> Result<Vec<Change>, InvalidRecord> {
    let mut reader = Reader(bytes);
    let [version] = reader.array()?;
    if version != VERSION {
        return Err(InvalidRecord::Version(version));
    }
    let mut changes = Vec::new();
    while !reader.0.is_empty() {
        let [kind] = reader.array()?;
        changes.push(match kind {
            0 => {
                let seq = Seq::from_be_bytes(reader.array()?);
                Change::Store { seq, record: Bytes::copy_from_slice(counted(&mut reader)?) }
            }
            1 => {
                let (numbers, []) = counted(&mut reader)?.as_chunks() else {
                    return Err(InvalidRecord::Damaged);
                };
                Change::Delete(numbers.iter().map(|&seq| Seq::from_be_bytes(seq)).collect())
            }
            2 => Change::Know(record::decode_keys(counted(&mut reader)?)?.collect()),
            3 => Change::Forget { below: Seq::from_be_bytes(reader.array()?) },
            4 => {
                let app = app(&mut reader)?;
                Change::Drop { app, count: u64::from_be_bytes(reader.array()?) }
            }
            5 => Change::Register { app: app(&mut reader)?, record: counted(&mut reader)?.to_vec() },
            6 => Change::Unregister(app(&mut reader)?),
            _ => return Err(InvalidRecord::Damaged),
        });
    }
    Ok(changes)
}

fn counted<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], InvalidRecord> {
    let length = reader.number()?;
    reader.take(length)
}

fn app(reader: &mut Reader<'_>) -> Result<AppId, InvalidRecord> {
    reader.counted_text()?.parse().map_err(|_| InvalidRecord::Damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Change> {
        let app: AppId = "my.bot".parse().unwrap();
        vec![
            Change::Store { seq: 7, record: Bytes::from_static(b"record") },
            Change::Delete(vec![1, Seq::MAX]),
            Change::Know(vec![(7, 8)]),
            Change::Forget { below: 9 },
            Change::Drop { app: app.clone(), count: 10 },
            Change::Register { app: app.clone(), record: b"{}".to_vec() },
            Change::Unregister(app),
        ]
    }

    #[test]
    fn changes_come_back_as_they_were() {
        let mut bytes = Vec::new();
        encode(&all(), &mut bytes);
        assert!(decode(&bytes).unwrap() == all());
        assert!(bytes.len() <= size(&all()));
    }

    #[test]
    fn what_is_cut_off_is_damaged() {
        let mut bytes = Vec::new();
        encode(&all(), &mut bytes);
        let whole = (0..bytes.len()).filter_map(|length| decode(&bytes[..length]).ok());
        // Between two changes nothing tells that one is missing: the journal's checksum does.
        assert_eq!(whole.count(), all().len());
        bytes[0] = 9;
        assert!(matches!(decode(&bytes), Err(InvalidRecord::Version(9))));
    }
}
