//! `/webhooks/{appId}/consumers`: the consumers of an app.

use warp::{
    Filter as _,
    filters::BoxedFilter,
    http::{Method, StatusCode},
    reply::Response,
};
use wwproxy_protocol::{
    AppId, ConsumerName, ConsumerSettings,
    api::{Consumers, SeekRequest},
};

use super::{
    Context, MAX_REQUEST,
    error::ApiError,
    request::{Request, empty, json_of, read_object, utf8},
    route_of_app, route_of_named,
};
use crate::proxy::ConsumerError;

pub(super) fn route(context: &Context) -> BoxedFilter<(Response,)> {
    let all = route_of_app(warp::path!("webhooks" / AppId / "consumers"), context, list);
    let one = route_of_named(warp::path!("webhooks" / AppId / "consumers" / ConsumerName), context, dispatch);
    let seek = warp::path!("webhooks" / AppId / "consumers" / ConsumerName / "seek");
    let seek = route_of_named(seek, context, self::seek);
    all.or(one).unify().or(seek).unify().boxed()
}

async fn list(app: AppId, context: Context, request: Request) -> Result<Response, ApiError> {
    if !matches!(request.method, Method::GET | Method::HEAD) {
        return Err(request.refuse_method(&[Method::GET, Method::HEAD]).await);
    }
    request.authorise(&context.proxy, &app).await?;
    let consumers = context.proxy.consumers(&app).await?;
    Ok(json_of(&Consumers { consumers }))
}

async fn dispatch(
    app: AppId,
    name: ConsumerName,
    context: Context,
    request: Request,
) -> Result<Response, ApiError> {
    match request.method {
        Method::GET | Method::HEAD => {
            request.authorise(&context.proxy, &app).await?;
            let consumer = context.proxy.consumer(&app, &name).await?;
            Ok(json_of(&consumer))
        }
        Method::PUT => {
            let is_new = put(&app, &name, &context, request).await?;
            Ok(empty(if is_new { StatusCode::CREATED } else { StatusCode::OK }))
        }
        Method::DELETE => {
            let (_, token) = request.authorise(&context.proxy, &app).await?;
            context.proxy.delete_consumer(&app, &token, &name).await?;
            Ok(empty(StatusCode::OK))
        }
        _ => Err(request.refuse_method(&[Method::GET, Method::HEAD, Method::PUT, Method::DELETE]).await),
    }
}

/// Creates a consumer, or changes it. An empty body is `{}`. Returns whether the consumer is new.
async fn put(
    app: &AppId,
    name: &ConsumerName,
    context: &Context,
    request: Request,
) -> Result<bool, ApiError> {
    let (request, token) = request.authorise(&context.proxy, app).await?;
    let body = request.body.collect(MAX_REQUEST, &context.budgets.requests, Some(app.clone())).await?.bytes;
    let text = utf8(&body)?;
    let settings = ConsumerSettings::parse(if text.is_empty() { "{}" } else { text });
    Ok(context.proxy.put_consumer(app, &token, name, settings.map_err(ConsumerError::from)?).await?)
}

async fn seek(
    app: AppId,
    name: ConsumerName,
    context: Context,
    request: Request,
) -> Result<Response, ApiError> {
    if request.method != Method::POST {
        return Err(request.refuse_method(&[Method::POST]).await);
    }
    let (request, token) = request.authorise(&context.proxy, &app).await?;
    let body = request.body.collect(MAX_REQUEST, &context.budgets.requests, Some(app.clone())).await?.bytes;
    let SeekRequest { to } = read_object(&body).ok_or_else(|| {
        ApiError::bad_request(
            "The body must be a JSON object with \"to\": \"new\", \"all\", a time such as 2026-01-31T12:00:00Z, or an event id.",
        )
    })?;
    context.proxy.seek(&app, &token, &name, to).await?;
    Ok(empty(StatusCode::OK))
}
