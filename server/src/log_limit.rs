//! Rate limit of log lines, for what may happen very often.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// The period of the limit.
const PERIOD: Duration = Duration::from_secs(60);

/// Limits how often one kind of line is logged, and counts the occurrences that no line reported yet.
#[derive(Debug)]
pub(crate) struct LogLimit {
    /// The most lines in a period.
    max_lines: u32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Occurrences since the last line.
    unreported: u64,
    /// When the period began, and how many lines were logged since.
    period: Option<(Instant, u32)>,
}

impl LogLimit {
    /// At most this many lines a minute.
    pub(crate) const fn per_minute(max_lines: u32) -> Self {
        Self { max_lines, state: Mutex::new(State { unreported: 0, period: None }) }
    }

    /// Counts occurrences. If a line may be logged now, returns how many it reports: these, and the ones that were
    /// suppressed since the last line.
    pub(crate) fn add(&self, occurrences: u64) -> Option<u64> {
        self.state.lock().add(occurrences, self.max_lines, Instant::now())
    }
}

impl State {
    fn add(&mut self, occurrences: u64, max_lines: u32, now: Instant) -> Option<u64> {
        self.unreported += occurrences;
        let (began, lines) = self.period.filter(|(began, _)| now < *began + PERIOD).unwrap_or((now, 0));
        if lines >= max_lines {
            return None;
        }
        self.period = Some((began, lines + 1));
        Some(std::mem::take(&mut self.unreported))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_occurrences_are_logged_at_once_and_suppressed_ones_together_in_the_next_period() {
        let (start, moment) = (Instant::now(), Duration::from_millis(1));
        let mut state = State::default();
        assert_eq!(state.add(1, 2, start), Some(1));
        assert_eq!(state.add(2, 2, start), Some(2));
        assert_eq!(state.add(3, 2, start + moment), None);
        assert_eq!(state.add(4, 2, start + PERIOD - moment), None);
        assert_eq!(state.add(5, 2, start + PERIOD), Some(12));
        assert_eq!(state.add(6, 2, start + PERIOD + moment), Some(6));
        assert_eq!(state.add(7, 2, start + PERIOD + moment), None);
        assert_eq!(state.add(8, 2, start + 2 * PERIOD), Some(15));
    }
}
