//! Delivering events to clients: poll, lease, settle, tap.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use wwproxy_protocol::{
    AppId, ConsumerName,
    api::{self, Receipt},
};

use super::{Proxy, ProxyError, clients::Client, settle::undelivered};
use crate::store::{Delivery, Lease, MAX_LEASE, Settlement, StoreFuture, Tap};

/// The most events of one poll.
const MAX_POLL_EVENTS: u32 = 10_000;
/// How many events a poll returns by default.
const DEFAULT_POLL_EVENTS: u32 = 1000;
/// How many events a lease returns by default.
const DEFAULT_LEASE_EVENTS: u32 = 64;
/// The most bytes of events in one answer, though at least one event.
const MAX_ANSWER_BYTES: u64 = 16 << 20;
/// The most bytes of events in one lease of a websocket, though at least one event. The lease expires while its events are
/// sent, so it must be small.
const MAX_WEBSOCKET_LEASE_BYTES: u64 = 1 << 20;
/// How long a websocket's lease waits for events before it is renewed.
const WEBSOCKET_LEASE_WAIT: Duration = Duration::from_secs(3600);

/// The deliveries of one answer, to be settled when it is known whether the answer was delivered.
#[derive(Debug)]
pub(crate) struct Unsettled {
    proxy: Arc<Proxy>,
    app: AppId,
    consumer: ConsumerName,
    receipts: Vec<Receipt>,
    /// Whether delivering the answer acknowledges them (a poll), or its client does so later (a lease).
    auto_ack: bool,
}

impl Proxy {
    /// Leases the oldest events for a poll, which acknowledges them when its answer was delivered.
    pub(crate) async fn poll(
        self: &Arc<Self>,
        app: &AppId,
        consumer: &ConsumerName,
        max: Option<u32>,
    ) -> Result<(Vec<Delivery>, Unsettled), ProxyError> {
        let lease = Lease {
            max_events: at_most(max.unwrap_or(DEFAULT_POLL_EVENTS), MAX_POLL_EVENTS),
            max_bytes: MAX_ANSWER_BYTES,
            wait: Duration::ZERO,
            // The delivery guard settles the lease earlier, however slow the client is.
            time: MAX_LEASE,
        };
        let deliveries = self.lease_from_store(app, consumer, lease).await?;
        let unsettled = self.unsettled(app, consumer, &deliveries, true);
        Ok((deliveries, unsettled))
    }

    /// Leases events for a client that settles them later. An answer that is not delivered releases them.
    pub(crate) async fn lease(
        self: &Arc<Self>,
        app: &AppId,
        consumer: &ConsumerName,
        request: &api::LeaseRequest,
    ) -> Result<(Vec<Delivery>, Unsettled), ProxyError> {
        let lease = Lease {
            max_events: at_most(request.max.unwrap_or(DEFAULT_LEASE_EVENTS), api::MAX_LEASE_EVENTS),
            max_bytes: MAX_ANSWER_BYTES,
            wait: Duration::from_millis(request.wait_ms.unwrap_or(0)).min(api::MAX_LEASE_WAIT),
            time: request.lease_ms.map_or(self.lease_time, Duration::from_millis).min(MAX_LEASE),
        };
        // A lease that does not wait returns at once, so it is not counted.
        let _client = if lease.wait.is_zero() { None } else { Some(self.clients.admit_lease(app)?) };
        let deliveries = self.lease_from_store(app, consumer, lease).await?;
        let unsettled = self.unsettled(app, consumer, &deliveries, false);
        Ok((deliveries, unsettled))
    }

    /// Leases events for a websocket whose prefetch window has room for this many. Waits for the first one.
    pub(crate) fn lease_for_websocket<'a>(
        &'a self,
        app: &'a AppId,
        consumer: &'a ConsumerName,
        max_events: usize,
    ) -> StoreFuture<'a, Vec<Delivery>> {
        let lease = Lease {
            max_events,
            max_bytes: MAX_WEBSOCKET_LEASE_BYTES,
            wait: WEBSOCKET_LEASE_WAIT,
            time: self.lease_time,
        };
        self.store.lease(app, consumer, lease)
    }

    /// Taps the app's events that are stored from now on.
    pub(crate) async fn tap(&self, app: &AppId) -> Result<Tap, ProxyError> {
        self.store.tap(app).await?.ok_or(ProxyError::TooManyTaps)
    }

    /// Counts a websocket of a consumer until the value is dropped. Also returns what is cancelled when the consumer is deleted.
    pub(crate) fn connect(
        &self,
        app: &AppId,
        consumer: &ConsumerName,
    ) -> Result<(Client, CancellationToken), ProxyError> {
        self.clients.admit_websocket(app, consumer)
    }

    fn unsettled(
        self: &Arc<Self>,
        app: &AppId,
        consumer: &ConsumerName,
        deliveries: &[Delivery],
        auto_ack: bool,
    ) -> Unsettled {
        let receipts = deliveries.iter().map(|delivery| delivery.receipt.clone()).collect();
        Unsettled {
            proxy: Arc::clone(self),
            app: app.clone(),
            consumer: consumer.clone(),
            receipts,
            auto_ack,
        }
    }
}

impl Unsettled {
    /// Settles the deliveries of an answer that was delivered in full, or was not.
    pub(crate) async fn settle(self, delivered: bool) {
        let settlement = match (delivered, self.auto_ack) {
            (true, true) => Settlement { acks: self.receipts, ..Settlement::default() },
            (true, false) => return,
            (false, _) => {
                tracing::debug!(app = %self.app, events = self.receipts.len(), "an answer was not delivered");
                Settlement { releases: undelivered(self.receipts), ..Settlement::default() }
            }
        };
        self.proxy.settle_or_log(&self.app, &self.consumer, settlement).await;
    }
}

fn at_most(requested: u32, limit: u32) -> usize {
    usize::try_from(requested.min(limit)).unwrap_or(usize::MAX)
}
