//! The states that a consumer may be in.
//!
//! Outcomes are lazily durable: a crash restores the consumer as it was at some time since the last state that is known to be durable.
//! The model goes on with all of these, and drops those that contradict a later outcome.

use crate::{Outcome, consumer::Cursor};
use proptest::test_runner::TestCaseError;

#[derive(Debug)]
pub(crate) struct Worlds(Vec<World>);

#[derive(Debug)]
struct World {
    now: Cursor,
    /// The states that a crash may restore, other than `now`.
    earlier: Vec<Cursor>,
}

impl Worlds {
    pub(crate) fn new(cursor: Cursor) -> Self {
        Self([World { now: cursor, earlier: Vec::new() }].into())
    }

    /// Applies an operation to each state. States in which it does not have the observed outcome were not the real one.
    pub(crate) fn observe(
        &mut self,
        mut operation: impl FnMut(&mut Cursor) -> Result<(), String>,
    ) -> Outcome<()> {
        let mut contradictions = Vec::new();
        self.0.retain_mut(|world| {
            let before = world.now.clone();
            let outcome = operation(&mut world.now);
            if world.now != before && !world.earlier.contains(&before) {
                world.earlier.push(before);
            }
            outcome.map_err(|contradiction| contradictions.push(contradiction)).is_ok()
        });
        let fail = || TestCaseError::fail(contradictions.join("\nor "));
        if self.0.is_empty() { Err(fail()) } else { Ok(()) }
    }

    /// Applies an operation that may have happened or not: it led to the second state, by way of the first one.
    pub(crate) fn fork(&mut self, mut operation: impl FnMut(&Cursor) -> (Cursor, Cursor)) {
        let forked = self.0.iter().map(|world| {
            let (between, now) = operation(&world.now);
            let earlier = world.earlier.iter().cloned().chain([world.now.clone(), between]);
            World { now, earlier: earlier.collect() }
        });
        let forked: Vec<_> = forked.collect();
        self.0.extend(forked);
    }

    /// Changes each state in a way that no crash loses.
    pub(crate) fn change(&mut self, mut change: impl FnMut(&mut Cursor)) {
        for world in &mut self.0 {
            change(&mut world.now);
            world.earlier.iter_mut().for_each(&mut change);
        }
    }

    /// What was done so far is durable.
    pub(crate) fn flush(&mut self) {
        for world in &mut self.0 {
            world.earlier.clear();
        }
    }

    /// The store was closed and opened again: everything is durable.
    pub(crate) fn restart(&mut self, restart: impl FnMut(&mut Cursor)) {
        self.flush();
        self.change(restart);
    }

    /// The store was opened as a crash left it.
    pub(crate) fn crash(&mut self, mut restart: impl FnMut(&mut Cursor)) {
        let mut possible: Vec<World> = Vec::new();
        let states = self.0.drain(..).flat_map(|world| world.earlier.into_iter().chain([world.now]));
        for mut now in states {
            restart(&mut now);
            if possible.iter().all(|world| world.now != now) {
                possible.push(World { now, earlier: Vec::new() });
            }
        }
        self.0 = possible;
    }

    /// Whether a condition holds in every state.
    pub(crate) fn all(&self, holds: impl Fn(&Cursor) -> bool) -> bool {
        self.0.iter().all(|world| holds(&world.now))
    }
}
