//! The settings of a consumer as JSON.

use std::time::Duration;

use serde::{Serialize, Serializer, de::DeserializeOwned, ser::SerializeStruct as _};
use serde_json::value::RawValue;

use super::{ConsumerName, ConsumerSettings};
use crate::json;

/// The most event types of a filter.
const MAX_TYPES: usize = 64;
/// The longest event type of a filter, in bytes.
const MAX_TYPE_BYTES: usize = 256;
/// The most `*` in the event types of a filter. Every event of the app is compared with every filter, so the work needs a limit.
const MAX_STARS: usize = 64;
/// The most sources of a filter.
const MAX_SOURCES: usize = 32;
/// The highest number of attempts.
const MAX_ATTEMPTS: u32 = 1_000_000;
/// The shortest time without a client after which a consumer is removed.
const MIN_IDLE_EXPIRY: Duration = Duration::from_secs(60);
/// The longest time without a client after which a consumer is removed: 10 years.
const MAX_IDLE_EXPIRY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// The members of the settings.
const MEMBERS: &str = "types, sources, start, maxAttempts, overflow, idleExpiryMs";

/// The settings of a consumer are not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidConsumer {
    /// They are not a JSON object.
    #[error("the settings of a consumer must be a JSON object, such as {{\"types\":[\"push\"]}}")]
    NotAnObject,
    /// A member has no meaning here.
    #[error("the settings of a consumer have no member {0}: leave it out; known members: {MEMBERS}")]
    Unknown(String),
    /// A member has a value that it cannot have.
    #[error("\"{0}\" {1}")]
    Member(&'static str, &'static str),
}

impl ConsumerSettings {
    /// Parses the settings from JSON. A missing member has its default. Unknown members are an error: ignoring one would
    /// deliver other events than was asked for.
    ///
    /// ```
    /// use wwproxy_protocol::{ConsumerSettings, Start};
    ///
    /// let settings = ConsumerSettings::parse(r#"{"types":["push","issues.*"],"start":"all"}"#)?;
    /// assert!(settings.types.contains("push"));
    /// assert_eq!(settings.start, Start::All);
    /// # Ok::<(), wwproxy_protocol::InvalidConsumer>(())
    /// ```
    pub fn parse(text: &str) -> Result<Self, InvalidConsumer> {
        let mut settings = Self::default();
        let (mut error, mut unknown) = (None, None);
        json::each_member(text, |name, value| match settings.set(name, value) {
            Ok(true) => {}
            Ok(false) => unknown = unknown.take().or_else(|| Some(json::quoted_name(name))),
            Err(member) => error = error.take().or(Some(member)),
        })
        .map_err(|_| InvalidConsumer::NotAnObject)?;
        match (unknown, error) {
            (Some(name), _) => Err(InvalidConsumer::Unknown(name)),
            (None, Some(error)) => Err(error),
            (None, None) => settings.check().map(|()| settings),
        }
    }

    /// Sets a member. Returns whether it is known.
    fn set(&mut self, name: &[u8], value: &RawValue) -> Result<bool, InvalidConsumer> {
        match name {
            b"types" => self.types = member("types", value, TYPES)?,
            b"sources" => self.sources = member("sources", value, SOURCES)?,
            b"start" => self.start = member("start", value, START)?,
            b"maxAttempts" => self.max_attempts = member("maxAttempts", value, ATTEMPTS)?,
            b"overflow" => self.overflow = member("overflow", value, OVERFLOW)?,
            b"idleExpiryMs" => {
                self.idle_expiry =
                    member::<Option<u64>>("idleExpiryMs", value, IDLE_EXPIRY)?.map(Duration::from_millis);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Checks that every value is within its limits.
    ///
    /// # Errors
    /// A value is not.
    pub fn check(&self) -> Result<(), InvalidConsumer> {
        let invalid = |member, reason| Err(InvalidConsumer::Member(member, reason));
        let is_type = |kind: &String| (1..=MAX_TYPE_BYTES).contains(&kind.len());
        let stars: usize = self.types.iter().map(|kind| kind.matches('*').count()).sum();
        if self.types.len() > MAX_TYPES || stars > MAX_STARS || !self.types.iter().all(is_type) {
            return invalid("types", TYPES);
        }
        if self.sources.len() > MAX_SOURCES {
            return invalid("sources", SOURCES);
        }
        if self.max_attempts > MAX_ATTEMPTS {
            return invalid("maxAttempts", ATTEMPTS);
        }
        if self.idle_expiry.is_some_and(|expiry| !(MIN_IDLE_EXPIRY..=MAX_IDLE_EXPIRY).contains(&expiry)) {
            return invalid("idleExpiryMs", IDLE_EXPIRY);
        }
        Ok(())
    }

    /// Checks that the settings belong to the consumer of this name: `overflow` only to `default`, `idleExpiryMs` to any other.
    ///
    /// # Errors
    /// A member does not belong to it.
    pub fn check_name(&self, name: &ConsumerName) -> Result<(), InvalidConsumer> {
        match (name.is_default(), self.overflow, self.idle_expiry) {
            (false, Some(_), _) => Err(InvalidConsumer::Member(
                "overflow",
                "belongs to the consumer default only, as no other consumer can refuse webhooks: leave it out",
            )),
            (true, _, Some(_)) => Err(InvalidConsumer::Member(
                "idleExpiryMs",
                "does not belong to the consumer default, which never expires: leave it out",
            )),
            _ => Ok(()),
        }
    }

    /// Encodes the settings as JSON.
    #[must_use]
    pub fn encode(&self) -> String {
        json::encode(self)
    }
}

const TYPES: &str = "must be a list of at most 64 event types of 1 to 256 bytes, with * for any characters, and at most 64 * in all";
const SOURCES: &str = "must be a list of at most 32 names of sources";
const START: &str = "must be \"new\", \"all\", a time such as 2026-01-31T12:00:00Z, or an event id";
const ATTEMPTS: &str = "must be a whole number, 0 (no limit) to 1000000";
const OVERFLOW: &str = "must be \"reject\", \"drop-oldest\" or \"off\"";
const IDLE_EXPIRY: &str = "must be whole milliseconds, 60000 (1 minute) to 315360000000 (10 years)";

fn member<T: DeserializeOwned>(
    name: &'static str,
    value: &RawValue,
    reason: &'static str,
) -> Result<T, InvalidConsumer> {
    serde_json::from_str(value.get()).map_err(|_| InvalidConsumer::Member(name, reason))
}

impl Serialize for ConsumerSettings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut settings = serializer.serialize_struct("ConsumerSettings", 6)?;
        settings.serialize_field("types", &self.types)?;
        settings.serialize_field("sources", &self.sources)?;
        settings.serialize_field("start", &self.start)?;
        settings.serialize_field("maxAttempts", &self.max_attempts)?;
        if let Some(overflow) = &self.overflow {
            settings.serialize_field("overflow", overflow)?;
        }
        if let Some(expiry) = self.idle_expiry {
            let ms = u64::try_from(expiry.as_millis()).unwrap_or(u64::MAX);
            settings.serialize_field("idleExpiryMs", &ms)?;
        }
        settings.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Overflow, Start};

    #[test]
    fn settings_round_trip() {
        let text = r#"{"types":["issues.*","push"],"sources":["github"],"start":"2026-01-31T12:00:00.000Z","maxAttempts":5,"overflow":"drop-oldest","idleExpiryMs":60000}"#;
        let settings = ConsumerSettings::parse(text).unwrap();
        assert_eq!(settings.encode(), text);
        assert_eq!((settings.max_attempts, settings.overflow), (5, Some(Overflow::DropOldest)));
        assert_eq!(settings.idle_expiry, Some(Duration::from_secs(60)));
        assert!(matches!(settings.start, Start::At(_)));
        assert_eq!(ConsumerSettings::parse("{}").unwrap(), ConsumerSettings::default());
        let optional = r#"{"overflow":null,"idleExpiryMs":null}"#;
        assert_eq!(ConsumerSettings::parse(optional).unwrap(), ConsumerSettings::default());
        assert_eq!(
            ConsumerSettings::default().encode(),
            r#"{"types":[],"sources":[],"start":"new","maxAttempts":0}"#
        );
    }

    #[test]
    fn an_error_names_the_member() {
        let many = |count: usize, item: &str| {
            let items: Vec<_> = (0..count).map(|n| format!("\"{item}{n}\"")).collect();
            format!("[{}]", items.join(","))
        };
        for (member, value) in [
            ("types", "\"push\"".to_owned()),
            ("types", "[\"\"]".to_owned()),
            ("types", "null".to_owned()),
            ("types", many(65, "t")),
            ("types", many(1, &"x".repeat(256))),
            ("types", many(5, &"*".repeat(13))),
            ("sources", "[\"a/b\"]".to_owned()),
            ("sources", many(33, "s")),
            ("start", "\"2026-13-01T00:00:00Z\"".to_owned()),
            ("start", "7".to_owned()),
            ("maxAttempts", "-1".to_owned()),
            ("maxAttempts", "1000001".to_owned()),
            ("overflow", "\"block\"".to_owned()),
            ("idleExpiryMs", "59999".to_owned()),
            ("idleExpiryMs", "315360000001".to_owned()),
            ("idleExpiryMs", "\"1h\"".to_owned()),
        ] {
            let error = ConsumerSettings::parse(&format!("{{\"{member}\":{value}}}")).unwrap_err();
            assert!(error.to_string().starts_with(&format!("\"{member}\" ")), "{member} {value}: {error}");
        }
        let error = ConsumerSettings::parse(r#"{"type":["push"]}"#).unwrap_err();
        assert_eq!(error, InvalidConsumer::Unknown("\"type\"".into()));
        assert_eq!(ConsumerSettings::parse("[]"), Err(InvalidConsumer::NotAnObject));
        let most =
            format!(r#"{{"types":{},"sources":{},"maxAttempts":1000000}}"#, many(64, "t"), many(32, "s"));
        assert!(ConsumerSettings::parse(&most).is_ok());
    }

    #[test]
    fn some_settings_belong_to_default_only_or_to_others() {
        let (default, other) = (ConsumerName::default(), "audit".parse().unwrap());
        let overflow = ConsumerSettings { overflow: Some(Overflow::Off), ..ConsumerSettings::default() };
        let expiry = ConsumerSettings { idle_expiry: Some(MIN_IDLE_EXPIRY), ..ConsumerSettings::default() };
        assert!(overflow.check_name(&default).is_ok() && overflow.check_name(&other).is_err());
        assert!(expiry.check_name(&default).is_err() && expiry.check_name(&other).is_ok());
    }
}
