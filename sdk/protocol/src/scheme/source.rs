//! Sources of a value in a request: a header, a member of the JSON body, a field of the form body.

use std::{borrow::Cow, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{Request, TemplateError};

/// The longest name of a header or of a form field, in bytes.
const MAX_NAME_BYTES: usize = 64;
/// The most segments of a JSON path.
const MAX_PATH_SEGMENTS: usize = 8;

/// Where a value is found in a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// `header:NAME`: the only header of this name.
    Header(String),
    /// `json:a.b.0`: a text, number or boolean of the JSON body.
    Json(JsonPath),
}

impl Source {
    pub(super) fn parse(field: &'static str, text: &str) -> Result<Self, TemplateError> {
        match text.split_once(':') {
            Some(("header", name)) => Ok(Self::Header(header_name(field, name)?)),
            Some(("json", path)) => Ok(Self::Json(JsonPath::parse(field, path)?)),
            _ => Err(TemplateError::new(field, "must be header:NAME or json:PATH")),
        }
    }

    /// Returns the value, `None` if the request does not have it.
    pub(super) fn find<'a>(&self, request: &Request<'a>) -> Result<Option<Cow<'a, [u8]>>, LookupError> {
        match self {
            Self::Header(name) => Ok(header(request, name)?.map(Cow::Borrowed)),
            Self::Json(path) => Ok(path.find(request)?.map(|text| Cow::Owned(text.into_bytes()))),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "header {name}"),
            Self::Json(path) => write!(f, "JSON member {path}"),
        }
    }
}

/// The request does not give one clear value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum LookupError {
    #[error("header {0} is there more than once")]
    Repeated(String),
    #[error("the body is not JSON, repeats a name, or has no plain value at {0}")]
    Json(String),
    #[error("the list in {0} must have one element, as the signature covers only one")]
    Unsigned(String),
    #[error("the body is not a form with exactly the fields that are signed")]
    Form,
    #[error("query parameter {0} is there more than once")]
    RepeatedParameter(String),
    #[error("query parameter {0} is not percent-encoded correctly")]
    Parameter(String),
}

/// Checks the name of a header: a token of RFC 9110.
pub(super) fn header_name(field: &'static str, name: &str) -> Result<String, TemplateError> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'+-.^_`|~".contains(&byte);
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(token) {
        return Err(TemplateError::new(field, "must have the name of a header, 1 to 64 characters"));
    }
    Ok(name.to_owned())
}

/// Returns the value of the only header with this name.
pub(super) fn header<'a>(request: &Request<'a>, name: &str) -> Result<Option<&'a [u8]>, LookupError> {
    let mut values = request.headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
    let value = values.next().map(|(_, value)| *value);
    if values.next().is_some() {
        return Err(LookupError::Repeated(name.to_owned()));
    }
    Ok(value)
}

/// Returns the value of the only query parameter with this name, decoded once. Without a `=` it is empty.
pub(super) fn query(query: &str, name: &str) -> Result<Option<Vec<u8>>, LookupError> {
    let mut value = None;
    for pair in query.split('&') {
        let (other, text) = pair.split_once('=').unwrap_or((pair, ""));
        if decode_form(other.as_bytes()).as_deref() != Some(name.as_bytes()) {
            continue;
        }
        let decoded = decode_form(text.as_bytes()).ok_or_else(|| LookupError::Parameter(name.to_owned()))?;
        if value.replace(decoded).is_some() {
            return Err(LookupError::RepeatedParameter(name.to_owned()));
        }
    }
    Ok(value)
}

/// A path into a JSON document: names of members and indexes of arrays, joined by dots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct JsonPath(Vec<String>);

impl JsonPath {
    pub(super) fn parse(field: &'static str, text: &str) -> Result<Self, TemplateError> {
        let segments: Vec<_> = text.split('.').map(str::to_owned).collect();
        if segments.len() > MAX_PATH_SEGMENTS || segments.iter().any(String::is_empty) {
            return Err(TemplateError::new(field, "must have a JSON path of 1 to 8 segments joined by dots"));
        }
        Ok(Self(segments))
    }

    pub(super) fn segments(&self) -> &[String] {
        &self.0
    }

    /// Returns the text of a string, or a number or boolean as received. `None` if it is absent or null.
    ///
    /// A name that is repeated beside the path is an error: another parser could read the other value.
    pub(super) fn find(&self, request: &Request<'_>) -> Result<Option<String>, LookupError> {
        self.value(request, false)
    }

    /// As [`JsonPath::find`], for a value that is signed: an array on the path must have this one element, since the
    /// signature says nothing about others.
    pub(super) fn find_signed(&self, request: &Request<'_>) -> Result<Option<String>, LookupError> {
        self.value(request, true)
    }

    fn value(&self, request: &Request<'_>, single: bool) -> Result<Option<String>, LookupError> {
        let invalid = || LookupError::Json(self.to_string());
        let found = self.walk(request.body, single)?;
        (request.pause)();
        match found {
            Found::Several => Err(LookupError::Unsigned(self.to_string())),
            Found::One(None) => Ok(None),
            Found::One(Some(value)) => match value.get() {
                "null" => Ok(None),
                text if text.starts_with('"') => serde_json::from_str(text).map(Some).map_err(|_| invalid()),
                text if text.starts_with(['{', '[']) => Err(invalid()),
                text => Ok(Some(text.to_owned())),
            },
        }
    }

    /// Returns the JSON text of the value as a slice of the body.
    pub(super) fn raw<'a>(&self, body: &'a [u8]) -> Result<Option<&'a str>, LookupError> {
        match self.walk(body, false)? {
            Found::One(value) => Ok(value.map(RawValue::get)),
            Found::Several => Ok(None),
        }
    }

    fn walk<'a>(&self, body: &'a [u8], single: bool) -> Result<Found<'a>, LookupError> {
        let invalid = || LookupError::Json(self.to_string());
        let body = std::str::from_utf8(body).map_err(|_| invalid())?;
        let mut json = serde_json::Deserializer::from_str(body);
        let found = Walk { path: &self.0, single }.deserialize(&mut json).map_err(|_| invalid())?;
        json.end().map_err(|_| invalid())?;
        Ok(found)
    }
}

impl fmt::Display for JsonPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

/// Follows a path through a document without building the rest of it.
#[derive(Clone, Copy)]
struct Walk<'p> {
    path: &'p [String],
    /// Whether an array on the path must have one element.
    single: bool,
}

/// What is at the end of a path.
enum Found<'de> {
    One(Option<&'de RawValue>),
    /// What must be an array with one element has more, or is an object.
    Several,
}

impl Walk<'_> {
    /// The first segment, and the walk below it.
    fn step(&self) -> (&str, Self) {
        (&self.path[0], Self { path: &self.path[1..], ..*self })
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = Found<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        if self.path.is_empty() {
            return serde::Deserialize::deserialize(deserializer).map(Some).map(Found::One);
        }
        deserializer.deserialize_any(self)
    }
}

/// The name of a member: borrowed from the document unless it has escapes.
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = Found<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (first, rest) = self.step();
        let mut found = None;
        while let Some(Name(name)) = map.next_key()? {
            if name != first {
                map.next_value::<IgnoredAny>()?;
            } else if found.is_some() {
                return Err(A::Error::custom("repeated name"));
            } else {
                found = Some(map.next_value_seed(rest)?);
            }
        }
        let is_index = first.parse::<usize>().is_ok();
        Ok(if self.single && is_index { Found::Several } else { found.unwrap_or(Found::One(None)) })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let (first, rest) = self.step();
        let first = first.parse::<usize>().ok();
        let (mut found, mut others) = (Found::One(None), false);
        for at in 0_usize.. {
            if Some(at) == first {
                let Some(item) = items.next_element_seed(rest)? else { break };
                found = item;
            } else if items.next_element::<IgnoredAny>()?.is_some() {
                others = true;
            } else {
                break;
            }
        }
        Ok(if self.single && others { Found::Several } else { found })
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(Found::One(None))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Found::One(None))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Found::One(None))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Found::One(None))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Found::One(None))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Found::One(None))
    }
}

/// Whether the content type is that of a form.
pub(super) fn is_form(request: &Request<'_>) -> Result<bool, LookupError> {
    const FORM: &[u8] = b"application/x-www-form-urlencoded";
    let kind = header(request, "Content-Type")?.unwrap_or_default();
    let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    Ok(kind.eq_ignore_ascii_case(FORM))
}

/// Decodes the fields of a form body. Every field must be one of `names`, and none may be repeated: a field that is not
/// signed would otherwise reach the app beside those that are.
pub(super) fn form(request: &Request<'_>, names: &[&str]) -> Result<Vec<(String, Vec<u8>)>, LookupError> {
    if !is_form(request)? {
        return Err(LookupError::Form);
    }
    let mut fields: Vec<(String, Vec<u8>)> = Vec::new();
    for pair in request.body.split(|byte| *byte == b'&') {
        let at = pair.iter().position(|byte| *byte == b'=').ok_or(LookupError::Form)?;
        let name = decode_form(&pair[..at])
            .and_then(|name| String::from_utf8(name).ok())
            .ok_or(LookupError::Form)?;
        if !names.contains(&name.as_str()) || fields.iter().any(|(other, _)| *other == name) {
            return Err(LookupError::Form);
        }
        fields.push((name, decode_form(&pair[at + 1..]).ok_or(LookupError::Form)?));
    }
    Ok(fields)
}

/// Decodes `+` and `%XX` to bytes, which need not be UTF-8. `None` if a `%` is not followed by two hex digits.
pub(super) fn decode_form(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => super::key::hex_pair(*rest.next()?, *rest.next()?)?,
            byte => *byte,
        });
    }
    Some(bytes)
}
