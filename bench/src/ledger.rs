//! The ledger: every accepted and every delivered event, reconciled at the end of a run.

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use parking_lot::{Mutex, MutexGuard};

/// Identifies an event by its ledger, its sender and its sequence number. Part of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EventKey {
    ledger: u32,
    pub(crate) sender: usize,
    pub(crate) number: usize,
}

/// The text before the key in a body.
const PREFIX: &str = "{\"event\":\"";
const LEDGER_DIGITS: usize = 10;
const SENDER_DIGITS: usize = 6;
const NUMBER_DIGITS: usize = 10;

impl EventKey {
    /// A JSON object with this key, padded to `size` bytes.
    pub(crate) fn body(self, size: usize) -> String {
        let mut body = format!("{PREFIX}{self}\",\"text\":\"");
        let padding = size.saturating_sub(body.len() + 2);
        body.extend(std::iter::repeat_n('x', padding));
        body.push_str("\"}");
        body
    }

    /// Finds the key in a message that contains one body.
    pub(crate) fn find(message: &str) -> Option<Self> {
        let start = message.find(PREFIX)? + PREFIX.len();
        let (ledger, rest) = message[start..].split_at_checked(LEDGER_DIGITS)?;
        let (sender, rest) = rest.strip_prefix('-')?.split_at_checked(SENDER_DIGITS)?;
        let number = rest.strip_prefix('-')?.get(..NUMBER_DIGITS)?;
        Some(Self {
            ledger: ledger.parse().ok()?,
            sender: sender.parse().ok()?,
            number: number.parse().ok()?,
        })
    }
}

impl fmt::Display for EventKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ledger, sender, number } = self;
        write!(f, "{ledger:0LEDGER_DIGITS$}-{sender:0SENDER_DIGITS$}-{number:0NUMBER_DIGITS$}")
    }
}

/// The ledger of one run.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// Random, so that no two runs post the same body: the server would reject it as a duplicate.
    id: u32,
    is_closed: AtomicBool,
    senders: Mutex<Vec<Sender>>,
}

#[derive(Debug, Default)]
struct Sender {
    events: Vec<Event>,
}

#[derive(Debug, Clone, Copy)]
struct Event {
    posted: Instant,
    accepted: bool,
    deliveries: u8,
}

/// The result of the reconciliation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Events answered 201.
    pub(crate) accepted: usize,
    /// Distinct events delivered.
    pub(crate) delivered: usize,
    /// Events answered 201 and never delivered.
    pub(crate) lost: usize,
    /// Deliveries after the first one of an event.
    pub(crate) duplicates: usize,
}

impl Totals {
    /// Fails if an event answered 201 was lost or delivered out of order.
    pub(crate) fn ensure_complete(self, out_of_order: usize) -> anyhow::Result<()> {
        anyhow::ensure!(self.lost == 0, "{} of {} events were lost", self.lost, self.accepted);
        anyhow::ensure!(out_of_order == 0, "{out_of_order} events were delivered out of order");
        Ok(())
    }
}

impl Default for Ledger {
    fn default() -> Self {
        let random = RandomState::new().hash_one(0);
        let id = u32::try_from(random >> 32).unwrap_or(0);
        Self { id, is_closed: AtomicBool::new(false), senders: Mutex::default() }
    }
}

impl Ledger {
    /// Stops the senders. A request in flight may stay unanswered: its event may be stored or not, so it may be delivered
    /// or not.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }

    /// Records a post and returns its key, or `None` if the ledger is closed.
    pub(crate) fn record_post(&self, sender: usize, posted: Instant) -> Option<EventKey> {
        if self.is_closed() {
            return None;
        }
        let mut senders = self.lock();
        if senders.len() <= sender {
            senders.resize_with(sender + 1, Sender::default);
        }
        let events = &mut senders[sender].events;
        events.push(Event { posted, accepted: false, deliveries: 0 });
        Some(EventKey { ledger: self.id, sender, number: events.len() - 1 })
    }

    pub(crate) fn record_accepted(&self, key: EventKey) {
        if let Some(event) = self.lock().get_mut(key.sender).and_then(|s| s.events.get_mut(key.number)) {
            event.accepted = true;
        }
    }

    /// Records a delivery. Returns when the event was posted if this is its first delivery.
    pub(crate) fn record_delivery(&self, key: EventKey) -> Option<Instant> {
        if key.ledger != self.id {
            return None;
        }
        let mut senders = self.lock();
        let event = senders.get_mut(key.sender)?.events.get_mut(key.number)?;
        event.deliveries = event.deliveries.saturating_add(1);
        (event.deliveries == 1).then_some(event.posted)
    }

    /// The number of senders so far.
    pub(crate) fn sender_count(&self) -> usize {
        self.lock().len()
    }

    /// Counts accepted, delivered, lost and duplicate events.
    pub(crate) fn reconcile(&self) -> Totals {
        let mut totals = Totals::default();
        for event in self.lock().iter().flat_map(|sender| &sender.events) {
            totals.accepted += usize::from(event.accepted);
            totals.delivered += usize::from(event.deliveries > 0);
            totals.lost += usize::from(event.accepted && event.deliveries == 0);
            totals.duplicates += usize::from(event.deliveries.saturating_sub(1));
        }
        totals
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Sender>> {
        self.senders.lock()
    }
}

/// Checks the order of deliveries of one app to one client. A sender posts its next event after the response to the
/// previous one, so each sender's sequence numbers must ascend.
#[derive(Debug, Default)]
pub(crate) struct OrderCheck {
    last: HashMap<usize, usize>,
    /// Events delivered after a later event of their sender.
    pub(crate) out_of_order: usize,
}

impl OrderCheck {
    /// Records the first delivery of an event.
    pub(crate) fn record(&mut self, key: EventKey) {
        let last = self.last.entry(key.sender).or_insert(key.number);
        self.out_of_order += usize::from(key.number < *last);
        *last = key.number.max(*last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_in_a_message_with_its_body() {
        let key = EventKey { ledger: 5, sender: 7, number: 123 };
        let body = key.body(1024);
        assert_eq!(body.len(), 1024);
        assert_eq!(
            EventKey::find(&format!("{{\"type\":\"event\",\"id\":\"x\",\"data\":{body}}}")),
            Some(key)
        );
        assert_eq!(EventKey::find("{}"), None);
    }

    #[test]
    fn lost_duplicate_and_out_of_order_events_are_counted() {
        let ledger = Ledger::default();
        let now = Instant::now();
        let keys = [0, 0, 0, 1].map(|sender| ledger.record_post(sender, now).expect("the ledger is open"));
        keys[..3].iter().for_each(|&key| ledger.record_accepted(key));
        ledger.close();
        assert_eq!(ledger.record_post(0, now), None);
        let mut order = OrderCheck::default();
        for key in [keys[1], keys[0], keys[0], keys[3]] {
            if ledger.record_delivery(key).is_some() {
                order.record(key);
            }
        }
        assert_eq!(ledger.reconcile(), Totals { accepted: 3, delivered: 3, lost: 1, duplicates: 1 });
        assert_eq!(order.out_of_order, 1);
    }
}
