//! The session of one websocket client: sends its events, settles what it acknowledges. A tap only watches.

mod link;
mod tap;
#[cfg(test)]
mod tests;
mod websocket;
mod window;

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, sleep_until},
};
use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::frame::coding::CloseCode};
use tokio_util::sync::CancellationToken;
use wwproxy_protocol::ClientMessage;

pub(crate) use self::{link::SessionConfig, tap::run_tap, websocket::MAX_FRAME};
use self::{
    link::{End, Link, parse},
    websocket::Input,
    window::Window,
};
use crate::{
    coop::yield_task_if_due,
    proxy::{Proxy, undelivered},
    store::{Delivery, Reject, Release, Settlement, StoreError},
};

/// How long a session waits after the store failed, before the next lease.
const STORE_RETRY_DELAY: Duration = Duration::from_secs(1);
/// The most messages of the client that are settled together.
const MAX_SETTLED_TOGETHER: usize = 256;

/// Serves one client until it disconnects, violates the protocol, is idle or reads too slowly, its token is refused, or the
/// server stops.
///
/// One `select!` over: the client's input, heartbeat and shutdown; a lease that waits for events, while the prefetch window
/// has room; the expiry of the oldest lease, or the end of the delay after a store failure. However the session ends, it
/// releases what was not acknowledged.
pub(crate) async fn run<S>(
    proxy: Arc<Proxy>,
    config: SessionConfig,
    socket: WebSocketStream<S>,
    shutdown: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut session = Session {
        window: Window::new(config.window),
        retry_at: None,
        link: Link::new(Arc::clone(&proxy), config, socket, shutdown),
        proxy,
    };
    let Err(end) = session.serve().await;
    tracing::debug!(app = %session.link.config.app, ?end, "a websocket ended");
    session.release_outstanding().await;
    session.link.close(end).await;
}

struct Session<S> {
    proxy: Arc<Proxy>,
    link: Link<S>,
    window: Window,
    /// When to lease again after the store failed.
    retry_at: Option<Instant>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    async fn serve(&mut self) -> Result<Infallible, End> {
        let proxy = Arc::clone(&self.proxy);
        let (app, consumer) = (self.link.config.app.clone(), self.link.config.consumer.clone());
        // The lease outlives an iteration of the loop: dropping it would release what it leased.
        let mut lease = None;
        loop {
            if lease.is_none()
                && self.retry_at.is_none()
                && self.link.websocket.is_drained()
                && self.window.room() > 0
            {
                lease = Some(proxy.lease_for_websocket(&app, &consumer, self.window.room()));
            }
            let timer = [self.window.next_expiry(), self.retry_at].into_iter().flatten().min();
            tokio::select! {
                biased;
                input = self.link.next() => self.on_input(input?).await?,
                leased = async { lease.as_mut().expect("guarded").await }, if lease.is_some() => {
                    lease = None;
                    self.on_leased(leased).await?;
                }
                () = async { sleep_until(timer.expect("guarded")).await }, if timer.is_some() => {
                    let now = Instant::now();
                    self.window.expire(now);
                    self.retry_at = self.retry_at.filter(|retry_at| *retry_at > now);
                }
            }
        }
    }

    async fn on_leased(&mut self, leased: Result<Vec<Delivery>, StoreError>) -> Result<(), End> {
        let deliveries = match leased {
            Ok(deliveries) => deliveries,
            Err(StoreError::NoConsumer(_)) => {
                return Err(End::Close(CloseCode::Policy, "the consumer was deleted"));
            }
            Err(StoreError::DefaultOff) => {
                return Err(End::Close(CloseCode::Policy, "the consumer default receives no events"));
            }
            Err(error) => {
                let app = &self.link.config.app;
                tracing::error!(%app, %error, "leasing events failed, it will be retried");
                self.retry_at = Some(Instant::now() + STORE_RETRY_DELAY);
                Vec::new()
            }
        };
        let expires = Instant::now() + self.proxy.lease_time();
        for Delivery { event, attempt, replay, receipt } in deliveries {
            yield_task_if_due().await;
            let message =
                if self.link.config.v2 { event.encode_v2(attempt, replay) } else { event.encode_legacy() };
            self.window.insert(event.id.clone(), receipt, expires);
            self.link.websocket.push(message);
        }
        Ok(())
    }

    /// Handles a message of the client, together with those that have already arrived, so that all are settled at once.
    async fn on_input(&mut self, first: Input) -> Result<(), End> {
        let mut settlement = Settlement::default();
        let mut next = Some(first);
        let mut handled = 0;
        let mut end = Ok(());
        while let Some(input) = next {
            end = self.collect(input, &mut settlement);
            handled += 1;
            let more = end.is_ok() && handled < MAX_SETTLED_TOGETHER;
            next = if more { self.link.websocket.next_now() } else { None };
        }
        self.settle(settlement).await;
        end
    }

    async fn settle(&mut self, settlement: Settlement) {
        let SessionConfig { app, consumer, .. } = &self.link.config;
        self.proxy.settle_or_log(app, consumer, settlement).await;
    }

    /// Adds what a message settles to the settlement.
    fn collect(&mut self, input: Input, settlement: &mut Settlement) -> Result<(), End> {
        match parse(input)? {
            ClientMessage::Ack(ids) => {
                settlement.acks.extend(ids.iter().filter_map(|id| self.window.settle(id)));
            }
            ClientMessage::Nack { id, delay, reason } => {
                let release = |receipt| Release { receipt, delay: Some(delay), reason };
                settlement.releases.extend(self.window.settle(&id).map(release));
            }
            ClientMessage::Reject { id, reason } => {
                let reject = |receipt| Reject { receipt, reason };
                settlement.rejects.extend(self.window.settle(&id).map(reject));
            }
            ClientMessage::Progress { id } => {
                let time = self.proxy.lease_time();
                let extended = self.window.extend(&id, Instant::now() + time);
                settlement.extends.extend(extended.map(|receipt| (receipt, time)));
            }
            ClientMessage::Ignored => {}
        }
        Ok(())
    }

    /// Settles the acknowledgements that have already arrived, and releases the rest.
    async fn release_outstanding(&mut self) {
        let mut settlement = Settlement::default();
        while let Some(input) = self.link.websocket.next_now() {
            if self.collect(input, &mut settlement).is_err() {
                break;
            }
        }
        settlement.releases.extend(undelivered(self.window.drain()));
        self.settle(settlement).await;
    }
}
