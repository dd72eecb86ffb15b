//! Sizes and durations as flags.

use std::{str::FromStr, time::Duration};

/// A number of bytes, as in `8MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = &'static str;

    /// Units are those of GNU coreutils: `M` and `MiB` are 1024 × 1024 bytes, `MB` is a million. Case is ignored.
    fn from_str(text: &str) -> Result<Self, &'static str> {
        const WRONG: &str = "a size is a whole number of bytes, or one with K, M or G (KiB, MiB, GiB: powers of 1024; \
                             KB, MB, GB: powers of 1000), as in 8M";
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let unit: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kib" => 1 << 10,
            "m" | "mib" => 1 << 20,
            "g" | "gib" => 1 << 30,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            _ => return Err(WRONG),
        };
        let number: u64 = number.parse().map_err(|_| WRONG)?;
        let size = number.checked_mul(unit).filter(|&size| size > 0);
        size.filter(|&size| size <= MAX_SIZE).map(Self).ok_or("a size must be from 1 byte to 1048576 GiB")
    }
}

/// The largest size that a flag can have, in bytes: sums of sizes must not overflow.
const MAX_SIZE: u64 = 1 << 50;
/// The longest body that `--max-body` can allow, in bytes: a body is held in memory as a whole.
const MAX_BODY: u64 = 1 << 30;

/// The limit of a body.
pub(super) fn body_size(text: &str) -> Result<ByteSize, &'static str> {
    let size: ByteSize = text.parse()?;
    if size.0 <= MAX_BODY {
        Ok(size)
    } else {
        Err("a body is held in memory and must be allowed at most 1 GiB")
    }
}

/// The longest duration of a flag, so that adding it to a point in time does not overflow.
const MAX_TIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Parses a duration of 1 ms or more.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|_| "a time is like 500ms, 60s, 10m or 7d")?;
    let range = Duration::from_millis(1)..=MAX_TIME;
    if range.contains(&time) { Ok(time) } else { Err("a time must be from 1ms to 3650d".into()) }
}

/// Parses a duration that may be 0.
pub(super) fn duration_or_zero(text: &str) -> Result<Duration, String> {
    if text == "0" { Ok(Duration::ZERO) } else { duration(text) }
}

/// Parses the lifetime of a token, which is in whole seconds.
pub(super) fn token_lifetime(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|time| match time.as_secs() {
        0 => Err("a token must be valid for at least 1s".into()),
        _ => Ok(time),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_binary_and_decimal_units() {
        for (text, bytes) in [
            ("17", 17),
            ("17B", 17),
            ("8M", 8 << 20),
            ("8m", 8 << 20),
            ("8MiB", 8 << 20),
            ("8 MiB", 8 << 20),
            ("8MB", 8_000_000),
            ("64k", 64 << 10),
            ("64KB", 64_000),
            ("1G", 1 << 30),
            ("1gb", 1_000_000_000),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for bad in
            ["", "MiB", "0", "0M", "-1", "+1", "8Mi", "8T", "99999999999GiB", "1048577G", "1.5MiB", "8M B"]
        {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_body_has_at_most_a_gibibyte() {
        assert_eq!(body_size("1G"), Ok(ByteSize(1 << 30)));
        for bad in ["1073741825", "2G", "16000000000G"] {
            assert!(body_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_bounded() {
        assert_eq!(duration("7d"), Ok(Duration::from_secs(7 * 24 * 3600)));
        assert!(duration("3650d").is_ok());
        for bad in ["", "7", "0s", "10y", "3651d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert!(duration("10y").unwrap_err().contains("3650d"));
        assert!(token_lifetime("999ms").is_err());
    }
}
