//! Where events go: to a URL, or to a command.

mod exec;
mod forward;
mod retry;
mod routes;

use std::time::Duration;

use wwproxy_sdk::EventMessage;

pub(crate) use self::{
    exec::{Exec, kill_all},
    forward::{Forward, client, is_framing, parse_url, sender_headers, shown},
    retry::{Offered, Policy},
    routes::{Routes, Targets},
};

/// What takes events.
pub(crate) enum Target {
    Forward(Forward),
    Exec(Exec),
}

/// What one try came to.
pub(crate) struct Try {
    /// Whether the target took the event.
    pub(crate) accepted: bool,
    /// What it said, such as `200 POST http://127.0.0.1:3000/`.
    pub(crate) answer: String,
    /// How long it took.
    pub(crate) took: Duration,
    /// How long the target wants to be left alone.
    pub(crate) retry_after: Option<Duration>,
}

impl Target {
    /// Offers an event once. `attempt` counts how often it may have been seen, this time included.
    async fn try_once(&self, event: &EventMessage, attempt: u32, timeout: Duration) -> Try {
        match self {
            Self::Forward(forward) => forward.try_once(event, attempt, timeout).await,
            Self::Exec(exec) => exec.try_once(event, attempt, timeout).await,
        }
    }
}
