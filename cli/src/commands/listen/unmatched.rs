//! Decides which events are handled, and skips or leaves the others.

use std::time::Duration;

use wwproxy_sdk::{Delivery, EventMessage};

use super::{disposition::Disposition, worker::Worker};
use crate::selection::{OnFilterError, Selected};

/// How much of a type is shown, in characters.
const MAX_TYPE_CHARS: usize = 64;
/// The first redelivery delay of an event that is left and that no other client took at once.
const FIRST_LEAVE_DELAY: Duration = Duration::from_millis(200);
/// The maximum redelivery delay of an event that is left. A high value delays it for other clients; a low one redelivers an event
/// that no client wants too often.
const MAX_LEAVE_DELAY: Duration = Duration::from_secs(5);

impl Worker {
    /// Decides what to do with an event, once the sources are checked. Reports events that are not handled, and errors of the filter.
    ///
    /// # Errors
    /// The filter does not end.
    pub(super) async fn decide(&self, delivery: Delivery) -> anyhow::Result<(Delivery, Disposition)> {
        self.reporter.sources_checked().await;
        let selected = self.selection.select(delivery.event()).await?;
        let disposition = self.disposition(delivery.event(), selected);
        Ok((delivery, disposition))
    }

    fn disposition(&self, event: &EventMessage, selected: Selected) -> Disposition {
        let unmatched = if self.leave_unmatched { Disposition::Leave } else { Disposition::Skip };
        let has_target = || self.routes.is_empty() || self.routes.target(event).is_some();
        let kind = || shortened(event.event_type());
        let (disposition, why) = match selected {
            Selected::Yes if has_target() => return Disposition::Handle,
            Selected::Yes => (unmatched, Some(format!("no --route matches{}", self.routes.hint(&kind())))),
            Selected::No | Selected::OtherSource => {
                let why = self.selection.explain_mismatch(event.source().as_str(), &kind());
                // Events of other sources are for other clients.
                let leaves = selected == Selected::OtherSource && self.is_shared;
                (if leaves { Disposition::Leave } else { unmatched }, Some(why))
            }
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

    /// Whether events that do not match may stay on the server.
    pub(super) fn may_leave(&self) -> bool {
        self.leave_unmatched || self.is_shared && !self.selection.is_any_source()
    }

    /// Skips or leaves an event that is not handled.
    pub(super) async fn settle(&self, delivery: Delivery, disposition: Disposition) {
        if disposition == Disposition::Skip {
            return self.ack(&delivery).await;
        }
        // If the connection is lost, the server has released the event already.
        let _ = delivery.nack(leave_delay(delivery.attempt().unwrap_or(1))).await;
    }
}

/// The redelivery delay of an event that is left, by its attempt.
///
/// Every other delay is zero: the server then delivers the event to the client that has waited longest. After a delay any client may
/// get it, and that could be this one each time. The other delays double, so that an event that no client wants costs little.
fn leave_delay(attempt: u32) -> Duration {
    if attempt % 2 == 1 {
        return Duration::ZERO;
    }
    let doublings = (attempt / 2).saturating_sub(1).min(16);
    (FIRST_LEAVE_DELAY * 2u32.pow(doublings)).min(MAX_LEAVE_DELAY)
}

fn shortened(kind: Option<String>) -> String {
    kind.map_or_else(|| "(no type)".into(), |kind| kind.chars().take(MAX_TYPE_CHARS).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leave_delay_alternates_between_zero_and_a_doubling_delay() {
        let delays: Vec<_> = (1..8).map(|attempt| leave_delay(attempt).as_millis()).collect();
        assert_eq!(delays, [0, 200, 0, 400, 0, 800, 0]);
        assert_eq!((leave_delay(0), leave_delay(u32::MAX - 1)), (FIRST_LEAVE_DELAY, MAX_LEAVE_DELAY));
    }

    #[test]
    fn a_long_type_is_shortened() {
        assert_eq!(shortened(Some("x".repeat(1000))).len(), MAX_TYPE_CHARS);
    }
}
