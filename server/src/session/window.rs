//! The prefetch window of a websocket: the events that its client has not acknowledged.

use std::collections::{HashMap, VecDeque};

use tokio::time::Instant;
use wwproxy_protocol::{EventId, api::Receipt};

/// Events in flight, up to the size of the window. Each is outstanding until it is settled or its lease expires.
#[derive(Debug)]
pub(super) struct Window {
    size: usize,
    outstanding: HashMap<EventId, Outstanding>,
    /// When leases expire, oldest first. Entries of settled events are skipped.
    expiries: VecDeque<(Instant, EventId)>,
}

#[derive(Debug)]
struct Outstanding {
    receipt: Receipt,
    expires: Instant,
}

impl Window {
    pub(super) fn new(size: u32) -> Self {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        Self { size, outstanding: HashMap::new(), expiries: VecDeque::new() }
    }

    /// How many more events may be sent.
    pub(super) fn room(&self) -> usize {
        self.size.saturating_sub(self.outstanding.len())
    }

    /// Adds an event that is sent. A redelivered one replaces its earlier receipt.
    pub(super) fn insert(&mut self, id: EventId, receipt: Receipt, expires: Instant) {
        self.expiries.push_back((expires, id.clone()));
        self.outstanding.insert(id, Outstanding { receipt, expires });
    }

    /// Removes an event that the client settles and returns its receipt, if the event is outstanding.
    pub(super) fn settle(&mut self, id: &str) -> Option<Receipt> {
        let id: EventId = id.parse().ok()?;
        let receipt = self.outstanding.remove(&id)?.receipt;
        self.forget_expiries();
        Some(receipt)
    }

    /// Removes the expiries of settled and extended events, if there are many.
    fn forget_expiries(&mut self) {
        let Self { outstanding, expiries, size } = self;
        if outstanding.is_empty() {
            expiries.clear();
        } else if expiries.len() > 2 * *size {
            expiries.retain(|(expires, id)| outstanding.get(id).is_some_and(|sent| sent.expires == *expires));
        }
    }

    /// Extends the lease of an event and returns its receipt, if the event is outstanding.
    pub(super) fn extend(&mut self, id: &str, expires: Instant) -> Option<Receipt> {
        let id: EventId = id.parse().ok()?;
        let sent = self.outstanding.get_mut(&id)?;
        sent.expires = expires;
        let receipt = sent.receipt.clone();
        self.expiries.push_back((expires, id));
        self.forget_expiries();
        Some(receipt)
    }

    /// When the next lease may expire.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.expiries.front().map(|(expires, _)| *expires)
    }

    /// Removes the events whose lease has expired: other clients may receive them now.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some((expires, id)) = self.expiries.front() {
            if *expires > now {
                break;
            }
            if self.outstanding.get(id).is_some_and(|sent| sent.expires == *expires) {
                self.outstanding.remove(id);
            }
            self.expiries.pop_front();
        }
    }

    /// Removes all events.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Receipt> {
        self.expiries.clear();
        self.outstanding.drain().map(|(_, sent)| sent.receipt)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn id(text: &str) -> EventId {
        text.parse().unwrap()
    }

    #[test]
    fn an_ack_and_an_expired_lease_free_room() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut window = Window::new(2);
        window.insert(id("a"), Receipt::new("a1"), start + second);
        window.insert(id("b"), Receipt::new("b1"), start + second * 2);
        assert_eq!(window.room(), 0);
        assert_eq!(window.next_expiry(), Some(start + second));
        window.expire(start + second);
        assert_eq!(window.room(), 1);
        assert_eq!(window.settle("a"), None, "its lease has expired");
        assert_eq!(window.settle("b"), Some(Receipt::new("b1")));
        assert_eq!(window.settle("b"), None);
        assert_eq!((window.room(), window.next_expiry()), (2, None));
    }

    #[test]
    fn a_redelivered_event_has_a_new_lease() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut window = Window::new(4);
        window.insert(id("a"), Receipt::new("a1"), start + second);
        window.insert(id("a"), Receipt::new("a2"), start + second * 2);
        window.expire(start + second);
        assert_eq!(window.settle("a"), Some(Receipt::new("a2")));
    }

    #[test]
    fn an_extended_lease_expires_later_and_frees_its_memory() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut window = Window::new(2);
        window.insert(id("a"), Receipt::new("a1"), start + second);
        for n in 2..1000 {
            assert_eq!(window.extend("a", start + second * n), Some(Receipt::new("a1")));
        }
        assert_eq!(window.extend("b", start), None);
        assert!(window.expiries.len() <= 5, "{}", window.expiries.len());
        window.expire(start + second * 998);
        assert_eq!(window.room(), 1);
        window.expire(start + second * 999);
        assert_eq!(window.room(), 2);
    }

    #[test]
    fn settled_events_free_their_memory() {
        let until = Instant::now() + Duration::from_secs(60);
        let mut window = Window::new(2);
        window.insert(id("stuck"), Receipt::new("s"), until);
        for n in 0..1000 {
            window.insert(id(&n.to_string()), Receipt::new("r"), until);
            window.settle(&n.to_string()).unwrap();
        }
        assert!(window.expiries.len() <= 5, "{}", window.expiries.len());
        assert_eq!(window.drain().count(), 1);
    }
}
