//! Verification of a request by templates. Pure: the clock is given.

use std::{borrow::Cow, cmp::Ordering, time::SystemTime};

use zeroize::Zeroizing;

use super::{
    Check, Covers, Rejection, Request, Template, Templates,
    content::{Content, Part},
    key::{Encoding, decode},
    reader::Reader,
    source::{Source, header},
    template::{EventSource, Place},
};
use crate::Secret;

/// The most secrets of a source. All are tried, so that a secret can be rotated.
pub const MAX_SECRETS: usize = 4;
/// The longest secret, in bytes.
pub const MAX_SECRET_BYTES: usize = 4096;
/// The most items in a signature header.
pub const MAX_SIGNATURES: usize = 16;
/// The most signatures that are verified with a public key: each costs a pass over the body.
pub const MAX_PUBLIC_KEY_SIGNATURES: usize = 4;
/// The most passes over the signed content in one verification: one for each alternative and secret, and with public keys for
/// each signature as well.
pub const MAX_BODY_PASSES: usize = 16;
/// The most signature headers of a scheme that uses a header per key.
pub const MAX_SIGNATURE_HEADERS: usize = 100;
/// The longest item of a signature header, in bytes.
pub const MAX_SIGNATURE_BYTES: usize = 8192;
/// The longest delivery id or event type, in bytes. A longer one is left out.
const MAX_LABEL_BYTES: usize = 256;

/// The number of a secret, from 1, and the key that it is decoded to.
type Key = (usize, Zeroizing<Vec<u8>>);

/// A request whose signature is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The sender's type of the event, as in `issues.opened`.
    pub event_type: Option<String>,
    /// The sender's id of the delivery.
    pub delivery_id: Option<DeliveryId>,
    /// The number of the secret that matched, from 1. 0 if the source has no verification.
    pub secret: usize,
    /// What was signed, in words.
    pub signed: String,
    /// Which part of the request the signature vouches for.
    pub covers: Covers,
}

/// The sender's id of a delivery. It need not be unique: some senders give one id to an event that they deliver to several
/// endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryId {
    /// The id.
    pub value: String,
    /// Whether the signature covers it. Otherwise a stored request can be sent again under another id.
    pub covered: bool,
}

impl Verified {
    /// A request of a source without verification.
    pub(super) fn unverified() -> Self {
        Self {
            event_type: None,
            delivery_id: None,
            secret: 0,
            signed: "nothing".to_owned(),
            covers: Covers::Nothing,
        }
    }
}

impl Templates {
    /// Verifies a request: the first template that accepts it decides. `now` is compared with signed timestamps.
    ///
    /// Costs at most [`MAX_BODY_PASSES`] passes over the signed content, one to parse the body, and in each template one over
    /// each value that is read from it, to decode it and to search it for its separator.
    pub(super) fn verify(
        &self,
        secrets: &[Secret],
        request: &Request<'_>,
        now: SystemTime,
    ) -> Result<Verified, Rejection> {
        // Reports the template that came furthest: it is most likely the one that was meant.
        let mut furthest: Option<Rejection> = None;
        let reader = Reader::new(self.as_slice(), *request);
        let mut passes = MAX_BODY_PASSES;
        for template in self.as_slice() {
            match template.verify(secrets, &reader, now, &mut passes) {
                Ok(verified) => return Ok(verified),
                Err(rejection) => {
                    furthest = Some(match furthest {
                        Some(other) => further(other, rejection),
                        None => rejection,
                    });
                }
            }
        }
        Err(furthest.unwrap_or_else(|| Rejection::new(Check::Header, "the scheme has no template")))
    }
}

/// Returns the rejection by the later check. If both lack their header it names both.
fn further(one: Rejection, other: Rejection) -> Rejection {
    match one.check.cmp(&other.check) {
        Ordering::Less => other,
        Ordering::Equal if one.check == Check::Header && !one.detail.contains(&other.detail) => {
            Rejection::new(Check::Header, format!("{}; {}", one.detail, other.detail))
        }
        Ordering::Equal | Ordering::Greater => one,
    }
}

impl Template {
    /// Verifies a request. `passes` is what is left of [`MAX_BODY_PASSES`].
    fn verify(
        &self,
        secrets: &[Secret],
        reader: &Reader<'_>,
        now: SystemTime,
        passes: &mut usize,
    ) -> Result<Verified, Rejection> {
        let items = self.items(reader)?;
        let signatures = self.signatures(&items)?;
        let timestamp = match &self.timestamp {
            Some(timestamp) => Some(timestamp.check(&items, reader, now)?),
            None => None,
        };
        let content = match &self.content {
            Some(content) => content.collect(self, reader, timestamp.as_deref())?,
            None => Vec::new(),
        };
        let parts: Vec<&[u8]> = content.iter().map(AsRef::as_ref).collect();
        let keys = self.keys(secrets)?;
        let secret = self.try_keys(&keys, &parts, &signatures, passes, reader.request.pause)?;
        let document = self.content.as_ref().and_then(|template| template.form_document(&content));
        Ok(match document {
            Some(document) => self.verified(secret, &reader.with_body(document)),
            None => self.verified(secret, reader),
        })
    }

    fn verified(&self, secret: usize, reader: &Reader<'_>) -> Verified {
        let signed = self.content.as_ref().map(Content::describe);
        Verified {
            event_type: self.event.as_ref().and_then(|event| event.find(reader)),
            delivery_id: self.id.as_ref().and_then(|id| self.delivery_id(id, reader)),
            secret,
            signed: signed.unwrap_or_else(|| "nothing, a token was compared".into()),
            covers: self.covers,
        }
    }

    /// Decodes the secrets that can be keys of the template, each with its number.
    fn keys(&self, secrets: &[Secret]) -> Result<Vec<Key>, Rejection> {
        let (mut keys, mut unusable) = (Vec::new(), Vec::new());
        for (number, secret) in (1..).zip(secrets) {
            let key = match secret.expose().len() {
                1..=MAX_SECRET_BYTES => self.key.decode(self.algorithm, secret),
                _ => Err("it must have 1 to 4096 bytes"),
            };
            match key {
                Ok(key) => keys.push((number, key)),
                Err(reason) => unusable.push(format!("secret {number} cannot be a key: {reason}")),
            }
        }
        if keys.is_empty() { Err(Rejection::new(Check::Secret, unusable.join("; "))) } else { Ok(keys) }
    }

    /// Returns the number of the key that made one of the signatures.
    fn try_keys(
        &self,
        keys: &[Key],
        content: &[&[u8]],
        signatures: &[Vec<u8>],
        passes: &mut usize,
        pause: fn(),
    ) -> Result<usize, Rejection> {
        let reject = |detail: String| Rejection::new(Check::Signature, detail);
        let is_public_key = self.algorithm.is_public_key();
        let needed = keys.len() * if is_public_key { signatures.len() } else { 1 };
        *passes = passes.checked_sub(needed).ok_or_else(|| {
            reject(format!(
                "there are too many signatures: to verify them under each secret takes more than {MAX_BODY_PASSES} passes \
                 over the body"
            ))
        })?;
        // `ring` verifies a signature of contiguous bytes.
        let joined = is_public_key.then(|| content.concat());
        let joined = joined.as_deref().map(|joined| [joined]);
        let content = joined.as_ref().map_or(content, |joined| &joined[..]);
        let is_right = |key: &[u8]| self.algorithm.verify(key, content, signatures, pause);
        let right = keys.iter().find(|(_, key)| is_right(key));
        right.map(|(number, _)| *number).ok_or_else(|| {
            reject("the signature does not match the request under any secret of the source".into())
        })
    }

    /// Returns the items of the signature header or headers that are not empty.
    fn items<'a>(&self, reader: &Reader<'a>) -> Result<Vec<Cow<'a, [u8]>>, Rejection> {
        let request = &reader.request;
        let reject = |detail: String| Rejection::new(Check::Header, detail);
        let (items, limit): (Vec<Cow<'a, [u8]>>, usize) = match &self.signature {
            Place::Header(name) => {
                let value = header(request, name).map_err(|error| reject(error.to_string()))?;
                let value = value.ok_or_else(|| reject(format!("header {name} is missing")))?;
                (split(value, self.split), MAX_SIGNATURES)
            }
            Place::Headers(prefix) => (signature_headers(request, prefix)?, MAX_SIGNATURE_HEADERS),
            Place::Json(path) => {
                let value = reader.find_signed(path).map_err(|error| reject(error.to_string()))?;
                let value = value.ok_or_else(|| reject(format!("JSON member {path} is missing")))?;
                (vec![value.into_bytes().into()], 1)
            }
        };
        let items: Vec<_> = items.into_iter().filter(|item| !item.is_empty()).take(limit + 1).collect();
        if items.iter().any(|item| item.len() > MAX_SIGNATURE_BYTES) {
            return Err(reject(format!("the signature is longer than {MAX_SIGNATURE_BYTES} bytes")));
        }
        match items.len() {
            0 => Err(reject("the signature is empty".into())),
            count if count > limit => Err(reject(format!("there are more than {limit} signature items"))),
            _ => Ok(items),
        }
    }

    /// Decodes the items that have the prefix, the encoding and the length of a signature.
    fn signatures(&self, items: &[Cow<'_, [u8]>]) -> Result<Vec<Vec<u8>>, Rejection> {
        let prefixed = |item: &&[u8]| item.starts_with(self.prefix.as_bytes());
        let prefixed: Vec<&[u8]> = items.iter().map(AsRef::as_ref).filter(prefixed).collect();
        if prefixed.is_empty() {
            return Err(Rejection::new(Check::Encoding, format!("no signature begins with {}", self.prefix)));
        }
        let decoded = prefixed.iter().filter_map(|item| decode(self.encoding, &item[self.prefix.len()..]));
        let signatures: Vec<_> = decoded.filter(|bytes| self.algorithm.accepts_length(bytes.len())).collect();
        if signatures.is_empty() {
            let encoding = match self.encoding {
                Encoding::Text => "token",
                Encoding::Hex => "hexadecimal signature of the right length",
                Encoding::Base64 => "base64 signature of the right length",
            };
            return Err(Rejection::new(Check::Encoding, format!("the value is not a {encoding}")));
        }
        if self.algorithm.is_public_key() && signatures.len() > MAX_PUBLIC_KEY_SIGNATURES {
            let detail =
                format!("there are more than {MAX_PUBLIC_KEY_SIGNATURES} signatures of a public key");
            return Err(Rejection::new(Check::Header, detail));
        }
        Ok(signatures)
    }

    fn delivery_id(&self, source: &Source, reader: &Reader<'_>) -> Option<DeliveryId> {
        let value = label(source, reader)?;
        let content = self.content.as_ref();
        let covered = content.is_some_and(|content| {
            content.contains(&Part::Id)
                || match source {
                    Source::Json(_) => content.contains(&Part::Body),
                    Source::Header(name) => content.has_header(name),
                }
        });
        Some(DeliveryId { value, covered })
    }
}

/// Returns the values of all headers that begin with `prefix`, each name once.
fn signature_headers<'a>(request: &Request<'a>, prefix: &str) -> Result<Vec<Cow<'a, [u8]>>, Rejection> {
    let reject = |detail: String| Rejection::new(Check::Header, detail);
    let begins =
        |name: &str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    let names: Vec<_> = request.headers.iter().map(|(name, _)| *name).filter(|name| begins(name)).collect();
    if names.is_empty() {
        return Err(reject(format!("header {prefix}… is missing")));
    }
    if names.len() > MAX_SIGNATURE_HEADERS {
        return Err(reject(format!("there are more than {MAX_SIGNATURE_HEADERS} signature headers")));
    }
    let value = |name| match header(request, name) {
        Ok(value) => Ok(Cow::Borrowed(value.unwrap_or_default())),
        Err(error) => Err(reject(error.to_string())),
    };
    names.into_iter().map(value).collect()
}

/// Splits a header's value into trimmed items.
fn split(value: &[u8], separator: Option<char>) -> Vec<Cow<'_, [u8]>> {
    let Some(separator) = separator else { return vec![value.into()] };
    value.split(|byte| char::from(*byte) == separator).map(|item| item.trim_ascii().into()).collect()
}

impl EventSource {
    /// The type, or type and action. Together they are as short as a single label.
    fn find(&self, reader: &Reader<'_>) -> Option<String> {
        let first = label(&self.0, reader)?;
        match self.1.as_ref().and_then(|source| label(source, reader)) {
            Some(second) => Some(format!("{first}.{second}")).filter(|text| text.len() <= MAX_LABEL_BYTES),
            None => Some(first),
        }
    }
}

/// Returns a short text without control characters, for the id and the type. They are never part of the verdict.
fn label(source: &Source, reader: &Reader<'_>) -> Option<String> {
    text_label(reader.find(source).ok()??.into_owned())
}

/// Returns a value as text if it is short and has no control characters.
pub(super) fn text_label(value: Vec<u8>) -> Option<String> {
    let text = String::from_utf8(value).ok()?;
    let valid = !text.is_empty() && text.len() <= MAX_LABEL_BYTES && !text.contains(char::is_control);
    valid.then_some(text)
}
