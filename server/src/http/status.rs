//! `GET /webhooks/{appId}/status`: the state of the app's sources and consumers.

use warp::{filters::BoxedFilter, http::Method, reply::Response};
use wwproxy_protocol::AppId;

use super::{
    Context,
    error::ApiError,
    request::{Request, json_of},
    route_of_app,
};

pub(super) fn route(context: &Context) -> BoxedFilter<(Response,)> {
    route_of_app(warp::path!("webhooks" / AppId / "status"), context, status)
}

async fn status(app: AppId, context: Context, request: Request) -> Result<Response, ApiError> {
    if !matches!(request.method, Method::GET | Method::HEAD) {
        return Err(request.refuse_method(&[Method::GET, Method::HEAD]).await);
    }
    let (request, _) = request.authorise(&context.proxy, &app).await?;
    let consumer = request.consumer()?.unwrap_or_default();
    let status = context.proxy.status(&app, &consumer).await?;
    Ok(json_of(&status))
}
