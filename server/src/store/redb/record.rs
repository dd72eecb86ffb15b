//! How an event is stored in the file.
//!
//! An event: version (1 byte), app id (length in 1 byte), UUID (16), time of receipt in
//! microseconds (8), origin and encoding as JSON (length in 4; not in version 1), number of headers
//! (2), each header's name and value (length in 4 each), query (length in 4, plus one if there is
//! one), body (the rest). Numbers are big endian. The app id comes first, as it is all that opening
//! the store reads.
//!
//! The keys of one batch's deliveries: for each its number (8) and the key (16).

use std::{
    borrow::Cow,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use wwproxy_protocol::{AppId, Encoding, Event, Origin, Verification, json, scheme::Covers};

#[cfg(fuzzing)]
use super::{change, registration};
use crate::store::{
    NewEvent,
    dedupe::Key,
    sequence::{self, Seq},
};

/// The format that this server writes. It reads version 1 too.
const VERSION: u8 = 2;

/// A record that this server cannot read.
#[derive(Debug, thiserror::Error)]
pub(super) enum InvalidRecord {
    #[error("a record has format {0}, and this server reads format {VERSION}: it was written by a newer one")]
    Version(u8),
    #[error("a record is damaged")]
    Damaged,
}

pub(super) fn encode_event(app: &AppId, uuid: Uuid, received_at: SystemTime, event: &NewEvent) -> Vec<u8> {
    let meta = Meta { origin: Cow::Borrowed(&event.origin), encoding: event.encoding };
    let meta = serde_json::to_vec(&meta).expect("texts have a JSON form");
    let lengths = 8 * event.headers.len();
    let mut record = Vec::with_capacity(event.size() + meta.len() + lengths + app.as_str().len() + 64);
    record.push(VERSION);
    record.push(u8::try_from(app.as_str().len()).expect("an app id has at most 128 characters"));
    record.extend_from_slice(app.as_str().as_bytes());
    record.extend_from_slice(uuid.as_bytes());
    let received = received_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    record.extend_from_slice(&u64::try_from(received).unwrap_or(u64::MAX).to_be_bytes());
    push_counted(&mut record, &meta, 0);
    // More headers than the HTTP server lets through would not be headers.
    let count = u16::try_from(event.headers.len()).unwrap_or(u16::MAX);
    record.extend_from_slice(&count.to_be_bytes());
    for (name, value) in event.headers.iter().take(usize::from(count)) {
        push_text(&mut record, name, 0);
        push_text(&mut record, value, 0);
    }
    match &event.query {
        Some(query) => push_text(&mut record, query, 1),
        None => record.extend_from_slice(&0u32.to_be_bytes()),
    }
    record.extend_from_slice(&event.body);
    record
}

fn push_text(record: &mut Vec<u8>, text: &str, more: u32) {
    push_counted(record, text.as_bytes(), more);
}

/// Adds bytes, and their length and so much more before them.
pub(super) fn push_counted(record: &mut Vec<u8>, bytes: &[u8], more: u32) {
    let length = u32::try_from(bytes.len()).expect("a request's head and a commit are far below 4 GiB");
    record.extend_from_slice(&(length + more).to_be_bytes());
    record.extend_from_slice(bytes);
}

/// The event, whose body is a part of the record.
pub(super) fn decode_event(record: &Bytes) -> Result<Event, InvalidRecord> {
    let mut reader = Reader(record);
    reader.app()?;
    let uuid = Uuid::from_bytes(reader.array()?);
    let received_at = UNIX_EPOCH + Duration::from_micros(u64::from_be_bytes(reader.array()?));
    let meta = if record.first() == Some(&1) {
        None
    } else {
        Some(serde_json::from_str(&reader.counted_text()?).map_err(|_| InvalidRecord::Damaged)?)
    };
    let count = u16::from_be_bytes(reader.array()?);
    let mut headers = Vec::with_capacity(usize::from(count).min(record.len() / 8));
    for _ in 0..count {
        headers.push((reader.counted_text()?, reader.counted_text()?));
    }
    let query = match reader.number()? {
        0 => None,
        length => Some(reader.text(length - 1)?),
    };
    let body = record.slice_ref(reader.0);
    let Meta { origin, encoding } = meta.unwrap_or_else(|| Meta::of_version_1(&body));
    let event = NewEvent { origin: origin.into_owned(), headers, query, body, encoding };
    Ok(event.into_event(sequence::event_id(uuid), received_at))
}

/// The parts of an event that are stored as JSON.
#[derive(Serialize, Deserialize)]
struct Meta<'a> {
    origin: Cow<'a, Origin>,
    encoding: Encoding,
}

impl Meta<'_> {
    /// Those of an event of version 1, in which all events were verified as those of Watson Work.
    fn of_version_1(body: &[u8]) -> Self {
        let kind = std::str::from_utf8(body).ok().and_then(|text| json::members(text, ["type"]).ok()?[0]);
        let verification = Verification {
            scheme: "watsonwork".to_owned(),
            secret: 1,
            signed: "body".to_owned(),
            covers: Covers::Body,
        };
        let origin = Origin {
            event_type: kind.and_then(json::string).map(Cow::into_owned),
            verification: Some(verification),
            ..Origin::default()
        };
        Self { origin: Cow::Owned(origin), encoding: Encoding::default() }
    }
}

/// Whose event it is.
pub(super) fn decode_app(record: &[u8]) -> Result<AppId, InvalidRecord> {
    Reader(record).app()
}

pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], InvalidRecord> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(InvalidRecord::Damaged)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], InvalidRecord> {
        self.take(N)?.try_into().map_err(|_| InvalidRecord::Damaged)
    }

    pub(super) fn number(&mut self) -> Result<usize, InvalidRecord> {
        let number = u32::from_be_bytes(self.array()?);
        usize::try_from(number).map_err(|_| InvalidRecord::Damaged)
    }

    fn text(&mut self, length: usize) -> Result<String, InvalidRecord> {
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| InvalidRecord::Damaged)?;
        Ok(text.to_owned())
    }

    pub(super) fn counted_text(&mut self) -> Result<String, InvalidRecord> {
        let length = self.number()?;
        self.text(length)
    }

    fn app(&mut self) -> Result<AppId, InvalidRecord> {
        let [version, length] = self.array()?;
        if !(1..=VERSION).contains(&version) {
            return Err(InvalidRecord::Version(version));
        }
        self.text(usize::from(length))?.parse().map_err(|_| InvalidRecord::Damaged)
    }
}

pub(super) fn encode_keys(keys: &[(Seq, Key)]) -> Vec<u8> {
    let mut record = Vec::with_capacity(keys.len() * (size_of::<Seq>() + size_of::<Key>()));
    for (seq, key) in keys {
        record.extend_from_slice(&seq.to_be_bytes());
        record.extend_from_slice(&key.to_be_bytes());
    }
    record
}

pub(super) fn decode_keys(record: &[u8]) -> Result<impl Iterator<Item = (Seq, Key)>, InvalidRecord> {
    const SEQ_BYTES: usize = size_of::<Seq>();
    let (keys, []) = record.as_chunks::<{ SEQ_BYTES + size_of::<Key>() }>() else {
        return Err(InvalidRecord::Damaged);
    };
    Ok(keys.iter().map(|bytes| {
        let (seq, key) = bytes.split_at(SEQ_BYTES);
        let (seq, key) = (seq.try_into().expect("8 bytes"), key.try_into().expect("16 bytes"));
        (Seq::from_be_bytes(seq), Key::from_be_bytes(key))
    }))
}

/// Reads any bytes as each kind of record, and as a frame of the journal. What can be read is written as it was.
#[cfg(fuzzing)]
pub fn fuzz(record: &[u8]) {
    if let (Ok(app), Ok(event)) = (decode_app(record), decode_event(&Bytes::copy_from_slice(record))) {
        let uuid: Uuid = event.id.as_str().parse().expect("an event's id is a UUID");
        let Event { received_at, origin, headers, query, body, encoding, .. } = event;
        let event = NewEvent { origin, headers, query, body, encoding };
        let again = Bytes::from(encode_event(&app, uuid, received_at, &event));
        let again = decode_event(&again).expect("what was written can be read");
        assert_eq!(again, event.into_event(again.id.clone(), received_at));
    }
    if let Ok((registration, epoch)) = registration::decode(record) {
        let again = registration::decode(&registration::encode(&registration, epoch));
        assert_eq!(again.expect("what was written can be read"), (registration, epoch));
    }
    if let Ok(keys) = decode_keys(record) {
        assert_eq!(encode_keys(&keys.collect::<Vec<_>>()), record);
    }
    if let Ok(changes) = change::decode(record) {
        let mut again = Vec::new();
        change::encode(&changes, &mut again);
        assert_eq!(again, record);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::registration, *};

    proptest! {
        #[test]
        fn an_event_comes_back_as_it_was(
            headers in prop::collection::vec(("[a-z-]{1,9}", "\\PC{0,20}"), 0..5),
            query in prop::option::of("\\PC{0,20}"),
            body in prop::collection::vec(any::<u8>(), 0..200),
            micros in 0..1u64 << 50,
        ) {
            let app: AppId = "my.bot".parse().unwrap();
            let encoding = Encoding::of(&body);
            let origin = Origin { tail: query.clone(), ..Origin::default() };
            let event = NewEvent { origin, headers, query, body: body.into(), encoding };
            let received_at = sequence::time(micros);
            let uuid = sequence::new_uuid(micros);
            let record = Bytes::from(encode_event(&app, uuid, received_at, &event));
            prop_assert_eq!(decode_app(&record).unwrap(), app);
            let expected = event.into_event(sequence::event_id(uuid), received_at);
            prop_assert_eq!(decode_event(&record).unwrap(), expected);
        }

        #[test]
        fn no_bytes_make_the_reader_panic(mut record in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(version) = record.first_mut() {
                *version = VERSION;
            }
            let _ = registration::decode(&record);
            let _ = decode_event(&record.into());
        }
    }

    #[test]
    fn keys_come_back_as_they_were() {
        let keys = [(1, 2), (Seq::MAX, Key::MAX - 1)];
        let record = encode_keys(&keys);
        assert_eq!(decode_keys(&record).unwrap().collect::<Vec<_>>(), keys);
        assert!(decode_keys(&record[1..]).is_err());
    }

    #[test]
    fn a_newer_format_is_told_from_damage() {
        assert!(matches!(decode_app(&[9, 0]), Err(InvalidRecord::Version(9))));
        assert!(matches!(decode_app(&[VERSION]), Err(InvalidRecord::Damaged)));
    }

    #[test]
    fn an_event_of_the_first_format_can_be_read() {
        let app: AppId = "my.bot".parse().unwrap();
        let event =
            NewEvent::new(vec![("x".into(), "y".into())], Some("a=b".into()), "{\"type\":\"t\"}".into());
        let (uuid, received_at) = (sequence::new_uuid(7), sequence::time(7));
        let record = encode_event(&app, uuid, received_at, &event);
        let meta = 2 + app.as_str().len() + 16 + 8;
        let length = u32::from_be_bytes(*record[meta..].first_chunk().unwrap()) as usize;
        let old = [&[1], &record[1..meta], &record[meta + 4 + length..]].concat();
        assert_eq!(decode_app(&old).unwrap(), app);
        let decoded = decode_event(&old.into()).unwrap();
        assert_eq!(decoded.origin.verification.as_ref().unwrap().scheme, "watsonwork");
        assert_eq!(decoded.origin.event_type.as_deref(), Some("t"));
        let expected = event.into_event(sequence::event_id(uuid), received_at);
        assert_eq!(decoded, Event { origin: decoded.origin.clone(), ..expected });
    }
}
