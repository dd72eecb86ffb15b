//! `/webhooks/{appId}`: the path that registration, polling and the websocket share.

use warp::{filters::BoxedFilter, http::Method, reply::Response};
use wwproxy_protocol::AppId;

use super::{Context, error::ApiError, poll, register, request::Request, route_of_app, subscribe};

pub(super) fn route(context: &Context) -> BoxedFilter<(Response,)> {
    route_of_app(warp::path!("webhooks" / AppId), context, dispatch)
}

async fn dispatch(app: AppId, context: Context, request: Request) -> Result<Response, ApiError> {
    match request.method {
        Method::GET if subscribe::is_wanted(&request) => subscribe::subscribe(app, context, request).await,
        Method::GET => poll::poll(&app, &context, request).await,
        Method::HEAD => poll::head(&app, &context, request).await,
        Method::PUT => register::register(&app, &context, request).await,
        Method::DELETE => register::unregister(&app, &context, request).await,
        _ => Err(request.refuse_method(&[Method::GET, Method::HEAD, Method::PUT, Method::DELETE]).await),
    }
}
