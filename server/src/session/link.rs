//! The link to one client, of a session or a tap: its websocket, heartbeat, token checks and close.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until},
};
use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::frame::coding::CloseCode};
use tokio_util::sync::CancellationToken;
use wwproxy_protocol::{AppId, ClientMessage, ConsumerName, Secret, message::Hello};

use super::websocket::{Input, Websocket};
use crate::proxy::Proxy;

/// How often the server pings.
pub(super) const PING: Duration = Duration::from_secs(20);
/// The idle timeout: how long a client may send nothing, not even a pong.
pub(super) const IDLE: Duration = Duration::from_secs(60);

/// What a client asked for when it opened the websocket.
#[derive(Debug, Clone)]
pub(crate) struct SessionConfig {
    pub(crate) app: AppId,
    pub(crate) consumer: ConsumerName,
    /// Cancelled when the consumer is deleted.
    pub(crate) consumer_ended: CancellationToken,
    /// How many events after the position that the client asked for are missing. `None` if it asked for none.
    pub(crate) missed: Option<u64>,
    /// The token that authorised the websocket.
    pub(crate) token: Secret,
    /// Notified whenever tokens may have been revoked. Subscribed before the token was checked.
    pub(crate) revocations: watch::Receiver<()>,
    /// The prefetch window: the most events outstanding at once.
    pub(crate) window: u32,
    /// Whether the client speaks `wwproxy.v2`.
    pub(crate) v2: bool,
    pub(crate) tap: bool,
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The client closed the websocket, or the connection broke.
    Disconnected,
    /// The server closes the websocket, with this code and reason.
    Close(CloseCode, &'static str),
}

pub(super) struct Link<S> {
    pub(super) config: SessionConfig,
    pub(super) websocket: Websocket<S>,
    proxy: Arc<Proxy>,
    shutdown: CancellationToken,
    heartbeat: Interval,
    /// Set while the token is being checked again; yields whether the websocket may stay open.
    check: Option<BoxFuture<'static, bool>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Link<S> {
    /// Sends the hello message to a client that speaks `wwproxy.v2`.
    pub(super) fn new(
        proxy: Arc<Proxy>,
        config: SessionConfig,
        socket: WebSocketStream<S>,
        shutdown: CancellationToken,
    ) -> Self {
        let mut websocket = Websocket::new(socket);
        if config.v2 {
            websocket.push(hello(&config, proxy.lease_time()).encode());
        }
        let mut heartbeat = interval_at(Instant::now() + PING, PING);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { config, websocket, proxy, shutdown, heartbeat, check: None }
    }

    /// Returns the client's next input, and sends queued output meanwhile. Cancel safe. An error is the reason to end the
    /// session.
    ///
    /// One `select!` over: shutdown; the deletion of the consumer; revocations; the token check; the heartbeat; the websocket (input, and room for
    /// output); the deadline of the client. The websocket comes after the branches that a client could starve by sending
    /// without a pause.
    pub(super) async fn next(&mut self) -> Result<Input, End> {
        loop {
            let (deadline, reason) = self.deadline();
            if deadline <= Instant::now() {
                return Err(End::Close(CloseCode::Policy, reason));
            }
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => {
                    return Err(End::Close(CloseCode::Restart, "the server restarts"));
                }
                () = self.config.consumer_ended.cancelled() => {
                    return Err(End::Close(CloseCode::Policy, "the consumer was deleted"));
                }
                // The sender lives as long as the proxy.
                Ok(()) = self.config.revocations.changed() => self.check_token(),
                may_stay = async { self.check.as_mut().expect("guarded").await }, if self.check.is_some() => {
                    self.check = None;
                    if !may_stay {
                        return Err(End::Close(CloseCode::Policy, "the token is refused: get a new one"));
                    }
                }
                _ = self.heartbeat.tick() => self.on_heartbeat(),
                input = self.websocket.next() => return Ok(input),
                () = sleep_until(deadline) => {}
            }
        }
    }

    /// When the websocket is closed, and why. A client that is slow to take its output is not idle.
    fn deadline(&self) -> (Instant, &'static str) {
        match self.websocket.output_deadline() {
            Some(deadline) => (deadline, "the client reads too slowly"),
            None => (self.websocket.last_input() + IDLE, "the client was silent for too long"),
        }
    }

    /// Pings, and checks the token again, since it may have been revoked.
    fn on_heartbeat(&mut self) {
        // The client could answer a ping behind unsent output only after it has received all of that output.
        if self.websocket.is_drained() {
            self.websocket.ping();
        }
        if self.check.is_none() {
            self.check_token();
        }
    }

    /// Starts a check of the token. It replaces one under way, whose answer may predate the revocation.
    fn check_token(&mut self) {
        let (proxy, config) = (Arc::clone(&self.proxy), self.config.clone());
        self.check = Some(Box::pin(async move { proxy.may_stay(&config.app, &config.token).await }));
    }

    /// Closes the websocket.
    pub(super) async fn close(&mut self, end: End) {
        match end {
            End::Close(code, reason) => self.websocket.close(code, reason).await,
            End::Disconnected => self.websocket.flush().await,
        }
    }
}

fn hello(config: &SessionConfig, lease: Duration) -> Hello {
    let mut hello = Hello::new(config.app.clone(), config.window, lease, PING, IDLE);
    hello.tap = config.tap;
    hello.missed = config.missed;
    // A consumer for one websocket has no name that a client knows.
    hello.consumer =
        Some(config.consumer.clone()).filter(|consumer| !consumer.is_default() && config.missed.is_none());
    hello
}

/// Parses a client's input. An error is the reason to end the session.
pub(super) fn parse(input: Input) -> Result<ClientMessage, End> {
    match input {
        Input::Text(text) => ClientMessage::parse(text.as_str())
            .map_err(|_| End::Close(CloseCode::Invalid, "a message must be JSON")),
        Input::Binary => Err(End::Close(CloseCode::Unsupported, "a message must be text")),
        Input::PingPong | Input::Drained => Ok(ClientMessage::Ignored),
        Input::Disconnected => Err(End::Disconnected),
        Input::Violation(code, reason) => Err(End::Close(code, reason)),
    }
}
