//! The events that a run has in hand, and what becomes of each.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use wwproxy_protocol::{EventId, message::EventMessage};

use super::HandlerError;
use crate::{Delivery, error::harmless, prefetch::Prefetched};

/// The longest that a failure keeps an event away.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(600);
/// How many events are remembered whose acknowledgement was lost. They come again at once, so few are ever due.
const MAX_REMEMBERED: usize = 1024;

/// How a handler ended.
pub(super) enum Outcome {
    Done,
    Failed(HandlerError),
    Panicked,
}

/// The events in hand.
#[derive(Default)]
pub(super) struct Work {
    /// Those whose turn has not come.
    pub(super) waiting: VecDeque<Prefetched<Delivery>>,
    /// Those being handled, each with the copy of it that came last: the only one that can still be acknowledged.
    held: HashMap<EventId, Delivery>,
    /// Those that were handled, but whose acknowledgement did not reach the server. They come again.
    done: VecDeque<EventId>,
    retry_delay: Duration,
}

impl Work {
    /// Nothing in hand. The first failure keeps an event away for so long.
    pub(super) fn new(retry_delay: Duration) -> Self {
        Self { retry_delay, ..Self::default() }
    }

    /// Takes an event that came. One that was handled before is only acknowledged.
    pub(super) fn take(&mut self, event: Prefetched<Delivery>) -> Option<Settlement> {
        let id = event.get().id();
        if let Some(older) = self.held.get_mut(id) {
            *older = event.take();
        } else if let Some(at) = self.done.iter().position(|done| done == id) {
            self.done.remove(at);
            return Some(Settlement { delivery: event.take(), delay: None });
        } else {
            self.waiting.push_back(event);
        }
        None
    }

    /// The next event to handle. Those whose connection was lost while they waited come again.
    pub(super) fn next(&mut self) -> Option<EventMessage> {
        let delivery = loop {
            let delivery = self.waiting.pop_front()?.take();
            if !delivery.is_stale() {
                break delivery;
            }
        };
        let event = delivery.event().clone();
        self.held.insert(event.id.clone(), delivery);
        Some(event)
    }

    pub(super) fn settle(&mut self, id: &EventId, outcome: Outcome) -> Option<Settlement> {
        let delivery = self.held.remove(id)?;
        let delay = match outcome {
            Outcome::Done => None,
            Outcome::Failed(error) => {
                let error = harmless(&error.to_string());
                tracing::warn!(%id, %error, "the handler failed; the event will come again");
                Some(self.delay(delivery.attempt()))
            }
            Outcome::Panicked => {
                tracing::error!(%id, "the handler panicked; the event will come again");
                Some(self.delay(delivery.attempt()))
            }
        };
        Some(Settlement { delivery, delay })
    }

    fn delay(&self, attempt: Option<u32>) -> Duration {
        let doublings = attempt.unwrap_or(1).saturating_sub(1);
        self.retry_delay.saturating_mul(2u32.saturating_pow(doublings)).min(MAX_RETRY_DELAY)
    }

    pub(super) fn remember(&mut self, unheard: Option<EventId>) {
        if let Some(id) = unheard {
            tracing::info!(%id, "the connection was lost before the event was acknowledged; it will come again");
            if self.done.len() == MAX_REMEMBERED {
                self.done.pop_front();
            }
            self.done.push_back(id);
        }
    }
}

/// What the server is to be told of an event: that it is done, or when it shall come again.
pub(super) struct Settlement {
    delivery: Delivery,
    delay: Option<Duration>,
}

/// Tells the server. Gives the name of an event that is done and of which it could not be told.
pub(super) async fn carry_out(Settlement { delivery, delay }: Settlement) -> Option<EventId> {
    match delay {
        None => delivery.ack().await.err().map(|_| delivery.id().clone()),
        Some(delay) => {
            // Not told, the server hands it out again all the same, and sooner.
            let _ = delivery.nack(delay).await;
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_attempt_doubles_the_delay_up_to_a_limit() {
        let work = Work::new(Duration::from_secs(2));
        let seconds = [None, Some(0), Some(1), Some(2), Some(3), Some(8), Some(9), Some(10), Some(u32::MAX)]
            .map(|attempt| work.delay(attempt).as_secs());
        assert_eq!(seconds, [2, 2, 2, 4, 8, 256, 512, 600, 600]);
    }
}
