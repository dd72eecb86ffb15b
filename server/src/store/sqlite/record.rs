//! The record of an event: its head as JSON, its id, and its checksum.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use twox_hash::xxhash3_64::Hasher;
use uuid::Uuid;
use wwproxy_protocol::{Encoding, Event, EventId, Headers, Origin, SourceName, Verification};

use super::Seq;
use crate::store::NewEvent;

/// What of an event is neither a column of its own nor the body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Head<'a> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tail: Option<std::borrow::Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    query: Option<std::borrow::Cow<'a, str>>,
    encoding: Encoding,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    verification: Option<std::borrow::Cow<'a, Verification>>,
    headers: std::borrow::Cow<'a, Headers>,
}

/// An event as its row has it.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) seq: Seq,
    pub(super) app_id: i64,
    pub(super) id: Uuid,
    pub(super) received_at: i64,
    pub(super) source: SourceName,
    pub(super) event_type: Option<String>,
    pub(super) delivery_id: Option<String>,
    pub(super) head: String,
    pub(super) body: Bytes,
}

/// A record does not have its checksum, or cannot be decoded.
#[derive(Debug, thiserror::Error)]
#[error("the record of event {seq} is damaged: {what}")]
pub(super) struct DamagedRecord {
    pub(super) seq: Seq,
    pub(super) what: &'static str,
}

/// Encodes the head of an event.
pub(super) fn encode_head(event: &NewEvent) -> String {
    use std::borrow::Cow;
    let head = Head {
        tail: event.origin.tail.as_deref().map(Cow::Borrowed),
        query: event.query.as_deref().map(Cow::Borrowed),
        encoding: event.encoding,
        verification: event.origin.verification.as_ref().map(Cow::Borrowed),
        headers: Cow::Borrowed(&event.headers),
    };
    serde_json::to_string(&head).expect("texts have a JSON form")
}

/// The fields that a checksum covers.
pub(super) struct Fields<'a> {
    pub(super) seq: Seq,
    pub(super) app_id: i64,
    pub(super) id: Uuid,
    pub(super) received_at: i64,
    pub(super) source: &'a str,
    pub(super) event_type: Option<&'a str>,
    pub(super) delivery_id: Option<&'a str>,
    pub(super) head: &'a str,
    pub(super) body: &'a [u8],
}

impl Fields<'_> {
    /// XXH3 over all fields. Each text has its length before it, so that no two records hash the same bytes. The hash of the
    /// other fields is the seed of the body's, so that the body is not copied. `scratch` is a buffer to be reused.
    pub(super) fn checksum(&self, scratch: &mut Vec<u8>) -> i64 {
        scratch.clear();
        scratch.extend_from_slice(&self.seq.to_le_bytes());
        scratch.extend_from_slice(&self.app_id.to_le_bytes());
        scratch.extend_from_slice(self.id.as_bytes());
        scratch.extend_from_slice(&self.received_at.to_le_bytes());
        for text in [Some(self.source), self.event_type, self.delivery_id, Some(self.head)] {
            let length = text.map_or(u64::MAX, |text| text.len() as u64);
            scratch.extend_from_slice(&length.to_le_bytes());
            scratch.extend_from_slice(text.unwrap_or_default().as_bytes());
        }
        Hasher::oneshot_with_seed(Hasher::oneshot(scratch), self.body).cast_signed()
    }
}

impl Record {
    /// Checks the checksum and decodes the event.
    pub(super) fn into_event(self, checksum: i64) -> Result<Event, DamagedRecord> {
        let damaged = |what| DamagedRecord { seq: self.seq, what };
        let fields = Fields {
            seq: self.seq,
            app_id: self.app_id,
            id: self.id,
            received_at: self.received_at,
            source: self.source.as_str(),
            event_type: self.event_type.as_deref(),
            delivery_id: self.delivery_id.as_deref(),
            head: &self.head,
            body: &self.body,
        };
        if fields.checksum(&mut Vec::new()) != checksum {
            return Err(damaged("its checksum does not match"));
        }
        let head: Head<'_> =
            serde_json::from_str(&self.head).map_err(|_| damaged("its head is not valid"))?;
        let origin = Origin {
            source: self.source,
            tail: head.tail.map(Into::into),
            event_type: self.event_type,
            delivery_id: self.delivery_id,
            verification: head.verification.map(std::borrow::Cow::into_owned),
        };
        Ok(Event {
            id: event_id(self.id),
            received_at: from_micros(self.received_at),
            origin,
            headers: head.headers.into_owned(),
            query: head.query.map(Into::into),
            body: self.body,
            encoding: head.encoding,
        })
    }
}

/// Microseconds since 1970.
pub(super) fn micros(time: SystemTime) -> i64 {
    let micros = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    i64::try_from(micros).unwrap_or(i64::MAX)
}

pub(super) fn from_micros(micros: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(micros.max(0).cast_unsigned())
}

/// Bits of a seq in an event id: enough for 10,000 events a second for 800 years.
const SEQ_BITS: u32 = 48;

/// Makes event ids: `UUIDv7`s that ascend with the seq and contain it, so that an id needs no index.
#[derive(Debug)]
pub(super) struct EventIds {
    /// The time in the last id, in milliseconds. It never goes back, even if the clock does.
    millis: u64,
    /// Random for each opening of the store, so that ids stay unique if a restored store assigns a seq again.
    salt: u64,
}

impl EventIds {
    /// `last` is the id of the newest event in the store.
    pub(super) fn after(last: Option<Uuid>) -> Self {
        let mut salt = [0; 8];
        // Without randomness the seq alone still makes an id unique within this store.
        let _ = getrandom::fill(&mut salt);
        let millis = last.map_or(0, id_millis);
        Self { millis, salt: u64::from_le_bytes(salt) }
    }

    /// The time of the newest event, in microseconds since 1970.
    pub(super) fn newest(&self) -> Option<i64> {
        (self.millis > 0).then(|| self.millis.cast_signed().saturating_mul(1000))
    }

    /// The layout after the version and variant bits: milliseconds (48), seq (12 and 36), salt (26).
    pub(super) fn next(&mut self, seq: Seq, received_at: i64) -> Uuid {
        self.millis = self.millis.max((received_at / 1000).cast_unsigned());
        layout(self.millis, seq, self.salt)
    }
}

fn layout(millis: u64, seq: Seq, salt: u64) -> Uuid {
    let (seq, salt) = (u128::from(seq) & ((1 << SEQ_BITS) - 1), u128::from(salt) & ((1 << 26) - 1));
    let (high, low) = (seq >> 36, seq & ((1 << 36) - 1));
    let version_and_variant = (7 << 76) | (2 << 62);
    Uuid::from_u128(u128::from(millis) << 80 | version_and_variant | high << 64 | low << 26 | salt)
}

/// An id that stands for a place in the order, and for no event.
pub(super) fn id_of_seq(seq: Seq) -> Uuid {
    layout(0, seq, 0)
}

/// The time in an id, in milliseconds since 1970.
pub(super) fn id_millis(id: Uuid) -> u64 {
    (id.as_u128() >> 80) as u64
}

/// The id as clients see it.
pub(super) fn event_id(id: Uuid) -> EventId {
    id.to_string().parse().expect("a UUID is printable ASCII")
}

/// The seq and the UUID in an event id. `None` if no store made this id.
pub(super) fn decode_id(id: &EventId) -> Option<(Seq, Uuid)> {
    let id: Uuid = id.as_str().parse().ok()?;
    let bits = id.as_u128();
    let seq = (bits >> 64 & 0xfff) << 36 | bits >> 26 & ((1 << 36) - 1);
    Some((Seq::try_from(seq).ok()?, id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_id_contains_its_seq_and_ascends_with_it_even_if_the_clock_goes_back() {
        let mut ids = EventIds::after(None);
        let times = [5_000_000, 4_000_000, 4_000_000, 9_000_000];
        let seqs = [1, 2, 1 << 36, (1 << SEQ_BITS) - 1];
        let made: Vec<_> = times.iter().zip(seqs).map(|(time, seq)| ids.next(seq, *time)).collect();
        assert!(made.is_sorted(), "{made:?}");
        for (id, seq) in made.iter().zip(seqs) {
            assert_eq!(decode_id(&event_id(*id)), Some((seq, *id)));
            assert_eq!((id.get_version_num(), id.get_variant()), (7, uuid::Variant::RFC4122));
        }
        let mut reopened = EventIds::after(made.last().copied());
        assert!(reopened.next(1 << 40, 0).as_u128() >> 80 == 9000);
    }

    #[test]
    fn any_change_of_a_record_changes_its_checksum() {
        let mut ids = EventIds::after(None);
        let id = ids.next(7, 5);
        let fields = || Fields {
            seq: 7,
            app_id: 3,
            id,
            received_at: 5,
            source: "default",
            event_type: Some("push"),
            delivery_id: None,
            head: "{}",
            body: b"body",
        };
        let scratch = &mut Vec::new();
        let whole = fields().checksum(scratch);
        for changed in [
            Fields { seq: 8, ..fields() },
            Fields { app_id: 4, ..fields() },
            Fields { received_at: 6, ..fields() },
            Fields { source: "defaulu", ..fields() },
            Fields { event_type: None, ..fields() },
            Fields { event_type: Some("pus"), delivery_id: Some("h"), ..fields() },
            Fields { delivery_id: Some(""), ..fields() },
            Fields { head: "{ }", ..fields() },
            Fields { body: b"bodz", ..fields() },
            Fields { body: b"", ..fields() },
        ] {
            assert_ne!(changed.checksum(scratch), whole);
        }
    }
}
