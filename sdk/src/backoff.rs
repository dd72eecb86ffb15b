//! Exponential backoff with full jitter (AWS, "Exponential Backoff And Jitter"): jitter keeps the clients of a
//! restarted server from reconnecting all at once.

use std::time::Duration;

/// Upper bound of the first delay.
const BASE: Duration = Duration::from_millis(250);
/// Upper bound of every delay, without `Retry-After`.
const CAP: Duration = Duration::from_secs(30);
/// A longer `Retry-After` is cut to this.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// The delays between retries: random, with an upper bound that doubles with each retry from 250 ms to 30 s.
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
    retries: u32,
}

impl Backoff {
    /// Returns the next delay. `retry_after` is honoured up to five minutes; the jittered delay is added to it.
    pub fn next(&mut self, retry_after: Option<Duration>) -> Duration {
        let bound = BASE.saturating_mul(2u32.saturating_pow(self.retries)).min(CAP);
        self.retries = self.retries.saturating_add(1);
        retry_after.unwrap_or_default().min(MAX_RETRY_AFTER) + bound.mul_f64(random_fraction())
    }

    /// Resets the backoff after a success.
    pub fn reset(&mut self) {
        self.retries = 0;
    }
}

/// A random number from 0 to 1.
fn random_fraction() -> f64 {
    // Without a random source use the whole delay.
    getrandom::u32().map_or(1.0, |n| f64::from(n) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_cap_and_reset_to_the_base() {
        let mut backoff = Backoff::default();
        for bound in [250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000] {
            assert!(backoff.next(None) <= Duration::from_millis(bound));
        }
        backoff.retries = u32::MAX;
        assert!(backoff.next(None) <= CAP);
        backoff.reset();
        assert!(backoff.next(None) <= BASE);
    }

    #[test]
    fn delays_are_jittered() {
        let delays: std::collections::HashSet<_> =
            (0..20).map(|_| Backoff { retries: 20 }.next(None)).collect();
        assert!(delays.len() > 10, "{delays:?}");
    }

    #[test]
    fn retry_after_is_honoured_up_to_its_limit() {
        let retry_after = Duration::from_secs(7);
        let delay = Backoff::default().next(Some(retry_after));
        assert!(delay >= retry_after && delay <= retry_after + BASE, "{delay:?}");
        assert!(Backoff::default().next(Some(Duration::MAX)) <= MAX_RETRY_AFTER + BASE);
    }
}
