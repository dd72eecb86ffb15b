//! Events that leave the log, or are dropped for the consumer.

use super::{
    super::{
        Seq,
        app_log::{Entry, Total},
        changes::Changes,
    },
    Cursor, Open, State,
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

    /// Whether the consumer is done with an event, or has given it up: it is dead.
    pub(in super::super) fn is_settled_or_dead(&self, seq: Seq) -> bool {
        seq <= self.position && !self.awaits(seq, false)
    }

    /// The lowest event that was settled or died since the last call.
    pub(in super::super) fn take_lowest_settled(&mut self) -> Option<Seq> {
        self.pending.take_lowest_settled()
    }

    /// Forgets the app's oldest event, which leaves the log. `matches`: the consumer would have received it. Returns whether the
    /// consumer had not settled it.
    pub(in super::super) fn remove(&mut self, removed: &Entry, matches: bool) -> bool {
        let (seq, dropped) = (removed.seq, self.dropped);
        if self.open.get(seq).is_some() {
            self.drop_open(seq);
        } else if seq > self.position {
            self.passed = self.passed.plus(removed.size);
            if matches {
                self.dropped += 1;
                self.ahead.drop_first(removed.size);
            }
        }
        if seq > self.position {
            while self.fresh.front().is_some_and(|entry| entry.seq <= seq) {
                self.fresh.pop_front();
            }
            self.move_to(seq);
            self.scanned = self.scanned.max(seq);
            self.pending.moved();
        }
        self.dropped > dropped
    }

    /// Adds the deletion of an event to the changes. An event ahead counts as passed from then on.
    pub(in super::super) fn plan_delete(
        &self,
        deleted: &Entry,
        matches: bool,
        counts: bool,
        changes: &mut Changes,
    ) {
        changes.dropped += u64::from(counts && self.awaits(deleted.seq, matches));
        if self.open.get(deleted.seq).is_none() && changes.position < deleted.seq {
            changes.passed = changes.passed.plus(deleted.size);
        }
        // Its row is written first, and keeps the reason if the transaction fails.
        changes.deleted.push(deleted.seq);
    }

    /// Forgets an event that is not stored any more. Its receipt is stale from now on. `matches`: the consumer would have received it.
    /// `counts`: it is dropped if it is not settled.
    pub(in super::super) fn delete(&mut self, deleted: &Entry, matches: bool, counts: bool) {
        let (seq, size) = (deleted.seq, deleted.size);
        self.dropped += u64::from(counts && self.awaits(seq, matches));
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

    /// Whether the consumer has neither settled nor rejected an event.
    fn awaits(&self, seq: Seq, matches: bool) -> bool {
        self.open.get(seq).map_or(matches && seq > self.position, Open::is_pending)
    }

    /// Ends an open event without an outcome. Its receipt is stale from now on.
    fn drop_open(&mut self, seq: Seq) {
        if let Some(open) = self.open.remove(seq) {
            self.dropped += u64::from(open.is_pending());
            self.pending.forget(seq);
            self.keep_above(seq, open);
        }
    }
}

impl Cursor {
    /// Drops the oldest event that waits for its redelivery. Returns whether there is one.
    pub(in super::super) fn drop_waiting(&mut self) -> bool {
        self.open.first_waiting().map(|seq| self.drop_open(seq)).is_some()
    }

    /// Drops the oldest fresh event, but not this newest event of the app. Returns whether there is one in memory.
    pub(in super::super) fn drop_fresh(&mut self, newest: Seq) -> bool {
        let is_droppable = self.fresh.front().is_some_and(|entry| entry.seq < newest);
        if is_droppable {
            self.next_fresh();
            self.dropped += 1;
            self.pending.moved();
        }
        is_droppable
    }

    /// Drops the oldest leased event. Returns whether there is one.
    pub(in super::super) fn drop_leased(&mut self) -> bool {
        self.open.first_leased().map(|seq| self.drop_open(seq)).is_some()
    }

    /// Drops every event that is not settled, up to the end of the log.
    pub(in super::super) fn drop_all(&mut self, end: Seq, total: Total) {
        self.dropped += total.minus(self.passed).count;
        self.pass_all(end, total);
        while self.drop_waiting() || self.drop_leased() {}
    }

    /// Moves over every event up to the end of the log: they are not for this consumer.
    pub(in super::super) fn pass_all(&mut self, end: Seq, total: Total) {
        if self.position < end {
            self.move_to(end);
            (self.scanned, self.passed) = (end, total);
            self.fresh.clear();
            self.pending.moved();
        }
    }

    /// The consumer was used, which is written with the next flush.
    pub(in super::super) fn used(&mut self) {
        self.pending.moved();
    }

    /// The oldest event that is not settled: an open one, or the first fresh one in memory.
    pub(in super::super) fn oldest_pending(&self) -> Option<Seq> {
        let open = self.open.first_leased().into_iter().chain(self.open.first_waiting()).min();
        open.or_else(|| self.fresh.front().map(|entry| entry.seq))
    }
}

impl Cursor {
    /// Keeps a settled or dropped event as long as it is above the position.
    pub(super) fn keep_above(&mut self, seq: Seq, open: Open) {
        if seq > self.position {
            self.pending.touch(seq);
            self.open.insert(seq, Open { state: State::Settled, ..open });
        }
    }

    /// Moves the position forward.
    pub(super) fn move_to(&mut self, position: Seq) {
        self.position = position;
        while let Some(seq) = self.open.remove_settled(position) {
            self.pending.forget(seq);
        }
    }
}
