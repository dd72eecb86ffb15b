//! How many events are ahead of a consumer with a filter: counted in the background, and kept up to date from then on.

use std::collections::HashSet;

use super::Cursor;
use crate::store::sqlite::{Seq, app_log::Total};

/// The matching events after the position.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// `None`: not counted yet.
    known: Option<Total>,
    /// Events after this one are counted as they are appended.
    counted_to: Seq,
    /// The events that the cursor ever passed.
    passed: Total,
    /// Changes if a count that is under way becomes wrong.
    generation: u64,
    is_counting: bool,
}

/// A count that is under way.
#[derive(Debug)]
pub(in crate::store::sqlite) struct Count {
    /// The position where it begins.
    pub(in crate::store::sqlite) from: Seq,
    /// The open events after it, which are not fresh when the position passes them.
    open: HashSet<Seq>,
    passed: Total,
    generation: u64,
}

impl Count {
    /// Whether the count includes this event.
    pub(in crate::store::sqlite) fn includes(&self, seq: Seq) -> bool {
        !self.open.contains(&seq)
    }
}

impl Ahead {
    /// The cursor passes an event.
    pub(super) fn pass(&mut self, size: u32) {
        self.passed = self.passed.plus(size);
        self.known = self.known.map(|known| known.minus(Total::default().plus(size)));
    }

    /// The first event ahead is dropped. A count that is under way may have missed it.
    pub(super) fn drop_first(&mut self, size: u32) {
        if self.is_counting { self.forget() } else { self.pass(size) }
    }

    /// The events ahead are others now.
    pub(super) fn forget(&mut self) {
        *self = Self { generation: self.generation + 1, passed: self.passed, ..Self::default() };
    }

    /// Nothing up to this seq is ahead.
    pub(super) fn none(&mut self, up_to: Seq) {
        self.forget();
        (self.known, self.counted_to) = (Some(Total::default()), up_to);
    }
}

impl Cursor {
    /// Begins a count, if one is needed.
    pub(in crate::store::sqlite) fn begin_count(&mut self) -> Option<Count> {
        let ahead = &mut self.ahead;
        if ahead.known.is_some() || ahead.is_counting {
            return None;
        }
        ahead.is_counting = true;
        let open = self.open.above(self.position).map(|(seq, _)| seq).collect();
        Some(Count { from: self.position, open, passed: ahead.passed, generation: ahead.generation })
    }

    /// Ends a count with the number of matching events, up to the end of the log.
    pub(in crate::store::sqlite) fn end_count(&mut self, count: &Count, matching: Total, end: Seq) {
        let ahead = &mut self.ahead;
        if count.generation == ahead.generation {
            ahead.known = Some(matching.minus(ahead.passed.minus(count.passed)));
            (ahead.counted_to, ahead.is_counting) = (end, false);
        }
    }

    /// A count failed.
    pub(in crate::store::sqlite) fn abandon_count(&mut self, count: &Count) {
        self.ahead.is_counting &= count.generation != self.ahead.generation;
    }

    /// Counts a matching event that was appended.
    pub(in crate::store::sqlite) fn appended(&mut self, seq: Seq, size: u32) {
        let ahead = &mut self.ahead;
        if seq > ahead.counted_to
            && let Some(known) = &mut ahead.known
        {
            *known = known.plus(size);
        }
    }

    /// Events that are not settled, for a consumer with a filter. `None`: not counted yet.
    pub(in crate::store::sqlite) fn unsettled_matching(&self) -> Option<Total> {
        Some(self.ahead.known?.add(self.open.unsettled()))
    }
}
