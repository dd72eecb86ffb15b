//! Counts of the skipped events, for the summary.

use std::{collections::BTreeMap, fmt::Write as _};

/// How many types the summary names; events of more types are counted together.
const MAX_TYPES: usize = 20;

/// How many events of each type were skipped.
#[derive(Default)]
pub(super) struct Skipped {
    counts: BTreeMap<String, u64>,
    others: u64,
}

impl Skipped {
    pub(super) fn count(&mut self, kind: &str) {
        if let Some(count) = self.counts.get_mut(kind) {
            *count += 1;
        } else if self.counts.len() < MAX_TYPES {
            self.counts.insert(kind.to_owned(), 1);
        } else {
            self.others += 1;
        }
    }

    /// Such as `: 3 × message-created, 1 × space-deleted`, the most frequent first.
    pub(super) fn list(&self) -> String {
        let mut counts: Vec<_> = self.counts.iter().map(|(kind, count)| (kind.as_str(), *count)).collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        counts.extend(Some(("other types", self.others)).filter(|(_, count)| *count > 0));
        let mut list = String::new();
        for (n, (kind, count)) in counts.into_iter().enumerate() {
            // Writing to a string cannot fail.
            let _ = write!(list, "{}{count} × {kind}", if n == 0 { ": " } else { ", " });
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_types_than_the_limit_are_counted_together() {
        let mut skipped = Skipped::default();
        assert_eq!(skipped.list(), "");
        for kind in ["a", "b", "b"] {
            skipped.count(kind);
        }
        assert_eq!(skipped.list(), ": 2 × b, 1 × a");
        for n in 0..100 {
            skipped.count(&n.to_string());
        }
        assert!(skipped.list().ends_with(", 82 × other types"), "{}", skipped.list());
    }
}
