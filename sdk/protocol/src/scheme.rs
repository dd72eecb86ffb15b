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
//! let request = scheme::Request {
//!     method: "POST",
//!     url: None,
//!     headers: &[(
//!         "X-Hub-Signature-256",
//!         b"sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
//!     )],
//!     body: b"Hello, World!",
//! };
//! let secret = Secret::new("It's a Secret to Everybody");
//! let verified = github.templates.verify(&[secret], &request, SystemTime::now()).unwrap();
//! assert_eq!(verified.covers, scheme::Covers::Body);
//! ```

mod content;
mod key;
mod presets;
mod source;
mod template;
mod verify;

use std::{fmt, time::Duration};

use serde_json::Value;

pub use presets::{Preset, preset, presets};
pub use template::{
    Covers, MAX_ALTERNATIVES, MAX_TEMPLATE_BYTES, MAX_TOLERANCE_SECONDS, Template, TemplateError,
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
    /// The public URL as registered with the sender. Never built from `Host` or `X-Forwarded-*`: a sender could choose it.
    pub url: Option<&'a str>,
    /// All headers, in order. Names are compared without regard to case.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// The body as received: not decoded, not serialized again. Its size is bounded by the caller.
    pub body: &'a [u8],
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
    fn new(check: Check, detail: impl Into<String>) -> Self {
        Self { check, detail: detail.into() }
    }

    fn content(error: impl fmt::Display) -> Self {
        Self::new(Check::Content, error.to_string())
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
        let value = serde_json::from_str(json).map_err(|_| TemplateError::new("template", "must be JSON"))?;
        Self::from_value(&value)
    }

    fn from_value(value: &Value) -> Result<Self, TemplateError> {
        let Value::Array(list) = value else { return Ok(Self(vec![Template::from_value(value)?])) };
        if !(1..=MAX_ALTERNATIVES).contains(&list.len()) {
            return Err(TemplateError::new("template", "must be an object or a list of 1 to 4 of them"));
        }
        let numbered = |(at, value): (usize, &Value)| {
            Template::from_value(value)
                .map_err(|error| TemplateError::new(format!("{}.{}", at, error.field), error.reason))
        };
        list.iter().enumerate().map(numbered).collect::<Result<_, _>>().map(Self)
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
}
