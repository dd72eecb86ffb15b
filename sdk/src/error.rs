//! What can go wrong, and what to do about it.

use std::{error::Error as StdError, fmt, sync::Arc, time::Duration};

use reqwest::{Response, StatusCode, Url, header};
use wwproxy_protocol::{api::Problem, text::is_unsafe_to_show};

use crate::{client::read_body, failure::Failure};

/// The longest error body that is read for its `detail`, in bytes.
const MAX_PROBLEM_BYTES: usize = 64 * 1024;
/// The longest `detail` that is carried, in characters.
const MAX_DETAIL_CHARS: usize = 500;

/// What kind of error it is: what a program decides by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The caller gave something unusable, such as an address that is no URL. Nothing was sent.
    Usage,
    /// The server rejected the request itself (a 4xx that no other kind names).
    InvalidRequest,
    /// The app's credentials were refused (401 also with a renewed token, or 403).
    Refused,
    /// The server knows no such app or path (404).
    NotRegistered,
    /// Nothing could be sent or nothing came back: network, DNS, TLS or a timeout.
    Unreachable,
    /// The server's certificate was refused: not trusted, expired, or for another name. Nothing was sent.
    Untrusted,
    /// The server cannot serve this now (408, 429, 5xx); see [`Error::retry_after`].
    Unavailable,
    /// The other side does not speak the protocol: a redirect, an unreadable answer, no websocket.
    Protocol,
    /// The websocket is gone. What was not acknowledged over it comes again.
    Disconnected,
}

/// An error of the sdk: a [kind](Error::kind) for the program, a sentence for a person, and its source.
///
/// `Display` says what to do. It never shows a secret, a token or the query of a URL, and control
/// and direction characters in the server's words are replaced, so it is safe in a log. Cheap to clone.
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
    /// What kind of error it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The HTTP status that the server answered with, if it is that which went wrong.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.0.status.map(|status| status.as_u16())
    }

    /// The server's own words (`detail` of its problem+json), control characters replaced, 500 characters at most.
    #[must_use]
    pub fn detail(&self) -> Option<&str> {
        self.0.detail.as_deref()
    }

    /// How long the server asked to wait before the next try.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Whether the same call may succeed later without a change on this side.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self.0.kind, ErrorKind::Unreachable | ErrorKind::Unavailable | ErrorKind::Disconnected)
    }

    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let message = message.into();
        Self(Arc::new(Inner { kind, message, status: None, detail: None, retry_after: None, source: None }))
    }

    pub(crate) fn because(self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.with(|inner| inner.source = Some(Arc::new(source)))
    }

    fn with(self, change: impl FnOnce(&mut Inner)) -> Self {
        let mut inner = Arc::unwrap_or_clone(self.0);
        change(&mut inner);
        Self(Arc::new(inner))
    }

    /// A request to `url` that got no answer, or not all of it.
    pub(crate) fn transport(failure: &Failure, error: reqwest::Error, url: &Url) -> Self {
        let kind = if failure.is_untrusted() { ErrorKind::Untrusted } else { ErrorKind::Unreachable };
        // The path and query of the URL may come from the server: only the origin is shown.
        let origin = url.origin().ascii_serialization();
        let message = format!("no answer from {origin}: {failure}; {}", failure.advice());
        Self::new(kind, message).because(error.without_url())
    }

    /// An answer that is not the one hoped for: its status decides the kind.
    pub(crate) async fn answer(response: Response) -> Self {
        let status = response.status();
        let retry_after = retry_after(&response);
        let (kind, message) = match status.as_u16() {
            401 | 403 => (
                ErrorKind::Refused,
                "the server refused the credentials; check the app id and its secret or token",
            ),
            404 => (
                ErrorKind::NotRegistered,
                "the server knows no such app; check its address and the app id, and register the app",
            ),
            408 | 429 | 500.. => {
                (ErrorKind::Unavailable, "the server cannot serve this now; try again later")
            }
            400..=499 => (ErrorKind::InvalidRequest, "the server rejected the request; check what was sent"),
            300..=399 => (
                ErrorKind::Protocol,
                "the server answered with a redirect, which is not followed; use its final address",
            ),
            _ => (ErrorKind::Protocol, "the answer is not a wwproxy server's; check the server's address"),
        };
        let detail = detail(response).await;
        Self::new(kind, message).with(|inner| {
            inner.status = Some(status);
            inner.detail = detail;
            inner.retry_after = retry_after;
        })
    }

    /// The same trouble under another kind and sentence, where the caller knows better what it means.
    pub(crate) fn meaning(self, kind: ErrorKind, message: impl Into<String>) -> Self {
        self.with(|inner| (inner.kind, inner.message) = (kind, message.into()))
    }
}

fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

async fn detail(response: Response) -> Option<String> {
    let kind = response.headers().get(header::CONTENT_TYPE)?.to_str().ok()?;
    if !kind.contains("json") {
        return None;
    }
    // The status is already an error: a body that cannot be read takes nothing from it.
    let body = read_body(response, MAX_PROBLEM_BYTES).await.ok()?;
    let problem: Problem = serde_json::from_slice(&body).ok()?;
    let words = [problem.detail, problem.error_description.unwrap_or_default(), problem.title];
    words.iter().map(|words| harmless(words)).find(|words| !words.is_empty())
}

/// Text of the server without the characters that could forge log lines or drive a terminal.
pub(crate) fn harmless(text: &str) -> String {
    let harmless = |c: char| if is_unsafe_to_show(c) { ' ' } else { c };
    text.chars().take(MAX_DETAIL_CHARS).map(harmless).collect::<String>().trim().to_owned()
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        match (self.0.status, &self.0.detail) {
            (Some(status), Some(detail)) => write!(f, " (HTTP {}: {detail})", status.as_u16()),
            (Some(status), None) => write!(f, " (HTTP {})", status.as_u16()),
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
    fn foreign_words_cannot_drive_a_terminal() {
        assert_eq!(harmless("\x1b[2Jgone\r\nwwproxy: all well\u{9b}\n"), "[2Jgone  wwproxy: all well");
        assert_eq!(harmless("a\u{202e}b\u{2066}c\u{2069}d\u{202a}"), "a b c d");
        assert_eq!(harmless("a\u{200e}b\u{200f}c\u{2028}d\u{2029}e\u{61c}f"), "a b c d e f");
        assert_eq!(harmless(&"x".repeat(10_000)).len(), MAX_DETAIL_CHARS);
    }

    #[test]
    fn a_changed_meaning_keeps_the_cause() {
        let error = Error::new(ErrorKind::Protocol, "a").because(fmt::Error).meaning(ErrorKind::Refused, "b");
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Refused, "b"));
        assert!(error.source().is_some());
    }
}
