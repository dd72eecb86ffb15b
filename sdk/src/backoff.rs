//! How long to wait before the next try: full jitter, so that many clients of one restarted server
//! do not come back all at once (AWS, "Exponential Backoff And Jitter").

use std::time::Duration;

/// The longest first delay.
const BASE: Duration = Duration::from_millis(250);
/// The longest delay of all.
const CAP: Duration = Duration::from_secs(30);
/// The longest that a server's `Retry-After` is obeyed.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// The delays between tries: random, and longer each time, up to 30 s.
///
/// ```
/// use std::time::Duration;
/// use wwproxy_sdk::Backoff;
///
/// let mut backoff = Backoff::default();
/// assert!(backoff.next(None) <= Duration::from_millis(250));
/// assert!(backoff.next(Some(Duration::from_secs(7))) >= Duration::from_secs(7));
/// ```
#[derive(Debug, Default)]
pub struct Backoff {
    tries: u32,
}

impl Backoff {
    /// The next delay, at least what the other side asked for, though of that five minutes at most.
    pub fn next(&mut self, retry_after: Option<Duration>) -> Duration {
        let longest = BASE.saturating_mul(2u32.saturating_pow(self.tries)).min(CAP);
        self.tries = self.tries.saturating_add(1);
        retry_after.unwrap_or_default().min(MAX_RETRY_AFTER) + longest.mul_f64(random_share())
    }

    /// After a success: the next delay is a first one again.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

/// A random number from 0 to 1.
fn random_share() -> f64 {
    // Without randomness the longest delay is the safe one.
    getrandom::u32().map_or(1.0, |n| f64::from(n) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_cap_and_start_again() {
        let mut backoff = Backoff::default();
        for longest in [250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000] {
            assert!(backoff.next(None) <= Duration::from_millis(longest));
        }
        backoff.tries = u32::MAX;
        assert!(backoff.next(None) <= CAP);
        backoff.reset();
        assert!(backoff.next(None) <= BASE);
    }

    #[test]
    fn delays_differ() {
        let delays: std::collections::HashSet<_> =
            (0..20).map(|_| Backoff { tries: 20 }.next(None)).collect();
        assert!(delays.len() > 10, "{delays:?}");
    }

    #[test]
    fn the_server_is_obeyed_within_reason() {
        let asked = Duration::from_secs(7);
        let delay = Backoff::default().next(Some(asked));
        assert!(delay >= asked && delay <= asked + BASE, "{delay:?}");
        assert!(Backoff::default().next(Some(Duration::MAX)) <= MAX_RETRY_AFTER + BASE);
    }
}
