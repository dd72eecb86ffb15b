//! `GET /webhooks/{appId}/refusals`: the last webhooks that the app's sources refused.

use warp::{filters::BoxedFilter, http::Method, reply::Response};
use wwproxy_protocol::{AppId, api::Refusals};

use super::{
    Context,
    error::ApiError,
    request::{Request, json_of},
    route_of_app,
};

pub(super) fn route(context: &Context) -> BoxedFilter<(Response,)> {
    route_of_app(warp::path!("webhooks" / AppId / "refusals"), context, refusals)
}

async fn refusals(app: AppId, context: Context, request: Request) -> Result<Response, ApiError> {
    if !matches!(request.method, Method::GET | Method::HEAD) {
        return Err(request.refuse_method(&[Method::GET, Method::HEAD]).await);
    }
    request.authorise(&context.proxy, &app).await?;
    let refusals = Refusals { refusals: context.proxy.refusals(&app) };
    Ok(json_of(&refusals))
}
