//! Rate limit of the reports on stderr.

use std::time::{Duration, Instant};

/// The minimum time between reports. Events in between are counted.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// Rate limit for one kind of report: the first one at once, then a count at most every [`REPORT_INTERVAL`].
#[derive(Default)]
pub(crate) struct LogLimit {
    unreported: u64,
    /// The earliest time of the next report. `None`: there was no report yet.
    next: Option<Instant>,
}

impl LogLimit {
    /// Counts one event, if [`Self::take`] reports the count. `true`: it is the first one, to be reported now.
    pub(crate) fn count(&mut self, now: Instant) -> bool {
        let first = self.next.is_none();
        if first {
            self.next = Some(now + REPORT_INTERVAL);
        } else {
            self.unreported += 1;
        }
        first
    }

    /// Counts one event. `Some`: it is to be reported now, with this number of events that were not reported before it.
    pub(crate) fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.next.is_some_and(|next| now < next) {
            self.unreported += 1;
            return None;
        }
        Some(self.report_now(now))
    }

    /// Counts one event that is reported now in any case. Returns the number of events that were not reported before it.
    pub(crate) fn report_now(&mut self, now: Instant) -> u64 {
        self.next = Some(now + REPORT_INTERVAL);
        std::mem::take(&mut self.unreported)
    }

    /// When the count may be reported, if it is not zero.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.next.filter(|_| self.unreported > 0)
    }

    /// Takes the count, if it may be reported now.
    pub(crate) fn take(&mut self, now: Instant) -> Option<u64> {
        self.due().filter(|due| *due <= now)?;
        self.next = Some(now + REPORT_INTERVAL);
        Some(std::mem::take(&mut self.unreported))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_event_is_reported_and_then_a_count_per_minute() {
        let (mut limit, start) = (LogLimit::default(), Instant::now());
        assert!(limit.count(start) && limit.due().is_none() && limit.take(start).is_none());
        assert!(!limit.count(start) && !limit.count(start));
        assert_eq!(limit.take(start), None, "too early");
        let due = limit.due().unwrap();
        assert_eq!((due, limit.take(due)), (start + REPORT_INTERVAL, Some(2)));
        assert!(!limit.count(due) && limit.take(due).is_none());
    }
}
