//! Events that are not handled, as they do not match: what happens to them, and how it is reported.

use std::time::Duration;

use wwproxy_sdk::{Delivery, EventMessage};

use super::{disposition::Disposition, worker::Worker};
use crate::selection::{OnFilterError, Selected};

/// The longest part of a type that is shown, in characters.
const MAX_TYPE_CHARS: usize = 64;
/// How long an event that is left is held back when no other client took it at once.
const FIRST_LEFT_FOR: Duration = Duration::from_millis(200);
/// The longest time that an event that is left is held back: it bounds how long another client waits for it, and how often an event
/// that no client wants is sent.
const MAX_LEFT_FOR: Duration = Duration::from_secs(5);

impl Worker {
    /// Decides what happens to an event, and reports it if it is not handled or the filter fails on it.
    pub(super) fn decide(&self, event: &EventMessage) -> Disposition {
        let unmatched = if self.leave_unmatched { Disposition::Leave } else { Disposition::Skip };
        let has_target = || self.routes.is_empty() || self.routes.target(event).is_some();
        let kind = || shortened(event.event_type());
        let (disposition, why) = match self.selection.select(event) {
            Selected::Yes if has_target() => return Disposition::Handle,
            Selected::Yes => (unmatched, Some(format!("no --route matches{}", self.routes.hint(&kind())))),
            Selected::No => (unmatched, Some(self.selection.explain_mismatch(&kind()))),
            Selected::FilterFailed(why) => {
                let disposition = match self.selection.on_filter_error {
                    OnFilterError::Deliver if has_target() => Disposition::Handle,
                    OnFilterError::Deliver => unmatched,
                    OnFilterError::Leave => Disposition::Leave,
                    OnFilterError::Drop => Disposition::Skip,
                };
                self.reporter.report_filter_error(event, disposition, &why);
                (disposition, None)
            }
        };
        if disposition != Disposition::Handle {
            self.reporter.count_unmatched(event, &kind(), disposition, why.as_deref());
        }
        disposition
    }

    /// Skips or leaves an event that is not handled.
    pub(super) async fn settle(&self, delivery: Delivery, disposition: Disposition) {
        if disposition == Disposition::Skip {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_left_at_once_and_with_a_growing_delay_in_turns() {
        let delays: Vec<_> = (1..8).map(|attempt| left_for(attempt).as_millis()).collect();
        assert_eq!(delays, [0, 200, 0, 400, 0, 800, 0]);
        assert_eq!((left_for(0), left_for(u32::MAX - 1)), (FIRST_LEFT_FOR, MAX_LEFT_FOR));
    }

    #[test]
    fn a_long_type_is_shortened() {
        assert_eq!(shortened(Some("x".repeat(1000))).len(), MAX_TYPE_CHARS);
    }
}
