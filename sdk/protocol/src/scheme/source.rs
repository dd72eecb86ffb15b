//! Sources of a value in a request: a header, a member of the JSON body, a field of the form body.

use std::{borrow::Cow, fmt};

use super::{Request, TemplateError, json_path::JsonPath, lookup::LookupError};

/// The longest name of a header or of a form field, in bytes.
const MAX_NAME_BYTES: usize = 64;

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

    /// The path into the JSON body, if it is one.
    pub(super) fn json(&self) -> Option<&JsonPath> {
        match self {
            Self::Header(_) => None,
            Self::Json(path) => Some(path),
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
