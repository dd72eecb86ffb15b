//! Bodies of leases and polls.

use std::{fmt, ops::Deref};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    ConsumerName, Event, EventId, encoding, json,
    message::{EventMessage, InvalidMessage, UndecodableEvent},
};

/// Body of `POST /webhooks/{appId}/lease`. An empty body is `{}`.
///
/// Accepts the names `waitMs` and `leaseMs`, or `wait_ms` and `lease_ms`. Serialized with the latter, which servers of
/// version 0.1 accept too.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRequest {
    /// The maximum number of events: 1 to [`MAX_LEASE_EVENTS`](super::MAX_LEASE_EVENTS) (clamped).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
    /// How long to wait for the first event, in milliseconds: 0 by default, at most [`MAX_LEASE_WAIT`](super::MAX_LEASE_WAIT) (clamped).
    #[serde(alias = "waitMs", skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
    /// The lease time, in milliseconds: the server's by default.
    #[serde(alias = "leaseMs", skip_serializing_if = "Option::is_none")]
    pub lease_ms: Option<u64>,
    /// The consumer whose events are leased: `default` if it is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consumer: Option<ConsumerName>,
}

/// The receipt of one lease of one event (SQS: receipt handle). Opaque except to the store that issued it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Receipt(String);

impl Receipt {
    /// Wraps the text of a receipt.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The receipt as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// An event of a lease: the members of a `wwproxy.v2` message, and `receipt`. It has the fields and methods of [`EventMessage`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeasedEvent {
    /// The receipt that acknowledges or releases this lease.
    pub receipt: Receipt,
    /// The event.
    pub event: EventMessage,
}

impl Deref for LeasedEvent {
    type Target = EventMessage;

    fn deref(&self) -> &EventMessage {
        &self.event
    }
}

impl LeasedEvent {
    fn parse(text: &str) -> Result<Self, InvalidMessage> {
        let [receipt] = json::members(text, ["receipt"])?;
        let receipt = receipt.and_then(json::string).ok_or(InvalidMessage::Missing("receipt"))?;
        Ok(Self { receipt: Receipt::new(receipt), event: EventMessage::parse(text)? })
    }
}

/// The events of a lease.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeasedEvents {
    /// The events, in order of arrival.
    pub events: Vec<LeasedEvent>,
    /// The events that cannot be decoded. They are leased as well, and redelivered when their lease expires.
    pub undecodable: Vec<UndecodableEvent>,
}

/// Builds the response of a lease, event by event: `{"events":[…]}`.
pub struct LeaseResponse(String);

impl Default for LeaseResponse {
    fn default() -> Self {
        Self(r#"{"events":["#.to_owned())
    }
}

impl LeaseResponse {
    /// Appends the next event. This is its `attempt`th delivery, since it was replayed `replay` times.
    pub fn push(&mut self, event: &Event, receipt: &Receipt, attempt: u32, replay: u32) {
        let response = &mut self.0;
        response.push_str(if response.ends_with('[') { r#"{"id":"# } else { r#",{"id":"# });
        response.push_str(&json::encode(&event.id));
        response.push_str(r#","receipt":"#);
        response.push_str(&json::encode(receipt));
        event.push_details(response, attempt, replay);
        event.push_data(response);
    }

    /// Returns the complete response.
    #[must_use]
    pub fn finish(mut self) -> String {
        self.0.push_str("]}");
        self.0
    }
}

/// Parses the response of a lease. An event that cannot be decoded does not withhold the others.
///
/// # Errors
/// The response is not that of a lease, or an event has no valid id.
pub fn decode_lease(text: &str) -> Result<LeasedEvents, InvalidMessage> {
    #[derive(Deserialize)]
    struct Response<'a> {
        #[serde(borrow)]
        events: Vec<&'a RawValue>,
    }
    let response: Response<'_> = serde_json::from_str(text)?;
    let mut leased = LeasedEvents::default();
    for event in response.events {
        match LeasedEvent::parse(event.get()) {
            Ok(event) => leased.events.push(event),
            Err(error) => leased.undecodable.push(UndecodableEvent::new(event.get(), error)?),
        }
    }
    Ok(leased)
}

/// Builds the response of a poll, event by event: `{"<eventId>":<body>,…}` in order of arrival. A body that is text is a JSON
/// string, any other `{"encoding":"base64","data":"…"}`.
pub struct PollResponse(Vec<u8>);

impl Default for PollResponse {
    fn default() -> Self {
        Self(vec![b'{'])
    }
}

impl PollResponse {
    /// Appends the next event.
    pub fn push(&mut self, event: &Event) {
        let response = &mut self.0;
        if response.len() > 1 {
            response.push(b',');
        }
        response.extend_from_slice(json::encode(&event.id).as_bytes());
        response.push(b':');
        response.extend_from_slice(encoding::encode_value(event.encoding, &event.body).as_bytes());
    }

    /// Returns the complete response.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.0.push(b'}');
        self.0
    }
}

/// Parses the response of a poll: ids and exact bodies, in order of arrival.
///
/// A poll does not say how a body is encoded. A string is taken as text, and exactly `{"encoding":"base64","data":"…"}` as other
/// bytes, so a JSON body of one of these forms cannot be distinguished. A byte order mark before JSON is lost. A lease has
/// neither ambiguity.
pub fn decode_poll(text: &str) -> Result<Vec<(EventId, Bytes)>, InvalidMessage> {
    let mut events = Vec::new();
    let mut has_invalid_id = false;
    json::each_member(text, |name, value| {
        match std::str::from_utf8(name).ok().and_then(|id| id.parse().ok()) {
            Some(id) => {
                events.push((id, encoding::decode_value(text, value)));
            }
            None => has_invalid_id = true,
        }
    })?;
    if has_invalid_id { Err(InvalidMessage::Missing("id")) } else { Ok(events) }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::{Encoding, Origin};

    fn event(id: &str, body: &'static str) -> Event {
        Event {
            id: id.parse().unwrap(),
            received_at: SystemTime::UNIX_EPOCH,
            headers: vec![("x-outbound-index".into(), "7".into())],
            query: Some("a=b".into()),
            origin: Origin::default(),
            encoding: Encoding::of(body.as_bytes()),
            body: Bytes::from_static(body.as_bytes()),
        }
    }

    #[test]
    fn a_poll_response_keeps_order_and_bytes() {
        let events = [event("b", "{\"n\":1.50}\n"), event("a", " [1 ,2]")];
        let mut response = PollResponse::default();
        for event in &events {
            response.push(event);
        }
        let response = String::from_utf8(response.finish()).unwrap();
        assert_eq!(response, "{\"b\":{\"n\":1.50}\n,\"a\": [1 ,2]}");
        let decoded = decode_poll(&response).unwrap();
        assert_eq!(decoded, events.map(|event| (event.id, event.body)));
        assert_eq!(PollResponse::default().finish(), b"{}");
        assert_eq!(decode_poll("{}").unwrap(), []);
        assert!(decode_poll("[]").is_err());
    }

    #[test]
    fn a_lease_response_keeps_order_and_bytes() {
        let events = [event("b", "{\"n\":1.50}\n"), event("a", " [1 ,2]")];
        let receipt = Receipt::new("r\"1");
        let mut response = LeaseResponse::default();
        for event in &events {
            response.push(event, &receipt, 2, 3);
        }
        let response = response.finish();
        let decoded = decode_lease(&response).unwrap();
        assert_eq!((decoded.events.len(), &decoded.undecodable[..]), (2, &[][..]));
        for (got, sent) in decoded.events.iter().zip(&events) {
            assert_eq!((&got.id, &got.body, &got.receipt), (&sent.id, &sent.body, &receipt));
            assert_eq!(got.details.headers, sent.headers);
            assert_eq!(got.details.query, sent.query);
            assert_eq!((got.details.attempt, got.details.replay), (Some(2), 3));
        }
        assert_eq!(decode_lease(&LeaseResponse::default().finish()).unwrap(), LeasedEvents::default());
    }
}
