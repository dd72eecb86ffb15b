//! The error type of the crate.

use std::{error::Error as StdError, fmt, sync::Arc, time::Duration};

use reqwest::StatusCode;
use wwproxy_protocol::text;

/// The longest [`Error::detail`], in characters.
const MAX_DETAIL_CHARS: usize = 500;

/// The kind of an [`Error`], for programs to match on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument is invalid, such as an address that is not a URL. Nothing was sent.
    Usage,
    /// The server rejected the request itself (a 4xx that no other kind names).
    InvalidRequest,
    /// The server refused the app's credentials: 403, or 401 even with a fresh token.
    Refused,
    /// The app or path does not exist on the server (404).
    NotRegistered,
    /// There was no response: network, DNS, TLS or a timeout.
    Unreachable,
    /// The server's certificate is not trusted, expired, or for another name. Nothing was sent.
    Untrusted,
    /// The server cannot serve the request now (408, 429, 5xx except 501 and 505); see [`Error::retry_after`].
    Unavailable,
    /// The peer violates the protocol: a redirect, an unreadable response, no websocket, 501 or 505.
    Protocol,
    /// The websocket was closed or lost. Events that were not acknowledged over it are redelivered.
    Disconnected,
}

/// An error of this crate: a [kind](Error::kind) to match on, a message, and its source.
///
/// `Display` says what happened and what to do. It never contains a secret, a token or the query of a URL. Control and
/// direction characters in the server's texts are replaced, so it is safe to log. Cheap to clone.
///
/// ```
/// use wwproxy_sdk::{Client, ErrorKind};
///
/// let error = Client::builder("not a url").app_id("my.bot").token("t").build().unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Usage);
/// assert!(!error.is_transient());
/// ```
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    message: String,
    status: Option<StatusCode>,
    detail: Option<String>,
    retry_after: Option<Duration>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// The kind of the error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The HTTP status, if the error is an HTTP response.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.0.status.map(|status| status.as_u16())
    }

    /// The server's explanation (`detail` of its problem+json), control characters replaced, 500 characters at most.
    #[must_use]
    pub fn detail(&self) -> Option<&str> {
        self.0.detail.as_deref()
    }

    /// How long the server asks to wait before a retry (`Retry-After`).
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Whether a retry of the same call may succeed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self.0.kind, ErrorKind::Unreachable | ErrorKind::Unavailable | ErrorKind::Disconnected)
    }

    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let message = message.into();
        Self(Arc::new(Inner { kind, message, status: None, detail: None, retry_after: None, source: None }))
    }

    pub(crate) fn with_source(self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.modify(|inner| inner.source = Some(Arc::new(source)))
    }

    pub(crate) fn with_response(
        self,
        status: StatusCode,
        detail: Option<String>,
        retry_after: Option<Duration>,
    ) -> Self {
        self.modify(|inner| {
            inner.status = Some(status);
            inner.detail = detail;
            inner.retry_after = retry_after;
        })
    }

    /// Replaces kind and message by more specific ones, and keeps status, detail and source.
    pub(crate) fn with_kind(self, kind: ErrorKind, message: impl Into<String>) -> Self {
        self.modify(|inner| (inner.kind, inner.message) = (kind, message.into()))
    }

    fn modify(self, change: impl FnOnce(&mut Inner)) -> Self {
        let mut inner = Arc::unwrap_or_clone(self.0);
        change(&mut inner);
        Self(Arc::new(inner))
    }
}

/// Makes a text of the server safe to log: replaces unsafe characters, trims and truncates it.
pub(crate) fn sanitize(text: &str) -> String {
    let truncated: String = text.chars().take(MAX_DETAIL_CHARS).collect();
    text::sanitize(&truncated).trim().to_owned()
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        match (self.0.status, &self.0.detail) {
            (Some(status), Some(detail)) if *detail != self.0.message => {
                write!(f, " (HTTP {}: {detail})", status.as_u16())
            }
            (Some(status), _) => write!(f, " (HTTP {})", status.as_u16()),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Error");
        shown.field("kind", &self.0.kind).field("message", &self.to_string());
        if let Some(source) = &self.0.source {
            shown.field("source", source);
        }
        shown.finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_ref().map(|source| source.as_ref() as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_the_server_are_sanitized_and_truncated() {
        assert_eq!(sanitize("\x1b[2Jgone\r\nwwproxy: all well\u{9b}\n"), "[2Jgone  wwproxy: all well");
        assert_eq!(sanitize("a\u{202e}b\u{2066}c\u{2069}d\u{202a}"), "a b c d");
        assert_eq!(sanitize("a\u{200e}b\u{200f}c\u{2028}d\u{2029}e\u{61c}f"), "a b c d e f");
        assert_eq!(sanitize(&"x".repeat(10_000)).len(), MAX_DETAIL_CHARS);
    }

    #[test]
    fn a_changed_kind_keeps_the_source() {
        let error =
            Error::new(ErrorKind::Protocol, "a").with_source(fmt::Error).with_kind(ErrorKind::Refused, "b");
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Refused, "b"));
        assert!(error.source().is_some());
    }
}
