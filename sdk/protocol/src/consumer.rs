//! Consumers: named, durable cursors over an app's events.

mod settings;
mod start;

use std::{collections::BTreeSet, fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

pub use self::{
    settings::InvalidConsumer,
    start::{InvalidStart, Start},
};
use crate::{InvalidId, SourceName};

/// The name of a consumer within its app: 1 to 64 of `A-Z a-z 0-9 . _ -`, and neither `.` nor `..`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ConsumerName(SourceName);

impl ConsumerName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The name of a consumer in memory, for the server's own use. It begins with `~`, so that no client can give it.
    #[must_use]
    pub fn ephemeral(number: u64) -> Self {
        Self(SourceName::unchecked(&format!("~{number}")))
    }

    /// Whether it is the consumer `default`, which every app has.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.0.is_default()
    }
}

impl FromStr for ConsumerName {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        // The names of consumers and sources have one rule.
        text.parse().map(Self).map_err(|_| InvalidId::Consumer)
    }
}

impl TryFrom<String> for ConsumerName {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<ConsumerName> for String {
    fn from(name: ConsumerName) -> Self {
        name.0.into()
    }
}

impl fmt::Display for ConsumerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The settings of a consumer: `{"types","sources","start","maxAttempts","overflow","idleExpiryMs"}`, all optional.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConsumerSettings {
    /// The event types that the consumer receives, with `*` for any characters. Empty: all. Fixed at creation.
    pub types: BTreeSet<String>,
    /// The sources that the consumer receives. Empty: all. Fixed at creation.
    pub sources: BTreeSet<SourceName>,
    /// Where the consumer begins. Fixed at creation.
    pub start: Start,
    /// After this number of attempts an event is dead. 0: never.
    pub max_attempts: u32,
    /// What happens to a webhook that finds the consumer `default` at its limits. `None`: the server's setting. Only for `default`.
    pub overflow: Option<Overflow>,
    /// The consumer is removed after this time without a client. `None`: the server's setting. Not for `default`.
    pub idle_expiry: Option<Duration>,
}

/// What happens to a webhook that finds the consumer `default` at its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overflow {
    /// The webhook is refused, so that its sender retries.
    Reject,
    /// The oldest events of `default` are dropped.
    DropOldest,
    /// `default` receives no events at all.
    Off,
}

impl Overflow {
    /// The name of the value in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reject => "reject",
            Self::DropOldest => "drop-oldest",
            Self::Off => "off",
        }
    }

    /// The value of this name.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        [Self::Reject, Self::DropOldest, Self::Off].into_iter().find(|overflow| overflow.as_str() == name)
    }
}
