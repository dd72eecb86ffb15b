//! Bodies of the sources of an app, and of the webhooks that they refused.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{SourceName, covers::Covers};

/// The most sources of an app.
pub const MAX_SOURCES: usize = 32;
/// How long a source stays armed for a handshake that sets its secret, in seconds.
pub const ARMED_SECONDS: u64 = 600;

/// Body of `GET /webhooks/{appId}/sources`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sources {
    /// The sources, sorted by name.
    pub sources: Vec<SourceStatus>,
}

/// A source of an app, without its secrets.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct SourceStatus {
    /// Its name.
    pub name: SourceName,
    /// The name of its scheme.
    pub scheme: String,
    /// Which part of a request the signature vouches for.
    pub covers: Covers,
    /// Whether its webhooks are verified: not so with the scheme `none`.
    pub verified: bool,
    /// The number of its secrets.
    pub secrets: usize,
    /// The tolerance of its timestamps in seconds, if it was set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<u64>,
    /// The public URL that the sender signs, if it was set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The hook to which the sender posts, if the server knows its public URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hook: Option<String>,
    /// Why the server cannot use the source, if its stored settings are not valid: its hook answers 503 until it is replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invalid: Option<String>,
    /// When the last event was answered as a success, stored or a duplicate, since the server started (RFC 3339).
    pub last_accepted: Option<String>,
    /// When a webhook was refused last, since the server started (RFC 3339).
    pub last_refused: Option<String>,
}

impl fmt::Debug for SourceStatus {
    /// Leaves out the URL that the sender signs: its path or query may have a token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceStatus")
            .field("name", &self.name)
            .field("scheme", &self.scheme)
            .field("covers", &self.covers)
            .field("verified", &self.verified)
            .field("secrets", &self.secrets)
            .field("tolerance", &self.tolerance)
            .field("url_bytes", &self.url.as_ref().map(String::len))
            .field("hook", &self.hook)
            .field("invalid", &self.invalid)
            .field("last_accepted", &self.last_accepted)
            .field("last_refused", &self.last_refused)
            .finish()
    }
}

impl SourceStatus {
    /// A source that has received nothing.
    #[must_use]
    pub fn new(name: SourceName, scheme: String, covers: Covers, verified: bool, secrets: usize) -> Self {
        Self {
            name,
            scheme,
            covers,
            verified,
            secrets,
            tolerance: None,
            url: None,
            hook: None,
            invalid: None,
            last_accepted: None,
            last_refused: None,
        }
    }

    /// A source whose stored settings are not valid.
    #[must_use]
    pub fn invalid(name: SourceName, reason: String) -> Self {
        let scheme = "invalid".to_owned();
        Self { invalid: Some(reason), ..Self::new(name, scheme, Covers::Unknown, true, 0) }
    }
}

/// Body of `POST` and `GET /webhooks/{appId}/sources/{name}/arm`: the handshake that a source waits for.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArmStatus {
    /// Until when a handshake sets the secret (RFC 3339). `None` if the source is not armed.
    pub armed_until: Option<String>,
    /// Whether a handshake has set the secret since the source was armed last.
    pub done: bool,
    /// The token that the handshake brought, if a person has to enter it at the sender (Notion).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

impl fmt::Debug for ArmStatus {
    /// Leaves out the token, which is the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArmStatus")
            .field("armed_until", &self.armed_until)
            .field("done", &self.done)
            .finish_non_exhaustive()
    }
}

/// Body of `GET /webhooks/{appId}/refusals`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusals {
    /// The last refused webhooks, newest first.
    pub refusals: Vec<Refusal>,
}

/// A webhook that was refused. Neither its body nor the values of its headers are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// When it was refused last (RFC 3339).
    pub at: String,
    /// How often this webhook was refused for this reason.
    pub count: u64,
    /// The source.
    pub source: SourceName,
    /// The check that failed.
    pub check: String,
    /// What was wrong, in words.
    pub detail: String,
    /// The HTTP status of the answer.
    pub status: u16,
    /// The size of the body in bytes.
    pub bytes: u64,
    /// The names of the first 32 headers, in lower case.
    pub headers: Vec<String>,
    /// The hex SHA-256 of a body of up to 64 KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_redacts_the_url_of_a_source() {
        let mut source = SourceStatus::new(SourceName::default(), "square".into(), Covers::Body, true, 1);
        source.url = Some("https://x.example/hunter2?token=hunter2".into());
        let shown = format!("{:?}", Sources { sources: vec![source] });
        assert!(shown.contains("square") && !shown.contains("hunter2"), "{shown}");
    }
}
