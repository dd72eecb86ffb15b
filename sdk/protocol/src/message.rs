//! Websocket messages.
//!
//! Source: `docs/wire.md`, "Reading by websocket". A *legacy* message has only `type`, `id` and `data`. With the subprotocol
//! [`SUBPROTOCOL_V2`](crate::api::SUBPROTOCOL_V2) an event also has `attempt`, `receivedAt`, `headers` and `query`, and the
//! server sends a hello first.
//!
//! A legacy message does not name the encoding of a body that is JSON or text. A string is taken as text, so a JSON body that is one
//! string cannot be distinguished, and a byte order mark before JSON is lost. A `wwproxy.v2` message has neither ambiguity.

mod event;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub use self::event::{EventDetails, EventMessage, UndecodableEvent};
pub use crate::invalid_message::InvalidMessage;
use crate::{AppId, EventId, json};

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
    /// An event that cannot be decoded.
    Undecodable(UndecodableEvent),
    /// To a tap: events were skipped.
    Gap {
        /// The number of skipped events.
        missed: u64,
    },
    /// A message of unknown type, which is ignored.
    Unknown,
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
            Err(error) => UndecodableEvent::new(text, error).map(Self::Undecodable),
        }
    }

    /// Encodes the message that reports skipped events to a tap.
    #[must_use]
    pub fn gap(missed: u64) -> String {
        serde_json::json!({"type": "gap", "missed": missed}).to_string()
    }
}

#[cfg(test)]
mod tests;
