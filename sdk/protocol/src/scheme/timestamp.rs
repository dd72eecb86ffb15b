//! Checks of signed timestamps.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{
    Check, Rejection,
    reader::Reader,
    source::Source,
    template::{Timestamp, TimestampPlace, Unit},
};

/// `1970-01-01T00:00:00`, before the fraction of a second.
const RFC3339_SECONDS_BYTES: usize = 19;

impl Timestamp {
    /// Where the timestamp is, unless it is an item of the signature header.
    pub(super) fn source(&self) -> Option<&Source> {
        match &self.place {
            TimestampPlace::Source(source) => Some(source),
            TimestampPlace::Item(_) => None,
        }
    }

    /// Returns the only timestamp as received, once it is well formed and near `now`.
    pub(super) fn check<'a>(
        &self,
        items: &[Cow<'a, [u8]>],
        reader: &Reader<'a>,
        now: SystemTime,
    ) -> Result<Cow<'a, [u8]>, Rejection> {
        let reject = |detail: String| Rejection::new(Check::Timestamp, detail);
        let text = match &self.place {
            TimestampPlace::Source(source) => {
                let found = reader.find(source).map_err(|error| reject(error.to_string()))?;
                found.ok_or_else(|| reject(format!("the timestamp is missing: {source}")))?
            }
            TimestampPlace::Item(prefix) => {
                let mut found = items.iter().filter_map(|item| item.strip_prefix(prefix.as_bytes()));
                match (found.next(), found.next()) {
                    (Some(text), None) => Cow::Owned(text.to_vec()),
                    _ => return Err(reject(format!("the signature header must have one item {prefix}"))),
                }
            }
        };
        let time = self
            .unit
            .parse(&text)
            .ok_or_else(|| reject(format!("the timestamp is not {}", self.unit.name())))?;
        let Some(tolerance) = self.tolerance else { return Ok(text) };
        let (age, side) = match now.duration_since(time) {
            Ok(age) => (age, "old"),
            Err(error) => (error.duration(), "ahead of the clock"),
        };
        if age > tolerance {
            let (age, tolerance) = (age.as_secs(), tolerance.as_secs());
            return Err(reject(format!("the timestamp is {age} s {side}, the tolerance is {tolerance} s")));
        }
        Ok(text)
    }
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Seconds => "10 digits (Unix seconds)",
            Self::Milliseconds => "13 digits (Unix milliseconds)",
            Self::Rfc3339 => "a time of RFC 3339 in UTC, with a Z at its end",
        }
    }

    /// Parses a timestamp. No timestamp is the beginning or the end of another one: a body beside it needs no separator.
    fn parse(self, text: &[u8]) -> Option<SystemTime> {
        let text = std::str::from_utf8(text).ok()?;
        let digits = |count| {
            let valid = text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
            valid.then(|| text.parse().ok()).flatten()
        };
        match self {
            Self::Seconds => UNIX_EPOCH.checked_add(Duration::from_secs(digits(10)?)),
            Self::Milliseconds => UNIX_EPOCH.checked_add(Duration::from_millis(digits(13)?)),
            Self::Rfc3339 => {
                // `humantime` accepts other bytes between a `Z` and the last one.
                let rest = text.get(RFC3339_SECONDS_BYTES..)?.strip_suffix('Z')?;
                let is_fraction = |digits: &str| {
                    (1..=9).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())
                };
                let valid = rest.is_empty() || rest.strip_prefix('.').is_some_and(is_fraction);
                valid.then(|| humantime::parse_rfc3339(text).ok()).flatten()
            }
        }
    }
}
