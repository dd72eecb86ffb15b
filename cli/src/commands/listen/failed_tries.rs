//! Rate-limited reports on stderr: failed tries, and events that were given up.

use std::{collections::HashSet, time::Instant};

use parking_lot::Mutex;
use wwproxy_sdk::EventId;

use crate::{log_limit::LogLimit, target::TryOutcome};

/// The most different reasons of events that were given up that are reported without a rate limit.
const MAX_REASONS: usize = 16;

/// Reports the first failed try and then at most one a minute, with a count of those in between. Events that were given up are
/// reported in the same way, and also each new reason: a failed try must not hide that events are dropped.
#[derive(Default)]
pub(super) struct FailedTries(Mutex<Limits>);

#[derive(Default)]
struct Limits {
    tries: LogLimit,
    given_up: LogLimit,
    reasons: HashSet<String>,
}

impl FailedTries {
    /// The line to report for a failed try, if one is due.
    pub(super) fn line(
        &self,
        id: &EventId,
        tried: &TryOutcome,
        what_next: &str,
        now: Instant,
    ) -> Option<String> {
        let more = match self.0.lock().tries.admit(now)? {
            0 => String::new(),
            count => format!("; {count} more tries failed since the last report"),
        };
        Some(format!("event {id} was not accepted: {}{what_next}{more}", tried.answer))
    }

    /// The line to report for an event that was given up, if one is due. `outcome`: kept, dropped or saved.
    pub(super) fn given_up_line(
        &self,
        id: &EventId,
        last: &TryOutcome,
        outcome: &str,
        now: Instant,
    ) -> Option<String> {
        let Limits { given_up, reasons, .. } = &mut *self.0.lock();
        let is_new = reasons.len() < MAX_REASONS && reasons.insert(last.answer.clone());
        let more = match if is_new { given_up.report_now(now) } else { given_up.admit(now)? } {
            0 => String::new(),
            1 => format!("; 1 more event was {outcome} since the last report"),
            count => format!("; {count} more events were {outcome} since the last report"),
        };
        Some(format!("event {id} was not accepted: {}, {outcome}{more}", last.answer))
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

    #[test]
    fn the_first_event_that_is_given_up_and_each_new_reason_are_reported() {
        let (failed_tries, start) = (FailedTries::default(), Instant::now());
        let line = |reason: &str, seconds| {
            let (id, tried) = ("7".parse().unwrap(), TryOutcome::failed(reason));
            failed_tries.given_up_line(&id, &tried, "dropped", start + Duration::from_secs(seconds))
        };
        let tried =
            failed_tries.line(&"7".parse().unwrap(), &TryOutcome::failed("500"), ", again in 1 s", start);
        assert!(tried.is_some());
        let said = "event 7 was not accepted: 500, dropped";
        assert_eq!(line("500", 0).as_deref(), Some(said));
        assert_eq!((line("500", 1), line("500", 2)), (None, None));
        let other =
            "event 7 was not accepted: 400, dropped; 2 more events were dropped since the last report";
        assert_eq!(line("400", 3).as_deref(), Some(other));
        assert_eq!(line("500", 62), None);
        let more = "; 1 more event was dropped since the last report";
        assert_eq!(line("500", 63), Some(format!("{said}{more}")));
        let reported = (0..100).filter(|n| line(&n.to_string(), 64).is_some()).count();
        assert_eq!(reported, MAX_REASONS - 2, "the number of reasons is bounded");
    }
}
