//! `GET /healthz` (liveness) and `GET /readyz` (readiness), for monitoring. They report nothing else.

use warp::{
    Filter,
    filters::BoxedFilter,
    http::{Method, StatusCode},
    reply::Response,
};

use super::{
    Context,
    error::ApiError,
    request::{Request, answer, empty, request},
    with,
};

/// Liveness: the process runs.
pub(super) fn alive() -> BoxedFilter<(Response,)> {
    warp::path!("healthz")
        .and(request())
        .then(|request| async move { answer(only_read(request).await.map(|()| empty(StatusCode::OK))) })
        .boxed()
}

/// Readiness: an event can be stored.
pub(super) fn ready(context: &Context) -> BoxedFilter<(Response,)> {
    warp::path!("readyz")
        .and(with(context))
        .and(request())
        .then(|context, request| async move { answer(is_ready(&context, request).await) })
        .boxed()
}

async fn is_ready(context: &Context, request: Request) -> Result<Response, ApiError> {
    only_read(request).await?;
    match context.proxy.ready() {
        Ok(()) => Ok(empty(StatusCode::OK)),
        Err(_) => Err(ApiError::unavailable("The proxy cannot store events just now: try again later.")),
    }
}

async fn only_read(request: Request) -> Result<(), ApiError> {
    if matches!(request.method, Method::GET | Method::HEAD) {
        Ok(())
    } else {
        Err(request.refuse_method(&[Method::GET, Method::HEAD]).await)
    }
}
