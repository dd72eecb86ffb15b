//! Reads members of a JSON object as slices of the original text.
//!
//! A derived struct would reject duplicate names, recurse into values that are not needed, and lose the
//! white space that the sender signed. These functions parse the outermost level only, without recursion at
//! any nesting depth, and return slices of the input. Of duplicate names the last one wins, as in JavaScript.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeSeed, MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// Finds the members with these names in the JSON object in `text`, each as its raw value.
///
/// # Errors
/// `text` is not one JSON object.
///
/// ```
/// let text = r#"{"type":"a","deep":[[[]]],"type":"b"}"#;
/// let [kind, missing] = wwproxy_protocol::json::members(text, ["type", "missing"]).unwrap();
/// assert_eq!(kind.unwrap().get(), r#""b""#);
/// assert!(missing.is_none());
/// ```
pub fn members<'a, const N: usize>(
    text: &'a str,
    names: [&str; N],
) -> serde_json::Result<[Option<&'a RawValue>; N]> {
    let mut found = [None; N];
    each_member(text, |name, value| {
        if let Some(at) = names.iter().position(|wanted| wanted.as_bytes() == name) {
            found[at] = Some(value);
        }
    })?;
    Ok(found)
}

/// Calls `visit` with each member of the JSON object in `text`: its name, unescaped, and its raw value.
///
/// The name is bytes because JSON allows an escaped lone surrogate, which is not valid Unicode.
///
/// # Errors
/// `text` is not one JSON object.
pub fn each_member<'a>(text: &'a str, visit: impl FnMut(&[u8], &'a RawValue)) -> serde_json::Result<()> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    deserializer.deserialize_map(Members(visit))?;
    deserializer.end()
}

/// Decodes a JSON string, or returns `None` if the value is not a string.
#[must_use]
pub fn string(value: &RawValue) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    serde_json::from_str::<Text<'_>>(value.get()).ok().map(|text| text.0)
}

/// Whether `text` is exactly one JSON object or array, at any nesting depth.
#[must_use]
pub fn is_object_or_array(text: &str) -> bool {
    text.trim_start_matches(WHITE_SPACE).starts_with(['{', '['])
        && serde_json::from_str::<&RawValue>(text).is_ok()
}

/// Extends a member's value by the white space around it: everything between its colon and the comma or
/// brace after it. `value` must be a slice of `text`, as returned by [`members`].
///
/// The proxy embeds a webhook body unchanged, so this is the body byte for byte. The [`RawValue`] alone
/// lacks, for example, a trailing newline.
#[must_use]
pub fn with_white_space<'a>(text: &'a str, value: &'a RawValue) -> &'a str {
    let start = value.get().as_ptr() as usize - text.as_ptr() as usize;
    let end = start + value.get().len();
    let before = text[..start].trim_end_matches(WHITE_SPACE).len();
    let after = text.len() - text[end..].trim_start_matches(WHITE_SPACE).len();
    &text[before..after]
}

/// Serializes a value.
pub(crate) fn encode(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("maps with string keys, strings and numbers are serializable")
}

/// Quotes a member's name for an error message: truncated, and with control characters escaped.
pub(crate) fn quoted_name(name: &[u8]) -> String {
    let name: String = String::from_utf8_lossy(name).chars().take(MAX_SHOWN).collect();
    format!("{name:?}")
}

/// The most characters of an unknown name in an error message.
pub(crate) const MAX_SHOWN: usize = 64;
/// RFC 8259, section 2.
const WHITE_SPACE: [char; 4] = [' ', '\t', '\n', '\r'];

struct Members<F>(F);

impl<'de, F: FnMut(&[u8], &'de RawValue)> Visitor<'de> for Members<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key_seed(Name)? {
            (self.0)(&name, map.next_value()?);
        }
        Ok(())
    }
}

struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, [u8]>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_bytes(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, [u8]>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member's name")
    }

    fn visit_borrowed_bytes<E>(self, name: &'de [u8]) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(name))
    }

    fn visit_bytes<E>(self, name: &[u8]) -> Result<Self::Value, E> {
        Ok(Cow::Owned(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_objects_and_arrays_are_accepted() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        for valid in ["{}", " [1]\n", r#"{"a":1e999,"\ud800":"\udfff"}"#, &deep] {
            assert!(is_object_or_array(valid), "{valid:.40}");
        }
        for invalid in ["", "1", r#""{}""#, "null", "{", "{}{}", "{'a':1}", "\u{feff}{}", "\u{a0}{}", "[1,]"]
        {
            assert!(!is_object_or_array(invalid), "{invalid:?}");
        }
    }

    #[test]
    fn names_are_unescaped_and_the_last_duplicate_wins() {
        let text = r#"{"\u0074ype":1,"\ud800":2,"type":"verific\u0061tion"}"#;
        let [kind] = members(text, ["type"]).unwrap();
        assert_eq!(string(kind.unwrap()).unwrap(), "verification");
    }

    #[test]
    fn only_valid_strings_are_decoded() {
        let [number, list, broken] = members(r#"{"n":1,"l":["x"],"b":"\ud800"}"#, ["n", "l", "b"]).unwrap();
        assert_eq!(string(number.unwrap()), None);
        assert_eq!(string(list.unwrap()), None);
        assert_eq!(string(broken.unwrap()), None);
    }

    #[test]
    fn a_value_keeps_the_white_space_around_it() {
        let text = "{\"id\":\"1\",\"data\": {\"a\" : 1}\r\n\t}";
        let [data] = members(text, ["data"]).unwrap();
        assert_eq!(data.unwrap().get(), "{\"a\" : 1}");
        assert_eq!(with_white_space(text, data.unwrap()), " {\"a\" : 1}\r\n\t");
    }
}
