//! All open connections: how many there may be, how long each may be without a request, and which one is evicted
//! when all places are taken.
//!
//! A connection can be evicted unless its current request is authorised: it has brought a valid token or signature.
//! Requests without one never renew a connection's age, so they cannot hold a place.

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
/// The age from which a connection is evicted: most webhooks come in one piece, right after the connection, and are
/// verified well before.
const MIN_AGE: Duration = Duration::from_millis(500);
/// How long an evicted connection has to end before the next one is evicted.
const EVICTION_PAUSE: Duration = Duration::from_millis(50);
/// How often evictions are logged in a minute.
const LOGGED_EVICTIONS: u32 = 1;

#[derive(Debug)]
pub(super) struct Connections {
    places: Arc<Semaphore>,
    /// The connections that can be evicted, the next one first.
    evictable: Mutex<BTreeMap<Rank, Arc<Connection>>>,
    next_number: AtomicU64,
    evictions: LogLimit,
}

/// The order of eviction: connections that never had an authorised request come first, then the oldest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    was_authorised: bool,
    /// When the connection was accepted; once it has had an authorised request, when it became idle or began its
    /// current request.
    since: Instant,
    number: u64,
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
    /// The connection's key in [`Connections::evictable`]; `None` while its request is authorised, and once it is closed.
    rank: Option<Rank>,
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
    /// Was evicted, or closed otherwise. This is final.
    Closed,
}

/// The connection was evicted before its request was authorised.
#[derive(Debug)]
pub(super) struct Evicted;

impl Connections {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            places: Arc::new(Semaphore::new(max)),
            evictable: Mutex::default(),
            next_number: AtomicU64::new(0),
            evictions: LogLimit::per_minute(LOGGED_EVICTIONS),
        })
    }

    /// Waits for a place for one more connection. While all are taken, connections are evicted.
    pub(super) async fn admit(self: &Arc<Self>) -> Arc<Connection> {
        let place = loop {
            let free = Arc::clone(&self.places).acquire_owned();
            if self.places.available_permits() == 0 {
                self.evict_next();
            }
            if let Ok(place) = timeout(EVICTION_PAUSE, free).await {
                break place.expect("the semaphore is never closed");
            }
        };
        let connection = Arc::new(Connection {
            connections: Arc::clone(self),
            number: self.next_number.fetch_add(1, Ordering::Relaxed),
            state: Mutex::new(State { phase: Phase::New { since: Instant::now() }, rank: None }),
            evicted: Notify::new(),
            _place: place,
        });
        connection.list(&mut connection.state.lock(), false);
        connection
    }

    fn evict_next(&self) {
        loop {
            // Not locked together with the connection, which locks the other way round.
            let (rank, next) = match self.evictable.lock().first_entry() {
                Some(first) if first.key().since.elapsed() >= MIN_AGE => first.remove_entry(),
                _ => return,
            };
            if next.evict(rank) {
                if let Some(evicted) = self.evictions.add(1) {
                    tracing::warn!(
                        evicted,
                        "all connections are taken: evicted the oldest without a valid token or signature"
                    );
                }
                return;
            }
        }
    }
}

impl Connection {
    /// Records that bytes have come.
    pub(super) fn received(self: &Arc<Self>) {
        let mut state = self.state.lock();
        if matches!(state.phase, Phase::New { .. } | Phase::Idle { .. }) {
            state.phase = Phase::Head { since: Instant::now() };
            if state.rank.is_some_and(|rank| rank.was_authorised) {
                self.list(&mut state, true);
            }
        }
    }

    /// When the connection is closed unless bytes come.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.state.lock().phase {
            Phase::New { since } | Phase::Idle { since } => Some(since + IDLE_TIMEOUT),
            Phase::Head { since } => Some(since + HEAD_TIMEOUT),
            Phase::Serving | Phase::Answered | Phase::Closed => None,
        }
    }

    /// Records that a complete head has come.
    pub(super) fn serve(self: &Arc<Self>) -> Serving {
        let mut state = self.state.lock();
        if state.phase != Phase::Closed {
            state.phase = Phase::Serving;
            // The request before was authorised, and its answer is not sent: this one was pipelined.
            if state.rank.is_none() {
                self.list(&mut state, true);
            }
        }
        Serving(Some(Arc::clone(self)))
    }

    /// Records that the request being served has brought a valid token or signature: the connection is not evicted until
    /// the answer is sent. After an eviction the request must not change anything, as it cannot be answered.
    pub(super) fn authorise(&self) -> Result<(), Evicted> {
        let mut state = self.state.lock();
        if state.phase == Phase::Closed {
            return Err(Evicted);
        }
        self.unlist(&mut state);
        Ok(())
    }

    /// Records that all output was sent.
    pub(super) fn flushed(self: &Arc<Self>) {
        let mut state = self.state.lock();
        if state.phase == Phase::Answered {
            state.phase = Phase::Idle { since: Instant::now() };
            if state.rank.is_none() {
                self.list(&mut state, true);
            }
        }
    }

    /// Waits until the connection is evicted.
    pub(super) async fn evicted(&self) {
        self.evicted.notified().await;
    }

    /// Records that the connection is closed.
    pub(super) fn closed(&self) {
        let mut state = self.state.lock();
        state.phase = Phase::Closed;
        self.unlist(&mut state);
    }

    /// Makes the connection evictable. Its age counts from now on.
    fn list(self: &Arc<Self>, state: &mut State, was_authorised: bool) {
        self.unlist(state);
        let rank = Rank { was_authorised, since: Instant::now(), number: self.number };
        state.rank = Some(rank);
        self.connections.evictable.lock().insert(rank, Arc::clone(self));
    }

    fn unlist(&self, state: &mut State) {
        if let Some(rank) = state.rank.take() {
            self.connections.evictable.lock().remove(&rank);
        }
    }

    /// Evicts the connection, unless its rank has changed since it was chosen.
    fn evict(&self, rank: Rank) -> bool {
        let mut state = self.state.lock();
        let is_evictable = state.rank == Some(rank);
        if is_evictable {
            *state = State { phase: Phase::Closed, rank: None };
            self.evicted.notify_one();
        }
        is_evictable
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
            let mut state = connection.state.lock();
            if state.phase == Phase::Serving {
                state.phase = Phase::Answered;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Admits a connection although all places are taken, and returns how long that took.
    async fn admit_evicting(
        connections: &Arc<Connections>,
        next: Arc<Connection>,
    ) -> (Arc<Connection>, Duration) {
        let start = Instant::now();
        let (admitted, ()) = tokio::join!(connections.admit(), async move { next.evicted().await });
        (admitted, start.elapsed())
    }

    /// A request on this connection, and all of its answer.
    fn answer(connection: &Arc<Connection>, is_authorised: bool) {
        connection.received();
        let serving = connection.serve();
        if is_authorised {
            connection.authorise().unwrap();
        }
        drop(serving);
        connection.flushed();
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_without_an_authorised_request_is_evicted_first_and_authorised_requests_never() {
        let connections = Connections::new(4);
        let authorised = connections.admit().await;
        let _serving = authorised.serve();
        authorised.authorise().unwrap();
        let idle = connections.admit().await;
        answer(&idle, true);
        let (served, pinging) = (connections.admit().await, connections.admit().await);
        drop(served.serve());
        tokio::time::advance(MIN_AGE / 2).await;
        answer(&pinging, false);
        let mut requests = vec![];
        for (next, min_age) in [(served, MIN_AGE / 2), (pinging, Duration::ZERO), (idle, Duration::ZERO)] {
            let (admitted, took) = admit_evicting(&connections, next).await;
            assert!((min_age..min_age + 2 * EVICTION_PAUSE).contains(&took), "{took:?}");
            requests.push(admitted.serve());
            admitted.authorise().unwrap();
        }
        timeout(IDLE_TIMEOUT, connections.admit()).await.expect_err("all requests are authorised");
        assert!(connections.evictable.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_evicted_connection_is_never_authorised() {
        let connections = Connections::new(1);
        let connection = connections.admit().await;
        tokio::time::advance(MIN_AGE).await;
        connections.evict_next();
        let serving = connection.serve();
        connection.authorise().unwrap_err();
        drop(serving);
        connection.flushed();
        connection.evicted().await;
        assert_eq!(connection.deadline(), None);
        assert!(connections.evictable.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_behind_an_authorised_one_has_to_be_authorised_itself() {
        let connections = Connections::new(1);
        let connection = connections.admit().await;
        let first = connection.serve();
        connection.authorise().unwrap();
        drop(first);
        assert!(connections.evictable.lock().is_empty(), "its answer is not sent");
        let _second = connection.serve();
        assert_eq!(connections.evictable.lock().len(), 1);
        connection.closed();
        assert!(connections.evictable.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_has_a_deadline_while_it_owes_a_request() {
        let connection = Connections::new(1).admit().await;
        let start = Instant::now();
        assert_eq!(connection.deadline(), Some(start + IDLE_TIMEOUT));
        connection.received();
        assert_eq!(connection.deadline(), Some(start + HEAD_TIMEOUT));
        let serving = connection.serve();
        assert_eq!(connection.deadline(), None);
        drop(serving);
        assert_eq!(connection.deadline(), None, "its answer is not sent");
        connection.flushed();
        assert_eq!(connection.deadline(), Some(start + IDLE_TIMEOUT));
    }
}
