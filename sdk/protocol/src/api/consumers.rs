//! Bodies of the consumers of an app.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{ConsumerName, ConsumerSettings, Overflow, SourceName, Start};

/// The most consumers of an app.
pub const MAX_CONSUMERS: usize = 32;

/// Body of `GET /webhooks/{appId}/consumers`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consumers {
    /// The consumers, sorted by name.
    pub consumers: Vec<ConsumerStatus>,
}

/// A consumer of an app: its settings and its state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ConsumerStatus {
    /// Its name.
    pub name: ConsumerName,
    /// The event types that it receives, with `*` for any characters. Empty: all.
    pub types: Vec<String>,
    /// The sources that it receives. Empty: all.
    pub sources: Vec<SourceName>,
    /// Where it began.
    pub start: Start,
    /// After this number of attempts an event is dead. 0: never.
    pub max_attempts: u32,
    /// What happens to a webhook that finds the consumer `default` at its limits, if it was set: `reject`, `drop-oldest` or `off`.
    /// A later version may have other values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overflow: Option<String>,
    /// The consumer is removed after this time without a client, in milliseconds, if it was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_expiry_ms: Option<u64>,
    /// The number of events that it has not settled, leased ones included. `None`: not counted yet, because it has a filter.
    pub pending: Option<u64>,
    /// The size of the pending events in bytes. `None`: not counted yet.
    pub pending_bytes: Option<u64>,
    /// The number of leased events, which are in flight to a client.
    pub leased: u64,
    /// The number of dead events.
    pub dead: u64,
    /// The number of events that were removed before it settled them.
    pub dropped: u64,
    /// The age of the oldest pending event in milliseconds, or `None` if there is no event.
    pub oldest_pending_age_ms: Option<u64>,
    /// When a client last used it (RFC 3339), or `None` if none did.
    pub last_used: Option<String>,
    /// The number of its open websockets on this server.
    pub clients: u64,
}

impl ConsumerStatus {
    /// A consumer with these settings that has received nothing.
    #[must_use]
    pub fn new(name: ConsumerName, settings: &ConsumerSettings) -> Self {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            name,
            types: settings.types.iter().cloned().collect(),
            sources: settings.sources.iter().cloned().collect(),
            start: settings.start.clone(),
            max_attempts: settings.max_attempts,
            overflow: settings.overflow.map(|overflow| overflow.as_str().to_owned()),
            idle_expiry_ms: settings.idle_expiry.map(ms),
            pending: Some(0),
            pending_bytes: Some(0),
            leased: 0,
            dead: 0,
            dropped: 0,
            oldest_pending_age_ms: None,
            last_used: None,
            clients: 0,
        }
    }

    /// Its settings, for example to change one of them. An `overflow` of a later version is left out.
    #[must_use]
    pub fn settings(&self) -> ConsumerSettings {
        ConsumerSettings {
            types: self.types.iter().cloned().collect(),
            sources: self.sources.iter().cloned().collect(),
            start: self.start.clone(),
            max_attempts: self.max_attempts,
            overflow: self.overflow.as_deref().and_then(Overflow::from_name),
            idle_expiry: self.idle_expiry_ms.map(Duration::from_millis),
        }
    }
}

/// Body of `POST /webhooks/{appId}/consumers/{name}/seek`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeekRequest {
    /// The new position.
    pub to: Start,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_has_what_settings_have() {
        let settings = ConsumerSettings::parse(
            r#"{"types":["push"],"sources":["github"],"start":"7","maxAttempts":3,"idleExpiryMs":60000}"#,
        )
        .unwrap();
        let status = ConsumerStatus::new("audit".parse().unwrap(), &settings);
        assert_eq!(status.settings(), settings);
        let text = serde_json::to_string(&status).unwrap();
        assert_eq!(
            text,
            concat!(
                r#"{"name":"audit","types":["push"],"sources":["github"],"start":"7","maxAttempts":3,"idleExpiryMs":60000,"#,
                r#""pending":0,"pendingBytes":0,"leased":0,"dead":0,"dropped":0,"oldestPendingAgeMs":null,"lastUsed":null,"clients":0}"#
            )
        );
        assert_eq!(serde_json::from_str::<ConsumerStatus>(&text).unwrap(), status);
    }

    #[test]
    fn a_status_of_a_later_version_is_read() {
        let later = r#"{"name":"default","types":[],"sources":[],"start":"new","maxAttempts":0,"overflow":"block","pending":null,
            "pendingBytes":null,"leased":0,"dead":0,"dropped":0,"oldestPendingAgeMs":null,"lastUsed":null,"clients":0,"color":"red"}"#;
        let status: ConsumerStatus = serde_json::from_str(later).unwrap();
        assert_eq!((status.overflow.as_deref(), status.pending), (Some("block"), None));
        assert_eq!(status.settings(), ConsumerSettings::default());
    }

    #[test]
    fn a_seek_has_one_known_member() {
        let seek: SeekRequest = serde_json::from_str(r#"{"to":"all"}"#).unwrap();
        assert_eq!(seek, SeekRequest { to: Start::All });
        for wrong in ["{}", r#"{"to":""}"#, r#"{"to":"new","from":"all"}"#] {
            assert!(serde_json::from_str::<SeekRequest>(wrong).is_err(), "{wrong}");
        }
    }
}
