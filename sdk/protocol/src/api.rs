//! REST: paths, header names, bodies, and the limits that both ends know.

use std::{fmt, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    AppId, Event, EventId, Scheme, json,
    message::{EventDetails, InvalidMessage, id_and_body, to_json},
};

/// The header that signs a Watson Work webhook, and the answer to its challenge.
pub const OUTBOUND_TOKEN: &str = "x-outbound-token";
/// The header that numbers a Watson Work webhook, per app and space.
pub const OUTBOUND_INDEX: &str = "x-outbound-index";
/// The header that tells how often a Watson Work webhook was tried before.
pub const OUTBOUND_RETRY_COUNT: &str = "x-outbound-retry-count";

/// Headers that mean something on one connection only (RFC 9110, section 7.6.1), in lower case.
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

/// The websocket subprotocol that tells more than a legacy client expects.
pub const SUBPROTOCOL_V2: &str = "wwproxy.v2";

/// How many events a websocket has outstanding at once where it does not say.
pub const DEFAULT_WINDOW: u32 = 64;
/// The most events a websocket can have outstanding at once.
pub const MAX_WINDOW: u32 = 1024;
/// The most events that one lease hands out.
pub const MAX_LEASE_EVENTS: u32 = 1000;
/// The longest that a lease waits for a first event: reverse proxies give up on an answer after 60 s.
pub const MAX_LEASE_WAIT: Duration = Duration::from_secs(50);
/// The most receipts of one [`AckRequest`], acknowledged and released ones together.
pub const MAX_RECEIPTS: usize = 1000;

/// The type of error bodies (RFC 9457).
pub const PROBLEM_JSON: &str = "application/problem+json";

/// Paths on the proxy, without its address.
pub mod path {
    use crate::AppId;

    /// Where a client learns the token endpoint (RFC 8414).
    pub const AUTHORIZATION_SERVER: &str = "/.well-known/oauth-authorization-server";
    /// Where an app gets a token, on a proxy that is its own platform.
    pub const TOKEN: &str = "/oauth/token";
    /// Where a token's owner is asked for, on a proxy that is its own platform.
    pub const GRAPHQL: &str = "/graphql";

    /// Where a sender posts an app's webhooks.
    #[must_use]
    pub fn hook(app: &AppId) -> String {
        format!("/hook/{app}")
    }

    /// Registration, polling and the websocket of an app.
    #[must_use]
    pub fn webhooks(app: &AppId) -> String {
        format!("/webhooks/{app}")
    }

    /// Leases of an app's events.
    #[must_use]
    pub fn lease(app: &AppId) -> String {
        format!("/webhooks/{app}/lease")
    }

    /// Acknowledgements of an app's leases.
    #[must_use]
    pub fn ack(app: &AppId) -> String {
        format!("/webhooks/{app}/ack")
    }

    /// The state of an app's queue.
    #[must_use]
    pub fn status(app: &AppId) -> String {
        format!("/webhooks/{app}/status")
    }
}

/// Body of `POST /webhooks/{appId}/lease`. An empty body is `{}`.
///
/// Read with the names `waitMs` and `leaseMs`, or `wait_ms` and `lease_ms`. Written with the latter, which servers of
/// version 0.1 know as well.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRequest {
    /// How many events at most: 1 to [`MAX_LEASE_EVENTS`], which more is cut to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
    /// How long to wait for a first event, in milliseconds: 0 where not said, cut to [`MAX_LEASE_WAIT`].
    #[serde(alias = "waitMs", skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
    /// How long nobody else gets the events, in milliseconds: the server's lease time where not said.
    #[serde(alias = "leaseMs", skip_serializing_if = "Option::is_none")]
    pub lease_ms: Option<u64>,
}

/// Proof of one lease of one event. Opaque to everyone but the store that gave it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Receipt(String);

impl Receipt {
    /// A receipt from what its store wrote.
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

/// One event of a lease: `{"id","receipt","attempt","receivedAt","headers","query"?,"data"}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeasedEvent {
    /// The event's name.
    pub id: EventId,
    /// What acknowledges or releases this lease of it.
    pub receipt: Receipt,
    /// The body, to the last byte.
    pub body: Bytes,
    /// Attempt, time of receipt and the sender's headers.
    pub details: EventDetails,
}

/// The answer of a lease, written event by event: `{"events":[…]}`.
pub struct LeaseAnswer(String);

impl Default for LeaseAnswer {
    fn default() -> Self {
        Self(r#"{"events":["#.to_owned())
    }
}

impl LeaseAnswer {
    /// Adds the next event, which is handed out for the `attempt`th time.
    pub fn push(&mut self, event: &Event, receipt: &Receipt, attempt: u32) {
        let answer = &mut self.0;
        answer.push_str(if answer.ends_with('[') { r#"{"id":"# } else { r#",{"id":"# });
        answer.push_str(&to_json(&event.id));
        answer.push_str(r#","receipt":"#);
        answer.push_str(&to_json(receipt));
        event.push_details(answer, attempt);
        event.push_data(answer);
    }

    /// The answer, with all events that it was to have.
    #[must_use]
    pub fn finish(mut self) -> String {
        self.0.push_str("]}");
        self.0
    }
}

/// Reads the answer of a lease.
pub fn decode_lease(text: &str) -> Result<Vec<LeasedEvent>, InvalidMessage> {
    #[derive(Deserialize)]
    struct Answer<'a> {
        #[serde(borrow)]
        events: Vec<&'a RawValue>,
    }
    let answer: Answer<'_> = serde_json::from_str(text)?;
    let decode = |raw: &RawValue| {
        let (id, body) = id_and_body(raw.get())?;
        let [receipt] = json::members(raw.get(), ["receipt"])?;
        let receipt = receipt.and_then(json::string).ok_or(InvalidMessage::Missing("receipt"))?;
        Ok(LeasedEvent { id, receipt: Receipt::new(receipt), body, details: EventDetails::parse(raw.get())? })
    };
    answer.events.into_iter().map(decode).collect()
}

/// The answer of a poll, written event by event: `{"<eventId>":<body>,…}` in order of arrival.
pub struct PollAnswer(Vec<u8>);

impl Default for PollAnswer {
    fn default() -> Self {
        Self(vec![b'{'])
    }
}

impl PollAnswer {
    /// Adds the next event.
    pub fn push(&mut self, event: &Event) {
        let answer = &mut self.0;
        if answer.len() > 1 {
            answer.push(b',');
        }
        answer.extend_from_slice(to_json(&event.id).as_bytes());
        answer.push(b':');
        answer.extend_from_slice(&event.body);
    }

    /// The answer, with all events that it was to have.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.0.push(b'}');
        self.0
    }
}

/// Reads the answer of a poll: ids and exact bodies, in order of arrival.
pub fn decode_poll(text: &str) -> Result<Vec<(EventId, Bytes)>, InvalidMessage> {
    let mut events = Vec::new();
    let mut nameless = false;
    json::each_member(text, |name, value| {
        match std::str::from_utf8(name).ok().and_then(|id| id.parse().ok()) {
            Some(id) => {
                let body = json::with_white_space(text, value).as_bytes();
                events.push((id, Bytes::copy_from_slice(body)));
            }
            None => nameless = true,
        }
    })?;
    if nameless { Err(InvalidMessage::Missing("id")) } else { Ok(events) }
}

/// Body of `POST /webhooks/{appId}/ack`: at most [`MAX_RECEIPTS`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AckRequest {
    /// Leases whose events were accepted.
    #[serde(default)]
    pub ack: Vec<Receipt>,
    /// Leases whose events shall go out again.
    #[serde(default)]
    pub release: Vec<Receipt>,
}

/// What became of the receipts of an [`AckRequest`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AckResponse {
    /// How many events were deleted.
    pub acked: u64,
    /// How many events were handed back.
    pub released: u64,
    /// Receipts whose lease had ended, or which were settled before.
    pub stale: Vec<Receipt>,
}

/// The state of an app's queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// How the app's webhooks are verified, or `None` where none is registered.
    pub registration: Option<RegistrationStatus>,
    /// Events stored, the leased ones included.
    pub stored: u64,
    /// Events that a client has and has not acknowledged yet.
    pub leased: u64,
    /// Events that were dropped because the queue was full or their time was over.
    pub dropped: u64,
    /// Bytes of the bodies and headers stored.
    pub stored_bytes: u64,
    /// Age of the oldest event in milliseconds, or `None` where there is none.
    pub oldest_age_ms: Option<u64>,
    /// Websockets of the app that are open on this server, taps not among them.
    pub clients: u64,
}

/// What may be told of a registration: never the secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrationStatus {
    /// How webhooks are verified.
    pub scheme: Scheme,
}

/// Body of every error (RFC 9457), and of a refused token request (RFC 6749, section 5.2) too.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What kind of problem this is; `about:blank` where the status tells all.
    #[serde(default)]
    pub r#type: String,
    /// The status in words.
    #[serde(default)]
    pub title: String,
    /// The HTTP status.
    #[serde(default)]
    pub status: u16,
    /// What to do about it, for a person.
    #[serde(default)]
    pub detail: String,
    /// The error code of OAuth, on a token endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// OAuth's own words for `detail`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_description: Option<String>,
}

/// The answer of a token endpoint (RFC 6749, section 5.1), as Watson Work gives it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenResponse {
    /// The token.
    pub access_token: String,
    /// `bearer`.
    pub token_type: String,
    /// How long the token is good for, in seconds.
    pub expires_in: u64,
    /// What the token is good for.
    #[serde(default)]
    pub scope: String,
    /// Whose token it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<AppId>,
    /// The token's own name.
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

/// Where tokens come from (RFC 8414).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorizationServer {
    /// Who gives out the tokens.
    pub issuer: String,
    /// Where.
    pub token_endpoint: String,
    /// How an app proves itself there.
    #[serde(default)]
    pub token_endpoint_auth_methods_supported: Vec<String>,
    /// For which kind of request.
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
    fn a_poll_keeps_order_and_bytes() {
        let events = [event("b", "{\"n\":1.50}\n"), event("a", " [1 ,2]")];
        let mut answer = PollAnswer::default();
        for event in &events {
            answer.push(event);
        }
        let answer = String::from_utf8(answer.finish()).unwrap();
        assert_eq!(answer, "{\"b\":{\"n\":1.50}\n,\"a\": [1 ,2]}");
        let decoded = decode_poll(&answer).unwrap();
        assert_eq!(decoded, events.map(|event| (event.id, event.body)));
        assert_eq!(PollAnswer::default().finish(), b"{}");
        assert_eq!(decode_poll("{}").unwrap(), []);
        assert!(decode_poll("[]").is_err());
    }

    #[test]
    fn a_lease_keeps_order_and_bytes() {
        let events = [event("b", "{\"n\":1.50}\n"), event("a", " [1 ,2]")];
        let receipt = Receipt::new("r\"1");
        let mut answer = LeaseAnswer::default();
        for event in &events {
            answer.push(event, &receipt, 2);
        }
        let answer = answer.finish();
        let decoded = decode_lease(&answer).unwrap();
        assert_eq!(decoded.len(), 2);
        for (got, sent) in decoded.iter().zip(&events) {
            assert_eq!((&got.id, &got.body, &got.receipt), (&sent.id, &sent.body, &receipt));
            assert_eq!(got.details.headers, sent.headers);
            assert_eq!(got.details.query, sent.query);
            assert_eq!(got.details.attempt, Some(2));
        }
        assert_eq!(decode_lease(&LeaseAnswer::default().finish()).unwrap(), []);
    }

    #[test]
    fn a_token_never_shows_in_debug() {
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
