//! `/hook/{appId}` and `/hook/{appId}/{source}`: receives webhooks.

use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio::time::Instant;
use warp::{
    Filter as _,
    filters::{BoxedFilter, path::Tail},
    http::{HeaderName, HeaderValue, StatusCode, header},
    reply::Response,
};
use wwproxy_protocol::{AppId, SourceName, scheme::Answer};

use super::{
    Context, answer,
    error::ApiError,
    request::{Request, empty, request},
    with,
};
use crate::{
    log_limit::LogLimit,
    proxy::{
        ProxyError, RECEIVE_TIMEOUT, Received, Refused, UNKNOWN_SOURCE, Verified, Webhook, header_names,
    },
};

/// How often each reason for a rejection is logged in a minute: anyone can cause one.
const LOGGED: u32 = 10;

/// Logs webhooks for a registered app that were rejected.
#[derive(Debug)]
pub(crate) struct Rejections {
    rejected: LogLimit,
    full: LogLimit,
    suspended: LogLimit,
}

impl Default for Rejections {
    fn default() -> Self {
        let limit = || LogLimit::per_minute(LOGGED);
        Self { rejected: limit(), full: limit(), suspended: limit() }
    }
}

impl Rejections {
    fn log(&self, app: &AppId, source: &SourceName, error: &ProxyError) {
        let limit = match error {
            ProxyError::Rejected(_) | ProxyError::UnverifiedNotAllowed | ProxyError::UnreadableSource(_) => {
                &self.rejected
            }
            ProxyError::Full => &self.full,
            ProxyError::Suspended => &self.suspended,
            _ => return,
        };
        if let Some(webhooks) = limit.add(1) {
            tracing::warn!(%app, webhooks, %source, %error, "rejected");
        }
    }
}

pub(super) fn route(context: &Context) -> BoxedFilter<(Response,)> {
    warp::path("hook")
        .and(warp::path::tail())
        .and(with(context))
        .and(request())
        .then(|path: Tail, context, request| receive(path, context, request).map(answer).map(harmless))
        .boxed()
}

/// The source that a request is for. Without `Debug`, as the tail may have a token.
struct Target {
    app: AppId,
    source: SourceName,
    /// Whether the name in the path is valid. Otherwise `source` is its sanitized form, for the list of refusals.
    is_valid: bool,
    /// The path after the source's hook, with its first `/`.
    tail: Option<String>,
}

impl Target {
    /// Parses the path after `/hook/`: an app, and optionally a source, and then a tail. One trailing slash is ignored.
    fn parse(path: &str) -> Option<Self> {
        let (app, rest) = path.split_once('/').unwrap_or((path, ""));
        let (name, tail) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let source = if rest.is_empty() { Ok(SourceName::default()) } else { name.parse() };
        let is_valid = source.is_ok();
        let source = source.unwrap_or_else(|_| SourceName::sanitize(name));
        let tail = Some(tail.to_owned()).filter(|tail| tail.len() > 1);
        Some(Self { app: app.parse().ok()?, source, is_valid, tail })
    }
}

/// Forbids browsers to interpret an answer: a sender chooses parts of the answer to a challenge.
fn harmless(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let policy = HeaderValue::from_static("sandbox; default-src 'none'");
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    response
}

/// Checks in this order: the app and its source are registered, the method belongs to the scheme, the body is within the limit,
/// the signature is valid.
async fn receive(path: Tail, context: Context, request: Request) -> Result<Response, ApiError> {
    let Some(Target { app, source, is_valid, tail }) = Target::parse(path.as_str()) else {
        return Err(request.refuse(ApiError::not_found()).await);
    };
    let names = header_names(&request.headers);
    let recorder = Recorder { context: &context, app: &app, source: &source, headers: names };
    let name = is_valid.then_some(&source);
    if let Err(error) = context.proxy.receiving_source(&app, name, &request.method).await {
        return Err(request.refuse(recorder.refuse(error, None)).await);
    }
    let Request { method, headers, query, body, connection, .. } = request;
    let limit = context.settings.max_body;
    let mut body = match body.collect(limit, &context.budgets.hooks, Some(app.clone())).await {
        Err(error) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            recorder.record("size", format!("the body is larger than {limit} bytes"), &error, None);
            return Err(error);
        }
        other => other?,
    };
    let deadline = Instant::now() + RECEIVE_TIMEOUT;
    let bytes = body.bytes.clone();
    let webhook = Arc::new(Webhook { method, tail, headers, query, body: bytes.clone(), deadline });
    // A body that waits for verification can still be evicted for other bodies.
    let permit = body.unless_evicted(context.proxy.verification_permit(&app, &webhook)).await??;
    body.keep()?;
    let refuse = |error| recorder.refuse(error, Some(&bytes));
    let verified = context.proxy.verify(&app, &source, &webhook, permit).await.map_err(refuse)?;
    // Not for a challenge or an event of the scheme `none`: anyone can send them.
    if matches!(&verified, Verified::Event { event, .. } if event.origin.verification.is_some()) {
        connection.authorise()?;
    }
    match context.proxy.receive(&app, &source, &webhook, verified).await.map_err(refuse)? {
        Received::Stored(success) => {
            context.proxy.record_accepted(&app, &source);
            Ok(empty(StatusCode::from_u16(success).expect("the success status of a scheme is valid")))
        }
        Received::Answer(answer) => challenge_answer(answer),
    }
}

/// Records why a webhook is refused, in the log and for the owner of its source.
struct Recorder<'a> {
    context: &'a Context,
    app: &'a AppId,
    source: &'a SourceName,
    /// The names of the webhook's headers.
    headers: Vec<HeaderName>,
}

impl Recorder<'_> {
    /// `body` is `None` if it was not read.
    fn refuse(&self, error: ProxyError, body: Option<&[u8]>) -> ApiError {
        self.context.rejections.log(self.app, self.source, &error);
        let (check, detail) = (failed_check(&error), error.to_string());
        let error = error.into();
        if let Some(check) = check {
            self.record(check, detail, &error, body);
        }
        error
    }

    fn record(&self, check: &'static str, detail: String, error: &ApiError, body: Option<&[u8]>) {
        let status = error.status().as_u16();
        let refused = Refused::new(self.source, (check, detail), status, &self.headers, body);
        self.context.proxy.record_refused(self.app, refused);
    }
}

/// The name of the check that a webhook of a registered app failed, for the owner of the source.
fn failed_check(error: &ProxyError) -> Option<&'static str> {
    match error {
        ProxyError::UnknownSource => Some(UNKNOWN_SOURCE),
        ProxyError::UnverifiedNotAllowed | ProxyError::UnreadableSource(_) => Some("scheme"),
        ProxyError::Method(_) => Some("method"),
        ProxyError::Rejected(rejected) => Some(rejected.rejection.check.name()),
        ProxyError::NotArmed => Some("handshake"),
        ProxyError::Full => Some("queue"),
        _ => None,
    }
}

fn challenge_answer(answer: Answer) -> Result<Response, ApiError> {
    let mut response = Response::new(answer.body.into());
    *response.status_mut() =
        StatusCode::from_u16(answer.status).expect("the status of a challenge's answer is valid");
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    for (name, value) in answer.headers {
        let value = HeaderValue::from_str(&value)
            .map_err(|_| ApiError::bad_request("The challenge cannot be repeated in a header."))?;
        headers.insert(name, value);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_after_the_app_is_a_source_and_a_tail() {
        let parse = |path: &str| {
            let target = Target::parse(path)?;
            assert_eq!(target.app.as_str(), "bot");
            assert!(target.is_valid, "{path}");
            Some((target.source.to_string(), target.tail))
        };
        let source = |name: &str, tail: Option<&str>| Some((name.to_owned(), tail.map(str::to_owned)));
        assert_eq!(parse("bot"), source("default", None));
        assert_eq!(parse("bot/"), source("default", None));
        assert_eq!(parse("bot/github"), source("github", None));
        assert_eq!(parse("bot/github/"), source("github", None));
        assert_eq!(parse("bot/github/a%2Fb/c"), source("github", Some("/a%2Fb/c")));
        assert_eq!(parse("bot/default/a"), source("default", Some("/a")));
        for invalid in ["", "/", "/bot", "b~t"] {
            assert_eq!(parse(invalid), None, "{invalid}");
        }
        for (path, shown) in [("bot//", "-"), ("bot//a", "-"), ("bot/..", "-"), ("bot/a%2Fb/c", "a-2Fb")] {
            let target = Target::parse(path).unwrap();
            assert_eq!((target.is_valid, target.source.as_str()), (false, shown), "{path}");
        }
    }
}
