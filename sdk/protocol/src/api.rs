//! The REST API: paths, header names, bodies, and the limits that server and client share.

use std::time::Duration;

use serde::{Deserialize, Serialize};

mod ack;
mod consumers;
mod events;
mod oauth;
mod sources;

pub use ack::{AckRequest, AckResponse, Extension, Rejection, Release};
pub use consumers::{ConsumerStatus, Consumers, MAX_CONSUMERS, SeekRequest};
pub use events::{
    LeaseRequest, LeaseResponse, LeasedEvent, LeasedEvents, PollResponse, Receipt, decode_lease, decode_poll,
};
pub use oauth::{AuthorizationServer, TokenResponse};
pub use sources::{ARMED_SECONDS, ArmStatus, MAX_SOURCES, Refusal, Refusals, SourceStatus, Sources};

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
/// The most receipts of one [`AckRequest`], all lists together.
pub const MAX_RECEIPTS: usize = 1000;
/// The longest reason of a rejection or a release, in bytes. A longer one is cut between two characters.
pub const MAX_REASON_BYTES: usize = 1024;

/// The type of error bodies (RFC 9457).
pub const PROBLEM_JSON: &str = "application/problem+json";

/// Paths on the proxy, without its address.
pub mod path {
    use crate::{AppId, ConsumerName, SourceName};

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

    /// The hook to which a sender posts the webhooks of a source.
    #[must_use]
    pub fn source_hook(app: &AppId, source: &SourceName) -> String {
        if source.is_default() { hook(app) } else { format!("/hook/{app}/{source}") }
    }

    /// The sources of an app.
    #[must_use]
    pub fn sources(app: &AppId) -> String {
        format!("/webhooks/{app}/sources")
    }

    /// A source of an app.
    #[must_use]
    pub fn source(app: &AppId, source: &SourceName) -> String {
        format!("/webhooks/{app}/sources/{source}")
    }

    /// Arms a source for a handshake that sets its secret.
    #[must_use]
    pub fn arm(app: &AppId, source: &SourceName) -> String {
        format!("/webhooks/{app}/sources/{source}/arm")
    }

    /// The consumers of an app.
    #[must_use]
    pub fn consumers(app: &AppId) -> String {
        format!("/webhooks/{app}/consumers")
    }

    /// A consumer of an app.
    #[must_use]
    pub fn consumer(app: &AppId, consumer: &ConsumerName) -> String {
        format!("/webhooks/{app}/consumers/{consumer}")
    }

    /// Moves a consumer to another position.
    #[must_use]
    pub fn seek(app: &AppId, consumer: &ConsumerName) -> String {
        format!("/webhooks/{app}/consumers/{consumer}/seek")
    }

    /// The last refused webhooks of an app.
    #[must_use]
    pub fn refusals(app: &AppId) -> String {
        format!("/webhooks/{app}/refusals")
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

/// The status of an app's registration and queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The source `default`, or `None` if the app has none.
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
    /// The sources, sorted by name. `None` from a server of version 0.1, which knows no sources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sources: Option<Vec<SourceStatus>>,
    /// The consumers, sorted by name. `None` from a server of version 0.1, which has only `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumers: Option<Vec<ConsumerStatus>>,
}

impl Status {
    /// Whether the app is registered: it has a source, so the server accepts webhooks for it.
    #[must_use]
    pub fn is_registered(&self) -> bool {
        self.registration.is_some() || self.sources.as_ref().is_some_and(|sources| !sources.is_empty())
    }
}

/// The public part of a registration, without the secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrationStatus {
    /// The name of the signature scheme of its webhooks.
    pub scheme: String,
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
