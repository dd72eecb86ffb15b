//! Which acknowledgements are durable, although their durability is lazy.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

/// Acknowledgements ride on the first append's commit that begins this long after them. The store's own delay is 20 ms.
const DELAY: Duration = Duration::from_millis(25);

/// Follows the appends of one server.
///
/// The store handles what it receives in order. An append that is sent after the answer to an acknowledgement is handled after it.
/// If another append is sent [`DELAY`] after the answer to the first one, its commit has the acknowledgement. A commit that fails
/// gives its acknowledgements back, which are written with a later one: then nothing is known.
#[derive(Debug, Default)]
pub(crate) struct Fence(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Answered appends: when they were sent, and answered.
    appends: Vec<(Instant, Instant)>,
    /// What was acknowledged before is durable.
    durable: Option<Instant>,
    /// A commit may fail.
    is_faulty: bool,
}

impl Fence {
    /// An append that was sent at this time has been answered.
    pub(crate) fn appended(&self, sent: Instant) {
        let mut state = self.0.lock().unwrap();
        let State { appends, durable, is_faulty } = &mut *state;
        if *is_faulty {
            return;
        }
        appends.retain(|(first_sent, first_answered)| {
            let is_before = *first_answered + DELAY <= sent;
            if is_before {
                *durable = (*durable).max(Some(*first_sent));
            }
            !is_before
        });
        appends.push((sent, Instant::now()));
    }

    /// Another server starts: its appends do not make acknowledgements of this one durable.
    pub(crate) fn restart(&self, is_faulty: bool) {
        let mut state = self.0.lock().unwrap();
        state.appends.clear();
        state.is_faulty = is_faulty;
    }

    /// Whether an acknowledgement that was answered at this time is durable.
    pub(crate) fn is_durable(&self, answered: Instant) -> bool {
        self.0.lock().unwrap().durable.is_some_and(|durable| answered < durable)
    }
}
