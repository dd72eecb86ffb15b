//! The consumers of an app: how they are created, listed, moved and deleted.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use wwproxy_protocol::{AppId, ConsumerName, ConsumerSettings, InvalidConsumer, Secret, Start, api};

use super::{Proxy, ProxyError, sources::rfc3339};
use crate::{
    log_limit::LogLimit,
    store::{ConsumerStatus, Delivery, Ephemeral, Lease, PutConsumer, Sought, StoreError},
};

/// Limits how often a change of a consumer is logged: a client can create and delete without an end.
static CHANGED: LogLimit = LogLimit::per_minute(60);

/// How far in the future a start may be, for a clock that is ahead.
const MAX_AHEAD: Duration = Duration::from_secs(60);

/// Why a request about a consumer failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConsumerError {
    #[error(transparent)]
    Invalid(#[from] InvalidConsumer),
    #[error("the app is not registered")]
    NotRegistered,
    #[error("the app has a consumer of this name with another filter or start")]
    Exists,
    #[error("the app has reached its limit of consumers")]
    TooMany,
    #[error("the consumer default cannot be deleted")]
    Default,
    #[error("the consumer default receives no events; the app's other consumers: {}", names(.0))]
    DefaultOff(Vec<ConsumerName>),
    #[error("the event to start after is not stored")]
    NoSuchStart,
    #[error("the start is in the future")]
    FutureStart,
}

impl Proxy {
    /// Creates a consumer, or changes what may change after its creation. Returns whether it is new.
    pub(crate) async fn put_consumer(
        self: &Arc<Self>,
        app: &AppId,
        token: &Secret,
        name: &ConsumerName,
        settings: ConsumerSettings,
    ) -> Result<bool, ProxyError> {
        settings.check_name(name).map_err(ConsumerError::Invalid)?;
        check_start(&settings.start)?;
        let shared = self.registration_change(app, token).await?;
        let name = name.clone();
        let put = async move |proxy: Arc<Self>, app: AppId| match proxy
            .store
            .put_consumer(&app, &name, settings)
            .await?
        {
            PutConsumer::Created => {
                if let Some(count) = CHANGED.add(1) {
                    tracing::info!(%app, consumer = %name, count, "consumer created");
                }
                Ok(true)
            }
            PutConsumer::Updated => {
                if let Some(count) = CHANGED.add(1) {
                    tracing::info!(%app, consumer = %name, count, "consumer changed");
                }
                Ok(false)
            }
            PutConsumer::Conflict => Err(ConsumerError::Exists.into()),
            PutConsumer::TooMany => Err(ConsumerError::TooMany.into()),
            PutConsumer::NoSuchEvent => Err(ConsumerError::NoSuchStart.into()),
            PutConsumer::Unregistered => Err(ConsumerError::NotRegistered.into()),
        };
        self.change_app(app, shared, put).await
    }

    /// The app's consumers, sorted by name.
    pub(crate) async fn consumers(&self, app: &AppId) -> Result<Vec<api::ConsumerStatus>, ProxyError> {
        let consumers = self.store.consumers(app).await?;
        Ok(consumers.into_iter().map(|consumer| self.consumer_status(app, consumer)).collect())
    }

    /// A consumer of the app.
    pub(crate) async fn consumer(
        &self,
        app: &AppId,
        name: &ConsumerName,
    ) -> Result<api::ConsumerStatus, ProxyError> {
        Ok(self.consumer_status(app, self.stored_consumer(app, name).await?))
    }

    /// A consumer of the app, as the store has it.
    pub(super) async fn stored_consumer(
        &self,
        app: &AppId,
        name: &ConsumerName,
    ) -> Result<ConsumerStatus, ProxyError> {
        let consumers = self.store.consumers(app).await?;
        let found = consumers.into_iter().find(|consumer| consumer.name == *name);
        found.ok_or_else(|| StoreError::NoConsumer(name.clone()).into())
    }

    /// Deletes a consumer, and closes its websockets.
    pub(crate) async fn delete_consumer(
        self: &Arc<Self>,
        app: &AppId,
        token: &Secret,
        name: &ConsumerName,
    ) -> Result<(), ProxyError> {
        if name.is_default() {
            return Err(ConsumerError::Default.into());
        }
        let shared = self.registration_change(app, token).await?;
        let name = name.clone();
        let delete = async move |proxy: Arc<Self>, app: AppId| {
            if !proxy.store.delete_consumer(&app, &name).await? {
                return Err(StoreError::NoConsumer(name).into());
            }
            proxy.clients.end(&app, &name);
            if let Some(count) = CHANGED.add(1) {
                tracing::info!(%app, consumer = %name, count, "consumer deleted");
            }
            Ok(())
        };
        self.change_app(app, shared, delete).await
    }

    /// Moves a consumer to another position.
    pub(crate) async fn seek(
        self: &Arc<Self>,
        app: &AppId,
        token: &Secret,
        name: &ConsumerName,
        to: Start,
    ) -> Result<(), ProxyError> {
        check_start(&to)?;
        let shared = self.registration_change(app, token).await?;
        let name = name.clone();
        let seek = async move |proxy: Arc<Self>, app: AppId| match proxy.store.seek(&app, &name, to).await? {
            Sought::Moved => {
                if let Some(count) = CHANGED.add(1) {
                    tracing::info!(%app, consumer = %name, count, "consumer moved");
                }
                Ok(())
            }
            Sought::NoSuchEvent => Err(ConsumerError::NoSuchStart.into()),
        };
        self.change_app(app, shared, seek).await
    }

    /// Opens a consumer for one websocket, from a position in the app's history on.
    pub(crate) async fn open_ephemeral(&self, app: &AppId, start: Start) -> Result<Ephemeral, ProxyError> {
        check_start(&start)?;
        let is_event = matches!(start, Start::After(_));
        let opened = self.store.open_ephemeral(app, start).await?;
        let missing = if is_event { ConsumerError::NoSuchStart } else { ConsumerError::NotRegistered };
        opened.ok_or(missing.into())
    }

    /// Checks that a websocket of this consumer can receive events.
    pub(crate) async fn check_readable(&self, app: &AppId, name: &ConsumerName) -> Result<(), ProxyError> {
        let nothing = Lease { max_events: 0, max_bytes: 0, wait: Duration::ZERO, time: Duration::ZERO };
        self.lease_from_store(app, name, nothing).await.map(drop)
    }

    /// Leases events. If `default` is off, the error names the other consumers.
    pub(super) async fn lease_from_store(
        &self,
        app: &AppId,
        name: &ConsumerName,
        lease: Lease,
    ) -> Result<Vec<Delivery>, ProxyError> {
        match self.store.lease(app, name, lease).await {
            Err(StoreError::DefaultOff) => {
                let consumers = self.store.consumers(app).await?.into_iter().map(|consumer| consumer.name);
                let others = consumers.filter(|name| !name.is_default()).collect();
                Err(ConsumerError::DefaultOff(others).into())
            }
            leased => Ok(leased?),
        }
    }

    fn consumer_status(&self, app: &AppId, consumer: ConsumerStatus) -> api::ConsumerStatus {
        let mut status = api::ConsumerStatus::new(consumer.name, &consumer.settings);
        status.pending = consumer.pending;
        status.pending_bytes = consumer.pending_bytes;
        status.leased = consumer.leased;
        status.dead = consumer.dead;
        status.dropped = consumer.dropped;
        status.oldest_pending_age_ms = consumer.oldest_pending_age.map(millis);
        status.last_used = Some(rfc3339(consumer.last_used));
        status.clients = self.clients.websockets_of(app, &status.name) as u64;
        status
    }
}

fn check_start(start: &Start) -> Result<(), ConsumerError> {
    match start {
        Start::At(time) if *time > SystemTime::now() + MAX_AHEAD => Err(ConsumerError::FutureStart),
        _ => Ok(()),
    }
}

fn names(names: &[ConsumerName]) -> String {
    match names {
        [] => "none".to_owned(),
        names => names.iter().map(ConsumerName::as_str).collect::<Vec<_>>().join(", "),
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
