//! One event offered until its target takes it.

use std::time::Duration;

use tokio::{select, time::sleep};
use wwproxy_sdk::{Backoff, EventMessage};

use super::{outcome::TryOutcome, routes::Target};
use crate::shutdown::Shutdown;

/// A throttled event of the server is held for so long at most; for a longer wait it is handed back.
const MAX_HOLD: Duration = Duration::from_secs(10);

/// How often a target is tried, and how long each time.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Policy {
    /// Give up on an event after so many tries; 0 for never. `listen` counts only those that reached the target
    #[arg(long, value_name = "N", default_value_t = 10, help_heading = "Targets")]
    max_attempts: u32,
    /// How long one try may take
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration, help_heading = "Targets")]
    timeout: Duration,
}

/// Where an event is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The server, which keeps it: a target that cannot be reached is waited for.
    Server,
    /// A file: it is given up like any other failure when the target cannot be reached.
    File,
}

/// An event to offer.
pub(crate) struct Offer<'a> {
    pub(crate) event: &'a EventMessage,
    pub(crate) origin: Origin,
    /// How often it was tried before it was handed back to the server.
    pub(crate) earlier_tries: u32,
}

/// The outcome of an offer.
pub(crate) enum OfferOutcome {
    /// The target took it, at this try.
    Accepted { last: TryOutcome, tries: u32 },
    /// The target did not take it in as many tries as it has.
    GivenUp { last: TryOutcome, tries: u32 },
    /// The target asks for a longer delay than an event is held here.
    Throttled { last: TryOutcome, tries: u32, delay: Duration },
    /// It was time to stop.
    Stopped,
}

impl Policy {
    /// Offers an event until it is accepted, given up, throttled, or time to stop. `failed` gets each try that another one
    /// follows, and the delay until then: exponential backoff, and at least the target's `Retry-After` (up to 5 min).
    ///
    /// The target learns how often it may have seen the event: as often as the server handed it out, and once more for
    /// each try here that reached it.
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
            if last.retry_after.is_some() && delay > MAX_HOLD && can_be_handed_back(event, origin) {
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

/// A legacy server, which does not count attempts, cannot be told a delay.
fn can_be_handed_back(event: &EventMessage, origin: Origin) -> bool {
    origin == Origin::Server && event.details.attempt.is_some()
}
