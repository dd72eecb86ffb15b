//! One websocket client: its events go out, its acknowledgements come in. A tap only looks on.

mod connection;
mod peer;
mod tap;
#[cfg(test)]
mod tests;
mod window;

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_tungstenite::WebSocketStream;
use tokio_util::sync::CancellationToken;
use wwproxy_protocol::{AppId, ClientMessage, Secret};

pub(crate) use self::{connection::MAX_FRAME, tap::run_tap};
use self::{
    connection::Said,
    peer::{End, Peer, understand},
    window::Window,
};
use crate::{
    coop::yield_task_if_due,
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
    /// Changes whenever tokens may have been revoked, from before the token was checked.
    pub(crate) revocations: watch::Receiver<()>,
    /// How many events are outstanding at once.
    pub(crate) window: u32,
    /// Whether it speaks `wwproxy.v2`.
    pub(crate) v2: bool,
    /// Whether it only looks on.
    pub(crate) tap: bool,
}

/// Serves one client until it goes, breaks the protocol, falls silent, reads too slowly, loses its app, or the server stops.
///
/// One `select!` over: the client, with its heartbeat and shutdown; a lease that waits for events, while
/// the window has room; the end of the oldest lease, or of the pause after a failure. However it ends,
/// what was not acknowledged goes back at once.
pub(crate) async fn run<S>(
    proxy: Arc<Proxy>,
    terms: Terms,
    socket: WebSocketStream<S>,
    shutdown: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut session = Session {
        window: Window::new(terms.window),
        paused_until: None,
        peer: Peer::new(Arc::clone(&proxy), terms, socket, shutdown),
        proxy,
    };
    let Err(end) = session.serve().await;
    tracing::debug!(app = %session.peer.terms.app, ?end, "a websocket ended");
    session.hand_back().await;
    session.peer.end(end).await;
}

struct Session<S> {
    proxy: Arc<Proxy>,
    peer: Peer<S>,
    window: Window,
    /// Set while the store is left alone after a failure.
    paused_until: Option<Instant>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    async fn serve(&mut self) -> Result<Infallible, End> {
        let proxy = Arc::clone(&self.proxy);
        let app = self.peer.terms.app.clone();
        // The lease lives across turns of the loop: dropping it midway would hand back what it took.
        let mut lease = None;
        loop {
            if lease.is_none()
                && self.paused_until.is_none()
                && self.peer.connection.is_drained()
                && self.window.room() > 0
            {
                lease = Some(proxy.store().lease(&app, self.next_lease()));
            }
            let wake = [self.window.next_end(), self.paused_until].into_iter().flatten().min();
            tokio::select! {
                biased;
                said = self.peer.next() => self.on_said(said?).await?,
                leased = async { lease.as_mut().expect("guarded").await }, if lease.is_some() => {
                    lease = None;
                    self.on_leased(leased).await;
                }
                () = async { sleep_until(wake.expect("guarded")).await }, if wake.is_some() => {
                    let now = Instant::now();
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

    async fn on_leased(&mut self, leased: Result<Vec<Delivery>, StoreError>) {
        let deliveries = leased.unwrap_or_else(|error| {
            tracing::error!(app = %self.peer.terms.app, %error, "no events can be read");
            self.paused_until = Some(Instant::now() + STORE_PAUSE);
            Vec::new()
        });
        let until = Instant::now() + self.proxy.lease_time();
        for Delivery { event, attempt, receipt } in deliveries {
            yield_task_if_due().await;
            let message = if self.peer.terms.v2 { event.encode_v2(attempt) } else { event.encode_legacy() };
            self.window.sent(event.id, receipt, until);
            self.peer.connection.push(message);
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
            next = if more { self.peer.connection.next_now() } else { None };
        }
        if settlement != Settlement::default()
            && let Err(error) = self.proxy.store().settle(&self.peer.terms.app, settlement).await
        {
            tracing::error!(app = %self.peer.terms.app, %error, "events could not be settled and will be repeated");
        }
        end
    }

    fn take(&mut self, said: Said, settlement: &mut Settlement) -> Result<(), End> {
        match understand(said)? {
            ClientMessage::Ack(ids) => {
                settlement.acks.extend(ids.iter().filter_map(|id| self.window.settle(id)));
            }
            ClientMessage::Nack { id, delay } => {
                let delay = delay.min(crate::proxy::MAX_HOLD);
                settlement.releases.extend(self.window.settle(&id).map(|receipt| (receipt, delay)));
            }
            ClientMessage::Ignored => {}
        }
        Ok(())
    }

    /// Takes the acknowledgements that have come already, and gives back the rest.
    async fn hand_back(&mut self) {
        let mut settlement = Settlement::default();
        while let Some(said) = self.peer.connection.next_now() {
            if self.take(said, &mut settlement).is_err() {
                break;
            }
        }
        settlement.releases.extend(self.window.drain().map(|receipt| (receipt, Duration::ZERO)));
        if settlement == Settlement::default() {
            return;
        }
        if let Err(error) = self.proxy.store().settle(&self.peer.terms.app, settlement).await {
            tracing::error!(app = %self.peer.terms.app, %error, "events come back only when their leases end");
        }
    }
}
