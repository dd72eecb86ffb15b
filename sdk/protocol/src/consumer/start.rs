//! Where a consumer begins.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::EventId;

/// A position in an app's log. As text: `new`, `all`, a time (RFC 3339, UTC), or the id of an event.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Start {
    /// After the last event that is stored.
    #[default]
    New,
    /// At the oldest event that is stored.
    All,
    /// At the first event that was received at this time or later.
    At(SystemTime),
    /// After this event.
    After(EventId),
}

/// The text is not a [`Start`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be \"new\", \"all\", a time such as 2026-01-31T12:00:00Z, or an event id")]
pub struct InvalidStart;

impl Start {
    /// Parses a position that may also be a duration before `now`, such as `1h`.
    ///
    /// # Errors
    /// The text is none of these.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    /// use wwproxy_protocol::Start;
    ///
    /// let now = SystemTime::now();
    /// assert_eq!(Start::since("90m", now), Ok(Start::At(now - Duration::from_secs(5400))));
    /// assert_eq!(Start::since("all", now), Ok(Start::All));
    /// ```
    pub fn since(text: &str, now: SystemTime) -> Result<Self, InvalidStart> {
        match humantime::parse_duration(text) {
            Ok(ago) => Ok(Self::At(now.checked_sub(ago).unwrap_or(UNIX_EPOCH).max(UNIX_EPOCH))),
            Err(_) => text.parse(),
        }
    }
}

impl FromStr for Start {
    type Err = InvalidStart;

    fn from_str(text: &str) -> Result<Self, InvalidStart> {
        match text {
            "new" => Ok(Self::New),
            "all" => Ok(Self::All),
            // The id of an event never begins like a date, so a mistyped time is not taken for one.
            _ if begins_like_a_date(text) => humantime::parse_rfc3339(text)
                .map(|time| Self::At(whole_millis(time)))
                .map_err(|_| InvalidStart),
            _ => text.parse().map(Self::After).map_err(|_| InvalidStart),
        }
    }
}

/// The last time that RFC 3339 can express: the end of the year 9999.
const MAX_TIME: Duration = Duration::from_secs(253_402_300_799);

/// Cuts a time to what its text has, so that a position equals the one that is read back.
fn whole_millis(time: SystemTime) -> SystemTime {
    let nanos = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
    time - Duration::from_nanos(u64::from(nanos % 1_000_000))
}

fn begins_like_a_date(text: &str) -> bool {
    matches!(text.as_bytes(), [y1, y2, y3, y4, b'-', ..] if [y1, y2, y3, y4].iter().all(|c| c.is_ascii_digit()))
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::New => f.write_str("new"),
            Self::All => f.write_str("all"),
            // The formatter panics outside of this range.
            Self::At(time) => {
                humantime::format_rfc3339_millis((*time).clamp(UNIX_EPOCH, UNIX_EPOCH + MAX_TIME)).fmt(f)
            }
            Self::After(id) => id.fmt(f),
        }
    }
}

impl TryFrom<String> for Start {
    type Error = InvalidStart;

    fn try_from(text: String) -> Result<Self, InvalidStart> {
        text.parse()
    }
}

impl From<Start> for String {
    fn from(start: Start) -> Self {
        start.to_string()
    }
}

impl From<EventId> for Start {
    fn from(id: EventId) -> Self {
        Self::After(id)
    }
}

impl From<SystemTime> for Start {
    fn from(time: SystemTime) -> Self {
        Self::At(time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_position_round_trips_as_text() {
        for text in ["new", "all", "2026-01-31T12:00:00.000Z", "01a20a76-a6c2-7326-9612-60ed508a72b8", "7"] {
            assert_eq!(text.parse::<Start>().unwrap().to_string(), text);
        }
        let time = "2026-01-31T12:00:00Z".parse().unwrap();
        assert!(matches!(&time, Start::At(_)), "{time:?}");
        assert_eq!(serde_json::to_string(&time).unwrap(), r#""2026-01-31T12:00:00.000Z""#);
        assert_eq!("2026-01-31T12:00:00.000999Z".parse::<Start>(), Ok(time), "whole milliseconds");
        assert_eq!(serde_json::from_str::<Start>(r#""all""#).unwrap(), Start::All);
    }

    #[test]
    fn a_mistyped_time_is_not_taken_for_an_event_id() {
        for text in
            ["2026-01-31", "2026-13-31T12:00:00Z", "2026-01-31T12:00:00+01:00", "2026-01-31 12:00", "", "a b"]
        {
            assert_eq!(text.parse::<Start>(), Err(InvalidStart), "{text}");
        }
    }

    #[test]
    fn a_duration_is_before_now() {
        let now = UNIX_EPOCH + Duration::from_secs(10_000);
        assert_eq!(Start::since("1h", now), Ok(Start::At(now - Duration::from_secs(3600))));
        assert_eq!(Start::since("new", now), Ok(Start::New));
        assert_eq!(Start::since("1000y", now), Ok(Start::At(UNIX_EPOCH)));
    }

    #[test]
    fn a_time_that_rfc_3339_cannot_express_is_the_nearest_one() {
        let hour = Duration::from_secs(3600);
        assert_eq!(Start::At(UNIX_EPOCH - hour).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(Start::At(UNIX_EPOCH + MAX_TIME + hour).to_string(), "9999-12-31T23:59:59.000Z");
    }
}
