//! Leases, how they are settled, and taps.

use std::{sync::Arc, time::Duration};

use futures_util::stream::BoxStream;
use wwproxy_protocol::{Event, api::Receipt};

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
    pub event: Arc<Event>,
    /// How often the event has been leased to this consumer since it was appended or replayed, this lease included.
    pub attempt: u32,
    /// How often the event has been replayed to this consumer.
    pub replay: u32,
    /// Settles this lease (SQS: receipt handle).
    pub receipt: Receipt,
}

/// Leases to settle, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settlement {
    /// Acknowledged events.
    pub acks: Vec<Receipt>,
    /// Rejected events, which are dead from now on.
    pub rejects: Vec<Reject>,
    /// Released events, which are redelivered.
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
    /// How long the event is not delivered again (negative acknowledgement). `None`: the event did not reach a client, and
    /// returns to its place in the order.
    pub delay: Option<Duration>,
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

/// A subscription to an app's events, until it is dropped.
pub type Tap = BoxStream<'static, TapItem>;

/// What a tap receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TapItem {
    /// An event that was stored.
    Event(Arc<Event>),
    /// This number of events was stored here, which the tap misses.
    Gap(u64),
}
