//! `POST /webhooks/{appId}/ack`: acknowledges or releases leased events.

use warp::{filters::BoxedFilter, http::Method, reply::Response};
use wwproxy_protocol::{
    AppId,
    api::{AckRequest, MAX_RECEIPTS},
};

use super::{
    Context, MAX_REQUEST,
    error::ApiError,
    request::{Request, json_of, read_object},
    route_of_app,
};

pub(super) fn route(context: &Context) -> BoxedFilter<(Response,)> {
    route_of_app(warp::path!("webhooks" / AppId / "ack"), context, settle)
}

async fn settle(app: AppId, context: Context, request: Request) -> Result<Response, ApiError> {
    if request.method != Method::POST {
        return Err(request.refuse_method(&[Method::POST]).await);
    }
    let (request, _) = request.authorise(&context.proxy, &app).await?;
    let body = request.body.collect(MAX_REQUEST, &context.budgets.requests, Some(app.clone())).await?.bytes;
    let settlement: AckRequest = read_object(&body).ok_or_else(|| {
        ApiError::bad_request(
            "The body must be a JSON object with \"ack\", \"reject\", \"release\" and \"extend\", lists with receipts, and \"consumer\", the name of a consumer, all optional.",
        )
    })?;
    if settlement.receipts() > MAX_RECEIPTS {
        return Err(ApiError::bad_request(format!(
            "A request has at most {MAX_RECEIPTS} receipts in all lists: send the rest in another one."
        )));
    }
    if settlement.extend.iter().any(|extend| extend.lease_ms == Some(0)) {
        return Err(ApiError::bad_request("\"leaseMs\" must be at least 1."));
    }
    let consumer = settlement.consumer.clone().unwrap_or_default();
    let settled = context.proxy.settle(&app, &consumer, settlement).await?;
    Ok(json_of(&settled))
}
