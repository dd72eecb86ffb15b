//! When to ping and when to give up.

use std::time::Duration;

use tokio::time::Instant;

/// A connection that was not heard for this long is pinged; the server does the same.
const PING_AFTER: Duration = Duration::from_secs(20);
/// The shortest time between pings, whatever the server says of its patience.
const MIN_PING_AFTER: Duration = Duration::from_secs(1);
/// How long written frames may take to leave. A peer that does not read for longer is dead.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// When a connection was heard, and what follows from that.
#[derive(Debug)]
pub(super) struct Clock {
    pub(super) opened: Instant,
    heard: Instant,
    pinged: Instant,
    idle_timeout: Duration,
    ping_after: Duration,
}

impl Clock {
    /// A connection that was opened now.
    pub(super) fn new(idle_timeout: Duration) -> Self {
        let now = Instant::now();
        let ping_after = PING_AFTER.min(idle_timeout / 3);
        Self { opened: now, heard: now, pinged: now, idle_timeout, ping_after }
    }

    /// The other side was heard now.
    pub(super) fn heard(&mut self) {
        self.heard = Instant::now();
    }

    /// A ping is sent now.
    pub(super) fn pinged(&mut self) {
        self.pinged = Instant::now();
    }

    /// The server bears silence for so long.
    pub(super) fn hurry(&mut self, idle: Duration) {
        self.ping_after = self.ping_after.min(idle / 3).max(MIN_PING_AFTER);
    }

    /// When something is due next.
    pub(super) fn next(&self, reading: bool, flushing: Option<Instant>) -> Instant {
        let due = flushing.map_or_else(|| self.pings(), |since| since + WRITE_TIMEOUT);
        if reading { due.min(self.gives_up()) } else { due }
    }

    /// Whether nothing came for too long while it could, or nothing leaves.
    pub(super) fn is_over(&self, reading: bool, flushing: Option<Instant>) -> bool {
        let now = Instant::now();
        (reading && now >= self.gives_up()) || flushing.is_some_and(|since| now >= since + WRITE_TIMEOUT)
    }

    /// Whether a ping is due.
    pub(super) fn is_ping_due(&self) -> bool {
        Instant::now() >= self.pings()
    }

    fn gives_up(&self) -> Instant {
        self.heard + self.idle_timeout
    }

    fn pings(&self) -> Instant {
        self.heard.max(self.pinged) + self.ping_after
    }
}
