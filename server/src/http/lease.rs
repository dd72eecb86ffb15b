//! `POST /webhooks/{appId}/lease`: leases events, which the client settles later.

use bytes::Bytes;
use warp::{filters::BoxedFilter, http::Method, reply::Response};
use wwproxy_protocol::{
    AppId,
    api::{LeaseRequest, LeaseResponse},
};

use super::{
    Context, MAX_REQUEST,
    error::ApiError,
    request::{Request, json, read_object},
    route_of_app,
};
use crate::coop::yield_task_if_due;

pub(super) fn route(context: &Context) -> BoxedFilter<(Response,)> {
    route_of_app(warp::path!("webhooks" / AppId / "lease"), context, lease)
}

async fn lease(app: AppId, context: Context, request: Request) -> Result<Response, ApiError> {
    if request.method != Method::POST {
        return Err(request.refuse_method(&[Method::POST]).await);
    }
    let (request, token) = request.authorise(&context.proxy, &app).await?;
    let lease =
        read(&request.body.collect(MAX_REQUEST, &context.budgets.requests, Some(app.clone())).await?.bytes)?;
    let consumer = lease.consumer.clone().unwrap_or_default();
    // Waiting ends when the token is revoked or the server stops.
    let (deliveries, unsettled) = tokio::select! {
        biased;
        refusal = context.proxy.refused(&app, &token) => return Err(refusal.into()),
        leased = context.proxy.lease(&app, &consumer, &lease) => leased?,
        () = context.shutdown.cancelled() => {
            return Err(ApiError::unavailable("The server restarts: try again."));
        }
    };
    let guard = context.guard(unsettled);
    let mut answer = LeaseResponse::default();
    for delivery in &deliveries {
        yield_task_if_due().await;
        answer.push(&delivery.event, &delivery.receipt, delivery.attempt, delivery.replay);
    }
    let mut response = json(answer.finish());
    guard.attach_to(&mut response);
    Ok(response)
}

fn read(body: &Bytes) -> Result<LeaseRequest, ApiError> {
    if body.is_empty() {
        return Ok(LeaseRequest::default());
    }
    let request: LeaseRequest = read_object(body).ok_or_else(|| {
        ApiError::bad_request(
            "The body must be a JSON object with \"max\", \"waitMs\" and \"leaseMs\", whole numbers, and \"consumer\", the name of a consumer, all optional.",
        )
    })?;
    if request.max == Some(0) || request.lease_ms == Some(0) {
        return Err(ApiError::bad_request("\"max\" and \"leaseMs\" must be at least 1."));
    }
    Ok(request)
}
