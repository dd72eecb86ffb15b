//! The limits of a store.

use std::time::Duration;

use wwproxy_protocol::Overflow;

/// The limits of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Maximum number of events that the consumer `default` of an app has not settled.
    pub max_pending_events: u64,
    /// Maximum size of these events, in bytes.
    pub max_pending_bytes: u64,
    /// What happens to an event beyond these limits, unless the consumer's settings say otherwise.
    pub overflow: Overflow,
    /// An event is removed after this time, whether it is settled or not.
    pub retention: Duration,
    /// An event that every consumer has settled is removed after this time.
    pub history: Duration,
    /// Maximum size of the events of all apps, in bytes: beyond it settled events are removed, the oldest of the largest app first, then
    /// those that are not pending for `default`.
    pub max_history_bytes: u64,
    /// How long a dedupe key is remembered.
    pub dedupe_window: Duration,
    /// A consumer without a client for this time is removed, unless its settings say otherwise.
    pub consumer_idle_expiry: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        Self {
            max_pending_events: 100_000,
            max_pending_bytes: 256 << 20,
            overflow: Overflow::Reject,
            retention: 7 * DAY,
            history: DAY,
            max_history_bytes: 10 << 30,
            dedupe_window: Duration::from_secs(600),
            consumer_idle_expiry: 30 * DAY,
        }
    }
}
