//! What the store says about consumers.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use wwproxy_protocol::{ConsumerName, ConsumerSettings};

/// The outcome of [`Store::put_consumer`](super::Store::put_consumer).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutConsumer {
    /// The consumer is new.
    Created,
    /// The consumer existed; what may change was changed.
    Updated,
    /// The consumer existed with another filter or start, which cannot change.
    Conflict,
    /// The app has as many consumers as it may.
    TooMany,
    /// The event of [`Start::After`](wwproxy_protocol::Start::After) is not in the app's log.
    NoSuchEvent,
    /// The app is not registered.
    Unregistered,
}

/// The outcome of [`Store::seek`](super::Store::seek).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sought {
    /// The consumer has its new position.
    Moved,
    /// The event of [`Start::After`](wwproxy_protocol::Start::After) is not in the app's log.
    NoSuchEvent,
}

/// The state of a consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerStatus {
    /// The name.
    pub name: ConsumerName,
    /// The settings.
    pub settings: ConsumerSettings,
    /// Events that are not settled, leased ones included. `None`: not counted yet, because the consumer has a filter.
    pub pending: Option<u64>,
    /// The size of the pending events, in bytes.
    pub pending_bytes: Option<u64>,
    /// Events that are leased now.
    pub leased: u64,
    /// Dead events.
    pub dead: u64,
    /// Events that were removed before the consumer settled them: by retention, or because `default` was full.
    pub dropped: u64,
    /// The age of the oldest pending event.
    pub oldest_pending_age: Option<Duration>,
    /// When a client last used the consumer.
    pub last_used: SystemTime,
}

/// A consumer in memory, which ends when this is dropped.
pub struct Ephemeral {
    /// The name to lease and settle with. No client can give it.
    pub name: ConsumerName,
    /// How many events after its start retention had removed.
    pub missed: u64,
    /// Ends the consumer when it is dropped.
    pub(super) _end: Box<dyn Send + Sync>,
}

impl fmt::Debug for Ephemeral {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ephemeral")
            .field("name", &self.name)
            .field("missed", &self.missed)
            .finish_non_exhaustive()
    }
}
