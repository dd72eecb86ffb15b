//! The outcome of one try to hand an event to a target.

use std::time::Duration;

/// The outcome of one try.
pub(crate) struct TryOutcome {
    /// Whether the target accepted the event.
    pub(crate) accepted: bool,
    /// The response, such as `200 POST http://127.0.0.1:3000/`.
    pub(crate) answer: String,
    /// What the server may keep as the reason: not the command line or the URL of the target, which may have a secret.
    pub(crate) reason: Option<String>,
    /// How long it took.
    pub(crate) took: Duration,
    /// The `Retry-After` of the target.
    pub(crate) retry_after: Option<Duration>,
    /// How often the application may have received the event: 0 without a connection, 2 if a broken one was replaced.
    pub(crate) deliveries: u32,
}

impl TryOutcome {
    /// Why the target did not accept the event, for the server.
    pub(crate) fn reason(&self) -> &str {
        self.reason.as_deref().unwrap_or(&self.answer)
    }

    /// A try that failed, with the answer.
    pub(crate) fn failed(answer: impl Into<String>) -> Self {
        Self {
            accepted: false,
            answer: answer.into(),
            reason: None,
            took: Duration::ZERO,
            retry_after: None,
            deliveries: 1,
        }
    }
}
