//! Queues events for handlers, and decides how each is settled.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use wwproxy_protocol::message::EventMessage;

use super::HandlerError;
use crate::{
    Delivery,
    delivery::{DeliveryKey, Disposition},
    error::sanitize,
};

/// The longest delay before a failed event is redelivered.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(600);
/// The most handled events that are remembered because their acknowledgement was lost. They are redelivered at once, so there are
/// few at a time.
const MAX_UNACKED: usize = 1024;

/// The result of a handler.
pub(super) enum HandlerResult {
    Succeeded,
    Failed(HandlerError),
    Panicked,
}

/// The state of the events of a run.
#[derive(Default)]
pub(super) struct Dispatcher {
    /// Events that wait for a handler.
    pub(super) queue: VecDeque<Delivery>,
    /// Events with a running handler, each with its latest delivery, the only one that can still be acknowledged.
    handling: HashMap<DeliveryKey, Delivery>,
    /// Events that were handled, but whose acknowledgement was lost. They are redelivered.
    unacked: VecDeque<DeliveryKey>,
    retry_delay: Duration,
}

impl Dispatcher {
    /// `retry_delay` is the redelivery delay after the first failure of an event.
    pub(super) fn new(retry_delay: Duration) -> Self {
        Self { retry_delay, ..Self::default() }
    }

    /// Queues a new event. A redelivery of an event whose handler runs replaces its delivery; one of an event that was handled is
    /// only acknowledged.
    pub(super) fn enqueue(&mut self, event: Delivery) -> Option<Settlement> {
        if let Some(delivery) = self.handling.get_mut(&event.key()) {
            *delivery = event;
        } else if let Some(at) = self.unacked.iter().position(|unacked| *unacked == event.key()) {
            self.unacked.remove(at);
            return Some(Settlement { delivery: event, disposition: Disposition::Ack });
        } else {
            self.queue.push_back(event);
        }
        None
    }

    /// Removes the next event from the queue for its handler. Skips events whose connection was lost, because they are
    /// redelivered.
    pub(super) fn start_next(&mut self) -> Option<EventMessage> {
        let delivery = loop {
            let delivery = self.queue.pop_front()?;
            if !delivery.is_stale() {
                break delivery;
            }
        };
        let event = delivery.event().clone();
        self.handling.insert(delivery.key(), delivery);
        Some(event)
    }

    /// Decides how the event of a completed handler is settled.
    pub(super) fn finish(&mut self, key: &DeliveryKey, result: HandlerResult) -> Option<Settlement> {
        let delivery = self.handling.remove(key)?;
        let id = delivery.id();
        let delay = self.retry_delay(delivery.attempt());
        let release = |reason| Disposition::Release { delay, reason: Some(reason) };
        let disposition = match result {
            HandlerResult::Succeeded => Disposition::Ack,
            HandlerResult::Failed(error) => {
                let error = sanitize(&error.to_string());
                tracing::warn!(%id, %error, "the handler failed; the event will be redelivered");
                release(error)
            }
            HandlerResult::Panicked => {
                tracing::error!(%id, "the handler panicked; the event will be redelivered");
                release("the handler panicked".to_owned())
            }
        };
        Some(Settlement { delivery, disposition })
    }

    fn retry_delay(&self, attempt: Option<u32>) -> Duration {
        let doublings = attempt.unwrap_or(1).saturating_sub(1);
        self.retry_delay.saturating_mul(2u32.saturating_pow(doublings)).min(MAX_RETRY_DELAY)
    }

    /// Remembers a handled event whose acknowledgement was lost, so that its redelivery is acknowledged without a second call of
    /// the handler.
    pub(super) fn remember_unacked(&mut self, key: Option<DeliveryKey>) {
        if let Some(key) = key {
            tracing::info!(id = %key.0, "the connection was lost before the event was acknowledged; it will be redelivered");
            if self.unacked.len() == MAX_UNACKED {
                self.unacked.pop_front();
            }
            self.unacked.push_back(key);
        }
    }
}

/// How a delivery is to be settled.
pub(super) struct Settlement {
    delivery: Delivery,
    disposition: Disposition,
}

impl Settlement {
    /// Settles the delivery. Returns the key of an event whose ack was lost.
    pub(super) async fn send(self) -> Option<DeliveryKey> {
        match self.disposition {
            Disposition::Release { delay, reason } => {
                // Without the release the server redelivers the event too, and sooner.
                let _ = self.delivery.release(delay, reason.as_deref()).await;
                None
            }
            disposition => self.delivery.settle(disposition).await.err().map(|_| self.delivery.key()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_retry_delay_doubles_with_each_attempt_up_to_a_limit() {
        let dispatcher = Dispatcher::new(Duration::from_secs(2));
        let seconds = [None, Some(0), Some(1), Some(2), Some(3), Some(8), Some(9), Some(10), Some(u32::MAX)]
            .map(|attempt| dispatcher.retry_delay(attempt).as_secs());
        assert_eq!(seconds, [2, 2, 2, 4, 8, 256, 512, 600, 600]);
    }
}
