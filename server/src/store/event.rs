//! An event before it is stored.

use std::{fmt, time::SystemTime};

use bytes::Bytes;
use wwproxy_protocol::{Encoding, Event, EventId, Headers, Origin};

/// Idempotency key of an append: a hash of the fields by which a sender's retry equals the first request.
pub type DedupeKey = [u8; 16];

/// A verified webhook that has no event id yet.
#[derive(Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// Where the event came from, and how it was verified.
    pub origin: Origin,
    /// The headers of the sender's request that are stored with the event.
    pub headers: Headers,
    /// The query string of the sender's request.
    pub query: Option<String>,
    /// The body, byte for byte.
    pub body: Bytes,
    /// How the body is written in messages.
    pub encoding: Encoding,
}

impl fmt::Debug for NewEvent {
    /// Leaves out the values of headers, the query and the body, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewEvent")
            .field("origin", &self.origin)
            .field("headers", &self.headers.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .field("query_bytes", &self.query.as_ref().map(String::len))
            .field("encoding", &self.encoding)
            .field("body_bytes", &self.body.len())
            .finish()
    }
}

impl NewEvent {
    /// An unverified event of the source `default`.
    #[must_use]
    pub fn new(headers: Headers, query: Option<String>, body: Bytes) -> Self {
        let encoding = Encoding::of(&body);
        Self { origin: Origin::default(), headers, query, body, encoding }
    }

    /// Makes the event that was assigned this id.
    pub(crate) fn into_event(self, id: EventId, received_at: SystemTime) -> Event {
        let Self { origin, headers, query, body, encoding } = self;
        Event { id, received_at, origin, headers, query, body, encoding }
    }

    /// The size of what is stored but for the framing, in bytes.
    pub(crate) fn size(&self) -> usize {
        let Self { origin, headers, query, body, encoding: _ } = self;
        let Origin { source, tail, event_type, delivery_id, verification } = origin;
        let optional = [query, tail, event_type, delivery_id].into_iter().flatten();
        let verification = verification.iter().flat_map(|verified| [&verified.scheme, &verified.signed]);
        let headers = headers.iter().flat_map(|(name, value)| [name, value]);
        let texts: usize = optional.chain(verification).chain(headers).map(String::len).sum();
        body.len() + source.as_str().len() + texts
    }
}
