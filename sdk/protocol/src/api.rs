//! The REST API: paths, header names, bodies, and the limits that server and client share.

use std::{fmt, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    AppId, Event, EventId, Scheme, json,
    message::{EventDetails, InvalidMessage, id_and_body, to_json},
};

/// The signature header of a Watson Work webhook, and of the response to its verification challenge.
pub const OUTBOUND_TOKEN: &str = "x-outbound-token";
/// The sequence number header of a Watson Work webhook, per app and space.
pub const OUTBOUND_INDEX: &str = "x-outbound-index";
/// The header with the number of earlier attempts of a Watson Work webhook.
pub const OUTBOUND_RETRY_COUNT: &str = "x-outbound-retry-count";

/// Hop-by-hop headers (RFC 9110, section 7.6.1), in lower case.
pub const HOP_BY_HOP: [&str; 10] = [
    "connection",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The websocket subprotocol with hello, metadata and nacks, which legacy clients do not know.
pub const SUBPROTOCOL_V2: &str = "wwproxy.v2";

/// The default prefetch window of a websocket: the maximum number of events in flight.
pub const DEFAULT_WINDOW: u32 = 64;
/// The largest prefetch window of a websocket.
pub const MAX_WINDOW: u32 = 1024;
/// The most events of one lease request.
pub const MAX_LEASE_EVENTS: u32 = 1000;
/// The longest wait of a lease request for its first event. Reverse proxies time out after 60 s.
pub const MAX_LEASE_WAIT: Duration = Duration::from_secs(50);
/// The most receipts of one [`AckRequest`], acknowledged and released ones together.
pub const MAX_RECEIPTS: usize = 1000;

/// The type of error bodies (RFC 9457).
pub const PROBLEM_JSON: &str = "application/problem+json";

/// Paths on the proxy, without its address.
pub mod path {
    use crate::AppId;

    /// The metadata with the token endpoint (RFC 8414).
    pub const AUTHORIZATION_SERVER: &str = "/.well-known/oauth-authorization-server";
    /// The token endpoint of a server with the builtin identity.
    pub const TOKEN: &str = "/oauth/token";
    /// The query for a token's owner, on a server with the builtin identity.
    pub const GRAPHQL: &str = "/graphql";

    /// The hook to which a sender posts an app's webhooks.
    #[must_use]
    pub fn hook(app: &AppId) -> String {
        format!("/hook/{app}")
    }

    /// Registration, polling and the websocket of an app.
    #[must_use]
    pub fn webhooks(app: &AppId) -> String {
        format!("/webhooks/{app}")
    }

    /// Lease requests for an app's events.
    #[must_use]
    pub fn lease(app: &AppId) -> String {
        format!("/webhooks/{app}/lease")
    }

    /// Acknowledgements of an app's leases.
    #[must_use]
    pub fn ack(app: &AppId) -> String {
        format!("/webhooks/{app}/ack")
    }

    /// The status of an app's registration and queue.
    #[must_use]
    pub fn status(app: &AppId) -> String {
        format!("/webhooks/{app}/status")
    }
}

/// Body of `POST /webhooks/{appId}/lease`. An empty body is `{}`.
///
/// Accepts the names `waitMs` and `leaseMs`, or `wait_ms` and `lease_ms`. Serialized with the latter, which servers of
/// version 0.1 accept too.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRequest {
    /// The maximum number of events: 1 to [`MAX_LEASE_EVENTS`] (clamped).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
    /// How long to wait for the first event, in milliseconds: 0 by default, at most [`MAX_LEASE_WAIT`] (clamped).
    #[serde(alias = "waitMs", skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
    /// The lease time, in milliseconds: the server's by default.
    #[serde(alias = "leaseMs", skip_serializing_if = "Option::is_none")]
    pub lease_ms: Option<u64>,
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

/// An event of a lease: `{"id","receipt","attempt","receivedAt","headers","query"?,"data"}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeasedEvent {
    /// The event's id.
    pub id: EventId,
    /// The receipt that acknowledges or releases this lease.
    pub receipt: Receipt,
    /// The body, byte for byte.
    pub body: Bytes,
    /// The metadata.
    pub details: EventDetails,
}

/// Builds the response of a lease, event by event: `{"events":[…]}`.
pub struct LeaseResponse(String);

impl Default for LeaseResponse {
    fn default() -> Self {
        Self(r#"{"events":["#.to_owned())
    }
}

impl LeaseResponse {
    /// Appends the next event. This is its `attempt`th delivery.
    pub fn push(&mut self, event: &Event, receipt: &Receipt, attempt: u32) {
        let response = &mut self.0;
        response.push_str(if response.ends_with('[') { r#"{"id":"# } else { r#",{"id":"# });
        response.push_str(&to_json(&event.id));
        response.push_str(r#","receipt":"#);
        response.push_str(&to_json(receipt));
        event.push_details(response, attempt);
        event.push_data(response);
    }

    /// Returns the complete response.
    #[must_use]
    pub fn finish(mut self) -> String {
        self.0.push_str("]}");
        self.0
    }
}

/// Parses the response of a lease.
pub fn decode_lease(text: &str) -> Result<Vec<LeasedEvent>, InvalidMessage> {
    #[derive(Deserialize)]
    struct Response<'a> {
        #[serde(borrow)]
        events: Vec<&'a RawValue>,
    }
    let response: Response<'_> = serde_json::from_str(text)?;
    let decode = |raw: &RawValue| {
        let (id, body) = id_and_body(raw.get())?;
        let [receipt] = json::members(raw.get(), ["receipt"])?;
        let receipt = receipt.and_then(json::string).ok_or(InvalidMessage::Missing("receipt"))?;
        Ok(LeasedEvent { id, receipt: Receipt::new(receipt), body, details: EventDetails::parse(raw.get())? })
    };
    response.events.into_iter().map(decode).collect()
}

/// Builds the response of a poll, event by event: `{"<eventId>":<body>,…}` in order of arrival.
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
        response.extend_from_slice(to_json(&event.id).as_bytes());
        response.push(b':');
        response.extend_from_slice(&event.body);
    }

    /// Returns the complete response.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.0.push(b'}');
        self.0
    }
}

/// Parses the response of a poll: ids and exact bodies, in order of arrival.
pub fn decode_poll(text: &str) -> Result<Vec<(EventId, Bytes)>, InvalidMessage> {
    let mut events = Vec::new();
    let mut has_invalid_id = false;
    json::each_member(text, |name, value| {
        match std::str::from_utf8(name).ok().and_then(|id| id.parse().ok()) {
            Some(id) => {
                let body = json::with_white_space(text, value).as_bytes();
                events.push((id, Bytes::copy_from_slice(body)));
            }
            None => has_invalid_id = true,
        }
    })?;
    if has_invalid_id { Err(InvalidMessage::Missing("id")) } else { Ok(events) }
}

/// Body of `POST /webhooks/{appId}/ack`: at most [`MAX_RECEIPTS`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AckRequest {
    /// Receipts of events to delete.
    #[serde(default)]
    pub ack: Vec<Receipt>,
    /// Receipts of events to redeliver.
    #[serde(default)]
    pub release: Vec<Receipt>,
}

/// The result of an [`AckRequest`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AckResponse {
    /// The number of deleted events.
    pub acked: u64,
    /// The number of released events.
    pub released: u64,
    /// Receipts of leases that have expired or are already settled.
    pub stale: Vec<Receipt>,
}

/// The status of an app's registration and queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The registration, or `None` if the app is not registered.
    pub registration: Option<RegistrationStatus>,
    /// The number of stored events, including leased ones.
    pub stored: u64,
    /// The number of leased events, which are in flight to a client.
    pub leased: u64,
    /// The number of events that were dropped because the queue was full or they expired.
    pub dropped: u64,
    /// The size of the stored bodies and headers, in bytes.
    pub stored_bytes: u64,
    /// The age of the oldest event in milliseconds, or `None` if there is no event.
    pub oldest_age_ms: Option<u64>,
    /// The number of open websockets of the app on this server, without taps.
    pub clients: u64,
}

/// The public part of a registration, without the secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrationStatus {
    /// The signature scheme of its webhooks.
    pub scheme: Scheme,
}

/// Body of every error (RFC 9457), including those of the token endpoint (RFC 6749, section 5.2).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The problem type: `about:blank` if the status is the only information.
    #[serde(default)]
    pub r#type: String,
    /// The reason phrase of the status.
    #[serde(default)]
    pub title: String,
    /// The HTTP status.
    #[serde(default)]
    pub status: u16,
    /// A message that says what happened and what to do.
    #[serde(default)]
    pub detail: String,
    /// The OAuth error code, on a token endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The OAuth name of `detail`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_description: Option<String>,
}

/// The response of a token endpoint (RFC 6749, section 5.1), with the members of Watson Work.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenResponse {
    /// The token.
    pub access_token: String,
    /// `bearer`.
    pub token_type: String,
    /// The lifetime of the token, in seconds.
    pub expires_in: u64,
    /// The scope of the token.
    #[serde(default)]
    pub scope: String,
    /// The app that the token belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<AppId>,
    /// The id of the token.
    #[serde(default)]
    pub jti: String,
}

impl fmt::Debug for TokenResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenResponse")
            .field("access_token", &"…")
            .field("expires_in", &self.expires_in)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// Authorization server metadata (RFC 8414).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorizationServer {
    /// The issuer of tokens: the server's own URL.
    pub issuer: String,
    /// The URL of the token endpoint.
    pub token_endpoint: String,
    /// The authentication methods of the token endpoint.
    #[serde(default)]
    pub token_endpoint_auth_methods_supported: Vec<String>,
    /// The grant types of the token endpoint.
    #[serde(default)]
    pub grant_types_supported: Vec<String>,
    /// Empty: there is no authorization endpoint.
    #[serde(default)]
    pub response_types_supported: Vec<String>,
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn event(id: &str, body: &'static str) -> Event {
        Event {
            id: id.parse().unwrap(),
            received_at: SystemTime::UNIX_EPOCH,
            headers: vec![("x-outbound-index".into(), "7".into())],
            query: Some("a=b".into()),
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
            response.push(event, &receipt, 2);
        }
        let response = response.finish();
        let decoded = decode_lease(&response).unwrap();
        assert_eq!(decoded.len(), 2);
        for (got, sent) in decoded.iter().zip(&events) {
            assert_eq!((&got.id, &got.body, &got.receipt), (&sent.id, &sent.body, &receipt));
            assert_eq!(got.details.headers, sent.headers);
            assert_eq!(got.details.query, sent.query);
            assert_eq!(got.details.attempt, Some(2));
        }
        assert_eq!(decode_lease(&LeaseResponse::default().finish()).unwrap(), []);
    }

    #[test]
    fn debug_redacts_a_token() {
        let token = TokenResponse {
            access_token: "eyJhunter2".into(),
            token_type: "bearer".into(),
            expires_in: 60,
            scope: String::new(),
            id: None,
            jti: "hunter2".into(),
        };
        assert!(!format!("{token:?}").contains("hunter2"));
    }
}
