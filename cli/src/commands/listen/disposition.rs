//! What `listen` does with an event.

/// What to do with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Disposition {
    /// Print it, or hand it to its target.
    Handle,
    /// Acknowledge it without handling it.
    Skip,
    /// Leave it on the server, for other clients.
    Leave,
}
