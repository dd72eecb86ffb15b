//! The grammar of a template, parsed once into types.

mod parse;

use std::time::Duration;

use serde_json::Value;

use self::parse::Fields;
use super::{
    content::{Content, Part},
    json_path::JsonPath,
    key::{Algorithm, Encoding, KeyFormat},
    source::Source,
};
use crate::{Secret, covers::Covers};

/// The largest template given at registration, in bytes of JSON.
pub const MAX_TEMPLATE_BYTES: usize = 1024;
/// The most alternatives in a list of templates.
pub const MAX_ALTERNATIVES: usize = 4;
/// The largest tolerance of a timestamp, in seconds: one day.
pub const MAX_TOLERANCE_SECONDS: u64 = 86_400;

/// One way in which a sender signs its webhooks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    pub(super) algorithm: Algorithm,
    pub(super) signature: Place,
    pub(super) split: Option<char>,
    pub(super) prefix: String,
    pub(super) encoding: Encoding,
    /// `None` for a token.
    pub(super) content: Option<Content>,
    pub(super) timestamp: Option<Timestamp>,
    pub(super) key: KeyFormat,
    pub(super) id: Option<Source>,
    pub(super) event: Option<EventSource>,
    pub(super) covers: Covers,
}

/// Where the signature is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Header(String),
    /// All headers that begin so.
    Headers(String),
    Json(JsonPath),
}

/// Where the timestamp is, and how old it may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Timestamp {
    pub(super) place: TimestampPlace,
    pub(super) unit: Unit,
    /// `None`: not compared with the clock.
    pub(super) tolerance: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TimestampPlace {
    Source(Source),
    /// The item of the signature header that begins so.
    Item(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Seconds,
    Milliseconds,
    Rfc3339,
}

/// The type of an event: one source, or two joined by a dot. The second is left out when absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EventSource(pub(super) Source, pub(super) Option<Source>);

/// A field of a template is missing, unknown or wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} {reason}", subject(.field))]
pub struct TemplateError {
    /// The name of the field, after the number of the alternative in a list, from 0: `1.content`. `template` for the whole.
    pub field: String,
    /// What is wrong, and what it must be.
    pub reason: String,
}

/// What an error is about. The name may be any text.
fn subject(field: &str) -> String {
    if field == "template" { "the template".to_owned() } else { format!("template field {field:?}") }
}

impl TemplateError {
    pub(super) fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }
}

impl Template {
    /// Parses the fields of one template.
    pub(super) fn from_value(value: &Value) -> Result<Self, TemplateError> {
        let object = value.as_object().ok_or_else(|| TemplateError::new("template", "must be an object"))?;
        Fields::new(object).parse()
    }

    /// Which part of the request a valid signature vouches for.
    #[must_use]
    pub fn covers(&self) -> Covers {
        self.covers
    }

    /// How far the timestamp may be from the clock, `None` if it is not compared.
    #[must_use]
    pub fn tolerance(&self) -> Option<Duration> {
        self.timestamp.as_ref()?.tolerance
    }

    /// The header that has the signature, if it is a single one.
    pub(super) fn signature_header(&self) -> Option<&str> {
        match &self.signature {
            Place::Header(name) => Some(name),
            Place::Headers(_) | Place::Json(_) => None,
        }
    }

    /// The paths into the JSON body that the template reads.
    pub(super) fn json_paths(&self) -> impl Iterator<Item = &JsonPath> {
        let signature = match &self.signature {
            Place::Json(path) => Some(path),
            Place::Header(_) | Place::Headers(_) => None,
        };
        let timestamp = self.timestamp.as_ref().and_then(Timestamp::source);
        let event = self.event.iter().flat_map(|EventSource(first, second)| [Some(first), second.as_ref()]);
        let sources = [timestamp, self.id.as_ref()].into_iter().chain(event).flatten();
        let content = self.content.iter().flat_map(Content::json_paths);
        signature.into_iter().chain(sources.filter_map(Source::json)).chain(content)
    }

    /// The fields of the form body that the template reads.
    pub(super) fn form_names(&self) -> impl Iterator<Item = &str> {
        self.content.iter().flat_map(Content::form_names)
    }

    /// Whether a header is a part of the verification.
    pub(super) fn uses_header(&self, header: &str) -> bool {
        self.signature_header().is_some_and(|name| name.eq_ignore_ascii_case(header))
            || self.content.as_ref().is_some_and(|content| content.has_header(header))
    }

    /// Whether a signature for one template is none for the other, or vouches there for the same values and time. A body, and a form whose
    /// only field has the same bytes, are the same: some senders sign either.
    fn accepts_same(&self, other: &Self) -> bool {
        if self.algorithm != other.algorithm {
            return true;
        }
        let (Some(content), Some(other_content)) = (&self.content, &other.content) else { return true };
        let time = |template: &Self| {
            template.timestamp.as_ref().map(|timestamp| (timestamp.unit, timestamp.tolerance))
        };
        let is_form_of_other = content.is_document()
            && other_content.is_document()
            && content.has_form() != other_content.has_form();
        (content == other_content || is_form_of_other) && time(self) == time(other)
    }

    /// Checks what no single field shows.
    fn check(self) -> Result<Self, TemplateError> {
        let Some(content) = &self.content else { return Ok(self) };
        let has_timestamp = content.contains(&Part::Timestamp);
        let covered_in_body = |source: &TimestampPlace| {
            matches!(source, TimestampPlace::Source(Source::Json(_))) && content.contains(&Part::Body)
        };
        match &self.timestamp {
            None if has_timestamp => {
                return Err(TemplateError::new("timestamp", "is required by {timestamp}"));
            }
            Some(timestamp) if !has_timestamp && !covered_in_body(&timestamp.place) => {
                return Err(TemplateError::new("timestamp", "must be a part of the content"));
            }
            _ => {}
        }
        if self.id.is_none() && content.contains(&Part::Id) {
            return Err(TemplateError::new("id", "is required by {id}"));
        }
        let covered = match self.covers {
            Covers::Body => content.contains(&Part::Body) || content.has_form(),
            Covers::Url => content.contains(&Part::Url),
            Covers::Nothing => !content.contains(&Part::Body),
            Covers::Unknown => false,
        };
        if covered { Ok(self) } else { Err(TemplateError::new("covers", "must say what the content covers")) }
    }
}

/// The scheme of a sender: one template or several. A request is accepted if any of them accepts it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Templates(Vec<Template>);

impl Templates {
    /// Parses one template, or a list of them, from JSON of at most [`MAX_TEMPLATE_BYTES`].
    ///
    /// ```
    /// use wwproxy_protocol::scheme::Templates;
    ///
    /// let error = Templates::parse(r#"{"algorithm": "md5"}"#).unwrap_err();
    /// assert_eq!(error.field, "algorithm");
    /// ```
    pub fn parse(json: &str) -> Result<Self, TemplateError> {
        if json.len() > MAX_TEMPLATE_BYTES {
            return Err(TemplateError::new("template", "must have at most 1024 bytes"));
        }
        let value = serde_json::from_str(json)
            .map_err(|error| TemplateError::new("template", format!("must be JSON: {error}")))?;
        Self::from_value(&value)
    }

    pub(super) fn from_value(value: &Value) -> Result<Self, TemplateError> {
        let Value::Array(list) = value else { return Ok(Self(vec![Template::from_value(value)?])) };
        if !(1..=MAX_ALTERNATIVES).contains(&list.len()) {
            return Err(TemplateError::new("template", "must be an object or a list of 1 to 4 of them"));
        }
        let numbered = |(at, value): (usize, &Value)| {
            Template::from_value(value)
                .map_err(|error| TemplateError::new(format!("{}.{}", at, error.field), error.reason))
        };
        let mut templates = list.iter().enumerate().map(numbered).collect::<Result<Vec<_>, _>>()?;
        separate_keys(&mut templates)?;
        Ok(Self(templates))
    }

    /// The templates, in the order in which they are tried.
    #[must_use]
    pub fn as_slice(&self) -> &[Template] {
        &self.0
    }

    /// What a valid signature vouches for at least, whichever of the templates accepts.
    #[must_use]
    pub fn covers(&self) -> Covers {
        let covers = |covers| self.0.iter().any(|template| template.covers == covers);
        if covers(Covers::Nothing) {
            Covers::Nothing
        } else if covers(Covers::Url) {
            Covers::Url
        } else {
            Covers::Body
        }
    }

    /// The default tolerance of the timestamp, `None` if it is not compared with the clock.
    #[must_use]
    pub fn tolerance(&self) -> Option<Duration> {
        self.0.iter().find_map(Template::tolerance)
    }

    /// Replaces the tolerance of the timestamp by 1 to [`MAX_TOLERANCE_SECONDS`].
    pub fn set_tolerance(&mut self, seconds: u64) -> Result<(), TemplateError> {
        if !(1..=MAX_TOLERANCE_SECONDS).contains(&seconds) {
            return Err(TemplateError::new("tolerance", "must be 1 to 86400 seconds"));
        }
        let timestamps: Vec<_> =
            self.0.iter_mut().filter_map(|template| template.timestamp.as_mut()).collect();
        if timestamps.is_empty() {
            return Err(TemplateError::new("tolerance", "needs a scheme with a signed timestamp"));
        }
        for timestamp in timestamps {
            timestamp.tolerance = Some(Duration::from_secs(seconds));
        }
        Ok(())
    }

    /// Whether one of the templates signs the public URL.
    pub(super) fn needs_url(&self) -> bool {
        self.0
            .iter()
            .any(|template| template.content.as_ref().is_some_and(|content| content.contains(&Part::Url)))
    }

    /// Checks that a secret can be a key of one of the templates.
    pub(super) fn check_secret(&self, secret: &Secret) -> Result<(), &'static str> {
        let mut result = Ok(());
        for template in &self.0 {
            match template.key.decode(template.algorithm, secret) {
                Ok(_) => return Ok(()),
                // The error of the template whose prefix the secret has says more.
                Err(reason) if result.is_ok() || secret.expose().starts_with(&template.key.strip) => {
                    result = Err(reason);
                }
                Err(_) => {}
            }
        }
        result
    }
}

/// Ensures that no secret is used by two templates of which one would accept what was signed for the other: a public key,
/// which everybody knows, as a shared secret, or one content as another. Such a list says by the prefix of each secret which
/// templates use it.
fn separate_keys(templates: &mut [Template]) -> Result<(), TemplateError> {
    let mut needs_prefix = false;
    for (at, template) in templates.iter().enumerate() {
        for (before, other) in templates[..at].iter().enumerate() {
            let is_mixed = other.algorithm.is_public_key() != template.algorithm.is_public_key();
            if !is_mixed && template.accepts_same(other) {
                continue;
            }
            needs_prefix = true;
            let (one, two) = (&template.key.strip, &other.key.strip);
            if !one.starts_with(two) && !two.starts_with(one) {
                continue;
            }
            return Err(if is_mixed {
                TemplateError::new(
                    format!("{before}.key"),
                    "must be strip:PREFIX with a prefix that separates shared secrets from public keys",
                )
            } else {
                let reason = format!(
                    "must sign the same as {before}.content, with the same unit and tolerance, as both have one algorithm: \
                     otherwise a webhook that was signed for one could be sent as the other. Or register a source for each, or \
                     give each secret a prefix and say it in {before}.key and {at}.key as strip:PREFIX"
                );
                TemplateError::new(format!("{at}.content"), reason)
            });
        }
    }
    if needs_prefix {
        for template in templates {
            template.key.requires_prefix = true;
        }
    }
    Ok(())
}
