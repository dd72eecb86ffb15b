//! `GET /webhooks/{appId}`: takes the oldest events, in one answer.

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

/// The events are gone once the answer was handed to the connection in full, and not before.
pub(super) async fn poll(app: &AppId, context: &Context, request: Request) -> Result<Response, ApiError> {
    let (request, _) = request.authorise(&context.proxy, app).await?;
    if request.flag("tap")? {
        // Who wants to look on has not asked for the events to be taken.
        return Err(ApiError::bad_request(
            "A tap is a websocket: ask for an upgrade, which a proxy on the way must pass on.",
        ));
    }
    let max = request.count("max")?;
    let (deliveries, unsettled) = context.proxy.poll(app, max).await?;
    let guard = context.guard(unsettled);
    let mut answer = PollResponse::default();
    for delivery in &deliveries {
        yield_task_if_due().await;
        answer.push(&delivery.event);
    }
    let mut response = unstored(json(answer.finish()));
    guard.attach_to(&mut response);
    Ok(response)
}

/// `HEAD` takes nothing.
pub(super) async fn look(app: &AppId, context: &Context, request: Request) -> Result<Response, ApiError> {
    request.authorise(&context.proxy, app).await?;
    let mut response = empty(StatusCode::OK);
    *response.headers_mut() = unstored(json("")).headers().clone();
    Ok(response)
}

/// An answer that nothing on the way may store, or read ahead of its client: its events are gone once it is written.
fn unstored(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
