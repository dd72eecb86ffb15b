//! Websocket messages.
//!
//! Source: `docs/wire.md`, "Reading by websocket". A *legacy* message has only `type`, `id` and `data`. With the subprotocol
//! [`SUBPROTOCOL_V2`](crate::api::SUBPROTOCOL_V2) an event also has `attempt`, `receivedAt`, `headers` and `query`, and the
//! server sends a hello first.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::{
    AppId, Encoding, EventId, Origin,
    encoding::decode,
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

/// The metadata of an event. Empty in a legacy message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventDetails {
    /// The number of deliveries, this one included: 1 the first time, 0 on a tap.
    pub attempt: Option<u32>,
    /// When the server received the event.
    pub received_at: Option<SystemTime>,
    /// Where the event came from, and how it was verified. Only the default in a message of version 0.1.
    pub origin: Origin,
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
            Some("event") => Ok(Self::Event(Box::new(EventMessage::parse(text)?))),
            Some("gap") => {
                let [missed] = json::members(text, ["missed"])?;
                let missed = missed.ok_or(InvalidMessage::Missing("missed"))?;
                Ok(Self::Gap { missed: serde_json::from_str(missed.get())? })
            }
            _ => Ok(Self::Unknown),
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
        let (id, body) = id_and_body(text)?;
        Ok(Self { id, body, details: EventDetails::parse(text)? })
    }

    /// The sender's type of the event. A server of version 0.1 does not send it: then it is the string member `type` of the
    /// body, the event type of Watson Work.
    #[must_use]
    pub fn event_type(&self) -> Option<String> {
        if let Some(event_type) = &self.details.origin.event_type {
            return Some(event_type.clone());
        }
        let [kind] = json::members(std::str::from_utf8(&self.body).ok()?, ["type"]).ok()?;
        json::string(kind?).map(Into::into)
    }

    /// Deserializes the body, for example to a [`serde_json::Value`].
    pub fn json<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_slice(&self.body)
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
        let origin = Origin {
            source: source.map(|raw| serde_json::from_str(raw.get())).transpose()?.unwrap_or_default(),
            tail: text(tail),
            event_type: text(event_type),
            delivery_id: text(delivery_id),
            verification: verification.map(|raw| serde_json::from_str(raw.get())).transpose()?.flatten(),
        };
        Ok(Self {
            origin,
            attempt: attempt.map(|raw| serde_json::from_str(raw.get())).transpose()?,
            received_at: received_at.and_then(|text| humantime::parse_rfc3339(&text).ok()),
            headers: headers.map(|raw| serde_json::from_str(raw.get())).transpose()?.unwrap_or_default(),
            query: text(query),
        })
    }
}

/// Parses the id and the exact body of an event in a websocket message or a lease response.
pub(crate) fn id_and_body(text: &str) -> Result<(EventId, Bytes), InvalidMessage> {
    let [id, data, encoding] = json::members(text, ["id", "data", "encoding"])?;
    let id = id.and_then(id_text).and_then(|id| id.parse().ok()).ok_or(InvalidMessage::Missing("id"))?;
    let data = data.ok_or(InvalidMessage::Missing("data"))?;
    let encoding = match encoding {
        Some(raw) => serde_json::from_str(raw.get())?,
        None => Encoding::Json,
    };
    let body = decode(encoding, text, data).ok_or(InvalidMessage::Encoding(encoding.name()))?;
    Ok((id, body))
}

#[cfg(test)]
mod tests;
