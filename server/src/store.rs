//! The event store: a durable queue for each app, with at-least-once delivery.
//!
//! The rest of the server uses only the [`Store`] trait. No method assumes that one process sees every event, so that a
//! message broker with its own consumers and redelivery (SQS, NATS) can implement the trait. The two implementations here,
//! [`MemoryStore`] and [`RedbStore`], share the in-memory `queue`, which keeps each app's order and leases. They differ in
//! the storage of bodies and in the durability of deletions.

mod backlog;
mod consumer;
mod dedupe;
mod delivery;
mod history;
pub mod log;
mod memory;
mod queue;
mod queues;
mod redb;
mod scheduler;
mod sequence;
mod spill;
mod sqlite;
mod stored_source;
mod tap;

use std::{
    collections::BTreeMap,
    error::Error,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use wwproxy_protocol::{
    AppId, Encoding, Event, EventId, Headers, Origin, Secret, Source, SourceName, api::Receipt,
};

#[cfg(fuzzing)]
pub use self::redb::fuzz_record;
pub use self::{
    memory::MemoryStore,
    redb::{OpenError, RedbStore},
    sqlite::{OpenError as LogOpenError, SqliteStore},
    stored_source::{StoredSource, UnreadableSource},
    tap::{Shown, Tap},
};

/// The future that a [`Store`] method returns.
pub type StoreFuture<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// A durable queue for each app, and the apps' registrations.
///
/// Delivery is at least once, as with SQS or a pull consumer of NATS. [`lease`](Self::lease) receives events and
/// hides them from other clients until the lease expires (visibility timeout, ack wait), [`settle`](Self::settle)
/// acknowledges or releases them (delete, nak), and an event that was not acknowledged is redelivered.
pub trait Store: fmt::Debug + Send + Sync {
    /// Registers an app, or replaces its registration. The registration is durable when this returns.
    fn put_registration<'a>(&'a self, app: &'a AppId, registration: Registration) -> StoreFuture<'a, ()>;

    /// Returns the app's registration. Called for every webhook before its signature is verified, so it must be cheap.
    fn registration<'a>(&'a self, app: &'a AppId) -> StoreFuture<'a, Option<Arc<Registration>>>;

    /// Removes an app's registration and purges its queue. The removal is durable when this returns.
    fn remove_registration<'a>(&'a self, app: &'a AppId) -> StoreFuture<'a, ()>;

    /// Appends an event to the app's queue and assigns its id. The outcome is durable when this returns. `source` verified
    /// the event: if the registration does not have this very `Arc` when the event is committed, the event is rejected,
    /// so that nothing is stored with replaced settings. An event whose dedupe key (idempotency key) was seen within the
    /// dedupe window is not stored again.
    fn append<'a>(
        &'a self,
        app: &'a AppId,
        source: Arc<Source>,
        event: NewEvent,
        dedupe: Option<DedupeKey>,
    ) -> StoreFuture<'a, Appended>;

    /// Leases events in order of arrival, and waits for the first one (long polling). Nacked events alternate with events
    /// that were never leased, so that neither starve. No other client receives them while
    /// the lease lasts; events that are not settled before it expires are redelivered. Dropping the future releases the
    /// events that it leased.
    fn lease<'a>(&'a self, app: &'a AppId, lease: Lease) -> StoreFuture<'a, Vec<Delivery>>;

    /// Settles leases: acknowledged events are deleted, released and nacked ones are redelivered. A deletion may become durable
    /// after this returns; a deletion that a crash loses costs one redelivery.
    fn settle<'a>(&'a self, app: &'a AppId, settlement: Settlement) -> StoreFuture<'a, Settled>;

    /// Subscribes to events that are stored from now on, in order of arrival, without leasing them. A tap exerts no
    /// backpressure: a slow tap misses events, and receives a gap with their number. `None` if the app has reached its
    /// limit of taps.
    fn tap<'a>(&'a self, app: &'a AppId) -> StoreFuture<'a, Option<Tap>>;

    /// Returns the statistics of the app's queue.
    fn stats<'a>(&'a self, app: &'a AppId) -> StoreFuture<'a, Stats>;

    /// Readiness check: fails if an append could not be stored now.
    fn ready(&self) -> StoreFuture<'_, ()>;

    /// Flushes pending writes and closes the store. No method may be called afterwards.
    fn close(&self) -> StoreFuture<'_, ()>;
}

/// The sources of an app, from which it receives webhooks. An app is registered while it has a source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registration {
    /// The sources by name. A source that is replaced is a new `Arc`, also by equal settings.
    pub sources: BTreeMap<SourceName, StoredSource>,
}

impl Registration {
    /// The source of this name, if it is valid.
    #[must_use]
    pub fn source(&self, name: &SourceName) -> Option<&Arc<Source>> {
        self.sources.get(name)?.as_ref().ok()
    }

    /// Whether the app still has this source, neither replaced nor removed. An event in progress holds its `Arc`, so no
    /// other source can have the same address.
    #[must_use]
    pub fn has(&self, name: &SourceName, source: &Arc<Source>) -> bool {
        self.source(name).is_some_and(|current| Arc::ptr_eq(current, source))
    }

    /// The source `default` of Watson Work, with this webhook secret.
    #[must_use]
    pub fn watson_work(secret: Secret) -> Self {
        Self { sources: [(SourceName::default(), Ok(Arc::new(Source::watson_work(secret))))].into() }
    }
}

/// A verified webhook that has no event id yet.
#[derive(Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// Where the event came from, and how it was verified.
    pub origin: Origin,
    /// The headers of the sender's request that are stored with the event.
    pub headers: Headers,
    /// The query string of the sender's request.
    pub query: Option<String>,
    /// The body, byte for byte.
    pub body: Bytes,
    /// How the body is written in messages.
    pub encoding: Encoding,
}

impl fmt::Debug for NewEvent {
    /// Leaves out the values of headers, the query and the body, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewEvent")
            .field("origin", &self.origin)
            .field("headers", &self.headers.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .field("query_bytes", &self.query.as_ref().map(String::len))
            .field("encoding", &self.encoding)
            .field("body_bytes", &self.body.len())
            .finish()
    }
}

impl NewEvent {
    /// An unverified event of the source `default`.
    #[must_use]
    pub fn new(headers: Headers, query: Option<String>, body: Bytes) -> Self {
        let encoding = Encoding::of(&body);
        Self { origin: Origin::default(), headers, query, body, encoding }
    }

    /// Makes the event that was assigned this id.
    pub(crate) fn into_event(self, id: EventId, received_at: SystemTime) -> Event {
        let Self { origin, headers, query, body, encoding } = self;
        Event { id, received_at, origin, headers, query, body, encoding }
    }

    /// The size of what is stored but for the framing, in bytes.
    pub(crate) fn size(&self) -> usize {
        let Self { origin, headers, query, body, encoding: _ } = self;
        let Origin { source, tail, event_type, delivery_id, verification } = origin;
        let optional = [query, tail, event_type, delivery_id].into_iter().flatten();
        let verification = verification.iter().flat_map(|verified| [&verified.scheme, &verified.signed]);
        let headers = headers.iter().flat_map(|(name, value)| [name, value]);
        let texts: usize = optional.chain(verification).chain(headers).map(String::len).sum();
        body.len() + source.as_str().len() + texts
    }
}

/// Idempotency key of an append: a hash of the fields by which a sender's retry equals the first request.
pub type DedupeKey = [u8; 16];

/// The outcome of an append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Appended {
    /// The event is stored, with this id.
    Stored(EventId),
    /// The event was not stored: its dedupe key was seen within the dedupe window.
    Duplicate,
    /// The event was rejected: the app's queue is full.
    Full,
    /// The event was rejected: since its verification the source was replaced or removed, or the app unregistered.
    SourceChanged,
}

/// A lease request: how many events to receive, and for how long to hide them from other clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The maximum number of events.
    pub max_events: usize,
    /// The maximum size of the events together, in bytes. One event is always leased, whatever its size.
    pub max_bytes: u64,
    /// How long to wait for the first event (long polling).
    pub wait: Duration,
    /// The duration of the lease: after it unsettled events are redelivered (SQS: visibility timeout; NATS: ack wait).
    pub time: Duration,
}

/// An event with the lease under which a client receives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The event.
    pub event: Event,
    /// How often the event has been delivered, this delivery included.
    pub attempt: u32,
    /// Settles this lease (SQS: receipt handle).
    pub receipt: Receipt,
}

/// Leases to settle.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settlement {
    /// Acknowledged events, which are deleted.
    pub acks: Vec<Receipt>,
    /// Events that were not delivered, which return to their place in the order.
    pub releases: Vec<Receipt>,
    /// Events that a client refused, which are redelivered after their delay (negative acknowledgement).
    pub nacks: Vec<(Receipt, Duration)>,
}

/// The outcome of a [`Settlement`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settled {
    /// How many events were deleted.
    pub acked: usize,
    /// How many events were released or nacked.
    pub released: usize,
    /// Receipts whose lease had expired, or was settled before.
    pub stale: Vec<Receipt>,
}

/// Statistics of an app's queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Events in the queue, leased events included.
    pub stored: usize,
    /// Events in flight: leased and not settled.
    pub leased: usize,
    /// Events dropped because the queue was full or their retention had passed.
    pub dropped: u64,
    /// Bytes in the queue: bodies, headers and framing.
    pub bytes: u64,
    /// Age of the oldest event.
    pub oldest_age: Option<Duration>,
}

/// The limits of each app's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Maximum number of events in an app's queue.
    pub max_queued_events: usize,
    /// Maximum size of an app's queue, in bytes.
    pub max_queued_bytes: u64,
    /// The policy for an append to a full queue.
    pub overflow: Overflow,
    /// The retention: older events are dropped.
    pub retention: Duration,
    /// How long a dedupe key is remembered.
    pub dedupe_window: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_queued_events: 100_000,
            max_queued_bytes: 256 << 20,
            overflow: Overflow::Reject,
            retention: Duration::from_secs(7 * 24 * 3600),
            dedupe_window: Duration::from_secs(600),
        }
    }
}

impl Limits {
    /// Whether an event of `size` bytes fits into a queue of `events` events and `bytes` bytes.
    fn have_room(&self, events: usize, bytes: u64, size: u32) -> bool {
        events < self.max_queued_events && bytes + u64::from(size) <= self.max_queued_bytes
    }
}

/// The policy for an append to a full queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Overflow {
    /// Reject the new event, so that its sender retries.
    Reject,
    /// Drop the oldest events to make room.
    DropOldest,
}

/// Why a store operation failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The storage engine failed: the disk is full or failing, or a file is corrupted.
    #[error("the store failed")]
    Engine(#[source] Arc<dyn Error + Send + Sync>),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    pub(crate) fn engine(error: impl Error + Send + Sync + 'static) -> Self {
        Self::Engine(Arc::new(error))
    }

    /// Copies the error, for all operations of a failed group commit.
    pub(crate) fn share(&self) -> Self {
        match self {
            Self::Engine(source) => Self::Engine(Arc::clone(source)),
            Self::Closed => Self::Closed,
        }
    }
}

#[cfg(test)]
mod tests;
