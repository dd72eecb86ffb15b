//! `PUT` and `DELETE /webhooks/{appId}`: an app's registration.

use warp::{http::StatusCode, reply::Response};
use wwproxy_protocol::{AppId, Secret, json};
use zeroize::Zeroizing;

use super::{
    Context, MAX_REQUEST,
    error::ApiError,
    request::{Request, empty},
};

/// The longest webhook secret, in bytes: all of it is hashed for each webhook, also for one that is then refused.
const MAX_SECRET: usize = 4096;

/// `{"secret":"…"}`, whatever the `Content-Type` says.
pub(super) async fn register(app: &AppId, context: &Context, request: Request) -> Result<Response, ApiError> {
    let request = request.authorised(&context.proxy, app).await?;
    let token = request.bearer_token()?;
    let body = request.body.collect(MAX_REQUEST, &context.budgets.requests, Some(app.clone())).await?.bytes;
    let body = Zeroizing::new(body.to_vec());
    let secret = read_secret(&body).ok_or_else(|| {
        ApiError::bad_request("The body must be a JSON object with the webhook secret: {\"secret\":\"…\"}.")
    })?;
    if secret.expose().len() > MAX_SECRET {
        return Err(ApiError::bad_request(format!(
            "The webhook secret must have at most {MAX_SECRET} bytes."
        )));
    }
    context.proxy.register(app, &token, secret).await?;
    Ok(empty(StatusCode::CREATED))
}

fn read_secret(body: &[u8]) -> Option<Secret> {
    let [secret] = json::members(std::str::from_utf8(body).ok()?, ["secret"]).ok()?;
    let secret = Secret::new(json::string(secret?)?);
    (!secret.expose().is_empty()).then_some(secret)
}

pub(super) async fn unregister(
    app: &AppId,
    context: &Context,
    request: Request,
) -> Result<Response, ApiError> {
    let token = request.authorised(&context.proxy, app).await?.bearer_token()?;
    context.proxy.unregister(app, &token).await?;
    Ok(empty(StatusCode::OK))
}
