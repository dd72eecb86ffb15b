//! Tells whoever runs the server of dropped events, without filling its log.

use std::{sync::Mutex, time::Duration};

use tokio::time::Instant;
use wwproxy_protocol::AppId;

use super::queues::lock;

/// How often drops are told at most. Each app's own figure is in its status.
const PAUSE: Duration = Duration::from_secs(60);

/// Drops for one reason, of all apps.
#[derive(Debug)]
pub(super) struct Drops {
    reason: &'static str,
    unsaid: Mutex<Unsaid>,
}

#[derive(Debug, Default)]
struct Unsaid {
    events: u64,
    said: Option<Instant>,
}

impl Drops {
    pub(super) fn new(reason: &'static str) -> Self {
        Self { reason, unsaid: Mutex::default() }
    }

    /// Counts these, and tells all that were not told yet when it is time.
    pub(super) fn add(&self, app: &AppId, events: u64) {
        if events == 0 {
            return;
        }
        let due = lock(&self.unsaid).add(events, Instant::now());
        if let Some(events) = due {
            tracing::warn!(events, last = %app, "{}", self.reason);
        }
    }
}

impl Unsaid {
    fn add(&mut self, events: u64, now: Instant) -> Option<u64> {
        self.events += events;
        if self.said.is_some_and(|said| now < said + PAUSE) {
            return None;
        }
        self.said = Some(now);
        Some(std::mem::take(&mut self.events))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_at_once_and_the_rest_together_after_a_pause() {
        let (start, moment) = (Instant::now(), Duration::from_millis(1));
        let mut unsaid = Unsaid::default();
        assert_eq!(unsaid.add(1, start), Some(1));
        assert_eq!(unsaid.add(2, start), None);
        assert_eq!(unsaid.add(3, start + PAUSE - moment), None);
        assert_eq!(unsaid.add(4, start + PAUSE), Some(9));
        assert_eq!(unsaid.add(5, start + PAUSE + moment), None);
        assert_eq!(unsaid.add(6, start + 2 * PAUSE), Some(11));
    }
}
