//! Verification of webhooks by a template of their signature.
//!
//! A [`Template`] says where a sender puts the signature, how it is computed and what it covers. A scheme is a list of
//! templates, [`Templates`]: a request is accepted if one of them accepts it. [`presets`] holds the schemes of known senders.
//!
//! ```
//! use std::time::SystemTime;
//! use wwproxy_protocol::{Secret, scheme};
//!
//! let github = scheme::preset("github").unwrap();
//! let signature: &[u8] = b"sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
//! let headers = [("X-Hub-Signature-256", signature)];
//! let request = scheme::Request::new("POST", &headers, b"Hello, World!");
//! let secret = Secret::new("It's a Secret to Everybody");
//! let verified = github.templates.verify(&[secret], &request, SystemTime::now()).unwrap();
//! assert_eq!(verified.covers, scheme::Covers::Body);
//! ```

mod challenge;
mod content;
mod describe;
mod generate;
mod key;
mod presets;
mod samples;
mod sign;
mod signing_key;
mod source;
mod template;
mod verify;

use std::{fmt, time::SystemTime};

use crate::Secret;

pub use challenge::{Answer, Reception};
pub use describe::Description;
pub use generate::GenerateError;
pub use presets::{Preset, preset, presets};
pub use samples::Sample;
pub use sign::{SignError, Signed, Unsigned};
pub use template::{
    Covers, MAX_ALTERNATIVES, MAX_TEMPLATE_BYTES, MAX_TOLERANCE_SECONDS, Template, TemplateError, Templates,
};
pub use verify::{
    DeliveryId, MAX_SECRET_BYTES, MAX_SECRETS, MAX_SIGNATURE_BYTES, MAX_SIGNATURE_HEADERS, MAX_SIGNATURES,
    Verified,
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
    /// Called between the pieces of a large body while it is hashed, so that a server can yield.
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
    /// Leaves out the values of headers, which may be tokens, and the body.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// The check that a request failed, in the order in which they are made.
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
    /// The challenge has the right secret.
    Challenge,
    /// The request is what this sender sends, once its signature is valid.
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
    verification: Verification,
}

/// How a signature is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verification {
    Templates(Templates),
    /// The scheme `none`: every request is accepted.
    None,
}

impl Scheme {
    /// The scheme of a known sender.
    #[must_use]
    pub fn preset(name: &str) -> Option<Self> {
        let Preset { name, success, templates, .. } = preset(name)?.clone();
        Some(Self { name, success, verification: Verification::Templates(templates) })
    }

    /// The scheme `template`, from JSON of at most [`MAX_TEMPLATE_BYTES`].
    pub fn template(json: &str) -> Result<Self, TemplateError> {
        let verification = Verification::Templates(Templates::parse(json)?);
        Ok(Self { name: "template".to_owned(), success: 201, verification })
    }

    /// The scheme `none`, which accepts every request.
    #[must_use]
    pub fn unverified() -> Self {
        Self { name: "none".to_owned(), success: 201, verification: Verification::None }
    }

    /// The name in a registration.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The HTTP status with which a stored event is answered.
    #[must_use]
    pub fn success(&self) -> u16 {
        self.success
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
            Verification::None => Covers::Nothing,
        }
    }

    /// Whether the public URL is signed.
    #[must_use]
    pub fn needs_url(&self) -> bool {
        match &self.verification {
            Verification::Templates(templates) => templates.needs_url(),
            Verification::None => false,
        }
    }

    /// Whether the sender's challenge has a secret of its own.
    #[must_use]
    pub fn has_challenge_secret(&self) -> bool {
        self.name == "meta"
    }

    /// Whether the secret is set by the sender's handshake.
    #[must_use]
    pub fn learns_secret(&self) -> bool {
        ["asana", "notion"].contains(&self.name.as_str())
    }

    /// Whether the body must be a JSON object or array.
    #[must_use]
    pub fn requires_json(&self) -> bool {
        self.name == "watsonwork"
    }

    /// Whether the signature is in the header `Authorization`, which otherwise is not stored.
    #[must_use]
    pub fn keeps_authorization(&self) -> bool {
        ["okta", "teams-outgoing"].contains(&self.name.as_str())
    }

    /// The HTTP methods of the hook: `POST`, and those of the sender's handshake.
    #[must_use]
    pub fn methods(&self) -> &'static [&'static str] {
        &["POST"]
    }

    /// Checks that a secret can be a key of this scheme.
    pub fn check_secret(&self, secret: &Secret) -> Result<(), &'static str> {
        match &self.verification {
            Verification::Templates(templates) => templates.check_secret(secret),
            Verification::None => Ok(()),
        }
    }

    /// Replaces the tolerance of the timestamp by 1 to [`MAX_TOLERANCE_SECONDS`].
    pub fn set_tolerance(&mut self, seconds: u64) -> Result<(), TemplateError> {
        match &mut self.verification {
            Verification::Templates(templates) => templates.set_tolerance(seconds),
            Verification::None => {
                Err(TemplateError::new("tolerance", "needs a scheme with a signed timestamp"))
            }
        }
    }

    /// Verifies a request.
    pub fn verify(
        &self,
        secrets: &[Secret],
        request: &Request<'_>,
        now: SystemTime,
    ) -> Result<Verified, Rejection> {
        match &self.verification {
            Verification::Templates(templates) => templates.verify(secrets, request, now),
            Verification::None => Ok(Verified {
                event_type: None,
                delivery_id: None,
                secret: 0,
                signed: "nothing".to_owned(),
                covers: Covers::Nothing,
            }),
        }
    }
}
