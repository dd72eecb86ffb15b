//! Signs requests as a sender does: for tests of apps, and for the command line.

use std::{
    borrow::Cow,
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{
    MAX_SECRET_BYTES, Rejection, Request, Scheme, Template, Templates, Verification,
    json_path::JsonPath,
    key::Encoding,
    msgraph,
    reader::Reader,
    signing_key::SigningKey,
    source::Source,
    template::{EventSource, Place, TimestampPlace, Unit},
    twilio,
};
use crate::{Secret, hex, redact::names};

/// The times that a timestamp of 10 digits can have, in seconds since 1970: 2001 to 2286.
const UNIX_SECONDS: std::ops::RangeInclusive<u64> = 1_000_000_000..=9_999_999_999;

/// A request that is not signed yet.
#[derive(Clone, Copy)]
pub struct Unsigned<'a> {
    /// The HTTP method, in upper case.
    pub method: &'a str,
    /// The public URL as registered with the sender, for schemes that sign it.
    pub url: Option<&'a str>,
    /// The headers that the request has already, such as `Content-Type`.
    pub headers: &'a [(&'a str, &'a str)],
    /// The body.
    pub body: &'a [u8],
    /// The id of the delivery, for senders with a header for it.
    pub delivery_id: &'a str,
    /// The type of the event, for senders with a header for it. The part that the body gives, such as GitHub's `action`, may
    /// follow after a dot: it is left out of the header.
    pub event_type: Option<&'a str>,
    /// The time of the signature, for schemes that sign it.
    pub time: SystemTime,
}

/// What makes a request signed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Signed {
    /// The headers to add, in place of those with the same name.
    pub headers: Vec<(String, String)>,
    /// The new body, of senders whose signature or timestamp is in the body.
    pub body: Option<Vec<u8>>,
}

impl fmt::Debug for Unsigned<'_> {
    /// Leaves out the URL, the values of headers and the body, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unsigned")
            .field("method", &self.method)
            .field("headers", &names(self.headers))
            .field("body_bytes", &self.body.len())
            .field("delivery_id", &self.delivery_id)
            .field("event_type", &self.event_type)
            .field("time", &self.time)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Signed {
    /// Leaves out the values of headers and the body: a token is the secret itself.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signed")
            .field("headers", &names(&self.headers))
            .field("body_bytes", &self.body.as_ref().map(Vec::len))
            .finish()
    }
}

/// A request cannot be signed. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// The scheme has no signature.
    #[error("the scheme none has no signature")]
    Unverified,
    /// The secret cannot be a signing key of the scheme.
    #[error("the secret cannot sign: {0}")]
    Secret(&'static str),
    /// The time has no timestamp in the unit of the scheme.
    #[error("the time must be between the years 2001 and 2286")]
    Time,
    /// The body has no place for the signature or the timestamp.
    #[error("this sender writes its {what} into the body: give a JSON body with a member {path} (any value)")]
    Member {
        /// What is written there.
        what: &'static str,
        /// The path of the member.
        path: String,
    },
    /// A value cannot stand in a header.
    #[error("the {0} cannot stand in a header: it must be 1 to 8192 bytes without control characters")]
    Header(&'static str),
    /// A part of the request that is signed is missing.
    #[error("the request cannot be signed: {0}")]
    Request(String),
}

impl From<Rejection> for SignError {
    fn from(rejection: Rejection) -> Self {
        Self::Request(rejection.detail)
    }
}

impl Scheme {
    /// Signs a request as the sender does. For public-key algorithms the secret is the private key: for Ed25519 the 32 bytes
    /// of its seed in the encoding of the public key, for ECDSA its PKCS#8 encoding in base64.
    ///
    /// ```
    /// use std::time::SystemTime;
    /// use wwproxy_protocol::{Secret, scheme::{Scheme, Unsigned}};
    ///
    /// let unsigned = Unsigned {
    ///     method: "POST",
    ///     url: None,
    ///     headers: &[],
    ///     body: b"Hello, World!",
    ///     delivery_id: "7",
    ///     event_type: Some("push"),
    ///     time: SystemTime::now(),
    /// };
    /// let github = Scheme::preset("github").unwrap();
    /// let signed = github.sign(&Secret::new("It's a Secret to Everybody"), &unsigned).unwrap();
    /// assert!(signed.headers.contains(&("X-GitHub-Event".to_owned(), "push".to_owned())));
    /// ```
    pub fn sign(&self, secret: &Secret, unsigned: &Unsigned<'_>) -> Result<Signed, SignError> {
        match &self.verification {
            Verification::Templates(templates) => templates.sign(secret, unsigned),
            Verification::Twilio => twilio::sign(secret, unsigned),
            Verification::MsGraph => msgraph::sign(secret, unsigned),
            Verification::None => Err(SignError::Unverified),
        }
    }

    /// Returns the public key to register for a private key that signs, in the form of this scheme.
    pub fn public_key(&self, private_key: &Secret) -> Result<String, SignError> {
        const NO_PUBLIC_KEY: SignError = SignError::Secret("the scheme has no public keys");
        let Verification::Templates(templates) = &self.verification else { return Err(NO_PUBLIC_KEY) };
        let template = templates.as_slice().iter().find(|template| template.algorithm.is_public_key());
        let template = template.ok_or(NO_PUBLIC_KEY)?;
        let key = SigningKey::new(template.algorithm, &template.key, private_key)?;
        let bytes = key.public_key().ok_or(NO_PUBLIC_KEY)?;
        Ok(format!("{}{}", template.key.strip, encode(template.key.encoding, &bytes)))
    }
}

impl Templates {
    /// Signs with the first template whose key and content fit.
    fn sign(&self, secret: &Secret, unsigned: &Unsigned<'_>) -> Result<Signed, SignError> {
        if !(1..=MAX_SECRET_BYTES).contains(&secret.expose().len()) {
            return Err(SignError::Secret("it must have 1 to 4096 bytes"));
        }
        let all = self.as_slice();
        // Gitea and its forks sign a field of a form in place of the body.
        let signs_form =
            |template: &&Template| template.content.as_ref().is_some_and(super::content::Content::has_form);
        let form = all.iter().find(|template| unsigned.is_form() && signs_form(template));
        if let Some(template) = form {
            return template.sign(secret, unsigned);
        }
        let mut first_error = None;
        for template in all {
            match template.sign(secret, unsigned) {
                Ok(signed) => return Ok(signed),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        Err(first_error.unwrap_or(SignError::Unverified))
    }
}

impl Unsigned<'_> {
    fn is_form(&self) -> bool {
        let mut types = self.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("Content-Type"));
        types.any(|(_, value)| value.to_ascii_lowercase().starts_with("application/x-www-form-urlencoded"))
    }

    /// The request with the headers that are known so far.
    pub(super) fn with<'r>(
        &'r self,
        added: &'r [(String, String)],
        body: &'r [u8],
        headers: &'r mut Vec<(&'r str, &'r [u8])>,
    ) -> Request<'r> {
        let is_added = |name: &str| added.iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
        let kept = self.headers.iter().filter(|(name, _)| !is_added(name));
        headers.extend(kept.map(|(name, value)| (*name, value.as_bytes())));
        headers.extend(added.iter().map(|(name, value)| (name.as_str(), value.as_bytes())));
        Request { url: self.url, ..Request::new(self.method, headers, body) }
    }
}

impl Template {
    fn sign(&self, secret: &Secret, unsigned: &Unsigned<'_>) -> Result<Signed, SignError> {
        let key = SigningKey::new(self.algorithm, &self.key, secret)?;
        let mut body = Cow::Borrowed(unsigned.body);
        let mut headers = self.label_headers(unsigned)?;
        let mut items = Vec::new();
        let timestamp = match &self.timestamp {
            None => None,
            Some(timestamp) => {
                let text = timestamp.unit.format(unsigned.time)?;
                match &timestamp.place {
                    TimestampPlace::Source(Source::Header(name)) => {
                        headers.push((name.clone(), text.clone()));
                    }
                    TimestampPlace::Source(Source::Json(path)) => {
                        body = replaced(path, &body, &text, "timestamp")?.into();
                    }
                    TimestampPlace::Item(prefix) => items.push(format!("{prefix}{text}")),
                }
                Some(text)
            }
        };
        let signature = {
            let mut all_headers = Vec::new();
            let request = unsigned.with(&headers, &body, &mut all_headers);
            let reader = Reader::new(std::slice::from_ref(self), request);
            let timestamp = timestamp.as_ref().map(String::as_bytes);
            let content = match &self.content {
                Some(content) => content.collect(self, &reader, timestamp)?,
                None => Vec::new(),
            };
            let content: Vec<&[u8]> = content.iter().map(AsRef::as_ref).collect();
            key.sign(&content)?
        };
        let signature = format!("{}{}", self.prefix, encode(self.encoding, &signature));
        match &self.signature {
            Place::Header(name) => {
                items.push(header_value("secret", signature)?);
                let separator = self.split.map(String::from).unwrap_or_default();
                headers.push((name.clone(), items.join(&separator)));
            }
            Place::Headers(prefix) => headers.push((format!("{prefix}1"), signature)),
            Place::Json(path) => body = replaced(path, &body, &signature, "signature")?.into(),
        }
        let body = if let Cow::Owned(body) = body { Some(body) } else { None };
        Ok(Signed { headers, body })
    }

    /// The headers of the delivery id and the event type.
    fn label_headers(&self, unsigned: &Unsigned<'_>) -> Result<Vec<(String, String)>, SignError> {
        let mut headers = Vec::new();
        if let Some(Source::Header(name)) = &self.id {
            headers.push((name.clone(), header_value("delivery id", unsigned.delivery_id.to_owned())?));
        }
        if let (Some(EventSource(Source::Header(name), second)), Some(event_type)) =
            (&self.event, unsigned.event_type)
        {
            let request = Request::new(unsigned.method, &[], unsigned.body);
            let in_body = second.as_ref().and_then(|source| source.find(&request).ok()?);
            let in_body = in_body.map(|text| format!(".{}", String::from_utf8_lossy(&text)));
            let in_header = in_body.and_then(|end| event_type.strip_suffix(&end)).unwrap_or(event_type);
            headers.push((name.clone(), header_value("event type", in_header.to_owned())?));
        }
        Ok(headers)
    }
}

impl Unit {
    fn format(self, time: SystemTime) -> Result<String, SignError> {
        let since = time.duration_since(UNIX_EPOCH).map_err(|_| SignError::Time)?;
        if !UNIX_SECONDS.contains(&since.as_secs()) {
            return Err(SignError::Time);
        }
        Ok(match self {
            Self::Seconds => since.as_secs().to_string(),
            Self::Milliseconds => since.as_millis().to_string(),
            Self::Rfc3339 => {
                let whole = UNIX_EPOCH + Duration::from_secs(since.as_secs());
                humantime::format_rfc3339_seconds(whole).to_string()
            }
        })
    }
}

fn encode(encoding: Encoding, bytes: &[u8]) -> String {
    match encoding {
        // A token, which was made from a text.
        Encoding::Text => String::from_utf8_lossy(bytes).into_owned(),
        Encoding::Hex => hex(bytes),
        Encoding::Base64 => STANDARD.encode(bytes),
    }
}

pub(super) fn header_value(what: &'static str, text: String) -> Result<String, SignError> {
    let valid = (1..=super::MAX_SIGNATURE_BYTES).contains(&text.len())
        && !text.contains(char::is_control)
        && text.trim() == text;
    if valid { Ok(text) } else { Err(SignError::Header(what)) }
}

/// Replaces the value at `path` by `text`: a string stays a string, a number a number. All other bytes stay as they are.
pub(super) fn replaced(
    path: &JsonPath,
    body: &[u8],
    text: &str,
    what: &'static str,
) -> Result<Vec<u8>, SignError> {
    let missing = || SignError::Member { what, path: path.to_string() };
    let value = path.raw(body).map_err(|_| missing())?.ok_or_else(missing)?;
    // The value is a slice of the body.
    let start = value.as_ptr() as usize - body.as_ptr() as usize;
    let is_number = value.starts_with(|first: char| first == '-' || first.is_ascii_digit());
    let text = if is_number { text.to_owned() } else { crate::json::encode(&text) };
    Ok([&body[..start], text.as_bytes(), &body[start + value.len()..]].concat())
}
