//! The sources of an app: from which sender it receives webhooks, and how they are verified.

mod settings;

use std::{fmt, str::FromStr, sync::Arc, time::SystemTime};

use serde::{Deserialize, Serialize};

pub use self::settings::{InvalidSource, SourceSettings};
use crate::{
    InvalidId, Secret,
    scheme::{Reception, Rejection, Request, Scheme},
};

/// The longest name of a source, in characters.
const MAX_NAME: usize = 64;

/// The name of a source within its app: 1 to 64 of `A-Z a-z 0-9 . _ -`, and neither `.` nor `..`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SourceName(Arc<str>);

impl SourceName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the valid name that is nearest to a text, to show a name that is not valid: other characters become `-`, and it is cut
    /// to 64. A text without a valid form becomes `-`.
    #[must_use]
    pub fn sanitize(text: &str) -> Self {
        let valid = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
        let name: String = text.chars().take(MAX_NAME).map(valid).collect();
        name.parse().unwrap_or_else(|_| Self("-".into()))
    }

    /// Makes a name without a check.
    pub(crate) fn unchecked(name: &str) -> Self {
        Self(name.into())
    }

    /// Whether it is the source `default`, whose hook is the app's.
    #[must_use]
    pub fn is_default(&self) -> bool {
        &*self.0 == "default"
    }
}

impl Default for SourceName {
    fn default() -> Self {
        Self("default".into())
    }
}

impl FromStr for SourceName {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let is_name = (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(valid);
        if is_name && text != "." && text != ".." { Ok(Self(text.into())) } else { Err(InvalidId::Source) }
    }
}

impl TryFrom<String> for SourceName {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<SourceName> for String {
    fn from(name: SourceName) -> Self {
        name.0.as_ref().to_owned()
    }
}

impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A source whose settings are valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    settings: SourceSettings,
    scheme: Scheme,
}

impl Source {
    /// Checks the settings.
    pub fn new(settings: SourceSettings) -> Result<Self, InvalidSource> {
        let scheme = settings.check()?;
        Ok(Self { settings, scheme })
    }

    /// A source of Watson Work with this webhook secret.
    #[must_use]
    pub fn watson_work(secret: Secret) -> Self {
        let settings = SourceSettings { secrets: vec![secret], ..SourceSettings::default() };
        let scheme = Scheme::preset(&settings.scheme).expect("watsonwork is a preset");
        Self { settings, scheme }
    }

    /// The settings, with the secrets.
    #[must_use]
    pub fn settings(&self) -> &SourceSettings {
        &self.settings
    }

    /// How its webhooks are verified.
    #[must_use]
    pub fn scheme(&self) -> &Scheme {
        &self.scheme
    }

    /// Verifies a request, and answers it if it is a challenge. The request's `url` is ignored: the source's is used.
    pub fn verify(&self, request: &Request<'_>, now: SystemTime) -> Result<Reception, Rejection> {
        let request = Request { url: self.settings.url.as_deref(), ..*request };
        self.scheme.receive(&self.settings.secrets, self.settings.challenge_secret.as_ref(), &request, now)
    }
}
