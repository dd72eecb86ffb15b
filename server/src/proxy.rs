//! What the proxy does for senders and clients, without a word of HTTP.

mod clients;
mod foreign;
mod operator;
mod webhook;

use std::{num::NonZero, sync::Arc, thread, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, RwLock, Semaphore, watch},
    task::{spawn_blocking, yield_now},
    time::timeout,
};
use wwproxy_protocol::{
    AppId, Secret,
    api::{self, AckRequest, AckResponse, Receipt, RegistrationStatus, Status},
};

pub use self::operator::Stored;
pub(crate) use self::{clients::Client, foreign::BadSignature, webhook::Webhook};
use self::{
    clients::{Clients, Kind},
    webhook::Verified,
};
use crate::{
    identity::{IdentityError, IdentityProvider},
    log_limit::LogLimit,
    store::{Appended, Delivery, Lease, Registration, Settlement, Store, StoreError, Tap},
};

/// The most events that one poll takes, whatever the client asks for.
const MAX_POLL_EVENTS: u32 = 10_000;
/// How many events one poll takes where the client does not say.
const DEFAULT_POLL_EVENTS: u32 = 1000;
/// How many events one lease takes where the client does not say.
const DEFAULT_LEASE_EVENTS: u32 = 64;
/// The most bytes of events that one answer holds, though never less than one event.
const MAX_ANSWER_BYTES: u64 = 16 << 20;
/// How long the store has for an event. The platform gives up after 3 s, and comes again: an event that is
/// stored after all is recognised then.
const APPEND_TIMEOUT: Duration = Duration::from_millis(2500);
/// A body of so many bytes takes some 0.2 ms to look into. It is done beside the connections, and on half of the
/// processors at most.
const LARGE_BODY: usize = 64 << 10;
/// How many receipts are settled before other tasks have their turn.
const SETTLED_AT_ONCE: usize = 100;
/// How often registering, and unregistering, is logged in a minute, over all apps.
const LOGGED: u32 = 60;
/// The longest time that a lease, or the delay of a release, can have.
pub(crate) const MAX_HOLD: Duration = Duration::from_secs(12 * 3600);

/// The use cases, over a store and a platform.
#[derive(Debug)]
pub(crate) struct Proxy {
    store: Arc<dyn Store>,
    identity: Arc<dyn IdentityProvider>,
    lease_time: Duration,
    /// How many large bodies may be looked into at once.
    large_bodies: Arc<Semaphore>,
    registered: LogLimit,
    unregistered: LogLimit,
    clients: Arc<Clients>,
    /// Shared by clients that change their registration, exclusive while the operator purges an app.
    registration_changes: RwLock<()>,
    /// Changes whenever tokens may have been revoked.
    revocations: watch::Sender<()>,
}

/// Why the proxy did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProxyError {
    #[error("the token is not one of this app's")]
    Refused,
    #[error("this server does not serve the app")]
    NotServed,
    #[error("the operator has disabled the app or removed its credentials")]
    Suspended,
    #[error("the platform could not be asked whose token it is")]
    IdentityUnavailable(#[source] IdentityError),
    #[error("the app is not registered")]
    NotRegistered,
    #[error("{0}")]
    BadSignature(BadSignature),
    #[error("the body is not a JSON object or array in UTF-8")]
    NotJson,
    #[error("the challenge is not a string")]
    BadChallenge,
    #[error("the app's queue is full")]
    Full,
    #[error("the app has as many taps open as it may")]
    TooManyTaps,
    #[error("the app has as many websockets and waiting leases as it may")]
    TooManyClients,
    #[error("the event was not stored in time")]
    Slow,
    #[error("the event could not be stored")]
    Store(#[from] StoreError),
}

/// What became of a webhook.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// It is on stable storage, now or since its first time.
    Stored,
    /// It was a challenge: the body to answer with, and that body's signature.
    Challenge { body: String, signature: String },
}

/// Leave to verify a webhook.
#[derive(Debug)]
pub(crate) struct VerificationTurn(Option<OwnedSemaphorePermit>);

/// The deliveries of one answer, to be settled when it is known whether the answer was delivered.
#[derive(Debug)]
pub(crate) struct Unsettled {
    proxy: Arc<Proxy>,
    app: AppId,
    receipts: Vec<Receipt>,
    /// Whether delivering the answer acknowledges them (a poll), or its client does so later (a lease).
    auto_ack: bool,
}

impl Proxy {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        identity: Arc<dyn IdentityProvider>,
        lease_time: Duration,
        max_clients_per_app: usize,
    ) -> Self {
        let processors = thread::available_parallelism().map_or(1, NonZero::get);
        let large_bodies = Arc::new(Semaphore::new(processors.div_ceil(2)));
        Self {
            store,
            identity,
            lease_time,
            large_bodies,
            registered: LogLimit::per_minute(LOGGED),
            unregistered: LogLimit::per_minute(LOGGED),
            clients: Arc::new(Clients::new(max_clients_per_app)),
            registration_changes: RwLock::default(),
            revocations: watch::Sender::default(),
        }
    }

    pub(crate) fn store(&self) -> &dyn Store {
        &*self.store
    }

    pub(crate) fn identity(&self) -> &dyn IdentityProvider {
        &*self.identity
    }

    pub(crate) fn lease_time(&self) -> Duration {
        self.lease_time
    }

    /// Checks that the token belongs to the app.
    pub(crate) async fn authorise(&self, app: &AppId, token: &Secret) -> Result<(), ProxyError> {
        if !self.identity.serves(app) {
            return Err(ProxyError::NotServed);
        }
        match self.identity.identify(token).await {
            Ok(owner) if owner == app.as_str() => Ok(()),
            Ok(_) | Err(IdentityError::Refused) => Err(ProxyError::Refused),
            Err(error @ IdentityError::Unavailable(_)) => Err(ProxyError::IdentityUnavailable(error)),
        }
    }

    /// Whether a websocket of this app that was opened with this token may stay open. Only a refusal ends it: a platform that
    /// cannot be asked does not.
    pub(crate) async fn may_stay(&self, app: &AppId, token: &Secret) -> bool {
        match self.identity.revalidate(token).await {
            Ok(owner) => owner == app.as_str(),
            Err(IdentityError::Refused) => false,
            Err(IdentityError::Unavailable(_)) => true,
        }
    }

    /// Registers the app's webhook secret.
    pub(crate) async fn register(
        &self,
        app: &AppId,
        token: &Secret,
        secret: Secret,
    ) -> Result<(), ProxyError> {
        let _shared = self.registration_change(app, token).await?;
        let registration =
            Registration { scheme: wwproxy_protocol::Scheme::default(), secrets: vec![secret] };
        let scheme = registration.scheme;
        self.store.put_registration(app, registration).await?;
        if let Some(count) = self.registered.add(1) {
            tracing::info!(%app, %scheme, count, "registered");
        }
        Ok(())
    }

    /// Ends the app's registration and deletes its events.
    pub(crate) async fn unregister(&self, app: &AppId, token: &Secret) -> Result<(), ProxyError> {
        let _shared = self.registration_change(app, token).await?;
        self.store.remove_registration(app).await?;
        if let Some(count) = self.unregistered.add(1) {
            tracing::info!(%app, count, "unregistered");
        }
        Ok(())
    }

    /// The app's registration, without which the body of a webhook is not even read.
    pub(crate) async fn registration(&self, app: &AppId) -> Result<Arc<Registration>, ProxyError> {
        if !self.identity.serves(app) {
            return Err(ProxyError::NotRegistered);
        }
        let registration = self.store.registration(app).await?.ok_or(ProxyError::NotRegistered)?;
        if self.identity.is_suspended(app) { Err(ProxyError::Suspended) } else { Ok(registration) }
    }

    /// Verifies a webhook and stores it, or answers its challenge. Nothing unverified is looked into, and
    /// the secret is that of now: while the body came, it may have been replaced.
    pub(crate) async fn receive(
        &self,
        app: &AppId,
        webhook: Webhook,
        turn: VerificationTurn,
    ) -> Result<Received, ProxyError> {
        let (event, dedupe) = match self.verify(app, webhook, turn).await? {
            Verified::Event(event, dedupe) => (event, dedupe),
            Verified::Challenge { body, signature } => return Ok(Received::Challenge { body, signature }),
        };
        let appended = timeout(APPEND_TIMEOUT, self.store.append(app, event, dedupe));
        match appended.await.map_err(|_| ProxyError::Slow)?? {
            Appended::Stored(id) => {
                tracing::debug!(%app, %id, "stored");
                Ok(Received::Stored)
            }
            Appended::Duplicate => Ok(Received::Stored),
            Appended::Full => Err(ProxyError::Full),
            Appended::Unregistered => Err(ProxyError::NotRegistered),
        }
    }

    /// Waits until the webhook may be verified. Verifying a large one takes a while, so there are only a few at once.
    pub(crate) async fn verification_turn(&self, webhook: &Webhook) -> VerificationTurn {
        if webhook.body.len() < LARGE_BODY {
            return VerificationTurn(None);
        }
        let turn = Arc::clone(&self.large_bodies).acquire_owned().await;
        VerificationTurn(Some(turn.expect("the semaphore is never closed")))
    }

    /// Verifies a webhook, a large one on a thread of its own: other connections do not wait for it.
    async fn verify(
        &self,
        app: &AppId,
        webhook: Webhook,
        turn: VerificationTurn,
    ) -> Result<Verified, ProxyError> {
        let registration = self.registration(app).await?;
        if turn.0.is_none() {
            return webhook.verify(&registration);
        }
        let verified = spawn_blocking(move || {
            // The turn ends with the work, also if the sender has gone.
            let _turn = turn;
            webhook.verify(&registration)
        });
        verified.await.map_err(StoreError::engine)?
    }

    /// Leases the oldest events for a poll, which accepts them once its answer is delivered.
    pub(crate) async fn poll(
        self: &Arc<Self>,
        app: &AppId,
        max: Option<u32>,
    ) -> Result<(Vec<Delivery>, Unsettled), ProxyError> {
        let lease = Lease {
            max_events: at_most(max.unwrap_or(DEFAULT_POLL_EVENTS), MAX_POLL_EVENTS),
            max_bytes: MAX_ANSWER_BYTES,
            wait: Duration::ZERO,
            // The lease ends when the answer was delivered or its connection broke, however slow the client is.
            time: MAX_HOLD,
        };
        let deliveries = self.store.lease(app, lease).await?;
        let unsettled = self.unsettled(app, &deliveries, true);
        Ok((deliveries, unsettled))
    }

    /// Leases events for a client that settles them later; an answer that is not delivered releases them.
    pub(crate) async fn lease(
        self: &Arc<Self>,
        app: &AppId,
        request: &api::LeaseRequest,
    ) -> Result<(Vec<Delivery>, Unsettled), ProxyError> {
        let lease = Lease {
            max_events: at_most(request.max.unwrap_or(DEFAULT_LEASE_EVENTS), api::MAX_LEASE_EVENTS),
            max_bytes: MAX_ANSWER_BYTES,
            wait: Duration::from_millis(request.wait_ms.unwrap_or(0)).min(api::MAX_LEASE_WAIT),
            time: request.lease_ms.map_or(self.lease_time, Duration::from_millis).min(MAX_HOLD),
        };
        // A lease that does not wait ends at once.
        let _client = if lease.wait.is_zero() { None } else { Some(self.clients.admit(app, Kind::Lease)?) };
        let deliveries = self.store.lease(app, lease).await?;
        let unsettled = self.unsettled(app, &deliveries, false);
        Ok((deliveries, unsettled))
    }

    pub(crate) async fn settle(&self, app: &AppId, request: AckRequest) -> Result<AckResponse, ProxyError> {
        let AckRequest { ack, release } = request;
        let acks = ack
            .chunks(SETTLED_AT_ONCE)
            .map(|acks| Settlement { acks: acks.to_vec(), ..Settlement::default() });
        let releases = release.chunks(SETTLED_AT_ONCE).map(|receipts| Settlement {
            releases: receipts.iter().map(|receipt| (receipt.clone(), Duration::ZERO)).collect(),
            ..Settlement::default()
        });
        let mut answer = AckResponse::default();
        for settlement in acks.chain(releases) {
            let settled = self.store.settle(app, settlement).await?;
            answer.acked += settled.acked as u64;
            answer.released += settled.released as u64;
            answer.stale.extend(settled.stale);
            yield_now().await;
        }
        Ok(answer)
    }

    pub(crate) async fn status(&self, app: &AppId) -> Result<Status, ProxyError> {
        let registration = self.store.registration(app).await?;
        let stats = self.store.stats(app).await?;
        Ok(Status {
            registration: registration.map(|registration| RegistrationStatus { scheme: registration.scheme }),
            stored: stats.stored as u64,
            leased: stats.leased as u64,
            dropped: stats.dropped,
            stored_bytes: stats.bytes,
            oldest_age_ms: stats.oldest_age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            clients: self.clients.websockets(app) as u64,
        })
    }

    /// Shows the app's events that are stored from now on.
    pub(crate) async fn tap(&self, app: &AppId) -> Result<Tap, ProxyError> {
        self.store.tap(app).await?.ok_or(ProxyError::TooManyTaps)
    }

    /// Counts a websocket of the app that takes events, until the value is dropped.
    pub(crate) fn connect(&self, app: &AppId) -> Result<Client, ProxyError> {
        self.clients.admit(app, Kind::Websocket)
    }

    fn unsettled(self: &Arc<Self>, app: &AppId, deliveries: &[Delivery], auto_ack: bool) -> Unsettled {
        let receipts = deliveries.iter().map(|delivery| delivery.receipt.clone()).collect();
        Unsettled { proxy: Arc::clone(self), app: app.clone(), receipts, auto_ack }
    }
}

impl Unsettled {
    /// Settles the deliveries of an answer that was delivered in full, or was not. If the store fails, the leases expire and
    /// the events are redelivered.
    pub(crate) async fn settle(self, delivered: bool) {
        let settlement = match (delivered, self.auto_ack) {
            (true, true) => Settlement { acks: self.receipts, releases: Vec::new() },
            (true, false) => return,
            (false, _) => {
                tracing::debug!(app = %self.app, events = self.receipts.len(), "an answer was not delivered");
                let releases = self.receipts.into_iter().map(|receipt| (receipt, Duration::ZERO)).collect();
                Settlement { acks: Vec::new(), releases }
            }
        };
        if let Err(error) = self.proxy.store.settle(&self.app, settlement).await {
            tracing::error!(app = %self.app, %error, "events could not be settled and will be repeated");
        }
    }
}

fn at_most(wanted: u32, limit: u32) -> usize {
    usize::try_from(wanted.min(limit)).unwrap_or(usize::MAX)
}
