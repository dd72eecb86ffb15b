//! Tells whoever runs the server of dropped events.

use wwproxy_protocol::AppId;

use crate::tally::Tally;

/// How often drops are told in a minute. Each app's own figure is in its status.
const TOLD: u32 = 1;

/// Drops for one reason, of all apps.
#[derive(Debug)]
pub(super) struct Drops {
    reason: &'static str,
    tally: Tally,
}

impl Drops {
    pub(super) fn new(reason: &'static str) -> Self {
        Self { reason, tally: Tally::new(TOLD) }
    }

    /// Counts these, and tells all that were not told yet when it is time.
    pub(super) fn add(&self, app: &AppId, events: u64) {
        if events == 0 {
            return;
        }
        if let Some(events) = self.tally.add(events) {
            tracing::warn!(events, last = %app, "{}", self.reason);
        }
    }
}
