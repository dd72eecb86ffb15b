//! HTTP: one file for each route, with its filter and its handler.
//!
//! Each path is one route, whose handler dispatches on the method. No request falls through to another route, so a rejected
//! websocket can never become a poll, which would drain the queue.

mod accept;
mod ack;
mod body;
mod budget;
mod connections;
mod consumers;
mod delivery_guard;
mod error;
mod forwarded;
mod graphql;
mod health;
mod hook;
mod lease;
mod metadata;
mod poll;
mod refusals;
mod register;
mod request;
mod socket;
mod sources;
mod status;
mod strict;
mod subscribe;
mod token;
mod webhooks;

use std::{convert::Infallible, sync::Arc};

use futures_util::FutureExt;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use warp::{
    Filter, Rejection,
    filters::BoxedFilter,
    reply::{Reply, Response},
};
use wwproxy_protocol::AppId;

pub(crate) use self::{accept::serve, hook::Rejections};
use self::{
    budget::Budget,
    error::ApiError,
    request::{Request, answer, request},
};
use crate::{Settings, log_limit::LogLimit, proxy::Proxy};

/// The longest body of a request other than a webhook, in bytes.
const MAX_REQUEST: u64 = 1 << 20;

/// The most bytes of such bodies at once, over all connections. An app may use an eighth of it.
const MAX_REQUESTS: u64 = 32 << 20;
/// The most bytes of forms of the token endpoint at once, over all connections. They are not authenticated.
const MAX_FORMS: u64 = 8 << 20;
/// An app may use this fraction of the bytes for webhooks, though never less than one webhook.
const HOOK_SHARE: u64 = 4;

/// Memory budgets for bodies that are being read or stored, over all connections. Each kind of request has its own budget,
/// so that webhooks, which anyone can send, never block clients.
#[derive(Debug, Clone)]
pub(crate) struct Budgets {
    hooks: Arc<Budget>,
    requests: Arc<Budget>,
    forms: Arc<Budget>,
}

impl Budgets {
    pub(crate) fn new(settings: &Settings) -> Self {
        let hooks = settings.max_buffered_bytes;
        Self {
            hooks: Budget::new(hooks, (hooks / HOOK_SHARE).max(settings.max_body)),
            requests: Budget::new(MAX_REQUESTS, MAX_REQUESTS / 8),
            forms: Budget::new(MAX_FORMS, MAX_FORMS),
        }
    }
}

/// The state that all handlers share.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) proxy: Arc<Proxy>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) budgets: Budgets,
    /// Connections, and websockets and settlements, which outlive their request.
    pub(crate) tasks: TaskTracker,
    /// Limits the log of rejected webhooks.
    pub(crate) rejections: Arc<Rejections>,
    /// Limits the log of ignored `X-Forwarded-*` headers, which any client can send.
    pub(crate) untrusted_forwards: Arc<LogLimit>,
}

pub(crate) fn routes(context: &Context) -> BoxedFilter<(Response,)> {
    let routes = [
        hook::route(context),
        webhooks::route(context),
        lease::route(context),
        ack::route(context),
        status::route(context),
        sources::route(context),
        consumers::route(context),
        refusals::route(context),
        token::route(context),
        graphql::route(context),
        metadata::route(context),
        health::alive(),
        health::ready(context),
    ];
    routes.into_iter().rev().fold(not_found(), |others, route| route.or(others).unify().boxed())
}

/// A route at a path with an app id.
fn route_of_app<P, H, A>(path: P, context: &Context, handler: H) -> BoxedFilter<(Response,)>
where
    P: Filter<Extract = (AppId,), Error = Rejection> + Clone + Send + Sync + 'static,
    H: Fn(AppId, Context, Request) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Result<Response, ApiError>> + Send,
{
    path.and(with(context))
        .and(request())
        .then(move |app, context, request| handler(app, context, request).map(answer))
        .boxed()
}

/// A route at a path with an app id and a name of the app's.
fn route_of_named<P, N, H, A>(path: P, context: &Context, handler: H) -> BoxedFilter<(Response,)>
where
    P: Filter<Extract = (AppId, N), Error = Rejection> + Clone + Send + Sync + 'static,
    N: Send + 'static,
    H: Fn(AppId, N, Context, Request) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Result<Response, ApiError>> + Send,
{
    path.and(with(context))
        .and(request())
        .then(move |app, name, context, request| handler(app, name, context, request).map(answer))
        .boxed()
}

/// Every other path. The routes reject a request only because its path does not match.
fn not_found() -> BoxedFilter<(Response,)> {
    request()
        .then(|request: Request| async move { request.refuse(ApiError::not_found()).await.into_response() })
        .boxed()
}

/// Extracts the context.
fn with(context: &Context) -> impl Filter<Extract = (Context,), Error = Infallible> + Clone + use<> {
    let context = context.clone();
    warp::any().map(move || context.clone())
}
