//! `/hook/{appId}` and `/hook/{appId}/{source}`: receives webhooks.

use futures_util::FutureExt as _;
use warp::{
    Filter as _,
    filters::{BoxedFilter, path::Tail},
    http::{HeaderValue, StatusCode, header},
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
    proxy::{ProxyError, Received, Refused, Webhook, body_hash, header_names},
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
    fn log(&self, app: &AppId, error: &ProxyError) {
        let limit = match error {
            ProxyError::Rejected(_) => &self.rejected,
            ProxyError::Full => &self.full,
            ProxyError::Suspended => &self.suspended,
            _ => return,
        };
        if let Some(webhooks) = limit.add(1) {
            tracing::warn!(%app, webhooks, %error, "rejected");
        }
    }
}

pub(super) fn route(context: &Context) -> BoxedFilter<(Response,)> {
    warp::path!("hook" / AppId / ..)
        .and(warp::path::tail())
        .and_then(|app: AppId, tail: Tail| async move {
            Target::parse(app, tail.as_str()).ok_or_else(warp::reject::not_found)
        })
        .and(with(context))
        .and(request())
        .then(|target, context, request| receive(target, context, request).map(answer).map(harmless))
        .boxed()
}

/// The source that a request is for.
#[derive(Debug)]
struct Target {
    app: AppId,
    source: SourceName,
    /// The path after the source's hook, with its first `/`.
    tail: Option<String>,
}

impl Target {
    /// Parses the path after the app: nothing for the source `default`, or a source and a tail.
    fn parse(app: AppId, path: &str) -> Option<Self> {
        let (name, tail) = path.split_at(path.find('/').unwrap_or(path.len()));
        let source = if path.is_empty() { SourceName::default() } else { name.parse().ok()? };
        let tail = Some(tail.to_owned()).filter(|tail| tail.len() > 1);
        Some(Self { app, source, tail })
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
async fn receive(target: Target, context: Context, request: Request) -> Result<Response, ApiError> {
    let Target { app, source, tail } = target;
    let found = match context.proxy.source(&app, &source).await {
        Ok(found) => found,
        Err(error) => {
            context.rejections.log(&app, &error);
            return Err(request.refuse(error.into()).await);
        }
    };
    if !found.scheme().methods().contains(&request.method.as_str()) {
        let methods = found.scheme().methods().iter().filter_map(|name| name.parse().ok());
        return Err(request.refuse_method(&methods.collect::<Vec<_>>()).await);
    }
    let Request { method, headers, query, body, connection, .. } = request;
    let names = header_names(&headers);
    let refuse = |check, detail, error: ApiError, body: Option<&[u8]>| {
        let status = error.status().as_u16();
        let (bytes, sha256) = (body.map_or(0, <[u8]>::len) as u64, body.and_then(body_hash));
        let refused =
            Refused { source: source.clone(), check, detail, status, bytes, headers: names.clone(), sha256 };
        context.proxy.record_refused(&app, refused);
        error
    };
    let limit = context.settings.max_body;
    let mut body = match body.collect(limit, &context.budgets.hooks, Some(app.clone())).await {
        Err(error) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            let detail = format!("the body is larger than {limit} bytes");
            return Err(refuse("size", detail, error, None));
        }
        other => other?,
    };
    let bytes = body.bytes.clone();
    let webhook = Webhook { method, tail, headers, query, body: bytes.clone() };
    // A body that waits for verification can still be evicted for other bodies.
    let permit = body.unless_evicted(context.proxy.verification_permit(&webhook)).await?;
    body.keep()?;
    let refused = |error: ProxyError| {
        context.rejections.log(&app, &error);
        match failed_check(&error) {
            Some(check) => {
                let detail = error.to_string();
                refuse(check, detail, error.into(), Some(&bytes))
            }
            None => error.into(),
        }
    };
    let verified = context.proxy.verify(&app, &source, webhook, permit).await.map_err(refused)?;
    connection.authorise()?;
    let received = context.proxy.receive(&app, &source, verified).await.map_err(refused)?;
    context.proxy.record_accepted(&app, &source);
    Ok(match received {
        Received::Stored(success) => {
            empty(StatusCode::from_u16(success).expect("the success status of a scheme is valid"))
        }
        Received::Answer(answer) => challenge_answer(answer),
    })
}

/// The name of the check that a webhook failed, for the owner of the source.
fn failed_check(error: &ProxyError) -> Option<&'static str> {
    match error {
        ProxyError::Rejected(rejected) => Some(rejected.rejection.check.name()),
        ProxyError::NotJson => Some("form"),
        ProxyError::NotArmed => Some("handshake"),
        ProxyError::Full => Some("queue"),
        _ => None,
    }
}

fn challenge_answer(answer: Answer) -> Response {
    let mut response = Response::new(answer.body.into());
    *response.status_mut() =
        StatusCode::from_u16(answer.status).expect("the status of a challenge's answer is valid");
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    for (name, value) in answer.headers {
        let value = HeaderValue::from_str(&value).expect("a challenge's header has no control characters");
        headers.insert(name, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_after_the_app_is_a_source_and_a_tail() {
        let parse = |path: &str| {
            let target = Target::parse("bot".parse().unwrap(), path)?;
            Some((target.source.to_string(), target.tail))
        };
        let source = |name: &str, tail: Option<&str>| Some((name.to_owned(), tail.map(str::to_owned)));
        assert_eq!(parse(""), source("default", None));
        assert_eq!(parse("github"), source("github", None));
        assert_eq!(parse("github/"), source("github", None));
        assert_eq!(parse("github/a%2Fb/c"), source("github", Some("/a%2Fb/c")));
        assert_eq!(parse("/a"), None);
        assert_eq!(parse(".."), None);
        assert_eq!(parse("a%2Fb"), None);
    }
}
