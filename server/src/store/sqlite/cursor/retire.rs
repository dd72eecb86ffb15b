//! Events that leave the log, or are dropped for the consumer.

use super::{
    super::{
        Seq,
        app_log::{Entry, Total},
        changes::Changes,
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
            // Events after it that a client deleted count as passed already.
            (self.position, self.passed) = (seq, self.passed.plus(removed.size).max(passed));
            self.scanned = self.scanned.max(seq);
            self.pending.moved();
        }
    }

    /// Adds the deletion of an event by a client to the changes. An event ahead counts as passed from then on.
    pub(in super::super) fn plan_delete(&self, deleted: &Entry, changes: &mut Changes) {
        if self.open.get(deleted.seq).is_none() && changes.position < deleted.seq {
            changes.passed = changes.passed.plus(deleted.size);
        }
        changes.rows.retain(|row| row.seq != deleted.seq);
        changes.deleted.push(deleted.seq);
    }

    /// Forgets an event that a client deleted. Its receipt is stale from now on. `matches`: the consumer would have received it.
    pub(in super::super) fn delete(&mut self, deleted: &Entry, matches: bool) {
        let (seq, size) = (deleted.seq, deleted.size);
        if self.open.remove(seq).is_some() {
            self.pending.forget(seq);
        } else if seq > self.position {
            self.passed = self.passed.plus(size);
            self.fresh.retain(|entry| entry.seq != seq);
            if matches {
                self.ahead.drop_first(size);
            }
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
