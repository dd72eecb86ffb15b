//! The format of the credentials file.

use std::{collections::BTreeMap, fmt, ops::Range};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use toml_edit::de;
use wwproxy_protocol::AppId;

/// The hash of an app's secret.
pub(in crate::identity) type SecretHash = [u8; 32];
/// The apps of a file.
pub(super) type Entries = BTreeMap<AppId, Entry>;

#[derive(Deserialize, Default)]
struct Contents {
    #[serde(default)]
    apps: Entries,
}

/// The entry of one app.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Entry {
    pub(super) secret_sha256: HexHash,
    #[serde(default)]
    pub(super) disabled: bool,
}

/// A hash, written as 64 hex digits.
#[derive(Deserialize)]
#[serde(try_from = "String")]
pub(super) struct HexHash(pub(super) SecretHash);

impl fmt::Debug for HexHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HexHash(…)")
    }
}

impl TryFrom<String> for HexHash {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        const WRONG: &str = "secret-sha256 must be 64 hex digits";
        let mut hash = [0; 32];
        // `from_str_radix` alone would also accept a sign.
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(WRONG);
        }
        for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| WRONG)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| WRONG)?;
        }
        Ok(Self(hash))
    }
}

/// The line at which a file is not valid, if it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorLine(Option<usize>);

impl ErrorLine {
    /// The line at which this range of bytes begins.
    pub(super) fn at(text: &str, span: Option<Range<usize>>) -> Self {
        let before = span.and_then(|span| text.as_bytes().get(..span.start));
        Self(before.map(|before| before.split(|&byte| byte == b'\n').count()))
    }
}

impl fmt::Display for ErrorLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |line| write!(f, " in line {line}"))
    }
}

/// Parses the text of a file.
pub(super) fn parse(text: &str) -> Result<Entries, ErrorLine> {
    let contents: Contents =
        de::from_str(text).map_err(|error: de::Error| ErrorLine::at(text, error.span()))?;
    Ok(contents.apps)
}

/// Hashes a secret.
pub(in crate::identity) fn hash(secret: &str) -> SecretHash {
    Sha256::digest(secret.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_file_is_reported_with_its_line() {
        for (text, line) in [
            ("[apps.a", 1),
            ("# ours\n[apps]\nbot = \"secret\"\n", 3),
            ("\n[apps.a]\nsecret-sha256 = \"x\"", 3),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), format!(" in line {line}"), "{text}");
        }
    }

    #[test]
    fn a_hash_is_64_hex_digits_without_a_sign() {
        assert!(HexHash::try_from("0f".repeat(32)).is_ok_and(|HexHash(hash)| hash == [15; 32]));
        assert!(HexHash::try_from("0F".repeat(32)).is_ok());
        for bad in ["+f".repeat(32), "0".repeat(63), "0".repeat(65), "0g".repeat(32), "é".repeat(32)] {
            assert!(HexHash::try_from(bad.clone()).is_err(), "{bad}");
        }
    }
}
