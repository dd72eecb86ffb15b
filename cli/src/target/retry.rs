//! One event offered until its target takes it.

use std::time::Duration;

use tokio::{select, time::sleep};
use wwproxy_sdk::{Backoff, EventMessage};

use super::{Target, Try};
use crate::stop::Stop;

/// How often a target is tried, and how long each time.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Policy {
    /// Give up on an event after so many tries; 0 for never
    #[arg(long, value_name = "N", default_value_t = 10, help_heading = "Targets")]
    max_attempts: u32,
    /// How long one try may take
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration, help_heading = "Targets")]
    timeout: Duration,
}

/// What became of an event.
pub(crate) enum Offered {
    /// The target took it, at this try.
    Accepted { last: Try, tries: u32 },
    /// The target did not take it in as many tries as it has.
    GivenUp { last: Try, tries: u32 },
    /// It was time to stop.
    Stopped,
}

impl Policy {
    /// Offers an event until it is taken, given up, or time to stop. `failed` is told of each try that another one
    /// follows, and of the delay until then.
    ///
    /// The target learns how often it may have seen the event: as often as the server handed it out, and once more for
    /// each try here.
    pub(crate) async fn offer(
        self,
        target: &Target,
        event: &EventMessage,
        stop: &Stop,
        mut failed: impl AsyncFnMut(&Try, Duration),
    ) -> Offered {
        let handed_out = event.details.attempt.unwrap_or(1).max(1);
        let mut backoff = Backoff::default();
        let mut tries = 0;
        loop {
            let attempt = handed_out.saturating_add(tries);
            tries += 1;
            let last = select! {
                last = target.try_once(event, attempt, self.timeout) => last,
                () = stop.wait_out() => return Offered::Stopped,
            };
            if last.accepted {
                return Offered::Accepted { last, tries };
            }
            if tries == self.max_attempts {
                return Offered::GivenUp { last, tries };
            }
            let delay = backoff.next(last.retry_after);
            failed(&last, delay).await;
            select! {
                () = sleep(delay) => {}
                () = stop.wait() => return Offered::Stopped,
            }
        }
    }
}
