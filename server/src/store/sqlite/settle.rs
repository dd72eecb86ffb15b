//! Settling: acknowledging, rejecting, releasing and extending leases.

use std::{sync::Arc, time::Instant};

use wwproxy_protocol::{AppId, ConsumerName, api::Receipt};

use super::{
    Seq,
    state::{Shared, decode_receipt},
};
use crate::store::{Reject, Release, Settled, Settlement, StoreError};

pub(super) fn settle(
    shared: &Arc<Shared>,
    app: &AppId,
    name: &ConsumerName,
    settlement: Settlement,
) -> Result<Settled, StoreError> {
    let Some((_, consumer)) = shared.consumer(app, name) else {
        if !name.is_default() {
            return Err(StoreError::NoConsumer(name.clone()));
        }
        // The app was unregistered.
        let Settlement { acks, rejects, releases, extends } = settlement;
        let others = rejects.into_iter().map(|reject| reject.receipt);
        let others = others.chain(releases.into_iter().map(|release| release.receipt));
        let others = others.chain(extends.into_iter().map(|(receipt, _)| receipt));
        return Ok(Settled { stale: acks.into_iter().chain(others).collect(), ..Settled::default() });
    };
    consumer.last_use.touch();
    let now = Instant::now();
    let id = consumer.id;
    Ok(shared.update(&consumer, |cursor| {
        let mut stale = Vec::new();
        let mut count = |receipt: Receipt, settle: &mut dyn FnMut(Seq, u64) -> bool| {
            let is_current =
                decode_receipt(id, receipt.as_str()).is_some_and(|(seq, lease)| settle(seq, lease));
            if !is_current {
                stale.push(receipt);
            }
            usize::from(is_current)
        };
        let (mut acked, mut rejected, mut released, mut extended) = (0, 0, 0, 0);
        for receipt in settlement.acks {
            acked += count(receipt, &mut |seq, lease| cursor.ack(seq, lease, now));
        }
        for Reject { receipt, mut reason } in settlement.rejects {
            rejected += count(receipt, &mut |seq, lease| cursor.reject(seq, lease, reason.take(), now));
        }
        for Release { receipt, delay, mut reason } in settlement.releases {
            released +=
                count(receipt, &mut |seq, lease| cursor.release(seq, lease, delay, reason.take(), now));
        }
        for (receipt, time) in settlement.extends {
            extended += count(receipt, &mut |seq, lease| cursor.extend(seq, lease, time, now));
        }
        // What was released may be leased at once, and timers may have changed.
        if released + extended > 0 {
            consumer.arrived.notify_one();
        }
        Settled { acked, rejected, released, extended, stale }
    }))
}
