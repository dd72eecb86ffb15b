//! Settling deliveries: acknowledging, rejecting, releasing and extending leases.

use std::time::Duration;

use tokio::task::yield_now;
use wwproxy_protocol::{
    AppId, ConsumerName,
    api::{AckRequest, AckResponse, Receipt},
};

use super::{Proxy, ProxyError};
use crate::store::{MAX_LEASE, Reject, Release, Settlement, StoreError};

/// How many receipts of a request are settled before other tasks run.
const SETTLE_BATCH: usize = 100;

impl Proxy {
    /// Settles the receipts of a request.
    pub(crate) async fn settle(
        &self,
        app: &AppId,
        consumer: &ConsumerName,
        request: AckRequest,
    ) -> Result<AckResponse, ProxyError> {
        let AckRequest { consumer: _, ack, reject, release, extend } = request;
        let rejects =
            reject.into_iter().map(|reject| Reject { receipt: reject.receipt, reason: reject.reason });
        let releases = release.into_iter().map(|release| {
            let delay = release.delay_ms.map(|ms| Duration::from_millis(ms).min(MAX_LEASE));
            Release { receipt: release.receipt, delay, reason: release.reason }
        });
        let extends = extend.into_iter().map(|extend| {
            let time = extend.lease_ms.map_or(self.lease_time, Duration::from_millis);
            (extend.receipt, time.min(MAX_LEASE))
        });
        let none = Settlement::default;
        // The first one finds out whether the consumer exists, also for a request without receipts.
        let batches = std::iter::once(none())
            .chain(batches(ack.into_iter(), |acks| Settlement { acks, ..none() }))
            .chain(batches(rejects, |rejects| Settlement { rejects, ..none() }))
            .chain(batches(releases, |releases| Settlement { releases, ..none() }))
            .chain(batches(extends, |extends| Settlement { extends, ..none() }));
        let mut answer = AckResponse::default();
        for settlement in batches {
            let settled = self.store.settle(app, consumer, settlement).await?;
            answer.acked += settled.acked as u64;
            answer.rejected += settled.rejected as u64;
            answer.released += settled.released as u64;
            answer.extended += settled.extended as u64;
            answer.stale.extend(settled.stale);
            yield_now().await;
        }
        Ok(answer)
    }

    /// Settles deliveries of a websocket, or of an answer. If the store fails, their leases expire and the events are
    /// redelivered.
    pub(crate) async fn settle_or_log(
        &self,
        app: &AppId,
        consumer: &ConsumerName,
        mut settlement: Settlement,
    ) {
        if settlement == Settlement::default() {
            return;
        }
        for delay in settlement.releases.iter_mut().filter_map(|release| release.delay.as_mut()) {
            *delay = (*delay).min(MAX_LEASE);
        }
        match self.store.settle(app, consumer, settlement).await {
            // The consumer was deleted, so there is nothing to settle. A client can do this without an end, so it is not logged.
            Ok(_) | Err(StoreError::NoConsumer(_)) => {}
            Err(error) => tracing::error!(
                %app, %consumer, %error,
                "events could not be settled: they are redelivered when their leases expire"
            ),
        }
    }
}

/// Releases events that did not reach a client.
pub(crate) fn undelivered(receipts: impl IntoIterator<Item = Receipt>) -> Vec<Release> {
    receipts.into_iter().map(|receipt| Release { receipt, delay: None, reason: None }).collect()
}

/// Divides a list into settlements of at most [`SETTLE_BATCH`] receipts.
fn batches<T>(
    mut list: impl Iterator<Item = T>,
    settlement: impl Fn(Vec<T>) -> Settlement,
) -> impl Iterator<Item = Settlement> {
    std::iter::from_fn(move || {
        let batch: Vec<_> = list.by_ref().take(SETTLE_BATCH).collect();
        (!batch.is_empty()).then(|| settlement(batch))
    })
}
