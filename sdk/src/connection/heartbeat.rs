//! When to ping, and when the connection counts as dead.

use std::time::Duration;

use tokio::time::Instant;

/// The longest time without received data after which a ping is sent. The server uses the same.
const MAX_PING_AFTER: Duration = Duration::from_secs(20);
/// The shortest time between pings, whatever idle timeout the server announces.
const MIN_PING_AFTER: Duration = Duration::from_secs(1);
/// How long written frames may take to be flushed. A peer that reads nothing for longer is dead.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// The times that pings and timeouts of a connection are computed from.
#[derive(Debug)]
pub(super) struct Heartbeat {
    opened: Instant,
    received: Instant,
    pinged: Instant,
    idle_timeout: Duration,
    ping_after: Duration,
}

impl Heartbeat {
    /// Starts with a connection that is opened now.
    pub(super) fn new(idle_timeout: Duration) -> Self {
        let now = Instant::now();
        let ping_after = MAX_PING_AFTER.min(idle_timeout / 3);
        Self { opened: now, received: now, pinged: now, idle_timeout, ping_after }
    }

    pub(super) fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    /// Records received data. Also called when reading resumes: while nothing is read, silence means nothing.
    pub(super) fn record_received(&mut self) {
        self.received = Instant::now();
    }

    pub(super) fn record_ping(&mut self) {
        self.pinged = Instant::now();
    }

    /// Pings often enough for the server's idle timeout.
    pub(super) fn apply_server_idle_timeout(&mut self, idle_timeout: Duration) {
        self.ping_after = self.ping_after.min(idle_timeout / 3).max(MIN_PING_AFTER);
    }

    /// The time of the next ping or timeout. `flushing` is when the output that is not flushed yet was written.
    pub(super) fn next_deadline(&self, reading: bool, flushing: Option<Instant>) -> Instant {
        let due = flushing.map_or_else(|| self.ping_due(), |since| since + WRITE_TIMEOUT);
        if reading { due.min(self.idle_deadline()) } else { due }
    }

    /// Whether the idle timeout or the write timeout has passed.
    pub(super) fn is_dead(&self, reading: bool, flushing: Option<Instant>) -> bool {
        let now = Instant::now();
        (reading && now >= self.idle_deadline()) || flushing.is_some_and(|since| now >= since + WRITE_TIMEOUT)
    }

    pub(super) fn is_ping_due(&self) -> bool {
        Instant::now() >= self.ping_due()
    }

    fn idle_deadline(&self) -> Instant {
        self.received + self.idle_timeout
    }

    fn ping_due(&self) -> Instant {
        self.received.max(self.pinged) + self.ping_after
    }
}
