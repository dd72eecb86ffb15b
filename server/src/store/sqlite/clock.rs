//! The wall clock, checked against the monotonic clock: events and consumers are removed by their age, and every age is wrong after
//! the wall clock jumped forward.

use std::time::{Duration, Instant};

/// A wall clock that gains more than this on the monotonic clock has jumped.
const MAX_JUMP: Duration = Duration::from_secs(5 * 60);
/// A jump is confirmed when the wall clock has been consistent for this time after it.
const CONFIRMED_AFTER: Duration = Duration::from_secs(10 * 60);

/// A server that was stopped for less than this trusts its clock at its start.
const MIN_STOPPED: Duration = Duration::from_secs(3600);

/// Both clocks at one moment.
#[derive(Debug, Clone, Copy)]
struct Moment {
    /// Microseconds since 1970.
    wall: i64,
    monotonic: Instant,
}

/// Decides whether ages by the wall clock can be trusted.
#[derive(Debug)]
pub(super) struct Clock {
    trusted: Moment,
    /// The moment after a jump that is not confirmed.
    jumped: Option<Moment>,
}

impl Moment {
    /// How much the wall clock gained on the monotonic clock since an earlier moment, in microseconds.
    fn gained_since(self, earlier: Self) -> i64 {
        let passed = self.monotonic.saturating_duration_since(earlier.monotonic);
        self.wall.saturating_sub(earlier.wall).saturating_sub(micros(passed))
    }
}

impl Clock {
    /// `newest` is the time of the newest event, if there is one. If even that event is too old now, the clock may be wrong: it must
    /// be confirmed as after a jump.
    pub(super) fn new(wall: i64, monotonic: Instant, newest: Option<i64>, retention: Duration) -> Self {
        let all_are_old = |newest: &i64| wall.saturating_sub(*newest) > micros(retention.max(MIN_STOPPED));
        let wall = newest.filter(all_are_old).unwrap_or(wall);
        Self { trusted: Moment { wall, monotonic }, jumped: None }
    }

    /// Observes both clocks. Returns whether ages can be trusted. They can after a backward jump, which makes events younger.
    pub(super) fn observe(&mut self, wall: i64, monotonic: Instant) -> bool {
        let now = Moment { wall, monotonic };
        if now.gained_since(self.trusted) <= micros(MAX_JUMP) {
            (self.trusted, self.jumped) = (now, None);
            return true;
        }
        match self.jumped {
            // Another jump, in either direction, begins the wait again.
            Some(jumped) if now.gained_since(jumped).abs() > micros(MAX_JUMP) => self.jumped = Some(now),
            Some(jumped) if monotonic.saturating_duration_since(jumped.monotonic) >= CONFIRMED_AFTER => {
                tracing::info!("the new time of the system clock is confirmed");
                (self.trusted, self.jumped) = (now, None);
                return true;
            }
            Some(_) => {}
            None => {
                tracing::warn!(
                    "the system clock jumped forward, or the newest event is older than the retention: no event or consumer is removed by its age until the clock has been \
                     consistent for {} minutes",
                    CONFIRMED_AFTER.as_secs() / 60
                );
                self.jumped = Some(now);
            }
        }
        false
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000_000;

    /// Observes a clock at each of these minutes by the monotonic and by the wall clock.
    fn observe(moments: &[(u64, i64)]) -> Vec<bool> {
        let start = Instant::now();
        let mut clock = Clock::new(0, start, None, Duration::ZERO);
        let at = |minutes| start + Duration::from_secs(60 * minutes);
        moments.iter().map(|(monotonic, wall)| clock.observe(wall * MINUTE, at(*monotonic))).collect()
    }

    #[test]
    fn a_steady_or_slow_clock_is_trusted() {
        assert_eq!(observe(&[(1, 1), (60, 62), (61, 63), (10_000, 10_006)]), [true; 4]);
    }

    #[test]
    fn a_forward_jump_is_trusted_after_ten_consistent_minutes() {
        assert_eq!(
            observe(&[(1, 1), (2, 1000), (3, 1001), (11, 1009), (12, 1010), (13, 1011)]),
            [true, false, false, false, true, true]
        );
    }

    #[test]
    fn a_start_at_which_every_event_is_too_old_is_like_a_jump() {
        let (start, day) = (Instant::now(), Duration::from_secs(24 * 3600));
        let trusts = |newest, retention| {
            Clock::new(100 * MINUTE, start, newest, retention).observe(100 * MINUTE, start)
        };
        assert!(trusts(None, day) && trusts(Some(0), day));
        assert!(trusts(Some(50 * MINUTE), Duration::ZERO), "it was stopped for less than an hour");
        assert!(!trusts(Some(0), Duration::ZERO));
        let mut clock = Clock::new(100 * MINUTE, start, Some(0), Duration::ZERO);
        assert!(!clock.observe(100 * MINUTE, start));
        assert!(clock.observe(110 * MINUTE, start + CONFIRMED_AFTER));
    }

    #[test]
    fn another_jump_begins_the_wait_again_and_the_former_time_ends_it() {
        assert_eq!(
            observe(&[(1, 1000), (9, 2000), (11, 2002), (18, 2009), (19, 2010)]),
            [false, false, false, false, true]
        );
        assert_eq!(observe(&[(1, 1000), (2, 2), (3, 3)]), [false, true, true]);
    }

    #[test]
    fn a_backward_jump_is_trusted_and_its_correction_is_a_forward_jump() {
        assert_eq!(observe(&[(1, 1), (2, -1000), (3, -999), (4, 4)]), [true, true, true, false]);
    }
}
