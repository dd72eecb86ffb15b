//! Work in bulk lets others go first.

use std::{
    cell::Cell,
    thread,
    time::{Duration, Instant},
};

/// How long a thread computes before it gives way, at least.
const TURN: Duration = Duration::from_micros(100);
/// A thread that was not here for so long has not computed all the while: its turn begins.
const AWAY: Duration = Duration::from_millis(1);

thread_local! {
    static TURN_ENDS: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Gives way to another thread that is ready, if this one had its turn. Linux lets a thread that computes go on for up
/// to 4 ms before one that wakes up: the writer and connections would be late for their events as long as there is
/// something to file or a backlog to send. A turn is as long as the last pause was, so that programs that
/// never sleep get no more of a processor than this one.
pub(crate) fn give_way() {
    let now = Instant::now();
    let turn = match TURN_ENDS.get() {
        Some(end) if now < end => return,
        Some(end) if now < end + AWAY => {
            thread::yield_now();
            now.elapsed().max(TURN)
        }
        _ => TURN,
    };
    TURN_ENDS.set(Some(Instant::now() + turn));
}
