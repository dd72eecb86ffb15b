//! Waits for a state.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// The timeout of every single step of a test.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Waits until a condition holds, and fails after [`DEADLINE`].
pub(crate) async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition().await {
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}
