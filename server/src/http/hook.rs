//! `POST /hook/{appId}`: webhooks come in.

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
use crate::proxy::{ProxyError, Received, Webhook};

pub(super) fn route(context: &Context) -> BoxedFilter<(Response,)> {
    route_of_app(warp::path!("hook" / AppId), context, receive)
}

/// In this order: is the app registered, is the body within the limit, does the signature fit, is it JSON.
async fn receive(app: AppId, context: Context, request: Request) -> Result<Response, ApiError> {
    if request.method != Method::POST {
        return Err(request.refuse_method(&[Method::POST]).await);
    }
    if let Err(error) = context.proxy.registration(&app).await {
        return Err(request.refuse(error.into()).await);
    }
    let Request { headers, query, body, .. } = request;
    let body = body.collect(context.settings.max_body, &context.buffer).await?;
    let webhook = Webhook { headers, query, body: body.bytes.clone() };
    match context.proxy.receive(&app, webhook).await {
        Ok(Received::Stored) => Ok(empty(StatusCode::CREATED)),
        Ok(Received::Challenge { body, signature }) => {
            let signature = HeaderValue::from_str(&signature).expect("hex is a header value");
            let mut response = json(body);
            response.headers_mut().insert(OUTBOUND_TOKEN, signature);
            Ok(response)
        }
        Err(error) => {
            if matches!(error, ProxyError::BadSignature | ProxyError::Full) {
                tracing::warn!(%app, %error, "a webhook was refused");
            }
            Err(error.into())
        }
    }
}
