//! Websocket messages.
//!
//! Source: `docs/wire.md`, "Reading by websocket". A *legacy* message has only `type`, `id` and `data`. With the subprotocol
//! [`SUBPROTOCOL_V2`](crate::api::SUBPROTOCOL_V2) an event also has `attempt`, `receivedAt`, `headers` and `query`, and the
//! server sends a hello first.
//!
//! A legacy message does not name the encoding of a body that is JSON or text. A string is taken as text, so a JSON body that is one
//! string cannot be told apart, and a byte order mark before JSON is lost. A `wwproxy.v2` message has neither ambiguity.

use std::{
    borrow::Cow,
    str::Utf8Error,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::{
    AppId, Encoding, EventId, Origin, SourceName, Verification,
    encoding::{encode_value, without_byte_order_mark},
    event::{Headers, content_type},
    json,
};

/// A websocket message from a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientMessage {
    /// `{"type":"event_ack","id":…}` or `{"type":"event_ack","ids":[…]}`: acknowledges these events.
    Ack(Vec<String>),
    /// `{"type":"event_nack","id":…,"delayMs":N}`: requests redelivery of this event after the delay. `delay_ms` is
    /// accepted too.
    Nack {
        /// The event.
        id: String,
        /// The delay before the redelivery.
        delay: Duration,
    },
    /// Any other JSON, which the server ignores.
    Ignored,
}

/// The websocket message is not JSON.
#[derive(Debug, thiserror::Error)]
#[error("the message is not JSON")]
pub struct NotJson(#[from] serde_json::Error);

impl ClientMessage {
    /// Parses a text message. An id that is a number is converted to its decimal string.
    pub fn parse(text: &str) -> Result<Self, NotJson> {
        // Any JSON is a message, but only an object can be an ack or a nack.
        serde_json::from_str::<&RawValue>(text)?;
        let names = ["type", "id", "ids", "delayMs", "delay_ms"];
        let Ok([kind, id, ids, delay, delay_snake]) = json::members(text, names) else {
            return Ok(Self::Ignored);
        };
        let delay = delay.or(delay_snake);
        let delay = delay.and_then(|ms| ms.get().parse().ok()).map_or(Duration::ZERO, Duration::from_millis);
        Ok(match kind.and_then(json::string).as_deref() {
            Some("event_ack") => {
                let listed = ids.and_then(|ids| serde_json::from_str::<Vec<&RawValue>>(ids.get()).ok());
                Self::Ack(listed.unwrap_or_default().into_iter().chain(id).filter_map(id_text).collect())
            }
            Some("event_nack") => match id.and_then(id_text) {
                Some(id) => Self::Nack { id, delay },
                None => Self::Ignored,
            },
            _ => Self::Ignored,
        })
    }

    /// Encodes an acknowledgement of these events. A legacy server accepts only one id per message.
    #[must_use]
    pub fn ack(ids: &[EventId]) -> String {
        match ids {
            [id] => serde_json::json!({"type": "event_ack", "id": id}),
            ids => serde_json::json!({"type": "event_ack", "ids": ids}),
        }
        .to_string()
    }

    /// Encodes a negative acknowledgement. It contains `delay_ms`, which servers of version 0.1 accept too.
    #[must_use]
    pub fn nack(id: &EventId, delay: Duration) -> String {
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        serde_json::json!({"type": "event_nack", "id": id, "delay_ms": delay_ms}).to_string()
    }
}

fn id_text(raw: &RawValue) -> Option<String> {
    let is_number = raw.get().starts_with(|c: char| c == '-' || c.is_ascii_digit());
    if is_number { Some(raw.get().to_owned()) } else { json::string(raw).map(Into::into) }
}

/// The server's first message to a `wwproxy.v2` client: the parameters of the connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Hello {
    /// The app.
    pub app_id: AppId,
    /// The prefetch window: the maximum number of events in flight.
    pub window: u32,
    /// The lease time of an event, in milliseconds.
    pub lease_ms: u64,
    /// The interval of the server's pings, in milliseconds.
    pub ping_ms: u64,
    /// The idle timeout after which the server closes the connection, in milliseconds.
    pub idle_ms: u64,
    /// Whether the connection is a tap, to which no event is leased.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tap: bool,
}

impl Hello {
    /// Creates the hello of a connection.
    #[must_use]
    pub fn new(app_id: AppId, window: u32, lease: Duration, ping: Duration, idle: Duration) -> Self {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let (lease_ms, ping_ms, idle_ms) = (ms(lease), ms(ping), ms(idle));
        Self { app_id, window, lease_ms, ping_ms, idle_ms, tap: false }
    }

    /// Converts the hello to that of a tap.
    #[must_use]
    pub fn tap(mut self) -> Self {
        self.tap = true;
        self
    }

    /// Encodes the websocket message.
    #[must_use]
    pub fn encode(&self) -> String {
        #[derive(Serialize)]
        struct Tagged<'a> {
            r#type: &'static str,
            #[serde(flatten)]
            hello: &'a Hello,
        }
        json::encode(&Tagged { r#type: "hello", hello: self })
    }
}

/// A websocket message from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerMessage {
    /// The first message to a `wwproxy.v2` client.
    Hello(Hello),
    /// An event.
    Event(Box<EventMessage>),
    /// An event whose body cannot be decoded: its encoding is unknown, or the body is not of its encoding.
    Undecodable {
        /// The event's id.
        id: EventId,
        /// Why not.
        reason: String,
    },
    /// To a tap: events were skipped.
    Gap {
        /// The number of skipped events.
        missed: u64,
    },
    /// A message of unknown type, which is ignored.
    Unknown,
}

/// An event received over the websocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventMessage {
    /// The event's id.
    pub id: EventId,
    /// The body, byte for byte.
    pub body: Bytes,
    /// The metadata, which only a `wwproxy.v2` server sends.
    pub details: EventDetails,
}

/// The metadata of an event. Empty in a legacy message, and in a poll.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventDetails {
    /// The number of deliveries, this one included: 1 the first time, 0 on a tap.
    pub attempt: Option<u32>,
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

impl ServerMessage {
    /// Parses a text message.
    pub fn parse(text: &str) -> Result<Self, InvalidMessage> {
        let [kind] = json::members(text, ["type"])?;
        match kind.and_then(json::string).as_deref() {
            Some("hello") => Ok(Self::Hello(serde_json::from_str(text)?)),
            Some("event") => Self::parse_event(text),
            Some("gap") => {
                let [missed] = json::members(text, ["missed"])?;
                let missed = missed.ok_or(InvalidMessage::Missing("missed"))?;
                Ok(Self::Gap { missed: serde_json::from_str(missed.get())? })
            }
            _ => Ok(Self::Unknown),
        }
    }

    fn parse_event(text: &str) -> Result<Self, InvalidMessage> {
        match EventMessage::parse(text) {
            Ok(event) => Ok(Self::Event(Box::new(event))),
            Err(error @ (InvalidMessage::Encoding(_) | InvalidMessage::UnknownEncoding(_))) => {
                Ok(Self::Undecodable { id: event_id(text)?, reason: error.to_string() })
            }
            Err(error) => Err(error),
        }
    }

    /// Encodes the message that reports skipped events to a tap.
    #[must_use]
    pub fn gap(missed: u64) -> String {
        serde_json::json!({"type": "gap", "missed": missed}).to_string()
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
    #[must_use]
    pub fn event_type(&self) -> Option<String> {
        let Origin { event_type, verification, .. } = &self.details.origin;
        if event_type.is_some() || verification.is_some() {
            return event_type.clone();
        }
        let [kind] = json::members(self.text().ok()?, ["type"]).ok()?;
        json::string(kind?).map(Into::into)
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

/// The server's message is invalid.
#[derive(Debug, thiserror::Error)]
pub enum InvalidMessage {
    /// The message is not a JSON object, or a member has the wrong type.
    #[error("the message is not valid for a wwproxy server")]
    Json(#[from] serde_json::Error),
    /// A required member is missing or invalid.
    #[error("the message has no {0}")]
    Missing(&'static str),
    /// The body is not a string of its encoding.
    #[error("the data of the message is not {0}")]
    Encoding(&'static str),
    /// The body has an encoding of a later version.
    #[error("the data of the message has the unknown encoding {0:?}; update this client")]
    UnknownEncoding(String),
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
            "receivedAt",
            "headers",
            "query",
            "source",
            "tail",
            "eventType",
            "deliveryId",
            "verification",
        ];
        let [attempt, received_at, headers, query, source, tail, event_type, delivery_id, verification] =
            json::members(text, names)?;
        let received_at = received_at.and_then(json::string);
        let text = |raw: Option<&RawValue>| raw.and_then(json::string).map(Cow::into_owned);
        let has_origin = source.is_some();
        let origin = Origin {
            source: source.map(|raw| serde_json::from_str(raw.get())).transpose()?.unwrap_or_default(),
            tail: text(tail),
            event_type: text(event_type),
            delivery_id: text(delivery_id),
            verification: verification.map(|raw| serde_json::from_str(raw.get())).transpose()?.flatten(),
        };
        Ok(Self {
            origin,
            has_origin,
            attempt: attempt.map(|raw| serde_json::from_str(raw.get())).transpose()?,
            received_at: received_at.and_then(|text| humantime::parse_rfc3339(&text).ok()),
            headers: headers.map(|raw| serde_json::from_str(raw.get())).transpose()?.unwrap_or_default(),
            query: text(query),
        })
    }
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
