//! A stored event and its encodings.

use std::{fmt, time::SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{EventId, SourceName, covers::Covers, encoding, json, redact::names};

pub use crate::encoding::Encoding;

/// The longest content type that is a member of its own, in bytes: it is repeated beside the headers, which together with the rest
/// of the metadata must stay within 256 KiB.
const MAX_CONTENT_TYPE: usize = 1024;

/// The headers of a sender's request as `[name, value]` pairs, in order. Names are in lower case. The bytes of a value are
/// decoded as ISO 8859-1.
pub type Headers = Vec<(String, String)>;

/// A stored webhook, as its sender sent it.
#[derive(Clone, PartialEq, Eq)]
pub struct Event {
    /// The event's id.
    pub id: EventId,
    /// When the server received the event.
    pub received_at: SystemTime,
    /// Where the event came from, and how it was verified.
    pub origin: Origin,
    /// The headers of the sender's request, without hop-by-hop headers and credentials.
    pub headers: Headers,
    /// The query string of the sender's request, without the `?`.
    pub query: Option<String>,
    /// The body, byte for byte.
    pub body: Bytes,
    /// How the body is written in messages.
    pub encoding: Encoding,
}

/// Where an event came from, and how it was verified.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Origin {
    /// The source that received it.
    pub source: SourceName,
    /// The path of the sender's request after the hook of the source, with its first `/`, not decoded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tail: Option<String>,
    /// The sender's type of the event, as in `issues.opened`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_type: Option<String>,
    /// The sender's id of the delivery.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery_id: Option<String>,
    /// How the event was verified: `None` if it was not.
    pub verification: Option<Verification>,
}

impl fmt::Debug for Event {
    /// Leaves out the values of headers, the query and the body, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("id", &self.id)
            .field("received_at", &self.received_at)
            .field("origin", &self.origin)
            .field("headers", &names(&self.headers))
            .field("query_bytes", &self.query.as_ref().map(String::len))
            .field("encoding", &self.encoding)
            .field("body_bytes", &self.body.len())
            .finish()
    }
}

impl fmt::Debug for Origin {
    /// Leaves out the tail: a sender's path may have a token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origin")
            .field("source", &self.source)
            .field("tail_bytes", &self.tail.as_ref().map(String::len))
            .field("event_type", &self.event_type)
            .field("delivery_id", &self.delivery_id)
            .field("verification", &self.verification)
            .finish()
    }
}

/// How an event was verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// The name of the scheme.
    pub scheme: String,
    /// The number of the secret that matched, from 1.
    pub secret: usize,
    /// What was signed, in words.
    pub signed: String,
    /// Which part of the request the signature vouches for.
    pub covers: Covers,
}

impl Event {
    /// The content type of the body.
    #[must_use]
    pub fn content_type(&self) -> Option<&str> {
        content_type(&self.headers)
    }

    /// Encodes the legacy websocket message: `{"type":"event","id":…,"data":…}`, with `"encoding":"base64"` if the body is
    /// neither JSON nor text.
    #[must_use]
    pub fn encode_legacy(&self) -> String {
        let mut message = String::with_capacity(self.body.len() + 96);
        message.push_str(r#"{"type":"event","id":"#);
        message.push_str(&json::encode(&self.id));
        if self.encoding == Encoding::Base64 {
            message.push_str(r#","encoding":"base64""#);
        }
        message.push_str(r#","data":"#);
        message.push_str(&encoding::encode_legacy(self.encoding, &self.body));
        message.push('}');
        message
    }

    /// Encodes the `wwproxy.v2` websocket message of this delivery: its `attempt`th, since the event was replayed `replay` times.
    #[must_use]
    pub fn encode_v2(&self, attempt: u32, replay: u32) -> String {
        let mut message = String::with_capacity(self.body.len() + 1024);
        message.push_str(r#"{"type":"event","id":"#);
        message.push_str(&json::encode(&self.id));
        self.push_details(&mut message, attempt, replay);
        self.push_data(&mut message);
        message
    }

    pub(crate) fn push_details(&self, message: &mut String, attempt: u32, replay: u32) {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Details<'a> {
            attempt: u32,
            #[serde(skip_serializing_if = "is_zero")]
            replay: u32,
            received_at: String,
            #[serde(flatten)]
            origin: &'a Origin,
            headers: &'a Headers,
            #[serde(skip_serializing_if = "Option::is_none")]
            query: &'a Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            content_type: Option<&'a str>,
            encoding: &'static str,
        }
        let received_at = humantime::format_rfc3339_millis(self.received_at).to_string();
        let details = json::encode(&Details {
            attempt,
            replay,
            received_at,
            origin: &self.origin,
            headers: &self.headers,
            query: &self.query,
            content_type: self.content_type().filter(|value| value.len() <= MAX_CONTENT_TYPE),
            encoding: self.encoding.name(),
        });
        message.push(',');
        message.push_str(&details[1..details.len() - 1]);
    }

    /// Appends the body as `data`, white space included, and ends the object.
    pub(crate) fn push_data(&self, message: &mut String) {
        message.push_str(r#","data":"#);
        message.push_str(&self.encoding.encode(&self.body));
        message.push('}');
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// The content type among a request's headers.
pub(crate) fn content_type(headers: &Headers) -> Option<&str> {
    headers.iter().find(|(name, _)| name == "content-type").map(|(_, value)| value.as_str())
}
