//! What the store says about stored events.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use wwproxy_protocol::{ConsumerName, Event, EventId, SourceName};

/// Which stored events to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventQuery {
    /// The maximum number of events.
    pub limit: usize,
    /// Only events before this one.
    pub before: Option<EventId>,
    /// Only events after this one.
    pub after: Option<EventId>,
    /// Only events that were received at this time or later.
    pub since: Option<SystemTime>,
    /// Only events that were received before this time.
    pub until: Option<SystemTime>,
    /// Only events whose type matches, with `*` for any characters.
    pub event_type: Option<String>,
    /// Only events of this source.
    pub source: Option<SourceName>,
    /// Only events in this state, for `consumer` or for any.
    pub state: Option<EventState>,
    /// The consumer that `state` is about.
    pub consumer: Option<ConsumerName>,
}

/// The state of an event for a consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventState {
    /// Not delivered yet, or to be redelivered.
    Pending,
    /// In flight to a client.
    Leased,
    /// Acknowledged.
    Delivered,
    /// Rejected, or out of attempts.
    Dead,
    /// Dropped for this consumer before it was settled.
    Dropped,
}

/// A page of stored events, the newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventPage {
    /// The events.
    pub events: Vec<EventSummary>,
    /// The next page is before this event. `None`: there are no more events.
    pub next: Option<EventId>,
}

/// A stored event without headers and body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventSummary {
    /// The id.
    pub id: EventId,
    /// When it was received.
    pub received_at: SystemTime,
    /// The source.
    pub source: SourceName,
    /// The event type, if its scheme has one.
    pub event_type: Option<String>,
    /// The sender's delivery id, if its scheme has one.
    pub delivery_id: Option<String>,
    /// The size of the body, in bytes.
    pub body_bytes: u64,
    /// Whether it was verified.
    pub verified: bool,
    /// How often the sender repeated it within the dedupe window.
    pub duplicates: u64,
    /// Its state for each consumer that receives it, by name.
    pub consumers: Vec<StateAt>,
}

/// The state of an event for one consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateAt {
    /// The consumer.
    pub consumer: ConsumerName,
    /// The state.
    pub state: EventState,
    /// How often the event has been leased since it was appended or replayed.
    pub attempts: u32,
}

/// A stored event with its timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// The event.
    pub event: Arc<Event>,
    /// What the list says about it.
    pub summary: EventSummary,
    /// Its deliveries, the oldest first.
    pub timeline: Vec<TimelineEntry>,
}

/// The outcome of one delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineEntry {
    /// The consumer.
    pub consumer: ConsumerName,
    /// The attempt.
    pub attempt: u32,
    /// When the delivery ended.
    pub at: SystemTime,
    /// How it ended: `acked`, `released`, `rejected`, `expired`, `damaged`, `replayed`.
    pub outcome: String,
    /// Why, if the client said so.
    pub reason: Option<String>,
    /// How long the event was leased.
    pub took: Duration,
}

/// The outcome of [`Store::replay`](super::Store::replay).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replayed {
    /// The event is delivered again. This is its number of replays to this consumer.
    Queued(u32),
    /// The consumer has not settled the event, so that it is delivered anyway.
    Pending,
    /// The consumer `default` has reached its limits.
    Full,
    /// The event is not in the app's log.
    NoSuchEvent,
}
