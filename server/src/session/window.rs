//! The events that a client has and has not acknowledged.

use std::collections::{HashMap, VecDeque};

use tokio::time::Instant;
use wwproxy_protocol::{EventId, api::Receipt};

/// Up to so many events are outstanding; each until it is settled, or its lease ends.
#[derive(Debug)]
pub(super) struct Window {
    size: usize,
    outstanding: HashMap<EventId, Outstanding>,
    /// Ends of leases in the order they were given. One that was settled before is passed over.
    ends: VecDeque<(Instant, EventId)>,
}

#[derive(Debug)]
struct Outstanding {
    receipt: Receipt,
    until: Instant,
}

impl Window {
    pub(super) fn new(size: u32) -> Self {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        Self { size, outstanding: HashMap::new(), ends: VecDeque::new() }
    }

    /// How many more events may go out.
    pub(super) fn room(&self) -> usize {
        self.size.saturating_sub(self.outstanding.len())
    }

    /// Notes an event that goes out. One that went out before has a new receipt.
    pub(super) fn sent(&mut self, id: EventId, receipt: Receipt, until: Instant) {
        self.ends.push_back((until, id.clone()));
        self.outstanding.insert(id, Outstanding { receipt, until });
    }

    /// Takes an event off that the client has settled, or nothing where it does not have it.
    pub(super) fn settle(&mut self, id: &str) -> Option<Receipt> {
        let id: EventId = id.parse().ok()?;
        let receipt = self.outstanding.remove(&id)?.receipt;
        if self.outstanding.is_empty() {
            self.ends.clear();
        } else if self.ends.len() > 2 * self.size {
            let Self { outstanding, ends, .. } = self;
            ends.retain(|(until, id)| outstanding.get(id).is_some_and(|sent| sent.until == *until));
        }
        Some(receipt)
    }

    /// When the next lease may end.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.ends.front().map(|(until, _)| *until)
    }

    /// Takes off the events whose lease has ended; they are no longer this client's.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some((until, id)) = self.ends.front() {
            if *until > now {
                break;
            }
            if self.outstanding.get(id).is_some_and(|sent| sent.until == *until) {
                self.outstanding.remove(id);
            }
            self.ends.pop_front();
        }
    }

    /// Takes everything off.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Receipt> {
        self.ends.clear();
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
    fn room_comes_back_with_an_ack_and_with_the_end_of_a_lease() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut window = Window::new(2);
        window.sent(id("a"), Receipt::new("a1"), start + second);
        window.sent(id("b"), Receipt::new("b1"), start + second * 2);
        assert_eq!(window.room(), 0);
        assert_eq!(window.next_end(), Some(start + second));
        window.expire(start + second);
        assert_eq!(window.room(), 1);
        assert_eq!(window.settle("a"), None, "its lease has ended");
        assert_eq!(window.settle("b"), Some(Receipt::new("b1")));
        assert_eq!(window.settle("b"), None);
        assert_eq!((window.room(), window.next_end()), (2, None));
    }

    #[test]
    fn an_event_that_comes_again_has_a_new_lease() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut window = Window::new(4);
        window.sent(id("a"), Receipt::new("a1"), start + second);
        window.sent(id("a"), Receipt::new("a2"), start + second * 2);
        window.expire(start + second);
        assert_eq!(window.settle("a"), Some(Receipt::new("a2")));
    }

    #[test]
    fn settled_events_leave_nothing_behind() {
        let until = Instant::now() + Duration::from_secs(60);
        let mut window = Window::new(2);
        window.sent(id("stuck"), Receipt::new("s"), until);
        for n in 0..1000 {
            window.sent(id(&n.to_string()), Receipt::new("r"), until);
            window.settle(&n.to_string()).unwrap();
        }
        assert!(window.ends.len() <= 5, "{}", window.ends.len());
        assert_eq!(window.drain().count(), 1);
    }
}
