//! Accepted events that are still in the file.

use std::collections::{VecDeque, vec_deque};

use wwproxy_protocol::AppId;

use crate::store::sequence::Seq;

/// How many go with one commit at most: less work than an fsync, so that no append waits long for a client that
/// takes a long backlog.
const AT_ONCE: usize = 256;

/// By who accepted how many at once, first come first.
#[derive(Debug, Default)]
pub(super) struct Deletions {
    accepted: VecDeque<(AppId, Vec<Seq>)>,
    events: usize,
}

impl Deletions {
    pub(super) fn add(&mut self, app: AppId, numbers: Vec<Seq>) {
        self.events += numbers.len();
        self.accepted.push_back((app, numbers));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.accepted.is_empty()
    }

    /// Whether there are enough for a commit of their own.
    pub(super) fn are_many(&self) -> bool {
        self.events >= AT_ONCE
    }

    pub(super) fn numbers(&self) -> impl Iterator<Item = &[Seq]> {
        self.accepted.iter().map(|(_, numbers)| numbers.as_slice())
    }

    /// Takes out those of the next commit.
    pub(super) fn take_first(&mut self) -> Self {
        let mut taken = Self::default();
        while taken.events < AT_ONCE
            && let Some((app, mut numbers)) = self.accepted.pop_front()
        {
            self.events -= numbers.len();
            let rest = numbers.split_off(numbers.len().min(AT_ONCE - taken.events));
            if !rest.is_empty() {
                self.push_front(app.clone(), rest);
            }
            taken.add(app, numbers);
        }
        taken
    }

    /// Puts back what was taken out, as nothing came of it.
    pub(super) fn put_back(&mut self, taken: Self) {
        for (app, numbers) in taken.accepted.into_iter().rev() {
            self.push_front(app, numbers);
        }
    }

    fn push_front(&mut self, app: AppId, numbers: Vec<Seq>) {
        self.events += numbers.len();
        self.accepted.push_front((app, numbers));
    }
}

impl IntoIterator for Deletions {
    type Item = (AppId, Vec<Seq>);
    type IntoIter = vec_deque::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.accepted.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_takes_the_first_and_leaves_the_others() {
        let (one, two): (AppId, AppId) = ("one".parse().unwrap(), "two".parse().unwrap());
        let mut deletions = Deletions::default();
        deletions.add(one.clone(), (0..200).collect());
        deletions.add(two.clone(), (200..700).collect());
        assert!(deletions.are_many());
        let first = deletions.take_first();
        assert_eq!(first.numbers().collect::<Vec<_>>().concat(), (0..256).collect::<Vec<_>>());
        deletions.put_back(first);
        assert_eq!(deletions.numbers().collect::<Vec<_>>().concat(), (0..700).collect::<Vec<_>>());
        let first: Vec<_> = deletions.take_first().into_iter().collect();
        assert_eq!(first, [(one, (0..200).collect()), (two, (200..256).collect())]);
        deletions.take_first();
        assert!(!deletions.are_many() && !deletions.is_empty());
        assert_eq!(deletions.take_first().numbers().next().unwrap(), (512..700).collect::<Vec<_>>());
        assert!(deletions.is_empty() && deletions.events == 0);
    }
}
