//! Counts of events by their outcome.

use std::collections::HashSet;

use wwproxy_sdk::EventId;

/// The maximum number of remembered event ids, to count a redelivered event once. Further events are counted at each delivery.
const MAX_REMEMBERED: usize = 10_000;

/// The outcomes of events.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) handled: u64,
    pub(crate) skipped: u64,
    pub(crate) retried: u64,
    /// Acknowledged although the target did not accept them.
    pub(crate) dropped: u64,
    /// Rejected, as the target did not accept them.
    pub(crate) dead: u64,
    /// Saved as a file and acknowledged, as the target did not accept them.
    pub(crate) saved: u64,
}

/// Events that are kept on the server.
#[derive(Default)]
pub(super) struct KeptEvents {
    events: HashSet<EventId>,
    more: u64,
}

impl KeptEvents {
    /// Adds an event. `false`: it was added before.
    pub(super) fn add(&mut self, id: &EventId) -> bool {
        if self.events.len() < MAX_REMEMBERED || self.events.contains(id) {
            return self.events.insert(id.clone());
        }
        self.more += 1;
        true
    }

    /// Removes an event that is settled for good.
    pub(super) fn remove(&mut self, id: &EventId) {
        self.events.remove(id);
    }

    pub(super) fn count(&self) -> u64 {
        self.more + self.events.len() as u64
    }
}
