//! `POST /hook/{appId}`: receives webhooks.

use warp::{
    filters::BoxedFilter,
    http::{HeaderValue, Method, StatusCode},
    reply::Response,
};
use wwproxy_protocol::{AppId, api::OUTBOUND_TOKEN};

use super::{
    Context,
    error::ApiError,
    request::{Request, empty, json},
    route_of_app,
};
use crate::{
    log_limit::LogLimit,
    proxy::{ProxyError, Received, Webhook},
};

/// How often each reason for a rejection is logged in a minute: anyone can cause one.
const LOGGED: u32 = 10;

/// Logs webhooks for a registered app that were rejected.
#[derive(Debug)]
pub(crate) struct Rejections {
    bad_signature: LogLimit,
    full: LogLimit,
    suspended: LogLimit,
}

impl Default for Rejections {
    fn default() -> Self {
        let limit = || LogLimit::per_minute(LOGGED);
        Self { bad_signature: limit(), full: limit(), suspended: limit() }
    }
}

impl Rejections {
    fn log(&self, app: &AppId, error: &ProxyError) {
        let limit = match error {
            ProxyError::BadSignature(_) => &self.bad_signature,
            ProxyError::Full => &self.full,
            ProxyError::Suspended => &self.suspended,
            _ => return,
        };
        if let Some(webhooks) = limit.add(1) {
            tracing::warn!(%app, webhooks, %error, "rejected");
        }
    }
}

pub(super) fn route(context: &Context) -> BoxedFilter<(Response,)> {
    route_of_app(warp::path!("hook" / AppId), context, receive)
}

/// Checks in this order: the app is registered, the body is within the limit, the signature is valid, the body is JSON.
async fn receive(app: AppId, context: Context, request: Request) -> Result<Response, ApiError> {
    if request.method != Method::POST {
        return Err(request.refuse_method(&[Method::POST]).await);
    }
    if let Err(error) = context.proxy.registration(&app).await {
        context.rejections.log(&app, &error);
        return Err(request.refuse(error.into()).await);
    }
    let Request { headers, query, body, connection, .. } = request;
    let mut body = body.collect(context.settings.max_body, &context.budgets.hooks, Some(app.clone())).await?;
    let webhook = Webhook { headers, query, body: body.bytes.clone() };
    // A body that waits for verification can still be evicted for other bodies.
    let permit = body.unless_evicted(context.proxy.verification_permit(&webhook)).await?;
    body.keep()?;
    let refused = |error| {
        context.rejections.log(&app, &error);
        ApiError::from(error)
    };
    let verified = context.proxy.verify(&app, webhook, permit).await.map_err(refused)?;
    connection.authorise()?;
    match context.proxy.receive(&app, verified).await.map_err(refused)? {
        Received::Stored => Ok(empty(StatusCode::CREATED)),
        Received::Challenge { body, signature } => {
            let signature = HeaderValue::from_str(&signature).expect("hex is a header value");
            let mut response = json(body);
            response.headers_mut().insert(OUTBOUND_TOKEN, signature);
            Ok(response)
        }
    }
}
