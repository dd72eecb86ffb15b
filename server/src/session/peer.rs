//! The other end of a websocket, whatever is said to it: its heartbeat, and how it ends.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until},
};
use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::frame::coding::CloseCode};
use tokio_util::sync::CancellationToken;
use wwproxy_protocol::{ClientMessage, message::Hello};

use super::{
    IDLE, PING, Terms,
    connection::{Connection, Said},
};
use crate::proxy::Proxy;

/// Why a session ended, as its client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The client closed it, or the connection broke: there is nobody to tell.
    Gone,
    Told(CloseCode, &'static str),
}

pub(super) struct Peer<S> {
    pub(super) terms: Terms,
    pub(super) connection: Connection<S>,
    proxy: Arc<Proxy>,
    shutdown: CancellationToken,
    heartbeat: Interval,
    /// Set while the token is being checked again; yields whether the websocket may stay open.
    check: Option<BoxFuture<'static, bool>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    /// Greets a client that speaks `wwproxy.v2`.
    pub(super) fn new(
        proxy: Arc<Proxy>,
        terms: Terms,
        socket: WebSocketStream<S>,
        shutdown: CancellationToken,
    ) -> Self {
        let mut connection = Connection::new(socket);
        if terms.v2 {
            let lease = proxy.lease_time();
            let hello = Hello::new(terms.app.clone(), terms.window, lease, PING, IDLE);
            connection.push(if terms.tap { hello.tap() } else { hello }.encode());
        }
        let mut heartbeat = interval_at(Instant::now() + PING, PING);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { terms, connection, proxy, shutdown, heartbeat, check: None }
    }

    /// The next thing that the client says; sends what is queued meanwhile. Can be dropped at any time.
    ///
    /// One `select!` over: shutdown; revocations; the token's check; the heartbeat; the socket (messages in, and room for
    /// messages out); the time at which the client is given up. The socket is after those that a client could
    /// delay by sending without a pause. Where the session must end, it says why.
    pub(super) async fn next(&mut self) -> Result<Said, End> {
        loop {
            let (give_up, reason) = self.give_up();
            if give_up <= Instant::now() {
                return Err(End::Told(CloseCode::Policy, reason));
            }
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => {
                    return Err(End::Told(CloseCode::Restart, "the server restarts"));
                }
                // The sender lives as long as the proxy.
                Ok(()) = self.terms.revocations.changed() => self.check_token(),
                may_stay = async { self.check.as_mut().expect("guarded").await }, if self.check.is_some() => {
                    self.check = None;
                    if !may_stay {
                        return Err(End::Told(CloseCode::Policy, "the token is refused: get a new one"));
                    }
                }
                _ = self.heartbeat.tick() => self.beat(),
                said = self.connection.next() => return Ok(said),
                () = sleep_until(give_up) => {}
            }
        }
    }

    /// When the client is given up, and why. A client that is slow to take its output is not silent.
    fn give_up(&self) -> (Instant, &'static str) {
        match self.connection.output_deadline() {
            Some(deadline) => (deadline, "the client reads too slowly"),
            None => (self.connection.heard() + IDLE, "the client was silent for too long"),
        }
    }

    /// Pings, and checks the token again: it may have been revoked since the websocket was opened.
    fn beat(&mut self) {
        // A ping behind unsent output would only be answered once that has arrived.
        if self.connection.is_drained() {
            self.connection.ping();
        }
        if self.check.is_none() {
            self.check_token();
        }
    }

    /// Checks the token, also if an earlier check is under way: its answer may be of before the revocation.
    fn check_token(&mut self) {
        let (proxy, terms) = (Arc::clone(&self.proxy), self.terms.clone());
        self.check = Some(Box::pin(async move { proxy.may_stay(&terms.app, &terms.token).await }));
    }

    /// Tells the client why, where it is still there.
    pub(super) async fn end(&mut self, end: End) {
        match end {
            End::Told(code, reason) => self.connection.close(code, reason).await,
            End::Gone => self.connection.finish().await,
        }
    }
}

/// What a client means by what it said, or why the session ends with it.
pub(super) fn understand(said: Said) -> Result<ClientMessage, End> {
    match said {
        Said::Text(text) => ClientMessage::parse(text.as_str())
            .map_err(|_| End::Told(CloseCode::Invalid, "a message must be JSON")),
        Said::Binary => Err(End::Told(CloseCode::Unsupported, "a message must be text")),
        Said::Alive | Said::Drained => Ok(ClientMessage::Ignored),
        Said::Gone => Err(End::Gone),
        Said::Broken(code, reason) => Err(End::Told(code, reason)),
    }
}
