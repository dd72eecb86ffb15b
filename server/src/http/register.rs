//! `PUT` and `DELETE /webhooks/{appId}`: an app's registration, which is its source `default`.

use warp::{http::StatusCode, reply::Response};
use wwproxy_protocol::{AppId, SourceName};

use super::{
    Context,
    error::ApiError,
    request::{Request, empty},
    sources,
};

/// The answer is `201`, whether the source is new or not, as in the original contract.
pub(super) async fn register(app: &AppId, context: &Context, request: Request) -> Result<Response, ApiError> {
    sources::put(app, &SourceName::default(), context, request).await?;
    Ok(empty(StatusCode::CREATED))
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
