//! Rate-limited reports of failed tries on stderr.

use std::time::Instant;

use parking_lot::Mutex;
use wwproxy_sdk::EventId;

use crate::{log_limit::LogLimit, target::TryOutcome};

/// Reports the first failed try and then at most one a minute, with a count of those in between.
#[derive(Default)]
pub(super) struct FailedTries(Mutex<LogLimit>);

impl FailedTries {
    /// The line to report for a failed try, if one is due.
    pub(super) fn line(
        &self,
        id: &EventId,
        tried: &TryOutcome,
        what_next: &str,
        now: Instant,
    ) -> Option<String> {
        let more = match self.0.lock().admit(now)? {
            0 => String::new(),
            count => format!("; {count} more tries failed since the last report"),
        };
        Some(format!("event {id} was not accepted: {}{what_next}{more}", tried.answer))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn failed_tries_are_reported_at_most_once_a_minute() {
        let (failed_tries, start) = (FailedTries::default(), Instant::now());
        let tried = TryOutcome::failed("refused");
        let line = |seconds| {
            failed_tries.line(
                &"7".parse().unwrap(),
                &tried,
                ", again in 1 s",
                start + Duration::from_secs(seconds),
            )
        };
        let first = "event 7 was not accepted: refused, again in 1 s";
        assert_eq!(line(0).as_deref(), Some(first));
        assert_eq!((line(1), line(59)), (None, None));
        assert_eq!(line(60), Some(format!("{first}; 2 more tries failed since the last report")));
        assert_eq!(line(119), None);
        assert_eq!(line(121), Some(format!("{first}; 1 more tries failed since the last report")));
    }
}
