//! A stored event and its encodings.

use std::time::SystemTime;

use bytes::Bytes;
use serde::Serialize;

use crate::{EventId, json};

/// The headers of a sender's request as `[name, value]` pairs, in order. Names are in lower case. The bytes of a value are
/// decoded as ISO 8859-1.
pub type Headers = Vec<(String, String)>;

/// A stored webhook, as its sender signed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The event's id.
    pub id: EventId,
    /// When the server received the event.
    pub received_at: SystemTime,
    /// The headers of the sender's request, without hop-by-hop headers and credentials.
    pub headers: Headers,
    /// The query string of the sender's request, without the `?`.
    pub query: Option<String>,
    /// The body, byte for byte: one JSON object or array in UTF-8.
    pub body: Bytes,
}

impl Event {
    /// Encodes the legacy websocket message: `{"type":"event","id":…,"data":…}`.
    #[must_use]
    pub fn encode_legacy(&self) -> String {
        let mut message = String::with_capacity(self.body.len() + 96);
        message.push_str(r#"{"type":"event","id":"#);
        message.push_str(&json::encode(&self.id));
        self.push_data(&mut message);
        message
    }

    /// Encodes the `wwproxy.v2` websocket message.
    #[must_use]
    pub fn encode_v2(&self, attempt: u32) -> String {
        let mut message = String::with_capacity(self.body.len() + 1024);
        message.push_str(r#"{"type":"event","id":"#);
        message.push_str(&json::encode(&self.id));
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
        let details =
            json::encode(&Details { attempt, received_at, headers: &self.headers, query: &self.query });
        message.push(',');
        message.push_str(&details[1..details.len() - 1]);
    }

    /// Appends the body as `data`, white space included, and ends the object.
    pub(crate) fn push_data(&self, message: &mut String) {
        message.push_str(r#","data":"#);
        // Never lossy, as a body is validated as UTF-8 before it is stored.
        message.push_str(&String::from_utf8_lossy(&self.body));
        message.push('}');
    }
}
