//! Received events: their bodies and metadata.

use std::{borrow::Cow, fmt, str::Utf8Error, time::SystemTime};

use bytes::Bytes;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::id_text;
use crate::{
    Encoding, EventId, Origin, SourceName, Verification,
    encoding::{encode_value, without_byte_order_mark},
    event::{Headers, content_type},
    invalid_message::InvalidMessage,
    json,
    redact::names,
};

/// The longest event type, in bytes, as for those that a server reads.
const MAX_EVENT_TYPE_BYTES: usize = 256;

/// An event received over the websocket.
#[derive(Clone, PartialEq, Eq)]
pub struct EventMessage {
    /// The event's id.
    pub id: EventId,
    /// The body, byte for byte.
    pub body: Bytes,
    /// The metadata, which only a `wwproxy.v2` server sends.
    pub details: EventDetails,
}

/// An event whose metadata or body this client cannot decode, for example because its encoding is of a later version. It does not
/// hold up other events, and stays on the server, which redelivers it when its lease expires.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("event {id} cannot be decoded: {reason}")]
pub struct UndecodableEvent {
    /// The event's id.
    pub id: EventId,
    /// Why it cannot be decoded.
    pub reason: String,
}

impl UndecodableEvent {
    /// The event of this message, whose parsing failed. If it has no valid id either, the error is returned.
    pub(crate) fn new(text: &str, error: InvalidMessage) -> Result<Self, InvalidMessage> {
        match event_id(text) {
            Ok(id) => Ok(Self { id, reason: error.to_string() }),
            Err(_) => Err(error),
        }
    }
}

/// The metadata of an event. Empty in a legacy message, and in a poll.
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventDetails {
    /// The number of deliveries, this one included: 1 the first time, 0 on a tap.
    pub attempt: Option<u32>,
    /// How often the event was replayed to the consumer. Together with the id it is the idempotency key of a handler.
    pub replay: u32,
    /// When the server received the event.
    pub received_at: Option<SystemTime>,
    /// Where the event came from, and how it was verified: the default unless `has_origin`.
    pub origin: Origin,
    /// Whether the server said where the event came from. A server of version 0.1 does not, and verifies every event.
    pub has_origin: bool,
    /// The sender's headers.
    pub headers: Headers,
    /// The query string of the sender's request, without the `?`.
    pub query: Option<String>,
}

impl fmt::Debug for EventMessage {
    /// Leaves out the body, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventMessage")
            .field("id", &self.id)
            .field("body_bytes", &self.body.len())
            .field("details", &self.details)
            .finish()
    }
}

impl fmt::Debug for EventDetails {
    /// Leaves out the values of headers and the query, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventDetails")
            .field("attempt", &self.attempt)
            .field("replay", &self.replay)
            .field("received_at", &self.received_at)
            .field("origin", &self.origin)
            .field("has_origin", &self.has_origin)
            .field("headers", &names(&self.headers))
            .field("query_bytes", &self.query.as_ref().map(String::len))
            .finish()
    }
}

impl EventMessage {
    /// Parses a JSON object with an event's `id`, `data` and metadata.
    ///
    /// ```
    /// use wwproxy_protocol::message::EventMessage;
    ///
    /// let event = EventMessage::parse(r#"{"id":"1","attempt":2,"data":{"n": 1.0}}"#)?;
    /// assert_eq!(event.body, r#"{"n": 1.0}"#);
    /// assert_eq!(event.details.attempt, Some(2));
    /// # Ok::<(), wwproxy_protocol::message::InvalidMessage>(())
    /// ```
    pub fn parse(text: &str) -> Result<Self, InvalidMessage> {
        Ok(Self { id: event_id(text)?, details: EventDetails::parse(text)?, body: body(text)? })
    }

    /// The body, byte for byte as its sender signed it.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.body
    }

    /// The `Content-Type` of the sender's request. `None` if it had none, from a legacy server, and in a poll.
    #[must_use]
    pub fn content_type(&self) -> Option<&str> {
        self.details.content_type()
    }

    /// Deserializes a JSON body, for example to a [`serde_json::Value`]. A byte order mark is ignored.
    pub fn json<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_slice(without_byte_order_mark(&self.body))
    }

    /// The body as text.
    ///
    /// # Errors
    /// The body is not UTF-8.
    pub fn text(&self) -> Result<&str, Utf8Error> {
        std::str::from_utf8(&self.body)
    }

    /// The names and values of a form (`application/x-www-form-urlencoded`), decoded and in order. The content type is not
    /// checked: any body has a reading as a form.
    ///
    /// ```
    /// use wwproxy_protocol::message::EventMessage;
    ///
    /// let event = EventMessage::parse(r#"{"id":"1","encoding":"text","data":"From=%2B44&Body=a+b"}"#)?;
    /// let form: Vec<_> = event.form().collect();
    /// assert_eq!(form, [("From".into(), "+44".into()), ("Body".into(), "a b".into())]);
    /// # Ok::<(), wwproxy_protocol::message::InvalidMessage>(())
    /// ```
    pub fn form(&self) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
        form_urlencoded::parse(&self.body)
    }

    /// The sender's type of the event, as in `issues.opened`. `None` if the source's scheme gives none. Without a scheme, that is for an
    /// unverified event and from a server of version 0.1, it is the string member `type` of the body, as in Watson Work's webhooks.
    /// At most 256 bytes and without control characters: any other is left out.
    #[must_use]
    pub fn event_type(&self) -> Option<String> {
        let Origin { event_type, verification, .. } = &self.details.origin;
        let event_type = if event_type.is_some() || verification.is_some() {
            event_type.clone()
        } else {
            let [kind] = json::members(self.text().ok()?, ["type"]).ok()?;
            json::string(kind?).map(Into::into)
        };
        event_type.filter(|kind| kind.len() <= MAX_EVENT_TYPE_BYTES && !kind.contains(char::is_control))
    }

    /// The source that received the event. `default` if the server did not say.
    #[must_use]
    pub fn source(&self) -> &SourceName {
        &self.details.origin.source
    }

    /// The sender's id of the delivery.
    #[must_use]
    pub fn delivery_id(&self) -> Option<&str> {
        self.details.origin.delivery_id.as_deref()
    }

    /// The path of the sender's request after the source's hook, with its first `/`, not decoded. The sender chooses it: do not join
    /// it to another path without a check for `..`.
    #[must_use]
    pub fn tail(&self) -> Option<&str> {
        self.details.origin.tail.as_deref()
    }

    /// How the event was verified. `None` if it was not, or if the server did not say: see [`is_unverified`](Self::is_unverified).
    #[must_use]
    pub fn verification(&self) -> Option<&Verification> {
        self.details.origin.verification.as_ref()
    }

    /// Whether the server says that the event was not verified: anyone may have sent it.
    #[must_use]
    pub fn is_unverified(&self) -> bool {
        self.details.has_origin && self.verification().is_none()
    }

    /// The body as one JSON value, as in a poll: JSON byte for byte, without a byte order mark; text as a string; other bytes as
    /// `{"encoding":"base64","data":"…"}`.
    #[must_use]
    pub fn json_value(&self) -> Cow<'_, str> {
        encode_value(Encoding::of(&self.body), &self.body)
    }

    /// The body as the `data` of a message, and its encoding, from which [`parse`](Self::parse) restores it byte for byte.
    #[must_use]
    pub fn data(&self) -> (Encoding, Cow<'_, str>) {
        let encoding = Encoding::of(&self.body);
        (encoding, encoding.encode(&self.body))
    }
}

impl EventDetails {
    /// The content type of the body.
    #[must_use]
    pub fn content_type(&self) -> Option<&str> {
        content_type(&self.headers)
    }

    pub(crate) fn parse(text: &str) -> Result<Self, InvalidMessage> {
        let names = [
            "attempt",
            "replay",
            "receivedAt",
            "headers",
            "query",
            "source",
            "tail",
            "eventType",
            "deliveryId",
            "verification",
        ];
        let [
            attempt,
            replay,
            received_at,
            headers,
            query,
            source,
            tail,
            event_type,
            delivery_id,
            verification,
        ] = json::members(text, names)?;
        let received_at = received_at.and_then(json::string);
        let text = |raw: Option<&RawValue>| raw.and_then(json::string).map(Cow::into_owned);
        let has_origin = source.is_some();
        let origin = Origin {
            source: metadata("source", source)?.unwrap_or_default(),
            tail: text(tail),
            event_type: text(event_type),
            delivery_id: text(delivery_id),
            verification: metadata("verification", verification)?.flatten(),
        };
        Ok(Self {
            origin,
            has_origin,
            attempt: metadata("attempt", attempt)?,
            replay: metadata("replay", replay)?.unwrap_or_default(),
            received_at: received_at.and_then(|text| humantime::parse_rfc3339(&text).ok()),
            headers: metadata("headers", headers)?.unwrap_or_default(),
            query: text(query),
        })
    }
}

/// Deserializes a member of the metadata.
fn metadata<'a, T: Deserialize<'a>>(
    name: &'static str,
    value: Option<&'a RawValue>,
) -> Result<Option<T>, InvalidMessage> {
    value.map(|raw| serde_json::from_str(raw.get())).transpose().map_err(|_| InvalidMessage::Metadata(name))
}

fn event_id(text: &str) -> Result<EventId, InvalidMessage> {
    let [id] = json::members(text, ["id"])?;
    id.and_then(id_text).and_then(|id| id.parse().ok()).ok_or(InvalidMessage::Missing("id"))
}

/// Parses the exact body of an event.
fn body(text: &str) -> Result<Bytes, InvalidMessage> {
    let [data, encoding] = json::members(text, ["data", "encoding"])?;
    let data = data.ok_or(InvalidMessage::Missing("data"))?;
    let encoding = encoding.map_or_else(|| Ok(Encoding::of_unmarked(data)), Encoding::parse)?;
    encoding.decode(text, data)
}

#[cfg(test)]
mod tests;
