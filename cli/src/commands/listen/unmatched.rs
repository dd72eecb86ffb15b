//! Events that are not handled, as they do not match: what happens to them, and how it is reported.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    time::{Duration, Instant},
};

use wwproxy_sdk::{Delivery, EventMessage};

use super::worker::Worker;
use crate::selection::{OnFilterError, Wanted};

/// After the first report further events are only counted, and their number is reported this often at most.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);
/// How many types the summary names; events of more types are counted together.
const MAX_TYPES: usize = 20;
/// The longest part of a type that is shown, in characters.
const MAX_TYPE_CHARS: usize = 64;
/// How long an event that is left is held back when no other client took it at once.
const FIRST_LEFT_FOR: Duration = Duration::from_millis(200);
/// The longest time that an event that is left is held back: it bounds how long another client waits for it, and how often an event
/// that no client wants is sent.
const MAX_LEFT_FOR: Duration = Duration::from_secs(5);

/// What is to happen to an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Handle,
    /// Acknowledge it without handling it.
    Skip,
    /// Leave it on the server, for others.
    Leave,
}

impl Worker {
    /// Decides what happens to an event, and reports it if it is not handled or the filter fails on it.
    pub(super) fn decide(&self, event: &EventMessage) -> Fate {
        let unmatched = if self.leave_unmatched { Fate::Leave } else { Fate::Skip };
        let has_target = || self.routes.is_empty() || self.routes.target(event).is_some();
        let kind = || shortened(event.event_type());
        let (fate, why) = match self.selection.wants(event) {
            Wanted::Yes if has_target() => return Fate::Handle,
            Wanted::Yes => (unmatched, Some(format!("no --route matches{}", self.routes.hint(&kind())))),
            Wanted::No => (unmatched, Some(self.selection.mismatch(&kind()))),
            Wanted::Unclear(why) => {
                let fate = match self.selection.on_filter_error {
                    OnFilterError::Deliver if has_target() => Fate::Handle,
                    OnFilterError::Deliver => unmatched,
                    OnFilterError::Leave => Fate::Leave,
                    OnFilterError::Drop => Fate::Skip,
                };
                self.talk.filter_failed(event, fate, &why);
                (fate, None)
            }
        };
        if fate != Fate::Handle {
            self.talk.unmatched(event, &kind(), fate, why.as_deref());
        }
        fate
    }

    /// Skips or leaves an event that is not handled.
    pub(super) async fn settle(&self, delivery: Delivery, fate: Fate) {
        if fate == Fate::Skip {
            return self.ack(&delivery).await;
        }
        // If the connection is gone, the event is back on the server already.
        let _ = delivery.nack(left_for(delivery.attempt().unwrap_or(1))).await;
    }
}

/// How long an event that is left is held back after this attempt.
///
/// Not at all after every other attempt: the server then hands it to the client that has waited longest. When a delay ends, any
/// client may get it, and that could be this one each time. The delay grows, so that an event that no client wants costs little.
fn left_for(attempt: u32) -> Duration {
    if attempt % 2 == 1 {
        return Duration::ZERO;
    }
    let doublings = (attempt / 2).saturating_sub(1).min(16);
    (FIRST_LEFT_FOR * 2u32.pow(doublings)).min(MAX_LEFT_FOR)
}

fn shortened(kind: Option<String>) -> String {
    kind.map_or_else(|| "(no type)".into(), |kind| kind.chars().take(MAX_TYPE_CHARS).collect())
}

/// Limits the reports of one kind: the first at once, then a count at most every [`REPORT_INTERVAL`].
#[derive(Default)]
pub(super) struct Limit {
    unreported: u64,
    /// When the next report may be made. `None`: there was none yet.
    next: Option<Instant>,
}

impl Limit {
    /// Counts one; `true`: it is the first, to be reported now.
    pub(super) fn count(&mut self, now: Instant) -> bool {
        let first = self.next.is_none();
        if first {
            self.next = Some(now + REPORT_INTERVAL);
        } else {
            self.unreported += 1;
        }
        first
    }

    /// When what is counted may be reported, if anything is.
    pub(super) fn due(&self) -> Option<Instant> {
        self.next.filter(|_| self.unreported > 0)
    }

    /// How many are to be reported now, if any are.
    pub(super) fn take(&mut self, now: Instant) -> Option<u64> {
        self.due().filter(|due| *due <= now)?;
        self.next = Some(now + REPORT_INTERVAL);
        Some(std::mem::take(&mut self.unreported))
    }
}

/// How many events of each type were skipped.
#[derive(Default)]
pub(super) struct Types {
    counts: BTreeMap<String, u64>,
    others: u64,
}

impl Types {
    pub(super) fn count(&mut self, kind: &str) {
        if let Some(count) = self.counts.get_mut(kind) {
            *count += 1;
        } else if self.counts.len() < MAX_TYPES {
            self.counts.insert(kind.to_owned(), 1);
        } else {
            self.others += 1;
        }
    }

    /// Such as `: 3 × message-created, 1 × space-deleted`, the most frequent first.
    pub(super) fn list(&self) -> String {
        let mut counts: Vec<_> = self.counts.iter().map(|(kind, count)| (kind.as_str(), *count)).collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        counts.extend(Some(("other types", self.others)).filter(|(_, count)| *count > 0));
        let mut list = String::new();
        for (n, (kind, count)) in counts.into_iter().enumerate() {
            // Writing to a string cannot fail.
            let _ = write!(list, "{}{count} × {kind}", if n == 0 { ": " } else { ", " });
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_reported_and_then_a_count_a_minute() {
        let (mut limit, start) = (Limit::default(), Instant::now());
        assert!(limit.count(start) && limit.due().is_none() && limit.take(start).is_none());
        assert!(!limit.count(start) && !limit.count(start));
        assert_eq!(limit.take(start), None, "too early");
        let due = limit.due().unwrap();
        assert_eq!((due, limit.take(due)), (start + REPORT_INTERVAL, Some(2)));
        assert!(!limit.count(due) && limit.take(due).is_none());
    }

    #[test]
    fn an_event_is_left_at_once_and_with_a_growing_delay_in_turns() {
        let delays: Vec<_> = (1..8).map(|attempt| left_for(attempt).as_millis()).collect();
        assert_eq!(delays, [0, 200, 0, 400, 0, 800, 0]);
        assert_eq!((left_for(0), left_for(u32::MAX - 1)), (FIRST_LEFT_FOR, MAX_LEFT_FOR));
    }

    #[test]
    fn many_types_are_counted_together() {
        let mut types = Types::default();
        assert_eq!(types.list(), "");
        for kind in ["a", "b", "b"] {
            types.count(kind);
        }
        assert_eq!(types.list(), ": 2 × b, 1 × a");
        for n in 0..100 {
            types.count(&n.to_string());
        }
        assert!(types.list().ends_with(", 82 × other types"), "{}", types.list());
        assert_eq!(shortened(Some("x".repeat(1000))).len(), MAX_TYPE_CHARS);
    }
}
