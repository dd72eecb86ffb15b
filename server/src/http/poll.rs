//! `GET /webhooks/{appId}`: returns and acknowledges the oldest events (polling).

use warp::{
    http::{HeaderValue, StatusCode, header},
    reply::Response,
};
use wwproxy_protocol::{AppId, api::PollResponse};

use super::{
    Context,
    error::ApiError,
    request::{Request, empty, json},
};
use crate::coop::yield_task_if_due;

/// The events are acknowledged once the whole answer was written to the socket, and not before.
pub(super) async fn poll(app: &AppId, context: &Context, request: Request) -> Result<Response, ApiError> {
    let (request, _) = request.authorise(&context.proxy, app).await?;
    if request.flag("tap")? || request.since()?.is_some() {
        // A client that wants a tap or history must not acknowledge events of the consumer by mistake.
        return Err(ApiError::bad_request(
            "\"tap\" and \"since\" need a websocket: request an upgrade, which a reverse proxy must forward.",
        ));
    }
    let max = request.count("max")?;
    let consumer = request.consumer()?.unwrap_or_default();
    let (deliveries, unsettled) = context.proxy.poll(app, &consumer, max).await?;
    let guard = context.guard(unsettled);
    let mut answer = PollResponse::default();
    for delivery in &deliveries {
        yield_task_if_due().await;
        answer.push(&delivery.event);
    }
    let mut response = uncached(json(answer.finish()));
    guard.attach_to(&mut response);
    Ok(response)
}

/// `HEAD` leases nothing.
pub(super) async fn head(app: &AppId, context: &Context, request: Request) -> Result<Response, ApiError> {
    request.authorise(&context.proxy, app).await?;
    let mut response = empty(StatusCode::OK);
    *response.headers_mut() = uncached(json("")).headers().clone();
    Ok(response)
}

/// Forbids caches to store the answer and reverse proxies to buffer it: its events are deleted once it is written.
fn uncached(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
