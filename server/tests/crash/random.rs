//! Seeded random choices, so that a failed run can be repeated.

use std::{
    env, thread,
    time::{SystemTime, UNIX_EPOCH},
};

/// Knuth's linear congruential generator: deterministic for a seed.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// A random number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// One of the items.
    pub(crate) fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[usize::try_from(self.below(items.len() as u64)).unwrap()]
    }

    /// True with probability 1 in `cases`.
    pub(crate) fn one_in(&mut self, cases: u64) -> bool {
        self.below(cases) == 0
    }

    /// An independent generator, seeded from this one.
    pub(crate) fn fork(&mut self) -> Self {
        Self(self.next() << 31 | self.next())
    }
}

/// The seed of this test: `WWPROXY_CRASH_SEED`, or a random one. It is printed, so that a failure can be repeated.
pub(crate) fn seed() -> u64 {
    let random = || u64::from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos());
    let seed = setting("WWPROXY_CRASH_SEED").unwrap_or_else(random);
    println!("{}: WWPROXY_CRASH_SEED={seed}", thread::current().name().unwrap_or_default());
    seed
}

/// Reads a number from an environment variable.
pub(crate) fn setting(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}
