//! Websocket messages.
//!
//! Source: `docs/wire.md`, "Reading by websocket". A *legacy* message has only `type`, `id` and `data`. With the subprotocol
//! [`SUBPROTOCOL_V2`](crate::api::SUBPROTOCOL_V2) an event also has `attempt`, `receivedAt`, `headers` and `query`, the server
//! sends a hello first, and the client may nack, reject and extend.
//!
//! A legacy message does not name the encoding of a body that is JSON or text. A string is taken as text, so a JSON body that is one
//! string cannot be distinguished, and a byte order mark before JSON is lost. A `wwproxy.v2` message has neither ambiguity.

mod event;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub use self::event::{EventDetails, EventMessage, UndecodableEvent};
pub use crate::invalid_message::InvalidMessage;
use crate::{AppId, ConsumerName, EventId, api::MAX_REASON_BYTES, json, text::truncate};

/// A websocket message from a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientMessage {
    /// `{"type":"event_ack","id":…}` or `{"type":"event_ack","ids":[…]}`: acknowledges these events.
    Ack(Vec<String>),
    /// `{"type":"event_nack","id":…,"delayMs":N,"reason":…}`: requests redelivery of this event after the delay. `delay_ms` is
    /// accepted too.
    Nack {
        /// The event.
        id: String,
        /// The delay before the redelivery.
        delay: Duration,
        /// Why the client could not process the event, cut to [`MAX_REASON_BYTES`].
        reason: Option<String>,
    },
    /// `{"type":"event_reject","id":…,"reason":…}`: no client can process this event, it is dead from now on.
    Reject {
        /// The event.
        id: String,
        /// Why no client can process it, cut to [`MAX_REASON_BYTES`].
        reason: Option<String>,
    },
    /// `{"type":"event_progress","id":…}`: the client still processes this event, its lease runs again from now on.
    Progress {
        /// The event.
        id: String,
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
        let names = ["type", "id", "ids", "delayMs", "delay_ms", "reason"];
        let Ok([kind, id, ids, delay, delay_snake, reason]) = json::members(text, names) else {
            return Ok(Self::Ignored);
        };
        let kind = kind.and_then(json::string);
        if kind.as_deref() == Some("event_ack") {
            let listed = ids.and_then(|ids| serde_json::from_str::<Vec<&RawValue>>(ids.get()).ok());
            let ids = listed.unwrap_or_default().into_iter().chain(id).filter_map(id_text);
            return Ok(Self::Ack(ids.collect()));
        }
        let Some(id) = id.and_then(id_text) else { return Ok(Self::Ignored) };
        let delay = delay.or(delay_snake).and_then(|ms| ms.get().parse().ok());
        let delay = delay.map_or(Duration::ZERO, Duration::from_millis);
        let reason =
            reason.and_then(json::string).map(|reason| truncate(&reason, MAX_REASON_BYTES).to_owned());
        Ok(match kind.as_deref() {
            Some("event_nack") => Self::Nack { id, delay, reason },
            Some("event_reject") => Self::Reject { id, reason },
            Some("event_progress") => Self::Progress { id },
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
    pub fn nack(id: &EventId, delay: Duration, reason: Option<&str>) -> String {
        let delay_ms = Some(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
        Command { delay_ms, ..Command::new("event_nack", id, reason) }.encode()
    }

    /// Encodes a rejection.
    #[must_use]
    pub fn reject(id: &EventId, reason: Option<&str>) -> String {
        Command::new("event_reject", id, reason).encode()
    }

    /// Encodes that the client still processes the event.
    #[must_use]
    pub fn progress(id: &EventId) -> String {
        Command::new("event_progress", id, None).encode()
    }
}

/// A message of a client about one event.
#[derive(Serialize)]
struct Command<'a> {
    r#type: &'static str,
    id: &'a EventId,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

impl<'a> Command<'a> {
    fn new(r#type: &'static str, id: &'a EventId, reason: Option<&'a str>) -> Self {
        Self { r#type, id, delay_ms: None, reason: reason.map(|reason| truncate(reason, MAX_REASON_BYTES)) }
    }

    fn encode(&self) -> String {
        json::encode(self)
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
    /// The consumer whose events the connection receives: `None` for `default`, on a tap, and if it is ephemeral.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumer: Option<ConsumerName>,
    /// The number of events after the requested position that retention has removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missed: Option<u64>,
}

impl Hello {
    /// Creates the hello of a connection.
    #[must_use]
    pub fn new(app_id: AppId, window: u32, lease: Duration, ping: Duration, idle: Duration) -> Self {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let (lease_ms, ping_ms, idle_ms) = (ms(lease), ms(ping), ms(idle));
        Self { app_id, window, lease_ms, ping_ms, idle_ms, tap: false, consumer: None, missed: None }
    }

    /// Converts the hello to that of a tap.
    #[must_use]
    pub fn tap(mut self) -> Self {
        self.tap = true;
        self
    }

    /// Names the consumer whose events the connection receives.
    #[must_use]
    pub fn consumer(mut self, name: ConsumerName) -> Self {
        self.consumer = Some(name);
        self
    }

    /// Reports how many events after the requested position are missing.
    #[must_use]
    pub fn missed(mut self, events: u64) -> Self {
        self.missed = Some(events);
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
