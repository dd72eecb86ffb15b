//! Verification of webhooks by a template of their signature.
//!
//! A [`Template`] says where a sender puts the signature, how it is computed and what it covers. A [`Scheme`] is a list of
//! templates: a request is accepted if one of them accepts it. [`presets`] holds the schemes of known senders. Twilio and
//! Microsoft Graph sign in ways that no template describes: their verification is code.
//!
//! ```
//! use std::time::SystemTime;
//! use wwproxy_protocol::{Secret, scheme, scheme::Scheme};
//!
//! let github = Scheme::preset("github").unwrap();
//! let signature: &[u8] = b"sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
//! let headers = [("X-Hub-Signature-256", signature)];
//! let request = scheme::Request::new("POST", &headers, b"Hello, World!");
//! let secret = Secret::new("It's a Secret to Everybody");
//! let verified = github.verify(&[secret], &request, SystemTime::now()).unwrap();
//! assert_eq!(verified.covers, scheme::Covers::Body);
//! ```

mod challenge;
mod content;
mod describe;
mod generate;
mod json_path;
mod key;
mod lookup;
mod msgraph;
mod presets;
mod reader;
mod samples;
mod sign;
mod signing_key;
mod source;
mod template;
mod timestamp;
mod twilio;
mod verify;

use std::{fmt, time::SystemTime};

pub use crate::covers::Covers;
use crate::{Secret, json, redact::names};

pub use challenge::{Answer, ChallengeRequest, Reception};
pub use describe::Description;
pub use generate::GenerateError;
pub use presets::{Preset, preset, presets};
pub use samples::{Sample, new_delivery_id};
pub use sign::{SignError, Signed, Unsigned};
pub use template::{
    MAX_ALTERNATIVES, MAX_TEMPLATE_BYTES, MAX_TOLERANCE_SECONDS, Template, TemplateError, Templates,
};
pub use verify::{
    DeliveryId, MAX_BODY_PASSES, MAX_PUBLIC_KEY_SIGNATURES, MAX_SECRET_BYTES, MAX_SECRETS,
    MAX_SIGNATURE_BYTES, MAX_SIGNATURE_HEADERS, MAX_SIGNATURES, Verified,
};

/// A webhook as it was received.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The HTTP method, in upper case.
    pub method: &'a str,
    /// The query string, without the `?`.
    pub query: Option<&'a str>,
    /// The public URL as registered with the sender. Never built from `Host` or `X-Forwarded-*`: a sender could choose it.
    pub url: Option<&'a str>,
    /// All headers, in order. Names are compared without regard to case.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// The body as received: not decoded, not serialized again. Its size is bounded by the caller.
    pub body: &'a [u8],
    /// Called between the pieces of a large body while it is hashed, and between passes over it, so that a server can yield.
    pub pause: fn(),
}

impl<'a> Request<'a> {
    /// A request of this method with these headers and this body.
    #[must_use]
    pub fn new(method: &'a str, headers: &'a [(&'a str, &'a [u8])], body: &'a [u8]) -> Self {
        Self { method, query: None, url: None, headers, body, pause: || {} }
    }
}

impl fmt::Debug for Request<'_> {
    /// Leaves out the URL, the query, the values of headers and the body, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("headers", &names(self.headers))
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// The check that a request failed, in the order in which they are made.
///
/// A server answers [`Check::Challenge`] with 403, [`Check::Form`] with 400 and all others with 401.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Check {
    /// The signature is there, once.
    Header,
    /// The signature has the prefix, the encoding and the length of this scheme.
    Encoding,
    /// The timestamp is there, once, well formed and near the clock.
    Timestamp,
    /// The signed parts of the request are there.
    Content,
    /// There are 1 to 4 secrets, and one of them can be a key of this scheme.
    Secret,
    /// The signature is right for one of the secrets.
    Signature,
    /// A challenge that is not signed has the right secret, and values that can be repeated. A request that is not `POST` is
    /// a challenge.
    Challenge,
    /// The request is what this sender sends, once its signature is valid: JSON where the sender always sends it, a
    /// challenge with a value that can be repeated.
    Form,
}

impl Check {
    /// The name in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Encoding => "encoding",
            Self::Timestamp => "timestamp",
            Self::Content => "content",
            Self::Secret => "secret",
            Self::Signature => "signature",
            Self::Challenge => "challenge",
            Self::Form => "form",
        }
    }
}

/// Why a request is refused. Holds neither secrets nor the expected signature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Rejection {
    /// The check that failed.
    pub check: Check,
    /// What is wrong, in words.
    pub detail: String,
}

impl Rejection {
    pub(crate) fn new(check: Check, detail: impl Into<String>) -> Self {
        Self { check, detail: detail.into() }
    }

    fn content(error: impl fmt::Display) -> Self {
        Self::new(Check::Content, error.to_string())
    }
}

/// How the webhooks of a source are verified and its challenges answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scheme {
    name: String,
    success: u16,
    requires_json: bool,
    verification: Verification,
}

/// How a signature is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verification {
    Templates(Templates),
    Twilio,
    MsGraph,
    /// The scheme `none`: every request is accepted.
    None,
}

impl Scheme {
    /// The scheme of a known sender.
    #[must_use]
    pub fn preset(name: &str) -> Option<Self> {
        preset(name).map(|preset| preset.scheme.clone())
    }

    /// The scheme `template`, from JSON of at most [`MAX_TEMPLATE_BYTES`].
    pub fn template(json: &str) -> Result<Self, TemplateError> {
        let verification = Verification::Templates(Templates::parse(json)?);
        Ok(Self { name: "template".to_owned(), success: 201, requires_json: false, verification })
    }

    /// The scheme `none`, which accepts every request.
    #[must_use]
    pub fn unverified() -> Self {
        let verification = Verification::None;
        Self { name: "none".to_owned(), success: 201, requires_json: false, verification }
    }

    /// The name in a registration.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The HTTP status with which a stored event is answered: 201, or what the sender takes as a success.
    #[must_use]
    pub fn success(&self) -> u16 {
        self.success
    }

    /// The templates, `None` if the verification is code: `twilio`, `msgraph` and `none`.
    #[must_use]
    pub fn templates(&self) -> Option<&Templates> {
        match &self.verification {
            Verification::Templates(templates) => Some(templates),
            Verification::Twilio | Verification::MsGraph | Verification::None => None,
        }
    }

    fn as_templates(&self) -> &[Template] {
        self.templates().map_or(&[], Templates::as_slice)
    }

    /// Whether it is the scheme `none`.
    #[must_use]
    pub fn is_unverified(&self) -> bool {
        self.verification == Verification::None
    }

    /// What a valid signature vouches for.
    #[must_use]
    pub fn covers(&self) -> Covers {
        match &self.verification {
            Verification::Templates(templates) => templates.covers(),
            Verification::Twilio => Covers::Body,
            Verification::MsGraph | Verification::None => Covers::Nothing,
        }
    }

    /// Whether the public URL is signed.
    #[must_use]
    pub fn needs_url(&self) -> bool {
        match &self.verification {
            Verification::Templates(templates) => templates.needs_url(),
            Verification::Twilio => true,
            Verification::MsGraph | Verification::None => false,
        }
    }

    /// Whether the body must be a JSON object or array. [`Scheme::verify`] refuses others with [`Check::Form`].
    #[must_use]
    pub fn requires_json(&self) -> bool {
        self.requires_json
    }

    /// Whether a signature or token of the sender is in `Authorization`: the header is then a part of the webhook, not a
    /// credential for a proxy on the way.
    #[must_use]
    pub fn keeps_authorization(&self) -> bool {
        self.as_templates().iter().any(|template| template.uses_header("Authorization"))
    }

    /// Whether the request has a signature, valid or not.
    fn has_signature(&self, request: &Request<'_>) -> bool {
        let has = |name| !matches!(source::header(request, name), Ok(None));
        self.as_templates().iter().filter_map(Template::signature_header).any(has)
    }

    /// Checks that a secret can be a key of this scheme. The error says what is wrong without a part of the secret.
    pub fn check_secret(&self, secret: &Secret) -> Result<(), &'static str> {
        match &self.verification {
            Verification::Templates(templates) => templates.check_secret(secret),
            Verification::MsGraph => msgraph::check_secret(secret),
            Verification::Twilio | Verification::None => Ok(()),
        }
    }

    /// Replaces the tolerance of the timestamp by 1 to [`MAX_TOLERANCE_SECONDS`].
    pub fn set_tolerance(&mut self, seconds: u64) -> Result<(), TemplateError> {
        match &mut self.verification {
            Verification::Templates(templates) => templates.set_tolerance(seconds),
            Verification::Twilio | Verification::MsGraph | Verification::None => {
                Err(TemplateError::new("tolerance", "needs a scheme with a signed timestamp"))
            }
        }
    }

    /// Verifies a request: the signature, and that the body is JSON if the scheme requires it.
    ///
    /// At most [`MAX_SECRETS`] secrets are tried. `now` is compared with signed timestamps.
    pub fn verify(
        &self,
        secrets: &[Secret],
        request: &Request<'_>,
        now: SystemTime,
    ) -> Result<Verified, Rejection> {
        let verified = match &self.verification {
            Verification::None => return Ok(Verified::unverified()),
            _ if secrets.is_empty() => {
                return Err(Rejection::new(Check::Secret, "the source has no secret yet"));
            }
            _ if secrets.len() > MAX_SECRETS => {
                return Err(Rejection::new(Check::Secret, "the source has more than 4 secrets"));
            }
            Verification::Templates(templates) => templates.verify(secrets, request, now)?,
            Verification::Twilio => twilio::verify(secrets, request)?,
            Verification::MsGraph => msgraph::verify(secrets, request)?,
        };
        let is_json = || std::str::from_utf8(request.body).is_ok_and(json::is_object_or_array);
        if self.requires_json && !is_json() {
            return Err(Rejection::new(Check::Form, "the body is not a JSON object or array"));
        }
        Ok(verified)
    }
}
