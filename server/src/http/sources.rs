//! `/webhooks/{appId}/sources`: the sources of an app.

use warp::{
    Filter as _,
    filters::BoxedFilter,
    http::{Method, StatusCode},
    reply::Response,
};
use wwproxy_protocol::{
    AppId, SourceName, SourceSettings,
    api::{SourceStatus, Sources, path},
};

use super::{
    Context, MAX_REQUEST,
    error::ApiError,
    request::{Request, empty, json_of, utf8},
    route_of_app, route_of_named,
};
use crate::proxy::ProxyError;

pub(super) fn route(context: &Context) -> BoxedFilter<(Response,)> {
    let all = route_of_app(warp::path!("webhooks" / AppId / "sources"), context, list);
    let one = route_of_named(warp::path!("webhooks" / AppId / "sources" / SourceName), context, dispatch);
    let arm = warp::path!("webhooks" / AppId / "sources" / SourceName / "arm");
    let arm = route_of_named(arm, context, self::arm);
    all.or(one).unify().or(arm).unify().boxed()
}

async fn list(app: AppId, context: Context, request: Request) -> Result<Response, ApiError> {
    if !matches!(request.method, Method::GET | Method::HEAD) {
        return Err(request.refuse_method(&[Method::GET, Method::HEAD]).await);
    }
    request.authorise(&context.proxy, &app).await?;
    let sources = context.proxy.sources(&app).await?;
    let sources = sources.into_iter().map(|source| with_hook(source, &app, &context)).collect();
    Ok(json_of(&Sources { sources }))
}

async fn dispatch(
    app: AppId,
    name: SourceName,
    context: Context,
    request: Request,
) -> Result<Response, ApiError> {
    match request.method {
        Method::GET | Method::HEAD => {
            request.authorise(&context.proxy, &app).await?;
            let source = find(&app, &name, &context).await?;
            Ok(json_of(&source))
        }
        Method::PUT => {
            let is_new = put(&app, &name, &context, request).await?;
            Ok(empty(if is_new { StatusCode::CREATED } else { StatusCode::OK }))
        }
        Method::DELETE => {
            let (_, token) = request.authorise(&context.proxy, &app).await?;
            context.proxy.delete_source(&app, &token, &name).await?;
            Ok(empty(StatusCode::OK))
        }
        _ => Err(request.refuse_method(&[Method::GET, Method::HEAD, Method::PUT, Method::DELETE]).await),
    }
}

/// Registers or replaces a source. The `Content-Type` is ignored. Returns whether the source is new.
pub(super) async fn put(
    app: &AppId,
    name: &SourceName,
    context: &Context,
    request: Request,
) -> Result<bool, ApiError> {
    let (request, token) = request.authorise(&context.proxy, app).await?;
    let body = request.body.collect(MAX_REQUEST, &context.budgets.requests, Some(app.clone())).await?.bytes;
    let text = utf8(&body)?;
    let settings = SourceSettings::parse(text).map_err(ProxyError::from)?;
    Ok(context.proxy.put_source(app, &token, name, settings).await?)
}

async fn find(app: &AppId, name: &SourceName, context: &Context) -> Result<SourceStatus, ApiError> {
    let sources = context.proxy.sources(app).await?;
    let source = sources.into_iter().find(|source| source.name == *name).ok_or(ProxyError::NoSource)?;
    Ok(with_hook(source, app, context))
}

/// Adds the hook's URL, if `--public-url` is known.
fn with_hook(mut source: SourceStatus, app: &AppId, context: &Context) -> SourceStatus {
    let public = context.settings.public_url.as_ref();
    source.hook = public.map(|url| {
        format!("{}{}", url.to_string().trim_end_matches('/'), path::source_hook(app, &source.name))
    });
    source
}

/// `POST` arms a source for the handshake that sets its secret, `GET` reports whether it took place.
async fn arm(app: AppId, name: SourceName, context: Context, request: Request) -> Result<Response, ApiError> {
    let is_post = match request.method {
        Method::POST => true,
        Method::GET | Method::HEAD => false,
        _ => return Err(request.refuse_method(&[Method::GET, Method::HEAD, Method::POST]).await),
    };
    let (_, token) = request.authorise(&context.proxy, &app).await?;
    find(&app, &name, &context).await?;
    let status = if is_post {
        context.proxy.arm(&app, &token, &name).await?
    } else {
        context.proxy.arm_status(&app, &name)
    };
    Ok(json_of(&status))
}
