//! `PUT` and `DELETE /webhooks/{appId}`: an app's registration.

use warp::{http::StatusCode, reply::Response};
use wwproxy_protocol::{AppId, Secret, json};

use super::{
    Context, MAX_REQUEST,
    error::ApiError,
    request::{Request, empty},
};

/// The longest webhook secret, in bytes: it is hashed for each webhook, also for one that is then rejected.
const MAX_SECRET: usize = 4096;

/// The members of a registration.
const KNOWN: [&str; 1] = ["\"secret\""];
/// The most characters of an unknown member's name in an error message.
const MAX_SHOWN: usize = 64;

/// The body is `{"secret":"…"}`; the `Content-Type` is ignored.
pub(super) async fn register(app: &AppId, context: &Context, request: Request) -> Result<Response, ApiError> {
    let (request, token) = request.authorise(&context.proxy, app).await?;
    let body = request.body.collect(MAX_REQUEST, &context.budgets.requests, Some(app.clone())).await?.bytes;
    let secret = read(&body)?;
    if secret.expose().len() > MAX_SECRET {
        return Err(ApiError::bad_request(format!(
            "The webhook secret must have at most {MAX_SECRET} bytes."
        )));
    }
    context.proxy.register(app, &token, secret).await?;
    Ok(empty(StatusCode::CREATED))
}

/// Rejects an unknown member: ignoring it would register other checks than the app asked for.
fn read(body: &[u8]) -> Result<Secret, ApiError> {
    let invalid = || {
        ApiError::bad_request("The body must be a JSON object with the webhook secret: {\"secret\":\"…\"}.")
    };
    let text = std::str::from_utf8(body).map_err(|_| invalid())?;
    let (mut secret, mut unknown) = (None, None);
    json::each_member(text, |name, value| match name {
        b"secret" => secret = Some(value),
        name => unknown = unknown.take().or_else(|| Some(quoted(name))),
    })
    .map_err(|_| invalid())?;
    if let Some(name) = unknown {
        let known = KNOWN.join(", ");
        return Err(ApiError::bad_request(format!(
            "A registration has no member {name} here: leave it out. Known members: {known}."
        )));
    }
    let secret = Secret::new(secret.and_then(json::string).ok_or_else(invalid)?);
    if secret.expose().is_empty() { Err(invalid()) } else { Ok(secret) }
}

/// Quotes a member's name for an error message: truncated, and with control characters escaped.
fn quoted(name: &[u8]) -> String {
    let name: String = String::from_utf8_lossy(name).chars().take(MAX_SHOWN).collect();
    format!("{name:?}")
}

pub(super) async fn unregister(
    app: &AppId,
    context: &Context,
    request: Request,
) -> Result<Response, ApiError> {
    let (_, token) = request.authorise(&context.proxy, app).await?;
    context.proxy.unregister(app, &token).await?;
    Ok(empty(StatusCode::OK))
}
