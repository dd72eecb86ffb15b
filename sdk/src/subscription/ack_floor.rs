//! The position from which a subscription with an ephemeral consumer continues after a reconnect.

use std::{collections::BTreeMap, time::SystemTime};

use wwproxy_protocol::{EventId, Start};

/// The most settled events above the floor that are remembered. If there are more, the oldest are delivered again.
const MAX_SETTLED: usize = 4096;

/// Which events are settled: all up to the floor, and some above it. The server forgets an ephemeral consumer with its connection.
#[derive(Debug)]
pub(crate) struct AckFloor {
    start: Start,
    /// The events above the floor that were received, in order of arrival, and whether each is settled.
    received: BTreeMap<EventId, bool>,
    settled: usize,
}

impl AckFloor {
    pub(super) fn new(start: Start) -> Self {
        Self { start, received: BTreeMap::new(), settled: 0 }
    }

    /// The position from which the next connection begins.
    pub(super) fn position(&self) -> &Start {
        &self.start
    }

    /// Fixes "new" at the server's time when the first connection was opened, so that events during a reconnect are not missed.
    pub(super) fn on_open(&mut self, now: SystemTime) {
        if self.start == Start::New {
            self.start = Start::At(now);
        }
    }

    /// Records a received event. Returns whether it is to be delivered: it is not settled yet.
    pub(super) fn receive(&mut self, id: &EventId) -> bool {
        !*self.received.entry(id.clone()).or_default()
    }

    /// Records that an event is acknowledged or rejected.
    pub(super) fn settle(&mut self, id: &EventId) {
        if let Some(settled) = self.received.get_mut(id).filter(|settled| !**settled) {
            *settled = true;
            self.settled += 1;
        }
        while let Some(first) = self.received.first_entry().filter(|first| *first.get()) {
            let id = first.remove_entry().0;
            self.settled -= 1;
            // An id below the floor is of an event that was redelivered although it was settled.
            if !matches!(&self.start, Start::After(floor) if *floor > id) {
                self.start = Start::After(id);
            }
        }
        if self.settled > MAX_SETTLED {
            let oldest = self.received.iter().find(|(_, settled)| **settled).map(|(id, _)| id.clone());
            self.settled -= usize::from(oldest.is_some_and(|id| self.received.remove(&id).is_some()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: usize) -> EventId {
        format!("{n:05}").parse().unwrap()
    }

    #[test]
    fn the_floor_is_the_last_event_before_which_all_are_settled() {
        let mut floor = AckFloor::new(Start::All);
        assert!([1, 2, 3].iter().all(|n| floor.receive(&id(*n))));
        floor.settle(&id(2));
        assert_eq!(floor.position(), &Start::All);
        floor.settle(&id(1));
        assert_eq!(floor.position(), &Start::After(id(2)));
        // The event is redelivered, for example because its acknowledgement was lost: it does not move the floor back.
        assert!(floor.receive(&id(1)));
        floor.settle(&id(1));
        assert_eq!(floor.position(), &Start::After(id(2)));
        floor.settle(&id(3));
        floor.settle(&id(3));
        assert_eq!((floor.position(), floor.settled), (&Start::After(id(3)), 0));
    }

    #[test]
    fn an_event_that_is_settled_above_the_floor_is_not_delivered_again() {
        let mut floor = AckFloor::new(Start::All);
        assert!(floor.receive(&id(1)) && floor.receive(&id(2)));
        floor.settle(&id(2));
        assert!(floor.receive(&id(1)), "not settled");
        assert!(!floor.receive(&id(2)), "settled");
    }

    #[test]
    fn memory_is_limited() {
        let mut floor = AckFloor::new(Start::All);
        for n in 0..MAX_SETTLED + 10 {
            assert!(floor.receive(&id(n)));
        }
        for n in 1..MAX_SETTLED + 10 {
            floor.settle(&id(n));
        }
        assert_eq!((floor.received.len(), floor.settled), (MAX_SETTLED + 1, MAX_SETTLED));
        assert!(floor.receive(&id(1)), "forgotten, so delivered again");
        floor.settle(&id(0));
        assert_eq!(floor.position(), &Start::After(id(0)));
    }

    #[test]
    fn new_is_the_time_of_the_first_connection() {
        let now = SystemTime::now();
        let mut floor = AckFloor::new(Start::New);
        floor.on_open(now);
        floor.on_open(now + std::time::Duration::from_secs(1));
        assert_eq!(floor.position(), &Start::At(now));
    }
}
