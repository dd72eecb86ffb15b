//! Retries of one event, with exponential backoff.

use std::time::Duration;

use tokio::{select, time::sleep};
use wwproxy_sdk::{Backoff, EventMessage};

use super::{outcome::TryOutcome, routes::Target};
use crate::{duration::parse_duration, shutdown::Shutdown};

/// The longest `Retry-After` that is waited for while the event is leased; for a longer one it is returned to the server.
const MAX_HOLD: Duration = Duration::from_secs(1);

/// The longest time for a connection to a target.
const MAX_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How often an event is tried, and the timeout of a try.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Policy {
    /// Give up on an event after this number of tries; 0 for never. `listen` counts only tries that reached the target
    #[arg(long, value_name = "N", default_value_t = 10, help_heading = "Targets")]
    max_attempts: u32,
    /// The timeout of one try
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration, help_heading = "Targets")]
    timeout: Duration,
}

/// The origin of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The server, which keeps it: an unreachable target is retried without limit.
    Server,
    /// A file: a try that did not reach the target counts like any other.
    File,
}

/// An event to offer.
pub(crate) struct Offer<'a> {
    pub(crate) event: &'a EventMessage,
    pub(crate) origin: Origin,
    /// How often it was tried before it was returned to the server.
    pub(crate) earlier_tries: u32,
}

/// The outcome of an offer.
pub(crate) enum OfferOutcome {
    /// The target accepted it.
    Accepted { last: TryOutcome, tries: u32 },
    /// The target did not accept it within the maximum number of tries.
    GivenUp { last: TryOutcome, tries: u32 },
    /// The target asked for a longer delay than [`MAX_HOLD`].
    Throttled { last: TryOutcome, tries: u32, delay: Duration },
    /// A signal stopped it.
    Stopped,
}

impl Policy {
    /// The connect timeout: shorter than the timeout of the attempt, so that an unreachable target is distinguished from a slow one.
    pub(crate) fn connect_timeout(self) -> Duration {
        MAX_CONNECT_TIMEOUT.min(self.timeout * 9 / 10)
    }

    /// Offers an event until it is accepted, given up or throttled, or a signal arrives. `failed` is called with each failed try
    /// that is followed by another one, and the delay until then: exponential backoff, and at least the target's `Retry-After` (up
    /// to 5 min).
    ///
    /// The attempt that the target gets is the attempt of the server, plus the tries here that reached the target.
    pub(crate) async fn offer(
        self,
        target: &Target,
        offer: Offer<'_>,
        shutdown: &Shutdown,
        mut failed: impl AsyncFnMut(&TryOutcome, Duration),
    ) -> OfferOutcome {
        let Offer { event, origin, earlier_tries: mut tries } = offer;
        let mut attempt = event.details.attempt.unwrap_or(1).max(1);
        let mut backoff = Backoff::default();
        loop {
            let last = select! {
                last = target.try_once(event, attempt, self.timeout) => last,
                () = shutdown.grace_expired() => return OfferOutcome::Stopped,
            };
            attempt = attempt.saturating_add(last.deliveries);
            tries += u32::from(last.deliveries > 0 || origin == Origin::File);
            if last.accepted {
                return OfferOutcome::Accepted { last, tries };
            }
            if self.max_attempts > 0 && tries >= self.max_attempts {
                return OfferOutcome::GivenUp { last, tries };
            }
            let delay = backoff.next(last.retry_after);
            if last.retry_after.is_some() && delay > MAX_HOLD && can_be_returned(event, origin) {
                return OfferOutcome::Throttled { last, tries, delay };
            }
            failed(&last, delay).await;
            select! {
                () = sleep(delay) => {}
                () = shutdown.requested() => return OfferOutcome::Stopped,
            }
        }
    }
}

/// A legacy server sends no attempts and accepts no redelivery delay.
fn can_be_returned(event: &EventMessage, origin: Origin) -> bool {
    origin == Origin::Server && event.details.attempt.is_some()
}
