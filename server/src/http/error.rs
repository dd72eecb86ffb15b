//! Error responses: `application/problem+json` (RFC 9457). The only place that maps errors to status codes.

use warp::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    reply::{Reply, Response},
};
use wwproxy_protocol::{
    api::{PROBLEM_JSON, Problem},
    scheme::Check,
};

use crate::{
    log_limit::LogLimit,
    proxy::{ConsumerError, ProxyError},
    store::StoreError,
};

/// `Retry-After` for senders and clients that were rejected, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("5");

/// How often each kind of failure is logged in a minute: anyone can cause one while the store or the platform is failing.
const LOGGED: u32 = 10;
static SLOW_STORE: LogLimit = LogLimit::per_minute(LOGGED);
/// Large webhooks that waited too long for their verification.
static BUSY: LogLimit = LogLimit::per_minute(LOGGED);
static FAILED_STORE: LogLimit = LogLimit::per_minute(LOGGED);
static UNAVAILABLE_PLATFORM: LogLimit = LogLimit::per_minute(LOGGED);

/// An error response with its headers.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    detail: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// The OAuth error code (RFC 6749, section 5.2), on the token endpoint.
    oauth: Option<&'static str>,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), headers: Vec::new(), oauth: None }
    }

    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    pub(super) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    pub(super) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "There is nothing at this address: check the path and the app id.")
    }

    pub(super) fn too_large(limit: u64) -> Self {
        let detail = format!("The body is too large: send at most {limit} bytes.");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    }

    pub(super) fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail).header(header::RETRY_AFTER, RETRY_AFTER)
    }

    pub(super) fn unauthorised(detail: impl Into<String>) -> Self {
        let challenge = HeaderValue::from_static("Bearer");
        Self::new(StatusCode::UNAUTHORIZED, detail).header(header::WWW_AUTHENTICATE, challenge)
    }

    pub(super) fn method_not_allowed(allowed: &[&str]) -> Self {
        let names = allowed.join(", ");
        let detail = format!("The method is not allowed here: use {names}.");
        let allow = HeaderValue::from_str(&names).expect("method names are tokens");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, detail).header(header::ALLOW, allow)
    }

    pub(super) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    pub(super) fn oauth(mut self, code: &'static str) -> Self {
        self.oauth = Some(code);
        self
    }
}

/// Formats the text of an error as a sentence.
fn sentence(mut text: String) -> String {
    text.get_mut(..1).map(str::make_ascii_uppercase);
    text + "."
}

impl From<ProxyError> for ApiError {
    fn from(error: ProxyError) -> Self {
        match error {
            ProxyError::Refused => Self::unauthorised(
                "The token does not belong to this app, or has expired: get a new one from the token endpoint.",
            ),
            ProxyError::NotServed => Self::new(
                StatusCode::FORBIDDEN,
                "This server does not serve this app: ask its operator to allow the app id (--allow-app).",
            ),
            ProxyError::Suspended => Self::unavailable(
                "The operator of this server has disabled the app or removed its credentials: send this again later.",
            ),
            ProxyError::IdentityUnavailable(error) => {
                if let Some(requests) = UNAVAILABLE_PLATFORM.add(1) {
                    let source = std::error::Error::source(&error).map(tracing::field::display);
                    tracing::warn!(requests, source, "the platform is unavailable: a token could not be checked");
                }
                Self::unavailable("The platform that checks tokens is unavailable: try again later.")
            }
            ProxyError::NotRegistered | ProxyError::UnknownSource => Self::new(
                StatusCode::NOT_FOUND,
                "No source is registered for this hook: check the app id and the source in its URL. The app's client must register it first.",
            ),
            ProxyError::InvalidSource(error) => Self::bad_request(sentence(error.to_string())),
            ProxyError::NoSource => Self::new(
                StatusCode::NOT_FOUND,
                "The app has no source of this name: register it, or list the sources.",
            ),
            ProxyError::TooManySources => {
                Self::new(StatusCode::CONFLICT, "The app has 32 sources already: delete one of them first.")
            }
            ProxyError::UnverifiedNotAllowed => Self::unavailable(
                "This source accepts webhooks without verification, which the server does not allow: \
                 register another scheme, or ask the operator for --allow-unverified.",
            ),
            ProxyError::UnverifiedForbidden => Self::new(
                StatusCode::FORBIDDEN,
                "The scheme none accepts webhooks without verification, which this server does not allow: \
                 register another scheme, or ask the operator for --allow-unverified.",
            ),
            ProxyError::Method(allowed) => Self::method_not_allowed(allowed),
            ProxyError::NoHandshake => Self::bad_request(
                "The sender of this source has no handshake that sets the secret: register the secret.",
            ),
            ProxyError::TooManySecrets => Self::new(
                StatusCode::CONFLICT,
                "The source has 4 secrets already, and a handshake adds one: register it again with those that are still in use, or delete it.",
            ),
            ProxyError::NotArmed => Self::new(
                StatusCode::UNAUTHORIZED,
                "The source does not expect a handshake: its owner must arm it first (`wwproxy sources arm`).",
            )
            .header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Signature")),
            ProxyError::Rejected(rejected) => {
                let detail = format!("The webhook was refused: {rejected}.");
                match rejected.rejection.check {
                    Check::Form => Self::bad_request(detail),
                    Check::Challenge => Self::new(StatusCode::FORBIDDEN, detail),
                    _ => Self::new(StatusCode::UNAUTHORIZED, detail)
                        .header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Signature")),
                }
            }
            ProxyError::Full => {
                Self::unavailable("The app's queue is full: send this again later, when its client has acknowledged some events.")
            }
            ProxyError::UnreadableSource(_) => Self::unavailable(
                "The stored source cannot be read by this server: register the source again, or delete it.",
            ),
            ProxyError::SourceChanged => Self::unavailable(
                "The source of this webhook was replaced while the webhook was verified: send it again.",
            ),
            ProxyError::Consumer(error) => error.into(),
            ProxyError::TooManyTaps => Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "The app has reached its limit of open taps: close one of them, or try again later.",
            )
            .header(header::RETRY_AFTER, RETRY_AFTER),
            ProxyError::TooManyClients => Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "The app has reached its limit of websockets and waiting leases: close one of them, or try again later.",
            )
            .header(header::RETRY_AFTER, RETRY_AFTER),
            ProxyError::Busy => {
                if let Some(requests) = BUSY.add(1) {
                    tracing::warn!(requests, "large webhooks were not verified in time");
                }
                Self::unavailable("The server is verifying too many large webhooks just now: send this again later.")
            }
            ProxyError::Slow => {
                if let Some(requests) = SLOW_STORE.add(1) {
                    tracing::error!(requests, "an append did not complete in time");
                }
                Self::unavailable("The proxy could not store this in time: send it again.")
            }
            ProxyError::Store(error) => error.into(),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        if let StoreError::NoConsumer(name) = error {
            // Every registered app has the consumer `default`.
            if name.is_default() {
                return ConsumerError::NotRegistered.into();
            }
            let detail = format!(
                "The app has no consumer {name}: create it with PUT /webhooks/{{appId}}/consumers/{name}."
            );
            return Self::new(StatusCode::NOT_FOUND, detail);
        }
        if let Some(requests) = FAILED_STORE.add(1) {
            let source = std::error::Error::source(&error);
            tracing::error!(requests, %error, ?source, "a request failed at the store");
        }
        Self::unavailable("The proxy cannot store or read events just now: try again later.")
    }
}

impl From<ConsumerError> for ApiError {
    fn from(error: ConsumerError) -> Self {
        match error {
            ConsumerError::Invalid(error) => Self::bad_request(sentence(error.to_string())),
            ConsumerError::NotRegistered => {
                Self::new(StatusCode::NOT_FOUND, "The app is not registered: register a source first.")
            }
            ConsumerError::Exists => Self::new(
                StatusCode::CONFLICT,
                "The app has a consumer of this name with other types, sources or another start, which cannot change: \
                 delete it and create it again, or choose another name.",
            ),
            ConsumerError::TooMany => {
                Self::new(StatusCode::CONFLICT, "The app has 32 consumers already: delete one of them first.")
            }
            ConsumerError::Default => Self::new(
                StatusCode::CONFLICT,
                "The consumer default cannot be deleted: set its \"overflow\" to \"off\" and it receives nothing.",
            ),
            error @ ConsumerError::DefaultOff(_) => Self::new(
                StatusCode::CONFLICT,
                format!(
                    "{}. Name one of them with \"consumer\", or create one.",
                    sentence(error.to_string()).trim_end_matches('.')
                ),
            ),
            ConsumerError::NoSuchStart => Self::new(
                StatusCode::NOT_FOUND,
                "The app has no such event, or it has been removed: start at \"new\", \"all\", a time such as 2026-01-31T12:00:00Z, \
                 or the id of a stored event.",
            ),
            ConsumerError::FutureStart => Self::bad_request(
                "The start is in the future: give a time that has passed, or \"new\" for what is stored from now on.",
            ),
        }
    }
}

impl Reply for ApiError {
    fn into_response(self) -> Response {
        let problem = Problem {
            r#type: "about:blank".into(),
            title: self.status.canonical_reason().unwrap_or_default().into(),
            status: self.status.as_u16(),
            error: self.oauth.map(Into::into),
            error_description: self.oauth.map(|_| self.detail.clone()),
            detail: self.detail,
        };
        let body = serde_json::to_vec(&problem).expect("texts and numbers have a JSON form");
        let mut response = Response::new(body.into());
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        headers.extend(self.headers);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_that_waited_too_long_is_to_be_sent_again_later() {
        for error in [ProxyError::Busy, ProxyError::Slow] {
            let response = ApiError::from(error).into_response();
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(response.headers()[header::RETRY_AFTER], "5");
        }
    }
}
