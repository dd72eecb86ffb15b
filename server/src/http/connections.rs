//! All open connections: their limit, their timeouts while no request is served, and the eviction of the oldest one when the
//! limit is reached.
//!
//! A connection can be evicted unless its current request is authorised, by a valid token or signature. Requests without one
//! never reset a connection's age, so they cannot keep a connection open.

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

/// How long a request head may take, from its first byte on.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may be open without the first byte of a request.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// The age from which a connection may be evicted. Most webhooks arrive in one piece, right after the connection, and are
/// verified earlier.
const MIN_AGE: Duration = Duration::from_millis(500);
/// How long to wait for an evicted connection to close before the next one is evicted.
const EVICTION_PAUSE: Duration = Duration::from_millis(50);
/// How often evictions are logged in a minute.
const LOGGED_EVICTIONS: u32 = 1;

#[derive(Debug)]
pub(super) struct Connections {
    permits: Arc<Semaphore>,
    /// The connections that can be evicted, in order of eviction.
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

/// The state of one connection, with its permit.
#[derive(Debug)]
pub(super) struct Connection {
    connections: Arc<Connections>,
    number: u64,
    state: Mutex<State>,
    evicted: Notify,
    /// Held while the connection is open, also as a websocket.
    _permit: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// The connection's key in [`Connections::evictable`]; `None` while its request is authorised, and once it is closed.
    rank: Option<Rank>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No byte was received yet.
    New { since: Instant },
    /// Part of a request head was received.
    Head { since: Instant },
    /// A request is being served, or the connection was upgraded.
    Serving,
    /// The HTTP server has the whole answer, and has not sent all of it.
    Answered,
    /// Waits for another request.
    Idle { since: Instant },
    /// Evicted, or closed for another reason. This is final.
    Closed,
}

/// The connection was evicted before its request was authorised.
#[derive(Debug)]
pub(super) struct Evicted;

impl Connections {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            permits: Arc::new(Semaphore::new(max)),
            evictable: Mutex::default(),
            next_number: AtomicU64::new(0),
            evictions: LogLimit::per_minute(LOGGED_EVICTIONS),
        })
    }

    /// Waits for a permit for one more connection. At the limit, evicts connections.
    pub(super) async fn admit(self: &Arc<Self>) -> Arc<Connection> {
        let permit = loop {
            let free = Arc::clone(&self.permits).acquire_owned();
            if self.permits.available_permits() == 0 {
                self.evict_next();
            }
            if let Ok(permit) = timeout(EVICTION_PAUSE, free).await {
                break permit.expect("the semaphore is never closed");
            }
        };
        let connection = Arc::new(Connection {
            connections: Arc::clone(self),
            number: self.next_number.fetch_add(1, Ordering::Relaxed),
            state: Mutex::new(State { phase: Phase::New { since: Instant::now() }, rank: None }),
            evicted: Notify::new(),
            _permit: permit,
        });
        connection.list(&mut connection.state.lock(), false);
        connection
    }

    fn evict_next(&self) {
        loop {
            // `evictable` is unlocked before the connection is locked: elsewhere they are locked in the opposite order.
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
    /// Records that bytes were received.
    pub(super) fn received(self: &Arc<Self>) {
        let mut state = self.state.lock();
        if matches!(state.phase, Phase::New { .. } | Phase::Idle { .. }) {
            state.phase = Phase::Head { since: Instant::now() };
            if state.rank.is_some_and(|rank| rank.was_authorised) {
                self.list(&mut state, true);
            }
        }
    }

    /// When the connection times out unless more bytes arrive.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.state.lock().phase {
            Phase::New { since } | Phase::Idle { since } => Some(since + IDLE_TIMEOUT),
            Phase::Head { since } => Some(since + HEAD_TIMEOUT),
            Phase::Serving | Phase::Answered | Phase::Closed => None,
        }
    }

    /// Records that a complete head was received.
    pub(super) fn serve(self: &Arc<Self>) -> Serving {
        let mut state = self.state.lock();
        if state.phase != Phase::Closed {
            state.phase = Phase::Serving;
            // The previous request was authorised, and its answer is not sent yet: this one was pipelined.
            if state.rank.is_none() {
                self.list(&mut state, true);
            }
        }
        Serving(Some(Arc::clone(self)))
    }

    /// Records that the request has a valid token or signature, which protects the connection from eviction until the answer is
    /// sent. After an eviction the request must not change anything, since it cannot be answered.
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
    /// The connection was upgraded to a websocket.
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
mod tests;
