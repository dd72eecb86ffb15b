//! Parses the fields of a template.

use std::time::Duration;

use serde_json::{Map, Value};

use super::{
    Covers, EventSource, MAX_TOLERANCE_SECONDS, Place, Template, TemplateError, Timestamp, TimestampPlace,
    Unit,
};
use crate::scheme::{
    content::{Content, Part},
    key::{Algorithm, Encoding, KeyFormat},
    source::{Source, header_name},
};

/// All fields.
const FIELDS: [&str; 13] = [
    "algorithm",
    "signature",
    "split",
    "prefix",
    "encoding",
    "content",
    "timestamp",
    "unit",
    "tolerance",
    "key",
    "id",
    "event",
    "covers",
];
/// How far a timestamp may be from the clock if the template does not say it.
const DEFAULT_TOLERANCE: Duration = Duration::from_secs(300);

/// The fields that are not parsed yet.
pub(super) struct Fields(Map<String, Value>);

impl Fields {
    pub(super) fn new(fields: &Map<String, Value>) -> Self {
        Self(fields.clone())
    }

    /// Parses all fields.
    pub(super) fn parse(mut self) -> Result<Template, TemplateError> {
        let template = self.template()?;
        match self.0.keys().next() {
            Some(name) if FIELDS.contains(&name.as_str()) => Err(TemplateError::new(
                name,
                "has no meaning here: unit and tolerance belong to a timestamp, and a token has only signature, prefix, id, \
                 event and covers",
            )),
            Some(name) => {
                Err(TemplateError::new(name, format!("is unknown; known fields: {}", FIELDS.join(", "))))
            }
            None => Ok(template),
        }
    }

    fn text(&mut self, field: &'static str) -> Result<Option<String>, TemplateError> {
        match self.0.remove(field) {
            None => Ok(None),
            Some(Value::String(text)) if !text.is_empty() => Ok(Some(text)),
            Some(_) => Err(TemplateError::new(field, "must be a text that is not empty")),
        }
    }

    fn required(&mut self, field: &'static str) -> Result<String, TemplateError> {
        self.text(field)?.ok_or_else(|| TemplateError::new(field, "is missing"))
    }

    fn template(&mut self) -> Result<Template, TemplateError> {
        let algorithm = Algorithm::parse(&self.required("algorithm")?)?;
        let signature = Place::parse(&self.required("signature")?)?;
        let prefix = self.text("prefix")?.unwrap_or_default();
        let id = self.text("id")?.map(|text| Source::parse("id", &text)).transpose()?;
        let event = self.text("event")?.map(|text| EventSource::parse(&text)).transpose()?;
        let covers = self.covers()?;
        if algorithm == Algorithm::Token {
            if covers.is_some_and(|covers| covers != Covers::Nothing) {
                return Err(TemplateError::new("covers", "must be nothing for a token"));
            }
            if matches!(signature, Place::Headers(_)) {
                return Err(TemplateError::new("signature", "must name one header for a token"));
            }
            return Ok(Template {
                algorithm,
                signature,
                split: None,
                prefix,
                encoding: Encoding::Text,
                content: None,
                timestamp: None,
                key: KeyFormat::parse("text", algorithm)?,
                id,
                event,
                covers: Covers::Nothing,
            });
        }
        let split = self.split(&signature)?;
        let encoding = self.encoding()?;
        let content = Content::parse(&self.required("content")?)?;
        let timestamp = self.timestamp(split)?;
        content.check(id.as_ref(), timestamp.as_ref())?;
        if covers.is_none() && !content.contains(&Part::Body) {
            return Err(TemplateError::new(
                "content",
                "lacks {body}: if that is meant, say it with \"covers\"",
            ));
        }
        let key = KeyFormat::parse(self.text("key")?.as_deref().unwrap_or("text"), algorithm)?;
        let covers = covers.unwrap_or(Covers::Body);
        let content = Some(content);
        Template { algorithm, signature, split, prefix, encoding, content, timestamp, key, id, event, covers }
            .check()
    }

    fn covers(&mut self) -> Result<Option<Covers>, TemplateError> {
        match self.text("covers")?.as_deref() {
            None => Ok(None),
            Some("body") => Ok(Some(Covers::Body)),
            Some("url") => Ok(Some(Covers::Url)),
            Some("nothing") => Ok(Some(Covers::Nothing)),
            Some(_) => Err(TemplateError::new("covers", "must be body, url or nothing")),
        }
    }

    fn split(&mut self, signature: &Place) -> Result<Option<char>, TemplateError> {
        let Some(text) = self.text("split")? else { return Ok(None) };
        match text.as_bytes() {
            _ if !matches!(signature, Place::Header(_)) => {
                Err(TemplateError::new("split", "needs one signature header"))
            }
            [byte @ (b' ' | b',' | b';' | b'|' | b'&')] => Ok(Some(char::from(*byte))),
            _ => Err(TemplateError::new("split", "must be one of blank , ; | &")),
        }
    }

    fn encoding(&mut self) -> Result<Encoding, TemplateError> {
        match self.required("encoding")?.as_str() {
            "hex" => Ok(Encoding::Hex),
            "base64" => Ok(Encoding::Base64),
            _ => Err(TemplateError::new("encoding", "must be hex or base64")),
        }
    }

    fn timestamp(&mut self, split: Option<char>) -> Result<Option<Timestamp>, TemplateError> {
        let Some(text) = self.text("timestamp")? else { return Ok(None) };
        let place = match text.strip_prefix("item:") {
            Some(prefix) if split.is_some() && !prefix.is_empty() => TimestampPlace::Item(prefix.to_owned()),
            Some(_) => {
                return Err(TemplateError::new(
                    "timestamp",
                    "of item:PREFIX needs a split header and a prefix",
                ));
            }
            None => TimestampPlace::Source(Source::parse("timestamp", &text)?),
        };
        let unit = match self.text("unit")?.as_deref() {
            None | Some("s") => Unit::Seconds,
            Some("ms") => Unit::Milliseconds,
            Some("rfc3339") => Unit::Rfc3339,
            Some(_) => return Err(TemplateError::new("unit", "must be s, ms or rfc3339")),
        };
        let tolerance = match self.0.remove("tolerance") {
            None => Some(DEFAULT_TOLERANCE),
            Some(Value::Null) => None,
            Some(value) => match value.as_u64() {
                Some(seconds @ 1..=MAX_TOLERANCE_SECONDS) => Some(Duration::from_secs(seconds)),
                _ => {
                    return Err(TemplateError::new(
                        "tolerance",
                        "must be 1 to 86400 seconds, or null for no limit",
                    ));
                }
            },
        };
        Ok(Some(Timestamp { place, unit, tolerance }))
    }
}

impl Place {
    fn parse(text: &str) -> Result<Self, TemplateError> {
        match text.strip_prefix("header:").map(|name| (name, name.strip_suffix('*'))) {
            Some((_, Some(prefix))) => Ok(Self::Headers(header_name("signature", prefix)?)),
            Some((name, None)) => Ok(Self::Header(header_name("signature", name)?)),
            None => match Source::parse("signature", text)? {
                Source::Json(path) => Ok(Self::Json(path)),
                Source::Header(name) => Ok(Self::Header(name)),
            },
        }
    }
}

impl EventSource {
    fn parse(text: &str) -> Result<Self, TemplateError> {
        let second = [".json:", ".header:"].iter().filter_map(|join| text.find(join)).min();
        let (first, second) = second.map_or((text, None), |at| (&text[..at], Some(&text[at + 1..])));
        let second = second.map(|text| Source::parse("event", text)).transpose()?;
        Ok(Self(Source::parse("event", first)?, second))
    }
}
