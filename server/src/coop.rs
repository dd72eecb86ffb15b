//! Cooperative scheduling of CPU-bound loops: each yields every 50 µs.

use std::{
    cell::Cell,
    thread,
    time::{Duration, Instant},
};

use tokio::task::yield_now;

/// The time slice: how long a thread computes before it yields, at least.
const SLICE: Duration = Duration::from_micros(50);
/// After a gap this long between two calls the thread has not computed the whole time, so a new slice begins.
const IDLE_GAP: Duration = Duration::from_millis(1);

thread_local! {
    static SLICE_END: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Yields the processor to another runnable thread if the time slice of this thread has ended. Returns whether it yielded.
///
/// Linux lets a CPU-bound thread run for up to 4 ms before a thread that wakes up. Without yields the store's writer and the
/// connections would be late for as long as there is something to checkpoint or a backlog to send. A slice is as long as
/// the last yield took, so that programs that never sleep get no larger share of the processor than this thread.
pub(crate) fn yield_if_due() -> bool {
    let mut yielded = false;
    let yield_thread = || {
        thread::yield_now();
        yielded = true;
        Instant::now()
    };
    SLICE_END.set(Some(slice_end(SLICE_END.get(), Instant::now(), yield_thread)));
    yielded
}

/// Yields like [`yield_if_due`], and to the other tasks of the runtime's thread. Otherwise the thread would not poll the
/// network while one task computes.
pub(crate) async fn yield_task_if_due() {
    if yield_if_due() {
        yield_now().await;
    }
}

/// The end of the thread's current slice. `yield_thread` yields and returns the time afterwards.
fn slice_end(previous: Option<Instant>, now: Instant, yield_thread: impl FnOnce() -> Instant) -> Instant {
    match previous {
        Some(end) if now < end => end,
        Some(end) if now < end + IDLE_GAP => {
            let resumed = yield_thread();
            resumed + SLICE.max(resumed - now)
        }
        _ => now + SLICE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_yields_at_the_end_of_its_slice_and_the_next_slice_is_as_long_as_the_yield() {
        let start = Instant::now();
        let no_yield = || panic!("the slice has not ended");
        let first = slice_end(None, start, no_yield);
        assert_eq!(first, start + SLICE);
        assert_eq!(slice_end(Some(first), start + SLICE / 2, no_yield), first);
        assert_eq!(slice_end(Some(first), first, || first + SLICE / 9), first + SLICE / 9 + SLICE);
        assert_eq!(slice_end(Some(first), first, || first + 40 * SLICE), first + 80 * SLICE);
        assert_eq!(slice_end(Some(first), first + IDLE_GAP, no_yield), first + IDLE_GAP + SLICE, "idle gap");
    }
}
