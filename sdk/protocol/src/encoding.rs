//! How a body, which may be any bytes, is written in JSON messages.

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::json;

/// How much longer than base64 a text may become by its escapes, in bytes.
const MAX_EXCESS: usize = 1024;
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

/// The body as the value of `data`.
pub(crate) fn data(encoding: Encoding, body: &[u8]) -> Cow<'_, str> {
    match encoding {
        // Never lossy, as the encoding was chosen for this body.
        Encoding::Json => String::from_utf8_lossy(body),
        Encoding::Text => json::encode(&String::from_utf8_lossy(body)).into(),
        Encoding::Base64 => format!("\"{}\"", STANDARD.encode(body)).into(),
    }
}

/// The body as the value of `data` for legacy clients: a byte order mark before JSON is left out.
pub(crate) fn legacy_data(encoding: Encoding, body: &[u8]) -> Cow<'_, str> {
    let marked = std::str::from_utf8(body).ok().and_then(|text| text.strip_prefix(BYTE_ORDER_MARK));
    match marked.filter(|_| encoding == Encoding::Text) {
        Some(text) if serde_json::from_str::<&RawValue>(text).is_ok() => text.into(),
        _ => data(encoding, body),
    }
}

/// Decodes the value of `data`, which is a slice of `text`. `None` if it is not a string of this encoding.
pub(crate) fn decode(encoding: Encoding, text: &str, data: &RawValue) -> Option<Bytes> {
    match encoding {
        Encoding::Json => Some(Bytes::copy_from_slice(json::with_white_space(text, data).as_bytes())),
        Encoding::Text => Some(json::string(data)?.into_owned().into()),
        Encoding::Base64 => STANDARD.decode(json::string(data)?.as_bytes()).ok().map(Into::into),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round_trip(body: &[u8]) -> (Encoding, Bytes) {
        let encoding = Encoding::of(body);
        let message = format!(r#"{{"data":{}}}"#, data(encoding, body));
        let [value] = json::members(&message, ["data"]).unwrap();
        (encoding, decode(encoding, &message, value.unwrap()).unwrap())
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
        assert_eq!(legacy_data(Encoding::Text, b"\xef\xbb\xbf{\"a\":1}"), "{\"a\":1}");
        assert_eq!(legacy_data(Encoding::Text, b"\xef\xbb\xbfa"), "\"\u{feff}a\"");
        assert_eq!(legacy_data(Encoding::Json, b"{}"), "{}");
    }

    proptest! {
        #[test]
        fn every_body_survives(body in prop::collection::vec(any::<u8>(), 0..300), text in "\\PC{0,99}") {
            prop_assert_eq!(&round_trip(&body).1[..], &body[..]);
            prop_assert_eq!(&round_trip(text.as_bytes()).1[..], text.as_bytes());
        }

        #[test]
        fn the_message_is_at_most_a_third_longer(text in "[\\x00-\\x30]{0,4000}") {
            let encoded = data(Encoding::of(text.as_bytes()), text.as_bytes());
            prop_assert!(encoded.len() <= text.len() / 3 * 4 + MAX_EXCESS + 8);
        }
    }
}
