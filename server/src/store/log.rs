//! The event log: an append-only log for each app, and consumers as named cursors over it.
//!
//! [`Log`] is the trait that the rest of the server is to use. A consumer has a position, a filter, and the exceptions at or below
//! its position: events that are leased, wait for a retry, or are dead. Acknowledging an event moves nothing and deletes nothing:
//! the event stays in the log as history. No method assumes that one process sees every event.

use std::{collections::BTreeSet, error::Error, fmt, str::FromStr, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use wwproxy_protocol::{AppId, Event, EventId, Source, SourceName, api::Receipt};

pub use super::{Lease, NewEvent, Registration};

/// The future that a [`Log`] method returns.
pub type LogFuture<'a, T> = BoxFuture<'a, Result<T, LogError>>;

/// An append-only log of events for each app, the apps' registrations, and their consumers.
///
/// Delivery is at least once for each consumer. [`lease`](Self::lease) hands out events and hides them from other clients of the
/// consumer until the lease expires; [`settle`](Self::settle) acknowledges, releases, rejects or extends.
pub trait Log: fmt::Debug + Send + Sync {
    /// Registers an app, or replaces its registration. A new app has the consumer `default`. Durable when this returns.
    fn put_registration<'a>(&'a self, app: &'a AppId, registration: Registration) -> LogFuture<'a, ()>;

    /// Returns the app's registration. Called for every webhook before its signature is verified, so it must be cheap.
    fn registration<'a>(&'a self, app: &'a AppId) -> LogFuture<'a, Option<Arc<Registration>>>;

    /// Ends the app's epoch: removes its registration, its events and its consumers. Durable when this returns.
    fn remove_registration<'a>(&'a self, app: &'a AppId) -> LogFuture<'a, ()>;

    /// Appends an event to the app's log and assigns its id. The outcome is durable when this returns. `source` verified the
    /// event: if the registration does not have this very `Arc` when the event is committed, the event is rejected, so that
    /// nothing is stored with replaced settings.
    fn append<'a>(&'a self, app: &'a AppId, source: Arc<Source>, event: NewEvent) -> LogFuture<'a, Appended>;

    /// Creates a consumer, or changes what may change after its creation. Durable when this returns.
    fn put_consumer<'a>(
        &'a self,
        app: &'a AppId,
        name: &'a ConsumerName,
        settings: ConsumerSettings,
    ) -> LogFuture<'a, PutConsumer>;

    /// Returns the app's consumers, by name.
    fn consumers<'a>(&'a self, app: &'a AppId) -> LogFuture<'a, Vec<ConsumerStatus>>;

    /// Deletes a consumer. Returns whether there was one. `default` is never deleted.
    fn delete_consumer<'a>(&'a self, app: &'a AppId, name: &'a ConsumerName) -> LogFuture<'a, bool>;

    /// Leases events: due retries first, then fresh events in order of arrival. Waits for the first one (long polling). Dropping
    /// the future releases the events that it leased, without an attempt.
    fn lease<'a>(
        &'a self,
        app: &'a AppId,
        consumer: &'a ConsumerName,
        lease: Lease,
    ) -> LogFuture<'a, Vec<Delivery>>;

    /// Settles leases. An outcome may become durable after this returns: a crash before that costs one redelivery.
    fn settle<'a>(
        &'a self,
        app: &'a AppId,
        consumer: &'a ConsumerName,
        settlement: Settlement,
    ) -> LogFuture<'a, Settled>;

    /// The state of the store's disk.
    fn health(&self) -> Health;

    /// Flushes pending writes and closes the store. No method may be called afterwards.
    fn close(&self) -> LogFuture<'_, ()>;
}

/// The outcome of an append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Appended {
    /// The event is stored, with this id.
    Stored(EventId),
    /// The event was rejected: the consumer `default` has reached its limits.
    Full,
    /// The event was rejected: since its verification the source was replaced or removed, or the app unregistered.
    SourceChanged,
}

/// The name of a consumer within its app: 1 to 64 of `A-Z a-z 0-9 . _ -`, and neither `.` nor `..`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConsumerName(SourceName);

impl ConsumerName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Whether it is the consumer `default`, which every app has.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.0.is_default()
    }
}

impl FromStr for ConsumerName {
    type Err = InvalidConsumerName;

    fn from_str(text: &str) -> Result<Self, InvalidConsumerName> {
        // Both kinds of names have one rule.
        text.parse().map(Self).map_err(|_| InvalidConsumerName)
    }
}

/// The text is not the name of a consumer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the name of a consumer is 1 to 64 of the characters A-Z a-z 0-9 . _ -, and neither . nor ..")]
pub struct InvalidConsumerName;

/// The settings of a consumer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConsumerSettings {
    /// The event types that the consumer receives, with `*` for any characters. Empty: all. Fixed at creation.
    pub types: BTreeSet<String>,
    /// The sources that the consumer receives. Empty: all. Fixed at creation.
    pub sources: BTreeSet<SourceName>,
    /// Where the consumer begins. Counts at creation only.
    pub start: Start,
    /// After this number of attempts an event is dead. 0: never.
    pub max_attempts: u32,
}

/// Where a new consumer begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Start {
    /// After the last event that is stored.
    #[default]
    New,
    /// At the oldest event that is stored.
    All,
    /// After this event.
    After(EventId),
}

/// The outcome of [`Log::put_consumer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutConsumer {
    /// The consumer is new.
    Created,
    /// The consumer existed; what may change was changed.
    Updated,
    /// The consumer existed with another filter, which cannot change.
    Conflict,
    /// The app has as many consumers as it may.
    TooMany,
    /// The event of [`Start::After`] is not in the app's log.
    NoSuchEvent,
    /// The app is not registered.
    Unregistered,
}

/// The state of a consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerStatus {
    /// The name.
    pub name: ConsumerName,
    /// The settings; `start` is not kept.
    pub settings: ConsumerSettings,
    /// Events that are not settled, leased ones included. `None`: not counted, because the consumer has a filter.
    pub pending: Option<u64>,
    /// The size of the pending events.
    pub pending_bytes: Option<u64>,
    /// Events that are leased now.
    pub leased: u64,
    /// Dead events.
    pub dead: u64,
}

/// An event with the lease under which a client receives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The event.
    pub event: Arc<Event>,
    /// How often the event has been leased to this consumer, this lease included.
    pub attempt: u32,
    /// Settles this lease.
    pub receipt: Receipt,
}

/// Leases to settle, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settlement {
    /// Acknowledged events.
    pub acks: Vec<Receipt>,
    /// Rejected events, which are dead from now on.
    pub rejects: Vec<Reject>,
    /// Released events, which are redelivered after their delay.
    pub releases: Vec<Release>,
    /// Leases that run this time again from now on, within [`MAX_LEASE`] of the delivery.
    pub extends: Vec<(Receipt, Duration)>,
}

/// The longest that a lease lasts, extensions included.
pub const MAX_LEASE: Duration = Duration::from_secs(12 * 3600);

/// A release of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// The lease.
    pub receipt: Receipt,
    /// How long the event is not delivered again.
    pub delay: Duration,
    /// Why the client could not process the event.
    pub reason: Option<String>,
}

/// A rejection of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// The lease.
    pub receipt: Receipt,
    /// Why no client will be able to process the event.
    pub reason: Option<String>,
}

/// The outcome of a [`Settlement`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settled {
    /// How many events were acknowledged.
    pub acked: usize,
    /// How many events were rejected.
    pub rejected: usize,
    /// How many events were released.
    pub released: usize,
    /// How many leases were extended.
    pub extended: usize,
    /// Receipts whose lease had expired, or was settled before.
    pub stale: Vec<Receipt>,
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

/// Why an operation of the log failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    /// The storage engine failed.
    #[error("the store failed")]
    Engine(#[source] Arc<dyn Error + Send + Sync>),
    /// The store cannot be reached, or the disk is full: try again later.
    #[error("the store is unavailable: {0}")]
    Unavailable(&'static str),
    /// The app has no consumer of this name.
    #[error("the app has no consumer {}: create it first", .0.as_str())]
    NoConsumer(ConsumerName),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl LogError {
    pub(super) fn engine(error: impl Error + Send + Sync + 'static) -> Self {
        Self::Engine(Arc::new(error))
    }
}

/// The limits of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimits {
    /// Maximum number of events that the consumer `default` of an app has not settled.
    pub max_pending_events: u64,
    /// Maximum size of these events, in bytes.
    pub max_pending_bytes: u64,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { max_pending_events: 100_000, max_pending_bytes: 256 << 20 }
    }
}
