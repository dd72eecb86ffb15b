//! How a body, which may be any bytes, is written in JSON messages.

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{invalid_message::InvalidMessage, json};

/// How much longer than base64 a text may become by its escapes, in bytes.
const MAX_EXCESS: usize = 1024;
/// How much of the name of an unknown encoding is shown, in characters.
const MAX_SHOWN: usize = 32;
/// The byte order mark of UTF-8.
const BYTE_ORDER_MARK: &str = "\u{feff}";

/// How a body is written as the `data` of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// The body is JSON, and stands in the message byte for byte, white space included.
    #[default]
    Json,
    /// The body is UTF-8, as a JSON string.
    Text,
    /// The body is the JSON string decoded from base64 (RFC 4648, section 4).
    Base64,
}

impl Encoding {
    /// Returns the encoding of a body: JSON if it is exactly one JSON text, text if it is UTF-8 and does not become much longer
    /// by its escapes, otherwise base64.
    #[must_use]
    pub fn of(body: &[u8]) -> Self {
        let Ok(text) = std::str::from_utf8(body) else { return Self::Base64 };
        if serde_json::from_str::<&RawValue>(text).is_ok() {
            Self::Json
        } else if escaped_len(text) <= text.len() / 3 * 4 + MAX_EXCESS {
            Self::Text
        } else {
            Self::Base64
        }
    }

    /// The name in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Text => "text",
            Self::Base64 => "base64",
        }
    }

    /// Encodes a body as the value of `data`: at most a third longer than the body, and 1 KiB.
    pub(crate) fn encode(self, body: &[u8]) -> Cow<'_, str> {
        match self {
            // Never lossy, as the encoding was chosen for this body.
            Self::Json => String::from_utf8_lossy(body),
            Self::Text => json::encode(&String::from_utf8_lossy(body)).into(),
            Self::Base64 => format!("\"{}\"", STANDARD.encode(body)).into(),
        }
    }

    /// Decodes the value of `data`, which is a slice of `text`.
    pub(crate) fn decode(self, text: &str, data: &RawValue) -> Result<Bytes, InvalidMessage> {
        let invalid = || InvalidMessage::Encoding(self.name());
        let string = || json::string(data).ok_or_else(invalid);
        Ok(match self {
            Self::Json => Bytes::copy_from_slice(json::with_white_space(text, data).as_bytes()),
            Self::Text => string()?.into_owned().into(),
            Self::Base64 => STANDARD.decode(string()?.as_bytes()).map_err(|_| invalid())?.into(),
        })
    }

    /// The encoding of a `data` whose message does not name one: of a legacy message, or in a poll. A string is text: a JSON
    /// body that is one string cannot be distinguished from it.
    pub(crate) fn of_unmarked(data: &RawValue) -> Self {
        if json::string(data).is_some() { Self::Text } else { Self::Json }
    }

    /// Parses the value of `encoding`.
    pub(crate) fn parse(name: &RawValue) -> Result<Self, InvalidMessage> {
        serde_json::from_str(name.get()).map_err(|_| {
            let name = json::string(name).unwrap_or_else(|| name.get().into());
            InvalidMessage::UnknownEncoding(name.chars().take(MAX_SHOWN).collect())
        })
    }
}

/// The length of a text in JSON, without its quotes.
fn escaped_len(text: &str) -> usize {
    let escaped = |byte| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0..0x20 => 6,
        _ => 1,
    };
    text.bytes().map(escaped).sum()
}

/// Encodes a body as the value of `data` for legacy clients: a byte order mark before JSON is left out.
pub(crate) fn encode_legacy(encoding: Encoding, body: &[u8]) -> Cow<'_, str> {
    let marked = std::str::from_utf8(body).ok().and_then(|text| text.strip_prefix(BYTE_ORDER_MARK));
    match marked {
        Some(text) if serde_json::from_str::<&RawValue>(text).is_ok() => text.into(),
        _ => encoding.encode(body),
    }
}

/// Encodes a body as one JSON value, as in a poll: JSON byte for byte, without a byte order mark; text as a string; other bytes as
/// `{"encoding":"base64","data":"…"}`.
pub(crate) fn encode_value(encoding: Encoding, body: &[u8]) -> Cow<'_, str> {
    let data = encode_legacy(encoding, body);
    if encoding == Encoding::Base64 {
        format!(r#"{{"encoding":"base64","data":{data}}}"#).into()
    } else {
        data
    }
}

/// Decodes the value of a poll, which is a slice of `text`: the inverse of [`encode_value`], except for a byte order mark, a JSON
/// body that is one string, and one that looks exactly like the object for other bytes.
pub(crate) fn decode_value(text: &str, value: &RawValue) -> Bytes {
    if let Some(body) = decode_object(value.get()) {
        return body;
    }
    let encoding = Encoding::of_unmarked(value);
    encoding.decode(text, value).expect("the encoding was chosen for this value")
}

/// Decodes `{"encoding":"base64","data":"…"}` exactly as [`encode_value`] writes it. `None` for any other JSON.
fn decode_object(value: &str) -> Option<Bytes> {
    let data = value.strip_prefix(r#"{"encoding":"base64","data":""#)?.strip_suffix(r#""}"#)?;
    STANDARD.decode(data).ok().map(Into::into)
}

/// The text without its byte order mark.
pub(crate) fn without_byte_order_mark(body: &[u8]) -> &[u8] {
    body.strip_prefix(BYTE_ORDER_MARK.as_bytes()).unwrap_or(body)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round_trip(body: &[u8]) -> (Encoding, Bytes) {
        let encoding = Encoding::of(body);
        let message = format!(r#"{{"data":{}}}"#, encoding.encode(body));
        let [value] = json::members(&message, ["data"]).unwrap();
        (encoding, encoding.decode(&message, value.unwrap()).unwrap())
    }

    #[test]
    fn each_kind_of_body_has_its_encoding() {
        for (body, encoding) in [
            (&b" {\"a\": 1.0}\r\n"[..], Encoding::Json),
            (b"\"text\"", Encoding::Json),
            (b"7", Encoding::Json),
            (b"", Encoding::Text),
            (b" ", Encoding::Text),
            (b"a=1&b=%20", Encoding::Text),
            (b"<xml attribute=\"1\"/>\n", Encoding::Text),
            (b"\xef\xbb\xbf{}", Encoding::Text),
            (b"\x00\x01", Encoding::Text),
            (&[1; 4000], Encoding::Base64),
            (b"\xff\xfe", Encoding::Base64),
            (b"\x1f\x8b\x08\x00", Encoding::Base64),
        ] {
            assert_eq!(round_trip(body), (encoding, Bytes::copy_from_slice(body)));
        }
    }

    #[test]
    fn legacy_clients_get_json_without_its_byte_order_mark() {
        assert_eq!(encode_legacy(Encoding::Text, b"\xef\xbb\xbf{\"a\":1}"), "{\"a\":1}");
        assert_eq!(encode_legacy(Encoding::Text, b"\xef\xbb\xbfa"), "\"\u{feff}a\"");
        assert_eq!(encode_legacy(Encoding::Json, b"{}"), "{}");
    }

    proptest! {
        #[test]
        fn every_body_survives(body in prop::collection::vec(any::<u8>(), 0..300), text in "\\PC{0,99}") {
            prop_assert_eq!(&round_trip(&body).1[..], &body[..]);
            prop_assert_eq!(&round_trip(text.as_bytes()).1[..], text.as_bytes());
        }

        #[test]
        fn the_message_is_at_most_a_third_longer(text in "[\\x00-\\x30]{0,4000}") {
            let encoded = Encoding::of(text.as_bytes()).encode(text.as_bytes());
            prop_assert!(encoded.len() <= text.len() / 3 * 4 + MAX_EXCESS + 8);
        }
    }
}
