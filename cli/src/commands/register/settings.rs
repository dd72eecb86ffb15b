//! The settings of a source, from the flags of `register`.

use wwproxy_sdk::{
    InvalidSource, Secret, Source, SourceSettings,
    scheme::{MAX_SECRETS, Scheme},
};

use super::{
    Register,
    steps::{SecretOrigin, Sender},
};
use crate::{
    output::print_message,
    scheme::{choose, preset, usage},
    secret,
};

/// The scheme without `--scheme` and `--template`.
const DEFAULT_SCHEME: &str = "watsonwork";

/// The settings to register.
pub(super) struct Settings {
    pub(super) source: Source,
    /// Where each secret of the source is from.
    pub(super) origins: Vec<String>,
    /// The secret that was generated: the last one of the source.
    pub(super) generated: Option<Secret>,
}

impl Register {
    /// Reads and checks the settings as the server will do, so that an error is reported before anything is sent. `hook` is the
    /// probable URL of the hook.
    pub(super) fn settings(&self, hook: &str) -> anyhow::Result<Settings> {
        let (scheme, template) = self.scheme()?;
        let mut secrets = self.secrets(&scheme)?;
        let generated = self.generate_secret.then(|| generate(&scheme)).transpose()?;
        secrets.extend(generated.clone().map(|secret| ("the generated one".to_owned(), secret)));
        if secrets.len() > MAX_SECRETS {
            return Err(usage(format!("a source has at most {MAX_SECRETS} webhook secrets")));
        }
        let (origins, secrets) = secrets.into_iter().unzip();
        let challenge_secret = self.challenge_secret_file.as_deref();
        let challenge_secret =
            challenge_secret.map(|file| secret::read_file(file, "--challenge-secret-file")).transpose()?;
        let settings = SourceSettings {
            scheme: scheme.name().to_owned(),
            secrets,
            tolerance: self.tolerance,
            url: self.url.clone(),
            template,
            challenge_secret: challenge_secret.map(Secret::new),
        };
        let source = Source::new(settings).map_err(|error| explain(error, &scheme, hook))?;
        Ok(Settings { source, origins, generated })
    }

    /// The scheme, and its template if it has one of its own.
    fn scheme(&self) -> anyhow::Result<(Scheme, Option<String>)> {
        match choose(self.scheme.as_deref(), self.template.as_deref())? {
            Some(chosen) => Ok(chosen),
            None => Ok((preset(DEFAULT_SCHEME)?, None)),
        }
    }

    /// The secrets of the flags, otherwise the one of the environment if the scheme needs a secret, each after its origin.
    fn secrets(&self, scheme: &Scheme) -> anyhow::Result<Vec<(String, Secret)>> {
        const STDIN: &str = "that of stdin";
        let files = self.webhook_secret_file.iter().map(|file| {
            let name = file.display();
            let origin = if file.as_os_str() == "-" { STDIN.to_owned() } else { format!("that of {name}") };
            Ok((origin, secret::read_file(file, "--webhook-secret-file")?))
        });
        let mut texts = files.collect::<anyhow::Result<Vec<_>>>()?;
        match self.webhook_secret.as_deref() {
            None => {}
            Some("-") => {
                texts.push((STDIN.to_owned(), secret::read_file("-".as_ref(), "WEBHOOK-SECRET")?));
            }
            Some(_) if self.names_a_source() => {
                return Err(usage(
                    "give the webhook secret in a file (--webhook-secret-file), on stdin (-) or as WEBHOOK_SECRET: everyone who can \
                     list processes sees arguments",
                ));
            }
            text => {
                let secret = secret::from_flags(text, None, "--webhook-secret-file")?;
                texts.extend(secret.map(|secret| ("that of the argument".to_owned(), secret)));
            }
        }
        let needs_secret = !scheme.is_unverified() && !scheme.learns_secret();
        if texts.is_empty() && needs_secret {
            if let Some((name, secret)) = secret::named_from_environment("WEBHOOK_SECRET")? {
                if self.generate_secret {
                    print_message(&format!(
                        "note: {name} is set: its secret is accepted as well as the generated one; unset {name} to register only \
                         the generated one"
                    ));
                }
                texts.push((format!("that of {name}"), secret));
            }
            if texts.is_empty() && !self.generate_secret {
                return Err(usage(missing_secret(scheme)));
            }
        }
        Ok(texts.into_iter().map(|(origin, text)| (origin, Secret::new(text))).collect())
    }

    /// Whether a flag of sources is used, which older command lines do not have.
    fn names_a_source(&self) -> bool {
        self.scheme.is_some() || self.template.is_some() || !self.source.is_default()
    }
}

fn missing_secret(scheme: &Scheme) -> String {
    let flags = "--webhook-secret-file FILE, WEBHOOK_SECRET, or - for stdin";
    match Sender::of(scheme.name()) {
        Some(Sender { name, secret: SecretOrigin::Sender(place), .. }) => {
            format!("give the secret that {name} shows ({place}): {flags}")
        }
        _ => format!("give the webhook secret: {flags}; --generate-secret makes one"),
    }
}

/// Generates a secret, unless it is the sender that makes it.
fn generate(scheme: &Scheme) -> anyhow::Result<Secret> {
    if let Some(Sender { name, secret: SecretOrigin::Sender(place), .. }) = Sender::of(scheme.name()) {
        return Err(usage(format!(
            "{name} makes the secret itself: copy it from there ({place}) into a file, and give --webhook-secret-file FILE in place \
             of --generate-secret"
        )));
    }
    scheme.generate_secret().map_err(|error| usage(format!("--generate-secret cannot be used: {error}")))
}

/// The form of the sender's secrets, and where the sender shows them.
fn secret_form(scheme: &Scheme) -> String {
    let mut forms: Vec<_> = scheme.describe().into_iter().map(|one| one.key).collect();
    forms.dedup();
    let place = match Sender::of(scheme.name()) {
        Some(Sender { name, secret: SecretOrigin::Sender(place), .. }) => {
            format!("; {name} shows it at: {place}")
        }
        _ => String::new(),
    };
    format!("; {} takes {}{place}", scheme.name(), forms.join(", or "))
}

/// Names the flags in place of the members of the settings.
fn explain(error: InvalidSource, scheme: &Scheme, hook: &str) -> anyhow::Error {
    let flag = |member| match member {
        "challengeSecret" => "--challenge-secret-file".to_owned(),
        "secrets" => "a webhook secret".to_owned(),
        other => format!("--{other}"),
    };
    usage(match error {
        InvalidSource::Member("secrets", why) => {
            format!("the webhook secret cannot be used: {why}{}", secret_form(scheme))
        }
        InvalidSource::Member("url", why) => format!("--url {why}; for example {hook}"),
        InvalidSource::Member(member, why) => format!("{} {why}", flag(member)),
        InvalidSource::Foreign { member, scheme } => {
            format!("{} does not belong to the scheme {scheme}: leave it out", flag(member))
        }
        other => other.to_string(),
    })
}
