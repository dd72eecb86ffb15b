//! Work in bulk lets others go first.

use std::{
    cell::Cell,
    thread,
    time::{Duration, Instant},
};

use tokio::task::yield_now;

/// How long a thread computes before it gives way, at least.
const TURN: Duration = Duration::from_micros(50);
/// A thread that was not here for so long has not computed all the while: its turn begins.
const AWAY: Duration = Duration::from_millis(1);

thread_local! {
    static TURN_ENDS: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Gives way to another thread that is ready, if this one had its turn. Linux lets a thread that computes go on for up
/// to 4 ms before one that wakes up: the writer and connections would be late for their events as long as there is
/// something to file or a backlog to send. A turn is as long as the last pause was, so that programs that
/// never sleep get no more of a processor than this one.
///
/// Returns whether the turn was over.
pub(crate) fn give_way() -> bool {
    let mut paused = false;
    let pause = || {
        thread::yield_now();
        paused = true;
        Instant::now()
    };
    TURN_ENDS.set(Some(turn_ends(TURN_ENDS.get(), Instant::now(), pause)));
    paused
}

/// The same for a task, which gives way to other tasks of its thread, too: nobody hears of what the network has
/// while the thread that looks for that is busy with one task.
pub(crate) async fn task_gives_way() {
    if give_way() {
        yield_now().await;
    }
}

/// When a thread's turn ends, if the last one did so then. The pause says when it is over.
fn turn_ends(last: Option<Instant>, now: Instant, pause: impl FnOnce() -> Instant) -> Instant {
    match last {
        Some(end) if now < end => end,
        Some(end) if now < end + AWAY => {
            let back = pause();
            back + TURN.max(back - now)
        }
        _ => now + TURN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_pauses_at_the_end_of_its_turn_and_works_as_long_as_it_paused() {
        let start = Instant::now();
        let no_pause = || panic!("its turn lasts");
        let first = turn_ends(None, start, no_pause);
        assert_eq!(first, start + TURN);
        assert_eq!(turn_ends(Some(first), start + TURN / 2, no_pause), first);
        assert_eq!(turn_ends(Some(first), first, || first + TURN / 9), first + TURN / 9 + TURN);
        assert_eq!(turn_ends(Some(first), first, || first + 40 * TURN), first + 80 * TURN);
        assert_eq!(turn_ends(Some(first), first + AWAY, no_pause), first + AWAY + TURN, "it was away");
    }
}
