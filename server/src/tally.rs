//! Counts what may happen very often, so that telling of it does not fill the log.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// How long a period is in which only so much is told.
const PERIOD: Duration = Duration::from_secs(60);

/// How often one thing happened.
#[derive(Debug)]
pub(crate) struct Tally {
    /// How often it is told in a period.
    most: u32,
    untold: Mutex<Untold>,
}

#[derive(Debug, Default)]
struct Untold {
    count: u64,
    /// When the period began, and how often it was told since.
    period: Option<(Instant, u32)>,
}

impl Tally {
    /// Of something that is told so often in a minute.
    pub(crate) const fn new(most: u32) -> Self {
        Self { most, untold: Mutex::new(Untold { count: 0, period: None }) }
    }

    /// Counts these. Says how many there are that were not told of, when it is time to tell.
    pub(crate) fn add(&self, count: u64) -> Option<u64> {
        let mut untold = self.untold.lock().unwrap_or_else(PoisonError::into_inner);
        untold.add(count, self.most, Instant::now())
    }
}

impl Untold {
    fn add(&mut self, count: u64, most: u32, now: Instant) -> Option<u64> {
        self.count += count;
        let (began, told) = self.period.filter(|(began, _)| now < *began + PERIOD).unwrap_or((now, 0));
        if told >= most {
            return None;
        }
        self.period = Some((began, told + 1));
        Some(std::mem::take(&mut self.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_are_told_at_once_and_the_rest_together_after_a_minute() {
        let (start, moment) = (Instant::now(), Duration::from_millis(1));
        let mut untold = Untold::default();
        assert_eq!(untold.add(1, 2, start), Some(1));
        assert_eq!(untold.add(2, 2, start), Some(2));
        assert_eq!(untold.add(3, 2, start + moment), None);
        assert_eq!(untold.add(4, 2, start + PERIOD - moment), None);
        assert_eq!(untold.add(5, 2, start + PERIOD), Some(12));
        assert_eq!(untold.add(6, 2, start + PERIOD + moment), Some(6));
        assert_eq!(untold.add(7, 2, start + PERIOD + moment), None);
        assert_eq!(untold.add(8, 2, start + 2 * PERIOD), Some(15));
    }
}
