//! Creates deliveries, without duplicates of those in flight.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use wwproxy_protocol::{EventId, message::EventMessage};

use super::{Delivery, DeliveryKey, Disposition, SettleCommand, key};

/// Creates the deliveries of one connection and drops duplicates of events in flight. A server sends duplicates when a lease
/// expires; the original proxy repeats every unacknowledged event.
#[derive(Debug)]
pub(crate) struct Deliverer {
    in_flight: Arc<Mutex<HashSet<DeliveryKey>>>,
    commands: mpsc::Sender<SettleCommand>,
}

impl Deliverer {
    pub(crate) fn new(commands: mpsc::Sender<SettleCommand>) -> Self {
        Self { in_flight: Arc::default(), commands }
    }

    /// Creates a delivery, or returns `None` if the event is in flight.
    pub(crate) fn deliver(&self, event: EventMessage) -> Option<Delivery> {
        let key = key(&event);
        if !self.in_flight.lock().insert(key.clone()) {
            return None;
        }
        let in_flight = InFlight { key, all: self.in_flight.clone(), removed: false.into() };
        Some(Delivery { event, in_flight, commands: self.commands.clone() })
    }

    /// The events whose deliveries exist.
    pub(crate) fn in_flight(&self) -> Vec<EventId> {
        self.in_flight.lock().iter().map(|(id, _)| id.clone()).collect()
    }

    /// Acknowledges an event that was processed before. If there is no room for the command, the event is redelivered later.
    pub(crate) fn ack_again(&self, id: EventId) {
        let (flushed, _) = oneshot::channel();
        let command = SettleCommand { id, disposition: Disposition::Ack, flushed };
        // The redelivery is acknowledged in the same way; ignore.
        let _ = self.commands.try_send(command);
    }
}

/// Keeps an event in the set of events in flight until it is removed or dropped.
pub(super) struct InFlight {
    key: DeliveryKey,
    all: Arc<Mutex<HashSet<DeliveryKey>>>,
    removed: AtomicBool,
}

impl InFlight {
    pub(super) fn remove(&self) {
        if !self.removed.swap(true, Ordering::AcqRel) {
            self.all.lock().remove(&self.key);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.remove();
    }
}
