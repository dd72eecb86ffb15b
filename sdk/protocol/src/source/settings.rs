//! The settings of a source, as they are registered and stored.

use std::fmt;

use serde::Serialize;
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use crate::{
    Secret, json,
    scheme::{
        MAX_SECRET_BYTES, MAX_SECRETS, MAX_TEMPLATE_BYTES, MAX_TOLERANCE_SECONDS, Scheme, TemplateError,
    },
};

/// The longest URL, in bytes.
const MAX_URL_BYTES: usize = 2048;
/// The range of the tolerance, for errors.
const TOLERANCE_RANGE: &str = "must be whole seconds, 1 to 86400";
/// The members of the settings.
const MEMBERS: &str = "scheme, secret, secrets, tolerance, url, template, challengeSecret";

/// The settings of a source: `{"scheme","secrets":[…],"tolerance","url","template","challengeSecret"}`.
#[derive(Clone, PartialEq, Eq)]
pub struct SourceSettings {
    /// The name of the scheme: a preset, `template` or `none`.
    pub scheme: String,
    /// The webhook secrets, 1 to 4, the newest last. A webhook of any of them is valid, so that a secret can be rotated.
    pub secrets: Vec<Secret>,
    /// How far a signed timestamp may be from the clock, in seconds: the preset's default if `None`.
    pub tolerance: Option<u64>,
    /// The public URL as registered with the sender, for schemes that sign it.
    pub url: Option<String>,
    /// The template of the scheme `template`: JSON of at most 1 KiB.
    pub template: Option<String>,
    /// The second secret of senders whose challenge has one of its own, such as Meta's verify token.
    pub challenge_secret: Option<Secret>,
}

impl fmt::Debug for SourceSettings {
    /// Leaves out the secrets and the URL: its path or query may have a token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceSettings")
            .field("scheme", &self.scheme)
            .field("secrets", &self.secrets)
            .field("tolerance", &self.tolerance)
            .field("url_bytes", &self.url.as_ref().map(String::len))
            .field("template", &self.template)
            .field("challenge_secret", &self.challenge_secret)
            .finish()
    }
}

impl Default for SourceSettings {
    /// Watson Work, without a secret.
    fn default() -> Self {
        Self {
            scheme: "watsonwork".to_owned(),
            secrets: Vec::new(),
            tolerance: None,
            url: None,
            template: None,
            challenge_secret: None,
        }
    }
}

/// The settings of a source are not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSource {
    /// They are not a JSON object.
    #[error("the settings must be a JSON object with the webhook secret: {{\"secret\":\"…\"}}")]
    NotAnObject,
    /// A member has no meaning here.
    #[error("the settings of a source have no member {0}: leave it out; known members: {MEMBERS}")]
    Unknown(String),
    /// A member has a value that it cannot have.
    #[error("\"{0}\" {1}")]
    Member(&'static str, &'static str),
    /// There is no scheme of this name.
    #[error("there is no scheme {0:?}: `wwproxy schemes` lists them")]
    Scheme(String),
    /// A member does not belong to the scheme.
    #[error("\"{member}\" does not belong to the scheme {scheme}: leave it out")]
    Foreign {
        /// The member.
        member: &'static str,
        /// The scheme.
        scheme: String,
    },
    /// The template is not valid.
    #[error(transparent)]
    Template(#[from] TemplateError),
}

impl SourceSettings {
    /// Parses the settings from JSON. Unknown members are an error: ignoring one would verify less than was asked for.
    pub fn parse(text: &str) -> Result<Self, InvalidSource> {
        let mut settings = Self::default();
        let (mut error, mut unknown) = (None, None);
        let (mut has_secret, mut has_secrets) = (false, false);
        json::each_member(text, |name, value| {
            has_secret |= name == b"secret";
            has_secrets |= name == b"secrets";
            match settings.set(name, value) {
                Ok(true) => {}
                Ok(false) => unknown = unknown.take().or_else(|| Some(json::quoted_name(name))),
                Err(member) => error = error.take().or(Some(member)),
            }
        })
        .map_err(|_| InvalidSource::NotAnObject)?;
        match (unknown, error) {
            (Some(name), _) => Err(InvalidSource::Unknown(name)),
            (None, Some(error)) => Err(error),
            (None, None) if has_secret && has_secrets => Err(InvalidSource::Member(
                "secret",
                "cannot be combined with \"secrets\": give only one of them",
            )),
            (None, None) => Ok(settings),
        }
    }

    /// Sets a member. Returns whether it is known.
    fn set(&mut self, name: &[u8], value: &RawValue) -> Result<bool, InvalidSource> {
        let text = |member| {
            json::string(value).map(Into::into).ok_or(InvalidSource::Member(member, "must be a text"))
        };
        match name {
            b"scheme" => self.scheme = text("scheme")?,
            b"secret" => self.secrets = vec![Secret::new(text("secret")?)],
            b"secrets" => {
                let invalid = |_| InvalidSource::Member("secrets", "must be a list of 1 to 4 texts");
                let texts: Vec<Zeroizing<String>> = serde_json::from_str::<Vec<String>>(value.get())
                    .map_err(invalid)?
                    .into_iter()
                    .map(Zeroizing::new)
                    .collect();
                self.secrets = texts.iter().map(|text| Secret::new(text.as_str())).collect();
            }
            _ if value.get() == "null" => return Ok(is_optional(name)),
            b"tolerance" => {
                let invalid = |_| InvalidSource::Member("tolerance", TOLERANCE_RANGE);
                self.tolerance = Some(serde_json::from_str(value.get()).map_err(invalid)?);
            }
            b"url" => self.url = Some(text("url")?),
            b"template" => self.template = Some(value.get().to_owned()),
            b"challengeSecret" => self.challenge_secret = Some(Secret::new(text("challengeSecret")?)),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Encodes the settings as JSON, **with the secrets**: for the request that registers them, and for the store.
    #[must_use]
    pub fn expose(&self) -> Zeroizing<String> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Exposed<'a> {
            scheme: &'a str,
            secrets: Vec<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            tolerance: Option<u64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            url: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            template: Option<&'a RawValue>,
            #[serde(skip_serializing_if = "Option::is_none")]
            challenge_secret: Option<&'a str>,
        }
        let template = self.template.as_deref().and_then(|text| serde_json::from_str(text).ok());
        Zeroizing::new(json::encode(&Exposed {
            scheme: &self.scheme,
            secrets: self.secrets.iter().map(Secret::expose).collect(),
            tolerance: self.tolerance,
            url: self.url.as_deref(),
            template,
            challenge_secret: self.challenge_secret.as_ref().map(Secret::expose),
        }))
    }

    /// Checks the settings, and returns the scheme that they describe.
    pub(super) fn check(&self) -> Result<Scheme, InvalidSource> {
        let mut scheme = match (self.scheme.as_str(), &self.template) {
            ("template", Some(text)) if text.len() <= MAX_TEMPLATE_BYTES => Scheme::template(text)?,
            ("template", Some(_)) => {
                return Err(InvalidSource::Member("template", "must have at most 1024 bytes"));
            }
            ("template", None) => {
                return Err(InvalidSource::Member("template", "is required by the scheme template"));
            }
            (_, Some(_)) => return Err(self.foreign("template")),
            ("none", None) => Scheme::unverified(),
            (name, None) => Scheme::preset(name)
                .ok_or_else(|| InvalidSource::Scheme(name.chars().take(json::MAX_SHOWN).collect()))?,
        };
        self.check_secrets(&scheme)?;
        if let Some(seconds) = self.tolerance {
            if !(1..=MAX_TOLERANCE_SECONDS).contains(&seconds) {
                return Err(InvalidSource::Member("tolerance", TOLERANCE_RANGE));
            }
            // The error of the scheme would name a field of a template.
            let invalid = |_| InvalidSource::Member("tolerance", "needs a scheme with a signed timestamp");
            scheme.set_tolerance(seconds).map_err(invalid)?;
        }
        self.check_url(&scheme)?;
        match &self.challenge_secret {
            Some(_) if !scheme.has_challenge_secret() => Err(self.foreign("challengeSecret")),
            Some(secret) => check_secret("challengeSecret", secret).map(|()| scheme),
            None => Ok(scheme),
        }
    }

    fn check_secrets(&self, scheme: &Scheme) -> Result<(), InvalidSource> {
        if scheme.is_unverified() {
            return if self.secrets.is_empty() { Ok(()) } else { Err(self.foreign("secrets")) };
        }
        if self.secrets.is_empty() && !scheme.learns_secret() {
            return Err(InvalidSource::Member(
                "secrets",
                "must hold the webhook secret that the sender signs with",
            ));
        }
        if self.secrets.len() > MAX_SECRETS {
            return Err(InvalidSource::Member("secrets", "must hold at most 4 secrets"));
        }
        self.secrets.iter().try_for_each(|secret| {
            check_secret("secrets", secret)?;
            scheme.check_secret(secret).map_err(|reason| InvalidSource::Member("secrets", reason))
        })
    }

    fn check_url(&self, scheme: &Scheme) -> Result<(), InvalidSource> {
        match &self.url {
            None if scheme.needs_url() => Err(InvalidSource::Member(
                "url",
                "is required by the scheme: the hook's URL as registered with the sender",
            )),
            None => Ok(()),
            Some(_) if !scheme.needs_url() => Err(self.foreign("url")),
            Some(url) if url.len() > MAX_URL_BYTES || !url.bytes().all(|byte| byte.is_ascii_graphic()) => {
                Err(InvalidSource::Member(
                    "url",
                    "must have at most 2048 characters of ASCII, without spaces",
                ))
            }
            Some(url) => {
                let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
                let rest = rest.ok_or(InvalidSource::Member("url", "must begin with https:// or http://"))?;
                let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
                if authority.contains('@') {
                    return Err(InvalidSource::Member(
                        "url",
                        "must not have a user name or password, as the URL is shown: leave them out, also at the sender",
                    ));
                }
                if authority.is_empty() {
                    Err(InvalidSource::Member("url", "must have a host"))
                } else {
                    Ok(())
                }
            }
        }
    }

    fn foreign(&self, member: &'static str) -> InvalidSource {
        InvalidSource::Foreign { member, scheme: self.scheme.clone() }
    }
}

fn check_secret(member: &'static str, secret: &Secret) -> Result<(), InvalidSource> {
    match secret.expose().len() {
        1..=MAX_SECRET_BYTES => Ok(()),
        _ => Err(InvalidSource::Member(member, "must have 1 to 4096 bytes")),
    }
}

fn is_optional(name: &[u8]) -> bool {
    [&b"tolerance"[..], b"url", b"template", b"challengeSecret"].contains(&name)
}
