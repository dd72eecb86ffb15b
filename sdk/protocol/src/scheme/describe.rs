//! A scheme in words: for people who compare it with the sender's documentation.

use std::time::Duration;

use serde::Serialize;

use super::{
    Covers, Scheme, Template, Templates, Verification,
    content::{Content, Part},
    key::{Algorithm, Encoding, KeyFormat},
    msgraph,
    source::Source,
    template::{EventSource, Place, Timestamp, TimestampPlace, Unit},
    twilio,
};

/// One way in which a sender signs its webhooks, in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Description {
    /// The algorithm as in a template, such as `hmac-sha256`.
    pub algorithm: &'static str,
    /// Where the signature is, and how it is written.
    pub signature: String,
    /// What is signed, in order.
    pub signed: String,
    /// Which part of the request the signature vouches for.
    pub covers: Covers,
    /// Where the signed timestamp is, and its unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<String>,
    /// How far the timestamp may be from the clock, in seconds: `None` if it is not compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<u64>,
    /// How the key is made from the secret.
    pub key: String,
    /// Where the delivery id is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Where the type of the event is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
}

impl Scheme {
    /// Describes the alternatives of the scheme, in the order in which they are tried. Empty for the scheme `none`.
    #[must_use]
    pub fn describe(&self) -> Vec<Description> {
        match &self.verification {
            Verification::Templates(templates) => {
                templates.as_slice().iter().map(Template::describe).collect()
            }
            Verification::Twilio => twilio::describe(),
            Verification::MsGraph => vec![msgraph::describe()],
            Verification::None => Vec::new(),
        }
    }

    /// The default tolerance of the timestamp, `None` if none is compared with the clock.
    #[must_use]
    pub fn tolerance(&self) -> Option<Duration> {
        self.templates().and_then(Templates::tolerance)
    }

    /// Whether the sender sends its signature or token in this header.
    #[must_use]
    pub fn is_signature_header(&self, name: &str) -> bool {
        if self.verification == Verification::Twilio {
            return name.eq_ignore_ascii_case(twilio::SIGNATURE);
        }
        self.as_templates().iter().any(|template| match &template.signature {
            Place::Header(own) => own.eq_ignore_ascii_case(name),
            Place::Headers(prefix) => {
                name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
            }
            Place::Json(_) => false,
        })
    }

    /// The headers with the delivery id that the signature does not cover, in the order of the alternatives.
    #[must_use]
    pub fn unsigned_id_headers(&self) -> Vec<&str> {
        if self.verification == Verification::Twilio {
            return vec![twilio::DELIVERY_ID];
        }
        self.as_templates().iter().filter_map(Template::unsigned_id_header).collect()
    }
}

impl Template {
    fn unsigned_id_header(&self) -> Option<&str> {
        let is_signed = self.content.as_ref().is_some_and(|content| content.contains(&Part::Id));
        match &self.id {
            Some(Source::Header(name)) if !is_signed => Some(name),
            _ => None,
        }
    }

    fn describe(&self) -> Description {
        Description {
            algorithm: self.algorithm.name(),
            signature: self.describe_signature(),
            signed: self.content.as_ref().map_or_else(|| "nothing".to_owned(), Content::describe),
            covers: self.covers,
            timestamp: self.timestamp.as_ref().map(Timestamp::describe),
            tolerance: self.tolerance().map(|tolerance| tolerance.as_secs()),
            key: self.key.describe(self.algorithm),
            id: self.id.as_ref().map(ToString::to_string),
            event: self.event.as_ref().map(EventSource::describe),
        }
    }

    fn describe_signature(&self) -> String {
        let place = match &self.signature {
            Place::Header(name) => format!("header {name}"),
            Place::Headers(prefix) => format!("all headers {prefix}1, {prefix}2, …"),
            Place::Json(path) => format!("JSON member {path}"),
        };
        let separator = match self.split {
            Some(' ') => ", items separated by blanks".to_owned(),
            Some(separator) => format!(", items separated by {separator}"),
            None => String::new(),
        };
        let prefix = match self.prefix.as_str() {
            "" => String::new(),
            prefix => format!(" after {prefix:?}"),
        };
        let encoding = match self.encoding {
            Encoding::Text => "the secret itself",
            Encoding::Hex => "hexadecimal",
            Encoding::Base64 => "base64",
        };
        format!("{place}{separator}: {encoding}{prefix}")
    }
}

impl Algorithm {
    fn name(self) -> &'static str {
        match self {
            Self::HmacSha1 => "hmac-sha1",
            Self::HmacSha256 => "hmac-sha256",
            Self::HmacSha512 => "hmac-sha512",
            Self::Ed25519 => "ed25519",
            Self::EcdsaP256 => "ecdsa-p256-sha256",
            Self::Token => "token",
        }
    }
}

impl Timestamp {
    fn describe(&self) -> String {
        let place = match &self.place {
            TimestampPlace::Source(source) => source.to_string(),
            TimestampPlace::Item(prefix) => format!("item {prefix} of the signature header"),
        };
        let unit = match self.unit {
            Unit::Seconds => "Unix seconds",
            Unit::Milliseconds => "Unix milliseconds",
            Unit::Rfc3339 => "RFC 3339",
        };
        format!("{place}, in {unit}")
    }
}

impl KeyFormat {
    fn describe(&self, algorithm: Algorithm) -> String {
        let what = match algorithm {
            Algorithm::Ed25519 => "the sender's public key (32 bytes) in",
            Algorithm::EcdsaP256 => "the sender's public key (DER, as in PEM) in",
            Algorithm::Token if self.encoding == Encoding::Text => return "the secret as it is".to_owned(),
            _ if self.encoding == Encoding::Text => return "the secret as text".to_owned(),
            _ => "the secret decoded from",
        };
        let encoding = if self.encoding == Encoding::Hex { "hexadecimal" } else { "base64" };
        match self.strip.as_str() {
            "" => format!("{what} {encoding}"),
            prefix => format!("{what} {encoding}, after the prefix {prefix}"),
        }
    }
}

impl EventSource {
    fn describe(&self) -> String {
        match &self.1 {
            Some(second) => format!("{}, then a dot and {second} if it is there", self.0),
            None => self.0.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(name: &str) -> Vec<Description> {
        Scheme::preset(name).unwrap().describe()
    }

    #[test]
    fn a_scheme_is_described_in_words() {
        let stripe = &described("stripe")[0];
        assert_eq!(
            stripe.signature,
            "header Stripe-Signature, items separated by ,: hexadecimal after \"v1=\""
        );
        assert_eq!(stripe.signed, "timestamp, body");
        assert_eq!(stripe.timestamp.as_deref(), Some("item t= of the signature header, in Unix seconds"));
        assert_eq!((stripe.tolerance, stripe.key.as_str()), (Some(300), "the secret as text"));
        let github = &described("github")[0];
        assert_eq!(
            github.event.as_deref(),
            Some("header X-GitHub-Event, then a dot and JSON member action if it is there")
        );
        let keys: Vec<_> = described("standard-webhooks").into_iter().map(|one| one.key).collect();
        assert_eq!(
            keys,
            [
                "the secret decoded from base64, after the prefix whsec_",
                "the sender's public key (32 bytes) in base64, after the prefix whpk_"
            ]
        );
        assert_eq!(described("telegram")[0].signed, "nothing");
    }

    #[test]
    fn an_id_header_is_unsigned_unless_the_content_has_it() {
        let header =
            |name| Scheme::preset(name).unwrap().unsigned_id_headers().first().map(|&name| name.to_owned());
        assert_eq!(header("github").as_deref(), Some("X-GitHub-Delivery"));
        assert_eq!(header("svix"), None);
        assert_eq!(header("stripe"), None);
    }
}
