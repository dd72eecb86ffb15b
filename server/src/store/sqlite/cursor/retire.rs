//! Events that leave the log, or are dropped for the consumer.

use super::{
    super::{
        Seq,
        app_log::{Entry, Total},
    },
    Cursor,
};

impl Cursor {
    /// The last event that was leased, skipped or dropped.
    pub(in super::super) fn position(&self) -> Seq {
        self.position
    }

    /// Events that were dropped before the consumer settled them.
    pub(in super::super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Whether the consumer is done with an event: it is delivered or skipped, and not dead.
    pub(in super::super) fn is_settled(&self, seq: Seq) -> bool {
        seq <= self.position && self.open.get(seq).is_none()
    }

    /// The lowest event that was settled since the last call.
    pub(in super::super) fn take_lowest_settled(&mut self) -> Option<Seq> {
        self.pending.take_lowest_settled()
    }

    /// Forgets an event that leaves the log, and all before it that were not leased. `passed` is the app's total at the event.
    /// `matches`: the consumer would have received it.
    pub(in super::super) fn remove(&mut self, removed: &Entry, passed: Total, matches: bool) {
        let seq = removed.seq;
        if self.open.get(seq).is_some() {
            self.drop_open(seq);
        } else if seq > self.position && matches {
            self.dropped += 1;
            self.ahead.drop_first(removed.size);
        }
        if seq > self.position {
            while self.fresh.front().is_some_and(|entry| entry.seq <= seq) {
                self.fresh.pop_front();
            }
            (self.position, self.passed) = (seq, passed);
            self.scanned = self.scanned.max(seq);
            self.pending.moved();
        }
    }

    /// Ends an open event without an outcome. Its receipt is stale from now on.
    fn drop_open(&mut self, seq: Seq) {
        if let Some(open) = self.open.remove(seq) {
            self.dropped += u64::from(!open.is_dead());
            self.pending.forget(seq);
        }
    }
}
