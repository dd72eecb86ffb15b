//! Where events are kept until a client has accepted them.
//!
//! [`Store`] is all that the rest of the server knows of it. No method assumes that one process
//! sees everything: an engine with consumers and redelivery of its own fits behind it as well as
//! the two here, [`MemoryStore`] and [`RedbStore`]. Both keep an app's order and leases in the same
//! `queue`; they differ in where bodies and deletions go.

mod backlog;
mod dedupe;
mod drops;
mod memory;
mod queue;
mod queues;
mod redb;
mod sequence;
mod spill;
mod tap;

use std::{error::Error, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use wwproxy_protocol::{AppId, Event, EventId, Headers, Scheme, Secret, api::Receipt};

#[cfg(fuzzing)]
pub use self::redb::fuzz_record;
pub use self::{
    memory::MemoryStore,
    redb::{OpenError, RedbStore},
    tap::{Shown, Tap},
};

/// What a store answers, sooner or later.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// A durable queue for each app, and the registrations.
pub trait Store: fmt::Debug + Send + Sync {
    /// Registers an app, or replaces its registration. Durable when it returns.
    fn put_registration<'a>(&'a self, app: &'a AppId, registration: Registration) -> Answer<'a, ()>;

    /// The app's registration. Asked for each webhook before it is verified, so it must be cheap.
    fn registration<'a>(&'a self, app: &'a AppId) -> Answer<'a, Option<Arc<Registration>>>;

    /// Removes an app's registration and all its events. Durable when it returns.
    fn remove_registration<'a>(&'a self, app: &'a AppId) -> Answer<'a, ()>;

    /// Stores an event at the end of the app's queue and names it. Durable when it returns, whatever
    /// it answers. An event with a key that was seen within the dedupe window is not stored again.
    fn append<'a>(
        &'a self,
        app: &'a AppId,
        event: NewEvent,
        dedupe: Option<DedupeKey>,
    ) -> Answer<'a, Appended>;

    /// Hands out events in order of arrival, waiting for a first one. Nobody else gets them until
    /// the lease ends. Dropping the future hands back what it took.
    fn lease<'a>(&'a self, app: &'a AppId, lease: Lease) -> Answer<'a, Vec<Delivery>>;

    /// Ends leases: accepted events are deleted, released ones go out again. A deletion may become
    /// durable later than this returns: lost in a crash, it costs one redelivery.
    fn settle<'a>(&'a self, app: &'a AppId, settlement: Settlement) -> Answer<'a, Settled>;

    /// Shows the events that are stored from now on, in order of arrival, and takes none of them. Nobody
    /// waits for a tap: what it does not take in time is told as a gap. `None` where the app has as many
    /// taps open as it may.
    fn tap<'a>(&'a self, app: &'a AppId) -> Answer<'a, Option<Tap>>;

    /// Figures about the app's queue.
    fn stats<'a>(&'a self, app: &'a AppId) -> Answer<'a, Stats>;

    /// Whether an append would be stored now.
    fn ready(&self) -> Answer<'_, ()>;

    /// Makes durable what was left for later. Nothing is asked of the store after it.
    fn close(&self) -> Answer<'_, ()>;
}

/// How an app's webhooks are verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// How the sender signs.
    pub scheme: Scheme,
    /// With which secrets; any of them will do.
    pub secrets: Vec<Secret>,
}

/// A verified webhook that has no name yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// What its sender's request said.
    pub headers: Headers,
    /// The query string of the sender's request.
    pub query: Option<String>,
    /// The body, to the last byte.
    pub body: Bytes,
}

impl NewEvent {
    /// What is kept of it, in bytes.
    pub(crate) fn size(&self) -> usize {
        let headers = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        self.body.len() + headers + self.query.as_ref().map_or(0, String::len)
    }
}

/// Names a delivery of the sender, to tell its repetition: a hash over what makes it the same.
pub type DedupeKey = [u8; 16];

/// What became of an appended event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Appended {
    /// It is stored, under this name.
    Stored(EventId),
    /// It had been stored before.
    Duplicate,
    /// The app's queue is full.
    Full,
    /// The app is not registered (any more).
    Unregistered,
}

/// What to hand out, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// How many events at most.
    pub max_events: usize,
    /// How many bytes of events at most, though never less than one event.
    pub max_bytes: u64,
    /// How long to wait for a first event.
    pub wait: Duration,
    /// How long nobody else gets them.
    pub time: Duration,
}

/// One event handed out once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The event.
    pub event: Event,
    /// How often it has been handed out, this time included.
    pub attempt: u32,
    /// What settles this lease.
    pub receipt: Receipt,
}

/// Leases to end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settlement {
    /// Events that were accepted.
    pub acks: Vec<Receipt>,
    /// Events to hand out again, each not before its delay.
    pub releases: Vec<(Receipt, Duration)>,
}

/// What became of a [`Settlement`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settled {
    /// How many events were deleted.
    pub acked: usize,
    /// How many events were handed back.
    pub released: usize,
    /// Receipts whose lease had ended.
    pub stale: Vec<Receipt>,
}

/// Figures about an app's queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Events stored, the leased ones included.
    pub stored: usize,
    /// Events leased now.
    pub leased: usize,
    /// Events dropped: to make room, or for their age.
    pub dropped: u64,
    /// Bytes stored: bodies, headers and what frames them.
    pub bytes: u64,
    /// Age of the oldest event.
    pub oldest_age: Option<Duration>,
}

/// How much a store keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most events an app can have stored.
    pub max_queued_events: usize,
    /// The most bytes an app can have stored.
    pub max_queued_bytes: u64,
    /// What happens to the event that is one too many.
    pub overflow: Overflow,
    /// How long an event is kept.
    pub retention: Duration,
    /// How long a repeated delivery is recognised.
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
    /// Whether one more event of `size` bytes has room in a queue of these many events and bytes.
    fn have_room(&self, events: usize, bytes: u64, size: u32) -> bool {
        events < self.max_queued_events && bytes + u64::from(size) <= self.max_queued_bytes
    }
}

/// What happens to the event that is one too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Overflow {
    /// It is refused, so that its sender keeps it.
    Reject,
    /// The oldest event makes room for it.
    DropOldest,
}

/// Why a store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The engine failed: a full disk, a failing one, a damaged file.
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

    /// The same failure for each of many that waited for it.
    pub(crate) fn share(&self) -> Self {
        match self {
            Self::Engine(source) => Self::Engine(Arc::clone(source)),
            Self::Closed => Self::Closed,
        }
    }
}
