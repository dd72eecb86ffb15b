//! The store: an append-only log of events for each app, and consumers as named cursors over it.
//!
//! The rest of the server uses only the [`Store`] trait. A consumer has a position, a filter, and the exceptions at or below its
//! position: events that are leased, wait for a retry, or are dead. Acknowledging an event moves nothing and deletes nothing: the
//! event stays in the log as history, until retention removes it. No method assumes that one process sees every event.

mod consumer;
mod delivery;
mod event;
#[cfg(test)]
pub(crate) mod fake;
mod history;
mod limits;
mod registration;
mod scheduler;
mod sqlite;
mod stored_source;

use std::{error::Error, fmt, path::PathBuf, sync::Arc};

use futures_util::future::BoxFuture;
use wwproxy_protocol::{AppId, ConsumerName, ConsumerSettings, EventId, Source, Start};

pub use self::{
    consumer::{ConsumerStatus, Ephemeral, PutConsumer, Sought},
    delivery::{Delivery, Lease, MAX_LEASE, Reject, Release, Settled, Settlement, Tap, TapItem},
    event::{DedupeKey, NewEvent},
    history::{
        EventPage, EventQuery, EventState, EventSummary, Replayed, StateAt, StoredEvent, TimelineEntry,
    },
    limits::Limits,
    registration::Registration,
    sqlite::{OpenError, SqliteStore, maintenance},
    stored_source::{StoredSource, UnreadableSource},
};

/// The future that a [`Store`] method returns.
pub type StoreFuture<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// An append-only log of events for each app, the apps' registrations, and their consumers.
///
/// Delivery is at least once for each consumer. [`lease`](Self::lease) hands out events and hides them from other clients of the
/// consumer until the lease expires; [`settle`](Self::settle) acknowledges, releases, rejects or extends.
pub trait Store: fmt::Debug + Send + Sync {
    /// Registers an app, or replaces its registration. A new app has the consumer `default`. Durable when this returns.
    fn put_registration<'a>(&'a self, app: &'a AppId, registration: Registration) -> StoreFuture<'a, ()>;

    /// Returns the app's registration. Called for every webhook before its signature is verified, so it must be cheap.
    fn registration<'a>(&'a self, app: &'a AppId) -> StoreFuture<'a, Option<Arc<Registration>>>;

    /// Ends the app's epoch: removes its registration, its events and its consumers. Durable when this returns.
    fn remove_registration<'a>(&'a self, app: &'a AppId) -> StoreFuture<'a, ()>;

    /// Appends an event to the app's log and assigns its id. The outcome is durable when this returns. `source` verified the
    /// event: if the registration does not have this very `Arc` when the event is committed, the event is rejected, so that
    /// nothing is stored with replaced settings. An event whose dedupe key (idempotency key) was seen within the dedupe window is
    /// not stored again.
    fn append<'a>(
        &'a self,
        app: &'a AppId,
        source: Arc<Source>,
        event: NewEvent,
        dedupe: Option<DedupeKey>,
    ) -> StoreFuture<'a, Appended>;

    /// Creates a consumer, or changes what may change after its creation. Durable when this returns.
    fn put_consumer<'a>(
        &'a self,
        app: &'a AppId,
        name: &'a ConsumerName,
        settings: ConsumerSettings,
    ) -> StoreFuture<'a, PutConsumer>;

    /// Returns the app's consumers, by name.
    fn consumers<'a>(&'a self, app: &'a AppId) -> StoreFuture<'a, Vec<ConsumerStatus>>;

    /// Deletes a consumer. Returns whether there was one. `default` is never deleted.
    fn delete_consumer<'a>(&'a self, app: &'a AppId, name: &'a ConsumerName) -> StoreFuture<'a, bool>;

    /// Moves a consumer to another position. Its leases end, its dead events stay dead. Durable when this returns.
    fn seek<'a>(&'a self, app: &'a AppId, consumer: &'a ConsumerName, to: Start) -> StoreFuture<'a, Sought>;

    /// Opens a consumer that is in memory only, and ends when the value is dropped.
    fn open_ephemeral<'a>(&'a self, app: &'a AppId, start: Start) -> StoreFuture<'a, Option<Ephemeral>>;

    /// Leases events. First those that returned to their place, because their lease expired or they did not reach a client, then
    /// nacked ones that are due in turn with fresh ones; fresh ones come in order of arrival. Waits for the first event (long
    /// polling). Dropping the future releases the events that it leased, without an attempt.
    fn lease<'a>(
        &'a self,
        app: &'a AppId,
        consumer: &'a ConsumerName,
        lease: Lease,
    ) -> StoreFuture<'a, Vec<Delivery>>;

    /// Settles leases. An outcome may become durable after this returns: a crash before that costs one redelivery.
    fn settle<'a>(
        &'a self,
        app: &'a AppId,
        consumer: &'a ConsumerName,
        settlement: Settlement,
    ) -> StoreFuture<'a, Settled>;

    /// Delivers a stored event to a consumer once more, before fresh ones. Durable when this returns.
    fn replay<'a>(
        &'a self,
        app: &'a AppId,
        consumer: &'a ConsumerName,
        id: &'a EventId,
    ) -> StoreFuture<'a, Replayed>;

    /// Lists stored events, the newest first.
    fn events<'a>(&'a self, app: &'a AppId, query: EventQuery) -> StoreFuture<'a, EventPage>;

    /// Returns a stored event with its timeline.
    fn event<'a>(&'a self, app: &'a AppId, id: &'a EventId) -> StoreFuture<'a, Option<StoredEvent>>;

    /// Deletes an event, from the history and from every consumer. Returns whether it was stored. Durable when this returns.
    fn delete_event<'a>(&'a self, app: &'a AppId, id: &'a EventId) -> StoreFuture<'a, bool>;

    /// Subscribes to events that are stored from now on, in order of arrival, without leasing them. A tap exerts no
    /// backpressure: a slow tap misses events, and receives a gap with their number. `None` if the app has reached its
    /// limit of taps.
    fn tap<'a>(&'a self, app: &'a AppId) -> StoreFuture<'a, Option<Tap>>;

    /// The state of the store's disk.
    fn health(&self) -> Health;

    /// Writes a copy of the store, as of now, to a file that does not exist yet.
    fn backup(&self, to: PathBuf) -> StoreFuture<'_, ()>;

    /// Flushes pending writes and closes the store. No method may be called afterwards.
    fn close(&self) -> StoreFuture<'_, ()>;
}

/// The outcome of an append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Appended {
    /// The event is stored, with this id.
    Stored(EventId),
    /// The event was not stored: its dedupe key was seen within the dedupe window.
    Duplicate,
    /// The event was rejected: the consumer `default` has reached its limits.
    Full,
    /// The event was rejected: since its verification the source was replaced or removed, or the app unregistered.
    SourceChanged,
}

/// The state of the store's disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Everything works.
    Ready,
    /// The disk is full: appends are refused, delivery goes on.
    Full,
    /// Writes fail for another reason, which this says.
    Failing(String),
    /// The database is damaged, and must be recovered.
    Damaged(String),
}

/// Why an operation of the store failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The storage engine failed.
    #[error("the store failed")]
    Engine(#[source] Arc<dyn Error + Send + Sync>),
    /// The store cannot be reached, or the disk is full: try again later.
    #[error("the store is unavailable: {0}")]
    Unavailable(&'static str),
    /// The app has no consumer of this name.
    #[error("the app has no consumer {0}: create it first")]
    NoConsumer(ConsumerName),
    /// The consumer `default` is off: it receives no events.
    #[error("the consumer default receives no events, its overflow is \"off\"")]
    DefaultOff,
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    pub(super) fn engine(error: impl Error + Send + Sync + 'static) -> Self {
        Self::Engine(Arc::new(error))
    }
}
