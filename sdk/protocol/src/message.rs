//! Events, and the websocket messages that carry them.
//!
//! Source: `docs/wire.md`, "Reading by websocket". A *legacy* message has `type`, `id` and `data`
//! only; with the subprotocol [`SUBPROTOCOL_V2`](crate::api::SUBPROTOCOL_V2) an event also tells
//! `attempt`, `receivedAt`, `headers` and `query`, and the server says hello first.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::{AppId, EventId, json};

/// The headers of a sender's request as `[name, value]` pairs, in order. Names are lower case;
/// bytes over 127 of a value stand for the characters of the same number (ISO 8859-1).
pub type Headers = Vec<(String, String)>;

/// One webhook, as its sender signed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its name, given by the proxy.
    pub id: EventId,
    /// When the proxy took it.
    pub received_at: SystemTime,
    /// What its sender's request said, without hop-by-hop headers and credentials.
    pub headers: Headers,
    /// The query string of the sender's request, without the `?`.
    pub query: Option<String>,
    /// The body, to the last byte: one JSON object or array in UTF-8.
    pub body: Bytes,
}

/// What a client says over the websocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientMessage {
    /// `{"type":"event_ack","id":…}` or `{"type":"event_ack","ids":[…]}`: these events are accepted.
    Ack(Vec<String>),
    /// `{"type":"event_nack","id":…,"delayMs":N}`: hand this one out again, not before the delay. `delay_ms` is read
    /// as well.
    Nack {
        /// The event.
        id: String,
        /// How long nobody shall get it.
        delay: Duration,
    },
    /// Some other JSON, which means nothing to the server and does no harm.
    Ignored,
}

/// A websocket message that is no JSON.
#[derive(Debug, thiserror::Error)]
#[error("the message is not JSON")]
pub struct NotJson(#[from] serde_json::Error);

impl ClientMessage {
    /// Reads one text message. An id given as a number is taken as its decimal string.
    pub fn parse(text: &str) -> Result<Self, NotJson> {
        // Any JSON is a message; only an object can be one that means something.
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

    /// The message that acknowledges these events. A server that speaks the legacy protocol only
    /// understands one id a message.
    #[must_use]
    pub fn ack(ids: &[EventId]) -> String {
        match ids {
            [id] => serde_json::json!({"type": "event_ack", "id": id}),
            ids => serde_json::json!({"type": "event_ack", "ids": ids}),
        }
        .to_string()
    }

    /// The message that hands an event back. It says `delay_ms`, which servers of version 0.1 know as well.
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

/// The server's first message to a `wwproxy.v2` client: the terms of this connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Hello {
    /// Whose events these are.
    pub app_id: AppId,
    /// How many events are outstanding at once, at most.
    pub window: u32,
    /// How long an event is this connection's, in milliseconds.
    pub lease_ms: u64,
    /// How often the server pings, in milliseconds.
    pub ping_ms: u64,
    /// How long the server bears silence before it closes, in milliseconds.
    pub idle_ms: u64,
    /// Whether the connection is a tap: shown events, and none is its own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tap: bool,
}

impl Hello {
    /// The terms of a connection.
    #[must_use]
    pub fn new(app_id: AppId, window: u32, lease: Duration, ping: Duration, idle: Duration) -> Self {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let (lease_ms, ping_ms, idle_ms) = (ms(lease), ms(ping), ms(idle));
        Self { app_id, window, lease_ms, ping_ms, idle_ms, tap: false }
    }

    /// The same for a tap.
    #[must_use]
    pub fn tap(mut self) -> Self {
        self.tap = true;
        self
    }

    /// The websocket message.
    #[must_use]
    pub fn encode(&self) -> String {
        #[derive(Serialize)]
        struct Tagged<'a> {
            r#type: &'static str,
            #[serde(flatten)]
            hello: &'a Hello,
        }
        to_json(&Tagged { r#type: "hello", hello: self })
    }
}

/// What the server says over the websocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerMessage {
    /// The first message to a `wwproxy.v2` client.
    Hello(Hello),
    /// One event.
    Event(Box<EventMessage>),
    /// To a tap: so many events came that it was not shown.
    Gap {
        /// How many.
        missed: u64,
    },
    /// Something this version does not know, to be ignored.
    Unknown,
}

/// An event as it came over the websocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventMessage {
    /// The event's name, to acknowledge it by.
    pub id: EventId,
    /// The body, to the last byte.
    pub body: Bytes,
    /// What only a `wwproxy.v2` server tells.
    pub details: EventDetails,
}

/// What is told of an event beside its id and its body. A legacy message tells nothing of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventDetails {
    /// How often the event has been handed out, this time included: 1 the first time, and 0 where it is only
    /// shown to a tap.
    pub attempt: Option<u32>,
    /// When the proxy took it.
    pub received_at: Option<SystemTime>,
    /// The sender's headers.
    pub headers: Headers,
    /// The query string of the sender's request, without the `?`.
    pub query: Option<String>,
}

impl ServerMessage {
    /// Reads one text message.
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

    /// The message that tells a tap of events that it was not shown.
    #[must_use]
    pub fn gap(missed: u64) -> String {
        serde_json::json!({"type": "gap", "missed": missed}).to_string()
    }
}

impl EventMessage {
    /// Reads a JSON object with an event's `id`, `data`, and whatever else is told of it.
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

    /// The string `type` of the body, by which Watson Work's events are told apart.
    #[must_use]
    pub fn event_type(&self) -> Option<String> {
        let [kind] = json::members(std::str::from_utf8(&self.body).ok()?, ["type"]).ok()?;
        json::string(kind?).map(Into::into)
    }

    /// The body as a type of one's own, or as a [`serde_json::Value`].
    pub fn json<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_slice(&self.body)
    }
}

/// A message from the server that this crate cannot read.
#[derive(Debug, thiserror::Error)]
pub enum InvalidMessage {
    /// It is no JSON object, or a member has the wrong type.
    #[error("the message is not what a wwproxy server sends")]
    Json(#[from] serde_json::Error),
    /// A member that it must have is missing or unusable.
    #[error("the message has no {0}")]
    Missing(&'static str),
}

impl EventDetails {
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidMessage> {
        let [attempt, received_at, headers, query] =
            json::members(text, ["attempt", "receivedAt", "headers", "query"])?;
        let received_at = received_at.and_then(json::string);
        Ok(Self {
            attempt: attempt.map(|raw| serde_json::from_str(raw.get())).transpose()?,
            received_at: received_at.and_then(|text| humantime::parse_rfc3339(&text).ok()),
            headers: headers.map(|raw| serde_json::from_str(raw.get())).transpose()?.unwrap_or_default(),
            query: query.and_then(json::string).map(Into::into),
        })
    }
}

/// The id and the exact body of an event in a websocket message or a lease.
pub(crate) fn id_and_body(text: &str) -> Result<(EventId, Bytes), InvalidMessage> {
    let [id, data] = json::members(text, ["id", "data"])?;
    let id = id.and_then(id_text).and_then(|id| id.parse().ok()).ok_or(InvalidMessage::Missing("id"))?;
    let data = data.ok_or(InvalidMessage::Missing("data"))?;
    let body = Bytes::copy_from_slice(json::with_white_space(text, data).as_bytes());
    Ok((id, body))
}

impl Event {
    /// The legacy websocket message: `{"type":"event","id":…,"data":…}`.
    #[must_use]
    pub fn encode_legacy(&self) -> String {
        let mut message = String::with_capacity(self.body.len() + 96);
        message.push_str(r#"{"type":"event","id":"#);
        message.push_str(&to_json(&self.id));
        self.push_data(&mut message);
        message
    }

    /// The `wwproxy.v2` websocket message.
    #[must_use]
    pub fn encode_v2(&self, attempt: u32) -> String {
        let mut message = String::with_capacity(self.body.len() + 1024);
        message.push_str(r#"{"type":"event","id":"#);
        message.push_str(&to_json(&self.id));
        self.push_details(&mut message, attempt);
        self.push_data(&mut message);
        message
    }

    pub(crate) fn push_details(&self, message: &mut String, attempt: u32) {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Details<'a> {
            attempt: u32,
            received_at: String,
            headers: &'a Headers,
            #[serde(skip_serializing_if = "Option::is_none")]
            query: &'a Option<String>,
        }
        let received_at = humantime::format_rfc3339_millis(self.received_at).to_string();
        let details = to_json(&Details { attempt, received_at, headers: &self.headers, query: &self.query });
        message.push(',');
        message.push_str(&details[1..details.len() - 1]);
    }

    /// Ends the object with the body as it came, white space included.
    pub(crate) fn push_data(&self, message: &mut String) {
        message.push_str(r#","data":"#);
        // A body is checked to be UTF-8 before it is stored; one that is not would be kept as text.
        message.push_str(&String::from_utf8_lossy(&self.body));
        message.push('}');
    }
}

pub(crate) fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("maps with string keys, strings and numbers have a JSON form")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(body: &str) -> Event {
        Event {
            id: "0192e4a0-0000-7000-8000-000000000000".parse().unwrap(),
            received_at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_538_560_000_123),
            headers: vec![("content-type".into(), "application/json".into())],
            query: None,
            body: Bytes::copy_from_slice(body.as_bytes()),
        }
    }

    #[test]
    fn legacy_messages_are_exactly_the_original_ones() {
        assert_eq!(
            event(r#"{"n": 1.0}"#).encode_legacy(),
            r#"{"type":"event","id":"0192e4a0-0000-7000-8000-000000000000","data":{"n": 1.0}}"#
        );
    }

    #[test]
    fn v2_messages_tell_more() {
        assert_eq!(
            event("[]").encode_v2(3),
            concat!(
                r#"{"type":"event","id":"0192e4a0-0000-7000-8000-000000000000","attempt":3,"#,
                r#""receivedAt":"2018-10-03T09:46:40.123Z","headers":[["content-type","application/json"]],"data":[]}"#
            )
        );
    }

    #[test]
    fn acks_come_with_one_id_with_many_and_with_numbers() {
        let ack = |ids: &[&str]| ClientMessage::Ack(ids.iter().map(ToString::to_string).collect());
        for (text, message) in [
            (r#"{"type":"event_ack","id":"a"}"#, ack(&["a"])),
            (r#"{"id":7,"type":"event_ack"}"#, ack(&["7"])),
            (r#"{"type":"event_ack","ids":["a",7,null]}"#, ack(&["a", "7"])),
            (r#"{"type":"event_ack"}"#, ack(&[])),
            (r#"{"type":"event_ack","id":{"a":1}}"#, ack(&[])),
            (
                r#"{"type":"event_nack","id":"a","delay_ms":1500}"#,
                ClientMessage::Nack { id: "a".into(), delay: Duration::from_millis(1500) },
            ),
            (
                r#"{"type":"event_nack","id":"a","delayMs":1500}"#,
                ClientMessage::Nack { id: "a".into(), delay: Duration::from_millis(1500) },
            ),
            (r#"{"type":"event_nack"}"#, ClientMessage::Ignored),
            (r#"{"type":"hi","id":"a"}"#, ClientMessage::Ignored),
            ("null", ClientMessage::Ignored),
            ("[1]", ClientMessage::Ignored),
        ] {
            assert_eq!(ClientMessage::parse(text).unwrap(), message, "{text}");
        }
        for bad in ["", "ack", "{", r#"{"type":"event_ack","id":"a"}}"#] {
            assert!(ClientMessage::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_a_client_says_is_what_the_server_reads() {
        let (a, b): (EventId, EventId) = ("a".parse().unwrap(), "b".parse().unwrap());
        let one = ClientMessage::ack(std::slice::from_ref(&a));
        assert_eq!(one, r#"{"id":"a","type":"event_ack"}"#);
        assert_eq!(ClientMessage::parse(&one).unwrap(), ClientMessage::Ack(vec!["a".into()]));
        let two = ClientMessage::ack(&[a.clone(), b]);
        assert_eq!(ClientMessage::parse(&two).unwrap(), ClientMessage::Ack(vec!["a".into(), "b".into()]));
        let delay = Duration::from_secs(2);
        let nack = ClientMessage::nack(&a, delay);
        assert_eq!(ClientMessage::parse(&nack).unwrap(), ClientMessage::Nack { id: "a".into(), delay });
    }

    #[test]
    fn hello_comes_back_as_it_was_sent() {
        let second = Duration::from_secs(1);
        let hello = Hello::new("my.bot".parse().unwrap(), 64, second * 60, second * 20, second * 60);
        assert!(!hello.encode().contains("tap"));
        for hello in [hello.clone(), hello.tap()] {
            assert_eq!(ServerMessage::parse(&hello.encode()).unwrap(), ServerMessage::Hello(hello));
        }
    }

    #[test]
    fn a_gap_comes_back_as_it_was_sent() {
        assert_eq!(ServerMessage::gap(7), r#"{"missed":7,"type":"gap"}"#);
        assert_eq!(ServerMessage::parse(&ServerMessage::gap(7)).unwrap(), ServerMessage::Gap { missed: 7 });
        assert!(ServerMessage::parse(r#"{"type":"gap"}"#).is_err());
    }

    #[test]
    fn a_client_survives_what_it_does_not_know() {
        assert_eq!(ServerMessage::parse(r#"{"type":"news","id":[]}"#).unwrap(), ServerMessage::Unknown);
        assert!(ServerMessage::parse("null").is_err());
        assert!(ServerMessage::parse(r#"{"type":"event","data":{}}"#).is_err());
    }

    proptest! {
        #[test]
        fn a_body_crosses_the_wire_byte_for_byte(
            before in "[ \t\r\n]{0,3}", after in "[ \t\r\n]{0,3}", key in "\\PC{0,9}", number in any::<f64>(),
            header in "[ -~]{0,20}", query in prop::option::of("[ -~]{0,20}"), attempt in 1..9u32,
        ) {
            let body = format!("{before}{{ {} :{number:e} , \"x\":[ ]}}{after}", serde_json::json!(key));
            let sent = Event { headers: vec![("x".into(), header)], query, ..event(&body) };
            for (text, details) in [(sent.encode_legacy(), false), (sent.encode_v2(attempt), true)] {
                let ServerMessage::Event(got) = ServerMessage::parse(&text).unwrap() else { panic!("{text}") };
                prop_assert_eq!(&got.id, &sent.id);
                prop_assert_eq!(&got.body, &sent.body);
                let expected = if details {
                    EventDetails {
                        attempt: Some(attempt), received_at: Some(sent.received_at),
                        headers: sent.headers.clone(), query: sent.query.clone(),
                    }
                } else {
                    EventDetails::default()
                };
                prop_assert_eq!(&got.details, &expected);
            }
        }
    }
}
