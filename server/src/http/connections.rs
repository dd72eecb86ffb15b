//! All open connections: how many there may be, how long each may be without a request, and which one is evicted
//! when all places are taken.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};

use crate::log_limit::LogLimit;

/// How long a request's head may take, from its first byte on.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may be open without the first byte of a request.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// For how long an unfinished head is not evicted: most come in one piece, right after the connection.
const HEAD_SHELTER: Duration = Duration::from_millis(250);
/// For how long a connection that was answered is not evicted while it waits for its next request.
const IDLE_SHELTER: Duration = Duration::from_secs(5);
/// How long an evicted connection has to end before the next one is evicted.
const EVICTION_PAUSE: Duration = Duration::from_millis(50);
/// How often evictions are logged in a minute.
const LOGGED_EVICTIONS: u32 = 1;

#[derive(Debug)]
pub(super) struct Connections {
    places: Arc<Semaphore>,
    /// Connections that wait for a request, by the time from which each may be evicted, and by number.
    waiting: Mutex<BTreeMap<(Instant, u64), Arc<Connection>>>,
    next_number: AtomicU64,
    evictions: LogLimit,
}

/// The state of one connection, and its place.
#[derive(Debug)]
pub(super) struct Connection {
    connections: Arc<Connections>,
    number: u64,
    state: Mutex<State>,
    evicted: Notify,
    /// Taken for as long as the connection is open, websocket or not.
    _place: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// The connection's time in [`Connections::waiting`].
    listed: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing has come yet.
    New { since: Instant },
    /// Some of a request's head has come.
    Head { since: Instant },
    /// A request is being served, or the connection was upgraded.
    Serving,
    /// The HTTP server has the whole answer and has not sent all of it.
    Answered,
    /// Waits for another request.
    Idle { since: Instant },
    /// Was evicted, or closed otherwise.
    Closed,
}

impl Phase {
    /// When the connection is closed, and from when on it may be evicted, if it waits for a request.
    fn limits(self) -> Option<(Instant, Instant)> {
        match self {
            Self::New { since } => Some((since + IDLE_TIMEOUT, since + HEAD_SHELTER)),
            Self::Head { since } => Some((since + HEAD_TIMEOUT, since + HEAD_SHELTER)),
            Self::Idle { since } => Some((since + IDLE_TIMEOUT, since + IDLE_SHELTER)),
            Self::Serving | Self::Answered | Self::Closed => None,
        }
    }
}

impl Connections {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            places: Arc::new(Semaphore::new(max)),
            waiting: Mutex::default(),
            next_number: AtomicU64::new(0),
            evictions: LogLimit::per_minute(LOGGED_EVICTIONS),
        })
    }

    /// Waits for a place for one more connection. While all are taken, the connection is evicted that has waited
    /// longest for a request.
    pub(super) async fn admit(self: &Arc<Self>) -> Arc<Connection> {
        let place = loop {
            let free = Arc::clone(&self.places).acquire_owned();
            if self.places.available_permits() == 0 {
                self.evict_oldest();
            }
            if let Ok(place) = timeout(EVICTION_PAUSE, free).await {
                break place.expect("the semaphore is never closed");
            }
        };
        Arc::new(Connection {
            connections: Arc::clone(self),
            number: self.next_number.fetch_add(1, Ordering::Relaxed),
            state: Mutex::new(State { phase: Phase::New { since: Instant::now() }, listed: None }),
            evicted: Notify::new(),
            _place: place,
        })
    }

    fn evict_oldest(&self) {
        let now = Instant::now();
        loop {
            // Not locked together with the connection, which locks the other way round.
            let oldest = match self.waiting.lock().first_entry() {
                Some(first) if first.key().0 <= now => first.remove(),
                _ => return,
            };
            if oldest.evict() {
                if let Some(evicted) = self.evictions.add(1) {
                    tracing::warn!(
                        evicted,
                        "all connections are taken: evicted the oldest without a complete request"
                    );
                }
                return;
            }
        }
    }
}

impl Connection {
    /// Notes that bytes have come.
    pub(super) fn received(&self) {
        let mut state = self.state.lock();
        if matches!(state.phase, Phase::New { .. } | Phase::Idle { .. }) {
            self.enter(&mut state, Phase::Head { since: Instant::now() });
        }
    }

    /// Notes that no bytes have come. Returns when the connection is closed unless more come.
    pub(super) fn deadline(self: &Arc<Self>) -> Option<Instant> {
        let mut state = self.state.lock();
        let (deadline, evictable) = state.phase.limits()?;
        if state.listed.is_none() {
            state.listed = Some(evictable);
            self.connections.waiting.lock().insert((evictable, self.number), Arc::clone(self));
        }
        Some(deadline)
    }

    /// Notes that a complete head has come.
    pub(super) fn serve(self: &Arc<Self>) -> Serving {
        self.enter(&mut self.state.lock(), Phase::Serving);
        Serving(Some(Arc::clone(self)))
    }

    /// Notes that all output was sent.
    pub(super) fn flushed(&self) {
        let mut state = self.state.lock();
        if state.phase == Phase::Answered {
            self.enter(&mut state, Phase::Idle { since: Instant::now() });
        }
    }

    /// Waits until the connection is evicted.
    pub(super) async fn evicted(&self) {
        // A request that came at the last moment is served.
        while self.state.lock().phase != Phase::Closed {
            self.evicted.notified().await;
        }
    }

    /// Notes that the connection is closed.
    pub(super) fn closed(&self) {
        self.enter(&mut self.state.lock(), Phase::Closed);
    }

    fn enter(&self, state: &mut State, phase: Phase) {
        state.phase = phase;
        if let Some(listed) = state.listed.take() {
            self.connections.waiting.lock().remove(&(listed, self.number));
        }
    }

    /// Evicts the connection, unless it has a request by now.
    fn evict(&self) -> bool {
        let mut state = self.state.lock();
        let waits = state.phase.limits().is_some();
        if waits {
            self.enter(&mut state, Phase::Closed);
            self.evicted.notify_one();
        }
        waits
    }
}

/// A request that is being served, until this is dropped.
#[derive(Debug)]
pub(super) struct Serving(Option<Arc<Connection>>);

impl Serving {
    /// The connection is no longer one of HTTP.
    pub(super) fn upgraded(mut self) {
        self.0 = None;
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if let Some(connection) = &self.0 {
            connection.enter(&mut connection.state.lock(), Phase::Answered);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn unfinished_heads_are_evicted_before_idle_connections_and_requests_never() {
        let connections = Connections::new(3);
        let (served, idle, half) =
            (connections.admit().await, connections.admit().await, connections.admit().await);
        let start = Instant::now();
        let mut servings = vec![served.serve()];
        drop(idle.serve());
        assert_eq!(idle.deadline(), None, "its answer is not sent");
        idle.flushed();
        assert_eq!(idle.deadline(), Some(start + IDLE_TIMEOUT));
        assert_eq!(half.deadline(), Some(start + IDLE_TIMEOUT));
        half.received();
        assert_eq!(half.deadline(), Some(start + HEAD_TIMEOUT));
        for (next, shelter) in [(half, HEAD_SHELTER), (idle, IDLE_SHELTER)] {
            let admitted = tokio::spawn({
                let connections = Arc::clone(&connections);
                async move { connections.admit().await }
            });
            next.evicted().await;
            let waited = start.elapsed();
            assert!((shelter..shelter + 2 * EVICTION_PAUSE).contains(&waited), "{waited:?}");
            drop(next);
            servings.push(admitted.await.unwrap().serve());
        }
        timeout(IDLE_TIMEOUT, connections.admit()).await.expect_err("requests are being served");
        assert!(connections.waiting.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_comes_at_the_last_moment_is_served() {
        let connections = Connections::new(1);
        let connection = connections.admit().await;
        connection.deadline();
        tokio::time::advance(HEAD_SHELTER).await;
        connections.evict_oldest();
        let _serving = connection.serve();
        timeout(IDLE_TIMEOUT, connection.evicted()).await.expect_err("it has a request");
    }
}
