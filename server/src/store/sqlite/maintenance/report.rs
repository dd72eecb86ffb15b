//! What a check or a recovery reports while it runs.

/// Receives what a check or a recovery finds. No text has the contents of an event.
pub trait Report {
    /// Something is damaged, or was left out.
    fn damaged(&mut self, what: &str);

    /// The events up to this number of `last` were read.
    fn progress(&mut self, done: u64, last: u64);
}
