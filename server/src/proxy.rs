//! The use cases of senders, clients and the operator, without HTTP.
//!
//! Routes and websocket sessions use the store and the identity provider only through [`Proxy`].

mod arming;
mod clients;
mod consumers;
mod delivery;
#[cfg(test)]
mod fixture;
mod operator;
mod permits;
mod receive;
mod refusals;
mod rejected;
mod settle;
mod sources;
mod webhook;

use std::{num::NonZero, sync::Arc, thread, time::Duration};

use tokio::sync::{RwLock, watch};
use wwproxy_protocol::{
    AppId, ConsumerName, InvalidSource, Secret,
    api::{ConsumerStatus, RegistrationStatus, Status, TokenResponse},
};

pub use self::operator::Stored;
use self::{arming::Armed, clients::Clients, permits::Permits, refusals::Activity, sources::Locks};
pub(crate) use self::{
    clients::Client,
    consumers::ConsumerError,
    delivery::Unsettled,
    receive::{RECEIVE_TIMEOUT, Received},
    refusals::{Refused, UNKNOWN_SOURCE, header_names},
    rejected::Rejected,
    settle::undelivered,
    webhook::{Verified, Webhook},
};
use crate::{
    Settings,
    identity::{IdentityError, IdentityProvider},
    log_limit::LogLimit,
    store::{Health, Store, StoreError, UnreadableSource},
};

/// How often a registration, or its end, is logged in a minute, over all apps.
const LOGGED: u32 = 60;

/// The use cases, over a store and an identity provider.
#[derive(Debug)]
pub(crate) struct Proxy {
    store: Arc<dyn Store>,
    identity: Arc<dyn IdentityProvider>,
    lease_time: Duration,
    /// Limits how many large bodies are verified at once.
    large_bodies: Permits,
    registered: LogLimit,
    unregistered: LogLimit,
    clients: Arc<Clients>,
    source_locks: Locks,
    activity: Activity,
    armed: Armed,
    /// Whether sources of the scheme `none` receive webhooks.
    allow_unverified: bool,
    /// Shared by clients that change their registration, exclusive while the operator purges an app.
    registration_changes: Arc<RwLock<()>>,
    /// Notified whenever tokens may have been revoked.
    revocations: watch::Sender<()>,
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProxyError {
    #[error("the token does not belong to this app")]
    Refused,
    #[error("this server does not serve the app")]
    NotServed,
    #[error("the operator has disabled the app or removed its credentials")]
    Suspended,
    #[error("the identity provider is unavailable")]
    IdentityUnavailable(#[source] IdentityError),
    #[error("the app is not registered")]
    NotRegistered,
    #[error("the app has no source of this name, which is in the hook's URL")]
    UnknownSource,
    #[error(transparent)]
    InvalidSource(#[from] InvalidSource),
    #[error(transparent)]
    UnreadableSource(UnreadableSource),
    #[error("the source was replaced again and again while its webhook was verified")]
    SourceChanged,
    #[error("the app has no source of this name")]
    NoSource,
    #[error("the app has reached its limit of sources")]
    TooManySources,
    #[error("the source is not verified, which the operator does not allow")]
    UnverifiedNotAllowed,
    #[error("a source that is not verified cannot be registered, as the operator does not allow it")]
    UnverifiedForbidden,
    #[error("the hook of this source accepts {} only", .0.join(" and "))]
    Method(&'static [&'static str]),
    #[error("the scheme of the source has no handshake that sets the secret")]
    NoHandshake,
    #[error("the source has no room for the secret of a handshake")]
    TooManySecrets,
    #[error("a handshake came for a source that is not armed")]
    NotArmed,
    #[error("{0}")]
    Rejected(Rejected),
    #[error("the app's queue is full")]
    Full,
    #[error(transparent)]
    Consumer(#[from] ConsumerError),
    #[error("the app has reached its limit of taps")]
    TooManyTaps,
    #[error("the app has reached its limit of websockets and waiting leases")]
    TooManyClients,
    #[error("too many large webhooks wait for their verification")]
    Busy,
    #[error("the event was not stored in time")]
    Slow,
    #[error("the store failed")]
    Store(#[from] StoreError),
}

impl From<IdentityError> for ProxyError {
    fn from(error: IdentityError) -> Self {
        match error {
            IdentityError::Refused => Self::Refused,
            IdentityError::Unavailable(_) => Self::IdentityUnavailable(error),
        }
    }
}

impl Proxy {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        identity: Arc<dyn IdentityProvider>,
        settings: &Settings,
    ) -> Self {
        let processors = thread::available_parallelism().map_or(1, NonZero::get);
        Self {
            store,
            identity,
            lease_time: settings.lease,
            large_bodies: Permits::new(processors.div_ceil(2)),
            registered: LogLimit::per_minute(LOGGED),
            unregistered: LogLimit::per_minute(LOGGED),
            clients: Arc::new(Clients::new(settings.max_clients_per_app)),
            source_locks: Locks::default(),
            activity: Activity::default(),
            armed: Armed::default(),
            allow_unverified: settings.allow_unverified,
            registration_changes: Arc::default(),
            revocations: watch::Sender::default(),
        }
    }

    /// The store, for tests that prepare or inspect it.
    #[cfg(test)]
    pub(crate) fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// The default duration of a lease.
    pub(crate) fn lease_time(&self) -> Duration {
        self.lease_time
    }

    /// Readiness check: fails if an event could not be stored now.
    pub(crate) fn ready(&self) -> Result<(), ProxyError> {
        match self.store.health() {
            Health::Ready => Ok(()),
            _ => Err(ProxyError::Store(StoreError::Unavailable("it cannot store events"))),
        }
    }

    /// Checks that the token belongs to the app.
    pub(crate) async fn authorise(&self, app: &AppId, token: &Secret) -> Result<(), ProxyError> {
        if !self.identity.serves(app) {
            return Err(ProxyError::NotServed);
        }
        if self.token_owner(token).await? == app.as_str() { Ok(()) } else { Err(ProxyError::Refused) }
    }

    /// Returns the id of the token's owner, which need not be an app.
    pub(crate) async fn token_owner(&self, token: &Secret) -> Result<String, ProxyError> {
        Ok(self.identity.identify(token).await?)
    }

    /// Whether a websocket of this app that was opened with this token may stay open. Only a refusal closes it: an
    /// unavailable identity provider does not.
    pub(crate) async fn may_stay(&self, app: &AppId, token: &Secret) -> bool {
        match self.identity.revalidate(token).await {
            Ok(owner) => owner == app.as_str(),
            Err(IdentityError::Refused) => false,
            Err(IdentityError::Unavailable(_)) => true,
        }
    }

    /// Whether this server issues tokens itself.
    pub(crate) fn issues_tokens(&self) -> bool {
        self.identity.issuer().is_some()
    }

    /// Issues a token for an app, given its secret.
    pub(crate) fn issue_token(&self, app: &str, secret: &Secret) -> Result<TokenResponse, ProxyError> {
        let issuer = self.identity.issuer().ok_or(ProxyError::Refused)?;
        Ok(issuer.issue(app, secret)?)
    }

    /// The base URL of the platform that issues the tokens, if it is not this server.
    pub(crate) fn platform_url(&self) -> Option<&str> {
        self.identity.platform_url()
    }

    /// The status of an app. The numbers of events are those of a consumer.
    pub(crate) async fn status(&self, app: &AppId, consumer: &ConsumerName) -> Result<Status, ProxyError> {
        let (sources, consumers) = (self.sources(app).await?, self.consumers(app).await?);
        let default = sources.iter().find(|source| source.name.is_default());
        let of_consumer = consumers.iter().find(|status| status.name == *consumer);
        if of_consumer.is_none() && !consumer.is_default() {
            return Err(StoreError::NoConsumer(consumer.clone()).into());
        }
        let number = |number: fn(&ConsumerStatus) -> u64| of_consumer.map_or(0, number);
        Ok(Status {
            registration: default.map(|source| RegistrationStatus { scheme: source.scheme.clone() }),
            stored: number(|status| status.pending.unwrap_or_default()),
            leased: number(|status| status.leased),
            dropped: number(|status| status.dropped),
            stored_bytes: number(|status| status.pending_bytes.unwrap_or_default()),
            oldest_age_ms: of_consumer.and_then(|status| status.oldest_pending_age_ms),
            clients: self.clients.websockets(app) as u64,
            sources: Some(sources),
            consumers: Some(consumers),
        })
    }
}
