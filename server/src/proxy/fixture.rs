//! A proxy for the unit tests of the use cases.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Method};
use tokio::time::Instant;
use wwproxy_protocol::{AppId, Secret};

use super::{Proxy, RECEIVE_TIMEOUT, Webhook};
use crate::{
    Settings,
    identity::{IdentityError, IdentityProvider},
    store::Store,
};

/// Accepts every token as one of the app `bot`.
#[derive(Debug)]
struct Anyone;

impl IdentityProvider for Anyone {
    fn identify<'a>(&'a self, _: &'a Secret) -> BoxFuture<'a, Result<String, IdentityError>> {
        Box::pin(std::future::ready(Ok("bot".into())))
    }

    fn is_suspended(&self, _: &AppId) -> bool {
        false
    }
}

/// A proxy for the app `bot`.
pub(super) fn proxy(store: impl Store + 'static) -> Arc<Proxy> {
    Arc::new(Proxy::new(Arc::new(store), Arc::new(Anyone), &Settings::default()))
}

/// A webhook whose body is complete now.
pub(super) fn webhook(headers: HeaderMap, body: impl Into<Bytes>) -> Arc<Webhook> {
    let deadline = Instant::now() + RECEIVE_TIMEOUT;
    let (method, body) = (Method::POST, body.into());
    Arc::new(Webhook { method, tail: None, query: None, headers, body, deadline })
}
