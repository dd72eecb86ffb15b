//! Where events go: to a URL, or to a command.

mod address;
mod exec;
mod forward;
mod http;
mod retry;
mod routes;

use std::time::Duration;

use wwproxy_sdk::EventMessage;

pub(crate) use self::{
    address::Address,
    exec::{Exec, kill_all},
    forward::{Forward, is_framing, sender_headers},
    http::{TargetHttp, explain},
    retry::{Offer, Offered, Origin, Policy},
    routes::{Routes, Targets},
};

/// What takes events.
pub(crate) enum Target {
    Forward(Box<Forward>),
    Exec(Exec),
}

/// The outcome of one try.
pub(crate) struct Try {
    /// Whether the target took the event.
    pub(crate) accepted: bool,
    /// What it said, such as `200 POST http://127.0.0.1:3000/`.
    pub(crate) answer: String,
    /// How long it took.
    pub(crate) took: Duration,
    /// How long the target wants to be left alone.
    pub(crate) retry_after: Option<Duration>,
    /// How often the application may have got the event: 0 without a connection, 2 if a broken one was replaced.
    pub(crate) deliveries: u32,
}

impl Try {
    /// A try that failed, with the reason.
    pub(crate) fn failed(answer: impl Into<String>) -> Self {
        Self {
            accepted: false,
            answer: answer.into(),
            took: Duration::ZERO,
            retry_after: None,
            deliveries: 1,
        }
    }
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
