//! One websocket client: its events go out, its acknowledgements come in.

mod connection;
#[cfg(test)]
mod tests;
mod window;

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, MissedTickBehavior, interval_at, sleep_until},
};
use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::frame::coding::CloseCode};
use tokio_util::sync::CancellationToken;
use wwproxy_protocol::{AppId, ClientMessage, Secret, message::Hello};

use self::{
    connection::{Connection, Said},
    window::Window,
};
use crate::{
    proxy::Proxy,
    store::{Delivery, Lease, Settlement, StoreError},
};

/// How often the server pings.
const PING: Duration = Duration::from_secs(20);
/// How long a client may be silent, pongs included.
const IDLE: Duration = Duration::from_secs(60);
/// How long one lease waits for events before the next one is asked for.
const LEASE_WAIT: Duration = Duration::from_secs(3600);
/// How many bytes of events one lease takes: the lease runs while they are sent, so it must not be much,
/// though it is never less than one event.
const MAX_LEASE_BYTES: u64 = 1 << 20;
/// How long a store that failed is left alone.
const STORE_PAUSE: Duration = Duration::from_secs(1);
/// How many messages of the client are settled together at most.
const MAX_SETTLED_AT_ONCE: usize = 256;

/// The terms of one websocket.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    pub(crate) app: AppId,
    /// What it was opened with.
    pub(crate) token: Secret,
    /// How many events are outstanding at once.
    pub(crate) window: u32,
    /// Whether it speaks `wwproxy.v2`.
    pub(crate) v2: bool,
}

/// Why a session ended, as its client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The client closed it, or the connection broke: there is nobody to tell.
    Gone,
    Told(CloseCode, &'static str),
}

/// Serves one client until it goes, breaks the protocol, falls silent, loses its app, or the server stops.
///
/// One `select!` over: shutdown; the socket (messages in, and room for messages out); a lease that
/// waits for events, while the window has room; the heartbeat; the end of the oldest lease. However
/// it ends, what was not acknowledged goes back at once.
pub(crate) async fn run<S>(
    proxy: Arc<Proxy>,
    terms: Terms,
    socket: WebSocketStream<S>,
    shutdown: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let _connected = proxy.connected(&terms.app);
    let mut session = Session {
        window: Window::new(terms.window),
        connection: Connection::new(socket),
        paused_until: None,
        proxy,
        terms,
    };
    let end = session.serve(shutdown).await;
    tracing::debug!(app = %session.terms.app, ?end, "a websocket ended");
    session.hand_back().await;
    match end {
        End::Told(code, reason) => session.connection.close(code, reason).await,
        End::Gone => session.connection.finish().await,
    }
}

struct Session<S> {
    proxy: Arc<Proxy>,
    terms: Terms,
    window: Window,
    connection: Connection<S>,
    /// Set while the store is left alone after a failure.
    paused_until: Option<Instant>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    async fn serve(&mut self, shutdown: CancellationToken) -> End {
        if self.terms.v2 {
            let lease = self.proxy.lease_time();
            self.connection
                .push(Hello::new(self.terms.app.clone(), self.terms.window, lease, PING, IDLE).encode());
        }
        let mut heartbeat = interval_at(Instant::now() + PING, PING);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let proxy = Arc::clone(&self.proxy);
        let app = self.terms.app.clone();
        // The lease lives across turns of the loop: dropping it midway would hand back what it took.
        let mut lease = None;
        loop {
            if lease.is_none()
                && self.paused_until.is_none()
                && self.connection.is_drained()
                && self.window.room() > 0
            {
                lease = Some(proxy.store().lease(&app, self.next_lease()));
            }
            let silence = self.connection.heard() + IDLE;
            let wake =
                [self.window.next_end(), self.paused_until].into_iter().flatten().fold(silence, Instant::min);
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return End::Told(CloseCode::Restart, "the server restarts"),
                said = self.connection.next() => {
                    if let Err(end) = self.on_said(said).await {
                        return end;
                    }
                }
                leased = async { lease.as_mut().expect("guarded").await }, if lease.is_some() => {
                    lease = None;
                    self.on_leased(leased);
                }
                _ = heartbeat.tick() => {
                    if let Err(end) = self.on_heartbeat() {
                        return end;
                    }
                }
                () = sleep_until(wake) => {
                    let now = Instant::now();
                    if now >= silence {
                        return End::Told(CloseCode::Policy, "the client was silent for too long");
                    }
                    self.window.expire(now);
                    self.paused_until = self.paused_until.filter(|until| *until > now);
                }
            }
        }
    }

    fn next_lease(&self) -> Lease {
        Lease {
            max_events: self.window.room(),
            max_bytes: MAX_LEASE_BYTES,
            wait: LEASE_WAIT,
            time: self.proxy.lease_time(),
        }
    }

    fn on_leased(&mut self, leased: Result<Vec<Delivery>, StoreError>) {
        let deliveries = leased.unwrap_or_else(|error| {
            tracing::error!(app = %self.terms.app, %error, "no events can be read");
            self.paused_until = Some(Instant::now() + STORE_PAUSE);
            Vec::new()
        });
        let until = Instant::now() + self.proxy.lease_time();
        for Delivery { event, attempt, receipt } in deliveries {
            let message = if self.terms.v2 { event.encode_v2(attempt) } else { event.encode_legacy() };
            self.window.sent(event.id, receipt, until);
            self.connection.push(message);
        }
    }

    /// Takes what the client said, and all that it has said besides, so that it is settled together.
    async fn on_said(&mut self, first: Said) -> Result<(), End> {
        let mut settlement = Settlement::default();
        let mut next = Some(first);
        let mut taken = 0;
        let mut end = Ok(());
        while let Some(said) = next {
            end = self.take(said, &mut settlement);
            taken += 1;
            let more = end.is_ok() && taken < MAX_SETTLED_AT_ONCE;
            next = if more { self.connection.next_now() } else { None };
        }
        if settlement != Settlement::default()
            && let Err(error) = self.proxy.store().settle(&self.terms.app, settlement).await
        {
            tracing::error!(app = %self.terms.app, %error, "events could not be settled and will be repeated");
        }
        end
    }

    fn take(&mut self, said: Said, settlement: &mut Settlement) -> Result<(), End> {
        match said {
            Said::Text(text) => match ClientMessage::parse(text.as_str()) {
                Ok(ClientMessage::Ack(ids)) => {
                    settlement.acks.extend(ids.iter().filter_map(|id| self.window.settle(id)));
                    Ok(())
                }
                Ok(ClientMessage::Nack { id, delay }) => {
                    let delay = delay.min(crate::proxy::MAX_HOLD);
                    settlement.releases.extend(self.window.settle(&id).map(|receipt| (receipt, delay)));
                    Ok(())
                }
                Ok(ClientMessage::Ignored) => Ok(()),
                Err(_) => Err(End::Told(CloseCode::Invalid, "a message must be JSON")),
            },
            Said::Binary => Err(End::Told(CloseCode::Unsupported, "a message must be text")),
            Said::Alive | Said::Drained => Ok(()),
            Said::Gone => Err(End::Gone),
            Said::Broken(code, reason) => Err(End::Told(code, reason)),
        }
    }

    fn on_heartbeat(&mut self) -> Result<(), End> {
        if !self.proxy.identity().vouches_for(&self.terms.token) {
            return Err(End::Told(CloseCode::Policy, "the app or its secret is not known any more"));
        }
        self.connection.ping();
        Ok(())
    }

    /// Takes the acknowledgements that have come already, and gives back the rest.
    async fn hand_back(&mut self) {
        let mut settlement = Settlement::default();
        while let Some(said) = self.connection.next_now() {
            if self.take(said, &mut settlement).is_err() {
                break;
            }
        }
        settlement.releases.extend(self.window.drain().map(|receipt| (receipt, Duration::ZERO)));
        if settlement == Settlement::default() {
            return;
        }
        if let Err(error) = self.proxy.store().settle(&self.terms.app, settlement).await {
            tracing::error!(app = %self.terms.app, %error, "events come back only when their leases end");
        }
    }
}
