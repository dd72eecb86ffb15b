//! The tries of events that were returned to the server for their `Retry-After`.

use std::collections::VecDeque;

use parking_lot::Mutex;
use wwproxy_sdk::EventId;

/// The maximum number of remembered events. The oldest is evicted, and its count of tries restarts.
const MAX_EVENTS: usize = 1024;

/// The number of tries per event, the oldest event first, so that `--max-attempts` counts all tries of an event. An event that another
/// client gets is never taken here.
#[derive(Default)]
pub(super) struct Throttled(Mutex<VecDeque<(EventId, u32)>>);

impl Throttled {
    /// Removes and returns the tries of an event.
    pub(super) fn take(&self, id: &EventId) -> u32 {
        let mut events = self.0.lock();
        let at = events.iter().position(|(other, _)| other == id);
        at.and_then(|at| events.remove(at)).map_or(0, |(_, tries)| tries)
    }

    /// Remembers the tries of an event that is returned to the server.
    pub(super) fn remember(&self, id: &EventId, tries: u32) {
        let mut events = self.0.lock();
        if events.len() == MAX_EVENTS {
            events.pop_front();
        }
        events.push_back((id.clone(), tries));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_are_taken_once_and_their_number_is_bounded() {
        let throttled = Throttled::default();
        for n in 0..=MAX_EVENTS {
            throttled.remember(&n.to_string().parse().unwrap(), 3);
        }
        let take = |n: usize| throttled.take(&n.to_string().parse().unwrap());
        assert_eq!((take(0), take(1), take(1), take(MAX_EVENTS)), (0, 3, 0, 3), "the oldest was evicted");
    }
}
