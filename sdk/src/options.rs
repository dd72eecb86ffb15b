//! Options of a lease, and of a subscription or tap.

use std::{fmt, sync::Arc, time::Duration};

use wwproxy_protocol::{
    ConsumerName, EventId, Start,
    api::{LeaseRequest, MAX_WINDOW},
};

use crate::Error;

/// The default of [`ListenOptions::max_message_bytes`]: several times the message of an event with the largest body (8 MiB, which as
/// base64 are 10.7 MiB, and 256 KiB of metadata) of a server with default limits.
const MAX_MESSAGE_BYTES: usize = 64 << 20;
/// The default of [`ListenOptions::idle_timeout`].
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// The minimum of [`ListenOptions::idle_timeout`]: with less, a slow network would look dead.
const MIN_IDLE_TIMEOUT: Duration = Duration::from_secs(3);

/// Options of [`Client::lease`](crate::Client::lease). An option that is not set has the server's default.
///
/// ```
/// use std::time::Duration;
/// use wwproxy_sdk::LeaseOptions;
///
/// let options = LeaseOptions::new().max(10).wait(Duration::from_secs(20));
/// # let _ = options;
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[must_use]
pub struct LeaseOptions {
    pub(crate) max: Option<u32>,
    pub(crate) wait: Duration,
    pub(crate) lease: Option<Duration>,
}

impl LeaseOptions {
    /// The server's defaults: does not wait for events.
    pub fn new() -> Self {
        Self::default()
    }

    /// The maximum number of events.
    pub fn max(mut self, max: u32) -> Self {
        self.max = Some(max);
        self
    }

    /// How long to wait for the first event. The server waits for at most 50 s.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// The lease time, after which unacknowledged events are redelivered.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = Some(lease);
        self
    }

    pub(crate) fn request(&self, consumer: Option<ConsumerName>) -> LeaseRequest {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        LeaseRequest { max: self.max, wait_ms: Some(ms(self.wait)), lease_ms: self.lease.map(ms), consumer }
    }
}

/// Options of [`Client::listen`](crate::Client::listen) and [`Client::tap`](crate::Client::tap).
///
/// ```
/// use wwproxy_sdk::{ListenOptions, State};
///
/// let options = ListenOptions::new().window(1).on_state(|state| match state {
///     State::Connected { .. } => eprintln!("connected"),
///     State::Reconnecting { error, delay, .. } => eprintln!("{error}; next attempt in {delay:?}"),
///     _ => {}
/// });
/// # let _ = options;
/// ```
#[derive(Clone)]
#[must_use]
pub struct ListenOptions {
    pub(crate) window: Option<u32>,
    pub(crate) since: Option<Start>,
    pub(crate) extend_leases: bool,
    pub(crate) idle_timeout: Duration,
    pub(crate) max_message_bytes: usize,
    pub(crate) max_disconnected: Option<Duration>,
    pub(crate) on_state: Arc<dyn Fn(&State) + Send + Sync>,
}

impl ListenOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self {
            window: None,
            since: None,
            extend_leases: false,
            idle_timeout: IDLE_TIMEOUT,
            max_message_bytes: MAX_MESSAGE_BYTES,
            max_disconnected: None,
            on_state: Arc::new(|_| {}),
        }
    }

    /// The prefetch window: the maximum number of events in flight, which are delivered and not yet acknowledged. 64 by
    /// default, 1 to 1024 (clamped). With 1 each event is delivered only after the one before is acknowledged.
    ///
    /// A window of events is read into memory, however large they are. If the server is not trusted, or if memory is scarce, choose
    /// a small window: the most memory is the window times [`max_message_bytes`](Self::max_message_bytes), and about twice that
    /// for [`run`](crate::Client::run).
    pub fn window(mut self, window: u32) -> Self {
        self.window = Some(window.clamp(1, MAX_WINDOW));
        self
    }

    /// Receives the events from this position of the history on, and then new ones, without taking them from other clients: the
    /// subscription is an ephemeral consumer of its own, which the server forgets when the connection ends. Reconnects continue after
    /// the last event before which all are settled, so no event is missing; one that is not settled is delivered again.
    /// [`State::Connected`] says how many events retention has removed. Only for [`Client::listen`](crate::Client::listen): a
    /// [`Consumer`](crate::Consumer) has its position on the server.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    /// use wwproxy_sdk::ListenOptions;
    ///
    /// let last_hour = ListenOptions::new().since(SystemTime::now() - Duration::from_secs(3600));
    /// # let _ = last_hour;
    /// ```
    pub fn since(mut self, start: impl Into<Start>) -> Self {
        self.since = Some(start.into());
        self
    }

    /// Extends the leases of all events in flight until they are settled or dropped, up to 12 h after their delivery. Otherwise an event
    /// whose handling takes longer than the lease (60 s by default on the server) is delivered to another client, or again to this one,
    /// and counts as another attempt. For [`Client::listen`](crate::Client::listen) and [`Consumer::listen`](crate::Consumer::listen); a
    /// server of version 0.1 ignores it.
    pub fn extend_leases(mut self) -> Self {
        self.extend_leases = true;
        self
    }

    /// The idle timeout: a connection on which nothing is received for this time is replaced. 60 s by default, at least 3 s.
    /// A ping is sent after a third of it, or after 20 s.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout.max(MIN_IDLE_TIMEOUT);
        self
    }

    /// The largest message, in bytes: 64 MiB by default. A server's message is at most a third larger than the body that it
    /// accepts (`--max-body`), and 256 KiB. A larger one ends the stream with
    /// [`ErrorKind::Protocol`](crate::ErrorKind::Protocol).
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.max_message_bytes = bytes;
        self
    }

    /// How long to retry without a connection, counted from the start or from the loss of the last connection: forever by default.
    /// After that the stream ends with the last error.
    pub fn max_disconnected(mut self, time: Duration) -> Self {
        self.max_disconnected = Some(time);
        self
    }

    /// A callback for each change of the connection's state. It runs in the task of the connection and must not block.
    pub fn on_state(mut self, callback: impl Fn(&State) + Send + Sync + 'static) -> Self {
        self.on_state = Arc::new(callback);
        self
    }
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for ListenOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListenOptions")
            .field("window", &self.window)
            .field("since", &self.since)
            .field("extend_leases", &self.extend_leases)
            .field("idle_timeout", &self.idle_timeout)
            .field("max_message_bytes", &self.max_message_bytes)
            .field("max_disconnected", &self.max_disconnected)
            .finish_non_exhaustive()
    }
}

/// The state of a stream's connection, as passed to [`ListenOptions::on_state`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum State {
    /// A websocket is open and the server is ready: it has sent its hello, or is a legacy server, which sends none.
    #[non_exhaustive]
    Connected {
        /// Whether the server speaks `wwproxy.v2`. Otherwise it is a legacy server.
        v2: bool,
        /// The number of events after [`ListenOptions::since`] that retention has removed.
        missed: u64,
    },
    /// There is no connection. The next attempt follows after the delay.
    #[non_exhaustive]
    Reconnecting {
        /// Why the connection was lost or not established.
        error: Error,
        /// The delay before the next attempt.
        delay: Duration,
    },
    /// An event cannot be decoded, as its encoding or metadata is of a later version, and is skipped. It stays on the server, which redelivers
    /// it after a minute; the connection stays open.
    #[non_exhaustive]
    Undecodable {
        /// The id of the event.
        id: EventId,
        /// Which event, and why.
        error: Error,
    },
}
