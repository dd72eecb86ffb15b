//! Leasing: waits for events, leases them and reads them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    task::yield_now,
    time::{timeout, timeout_at},
};
use wwproxy_protocol::{AppId, ConsumerName, Event, api::Receipt};

use super::{
    cursor::{Leased, Request},
    reader::Read,
    state::{App, Consumer, Shared, encode_receipt},
};
use crate::store::{Delivery, Lease, StoreError};

/// An event that cannot be read is quarantined at this attempt: a failed read may be transient.
const MAX_READS: u32 = 3;

/// Leases events of a consumer, and waits for the first one.
pub(super) async fn lease(
    shared: &Arc<Shared>,
    app: &AppId,
    name: &ConsumerName,
    lease: Lease,
) -> Result<Vec<Delivery>, StoreError> {
    let deadline = Instant::now() + lease.wait;
    loop {
        let registered = shared.registered.notified();
        tokio::pin!(registered);
        // From here on a notification counts, even before it is awaited.
        registered.as_mut().enable();
        if let Some((app, consumer)) = shared.consumer(app, name) {
            if shared.is_off(name, &consumer) {
                return Err(StoreError::DefaultOff);
            }
            if let Some(deliveries) = lease_until(shared, &app, name, &consumer, &lease, deadline).await? {
                return Ok(deliveries);
            }
            // The consumer is about to be removed, or is off.
            yield_now().await;
        } else if !name.is_default() {
            return Err(StoreError::NoConsumer(name.clone()));
        } else if timeout_at(deadline.into(), registered).await.is_err() {
            // The client waited for its app's registration, which creates `default`.
            return Ok(Vec::new());
        }
    }
}

/// Leases events until a deadline. `None` if the consumer was deleted or switched off.
async fn lease_until(
    shared: &Arc<Shared>,
    app: &App,
    name: &ConsumerName,
    consumer: &Arc<Consumer>,
    lease: &Lease,
    deadline: Instant,
) -> Result<Option<Vec<Delivery>>, StoreError> {
    let _pass_on = PassOn(consumer);
    let _in_use = consumer.last_use.begin();
    loop {
        let arrived = consumer.arrived.notified();
        tokio::pin!(arrived);
        arrived.as_mut().enable();
        if consumer.is_deleted() || shared.is_off(name, consumer) {
            return Ok(None);
        }
        shared.read_ahead(app, consumer, lease.max_events).await?;
        let guard = LeaseGuard::lease(shared, consumer, lease);
        if !guard.leased.is_empty() {
            let deliveries = guard.read(app).await?;
            if !deliveries.is_empty() {
                return Ok(Some(deliveries));
            }
            // All of them were damaged or removed: there may be others.
            continue;
        }
        drop(guard);
        let now = Instant::now();
        if now >= deadline {
            return Ok(Some(Vec::new()));
        }
        let until = consumer.cursor().next_timer().map_or(deadline, |timer| timer.min(deadline));
        let wait = until.saturating_duration_since(now).max(Duration::from_millis(1));
        // A timeout means that a timer is due, or that the wait is over: the next turn of the loop finds out.
        let _ = timeout(wait, arrived).await;
    }
}

/// Wakes the next waiting lease when a lease ends, in whatever way: it may have used up a notification, and only it may have
/// known when the next timer is due.
struct PassOn<'a>(&'a Consumer);

impl Drop for PassOn<'_> {
    fn drop(&mut self) {
        self.0.arrived.notify_one();
    }
}

/// Leases that were not handed to a client. Dropping it takes them back.
struct LeaseGuard<'a> {
    shared: &'a Arc<Shared>,
    consumer: &'a Arc<Consumer>,
    leased: Vec<Leased>,
}

impl<'a> LeaseGuard<'a> {
    fn lease(shared: &'a Arc<Shared>, consumer: &'a Arc<Consumer>, lease: &Lease) -> Self {
        let Lease { max_events, max_bytes, time, .. } = *lease;
        let request = Request { max_events, max_bytes, time, now: Instant::now() };
        let leased = shared.update(consumer, |cursor| cursor.lease(&request, || shared.lease_number()));
        if !leased.is_empty() {
            // Another client may wait: for what is left, or until these leases expire.
            consumer.arrived.notify_one();
        }
        Self { shared, consumer, leased }
    }

    /// Reads the leased events. One that is damaged is quarantined, and does not hinder the others.
    async fn read(mut self, app: &App) -> Result<Vec<Delivery>, StoreError> {
        let mut events = self.shared.ring.get(self.leased.iter().map(|leased| leased.seq));
        let missing: Vec<_> = self.leased.iter().zip(&events).filter(|(_, event)| event.is_none()).collect();
        let seqs: Vec<_> = missing.iter().map(|(leased, _)| leased.seq).collect();
        let mut read = if seqs.is_empty() {
            Vec::new()
        } else {
            let (shared, app_id) = (Arc::clone(self.shared), app.id);
            let read = move || shared.read_events(app_id, &seqs);
            tokio::task::spawn_blocking(read).await.map_err(StoreError::engine)??
        }
        .into_iter();
        let mut deliveries = Vec::with_capacity(self.leased.len());
        for (leased, event) in std::mem::take(&mut self.leased).into_iter().zip(events.drain(..)) {
            let event = match event {
                Some(event) => Some(event),
                None => read.next().and_then(|read| self.check(leased, read)),
            };
            if let Some(event) = event {
                let receipt = encode_receipt(self.consumer.id, leased.seq, leased.number);
                deliveries.push(Delivery {
                    event,
                    attempt: leased.attempt,
                    replay: leased.replay,
                    receipt: Receipt::new(receipt),
                });
            }
        }
        Ok(deliveries)
    }

    fn check(&self, leased: Leased, read: Read) -> Option<Arc<Event>> {
        let is_missing = match read {
            Read::Event(event) => return Some(event),
            Read::Missing => true,
            Read::Failed(error) if leased.attempt < MAX_READS => {
                // It stays leased, so that others are delivered first.
                tracing::error!(%error, seq = leased.seq, "an event cannot be read, and is tried again when its lease expires");
                return None;
            }
            Read::Failed(error) => {
                tracing::error!(%error, seq = leased.seq, "an event cannot be read: it is dead, and others are delivered");
                false
            }
            Read::Damaged(damaged) => {
                tracing::error!(error = %damaged, "a damaged event is quarantined: it is dead, and others are delivered");
                false
            }
        };
        let Leased { seq, number, .. } = leased;
        self.shared
            .update(self.consumer, |cursor| cursor.quarantine(seq, number, is_missing, Instant::now()));
        None
    }
}

impl Drop for LeaseGuard<'_> {
    fn drop(&mut self) {
        if !self.leased.is_empty() {
            let leased = std::mem::take(&mut self.leased);
            self.shared.update(self.consumer, |cursor| cursor.undo(&leased));
        }
    }
}
