//! The flags that say how a sender signs, and the request that is signed or verified.

use std::{
    fmt,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use wwproxy_sdk::{Bytes, Secret, scheme};

use crate::{error::UsageError, secret, stdin};

/// The largest body that is read from a file or stdin, in bytes.
const MAX_BODY_BYTES: u64 = 64 << 20;
/// The largest file of headers, in bytes.
const MAX_HEADER_BYTES: u64 = 1 << 20;
/// The largest distance at which a name counts as a typo, in edits. At most a third of the letters may be wrong.
const MAX_TYPOS: usize = 3;

/// The scheme of a sender.
#[derive(clap::Args)]
pub(crate) struct SchemeFlags {
    /// The sender's scheme, such as `github`; `wwproxy schemes` lists them
    #[arg(long, value_name = "NAME")]
    scheme: Option<String>,
    /// A file with the template of another sender (JSON of at most 1 KiB), in place of --scheme; `wwproxy schemes template`
    /// describes it
    #[arg(long, value_name = "FILE")]
    template: Option<PathBuf>,
}

impl SchemeFlags {
    /// The scheme, `None` if neither flag is given.
    pub(crate) fn scheme(&self) -> anyhow::Result<Option<scheme::Scheme>> {
        let chosen = choose(self.scheme.as_deref(), self.template.as_deref())?;
        if chosen.as_ref().is_some_and(|(scheme, _)| scheme.is_unverified()) {
            return Err(usage("the scheme none has no signature; give the scheme of a sender"));
        }
        Ok(chosen.map(|(scheme, _)| scheme))
    }

    pub(crate) fn required(&self) -> anyhow::Result<scheme::Scheme> {
        let missing =
            "give the sender's scheme: --scheme NAME (`wwproxy schemes` lists them), or --template FILE";
        self.scheme()?.ok_or_else(|| usage(missing))
    }
}

/// The scheme of `--scheme` and `--template`, and the text of the template. `None` if neither flag is given.
pub(crate) fn choose(
    scheme: Option<&str>,
    template: Option<&Path>,
) -> anyhow::Result<Option<(scheme::Scheme, Option<String>)>> {
    match (scheme, template) {
        (None | Some("template"), Some(file)) => {
            read_template(file).map(|(scheme, text)| Some((scheme, Some(text))))
        }
        (Some("template"), None) => Err(usage("the scheme template needs --template FILE")),
        (Some(_), Some(_)) => {
            Err(usage("--template belongs to the scheme template; leave out one of the two"))
        }
        (Some("none"), None) => Ok(Some((scheme::Scheme::unverified(), None))),
        (Some(name), None) => Ok(Some((preset(name)?, None))),
        (None, None) => Ok(None),
    }
}

/// What a valid signature of a scheme vouches for, in words.
pub(crate) fn covers_in_words(covers: scheme::Covers) -> &'static str {
    match covers {
        scheme::Covers::Body => "the body",
        scheme::Covers::Url => "the URL, not the body",
        scheme::Covers::Unknown => "something that this version does not know: update this client",
        scheme::Covers::Nothing => {
            "not the body: anyone who has seen one valid request can send another body"
        }
    }
}

/// The scheme of a known sender, or an error with the nearest name.
pub(crate) fn preset(name: &str) -> anyhow::Result<scheme::Scheme> {
    scheme::Scheme::preset(name).ok_or_else(|| {
        let names = scheme::presets().map(|preset| preset.name.as_str()).chain(["none", "template"]);
        let near = nearest(name, names).map(|near| format!("did you mean '{near}'? "));
        let near = near.unwrap_or_default();
        usage(format!("there is no scheme '{name}'; {near}`wwproxy schemes` lists them"))
    })
}

/// The name that `text` was probably meant to be.
pub(crate) fn nearest<'a>(text: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let short: String = text.chars().take(64).collect();
    let most = MAX_TYPOS.min(short.chars().count() / 3);
    let distance = |name: &str| strsim::damerau_levenshtein(&short, name);
    names.map(|name| (distance(name), name)).filter(|(typos, _)| *typos <= most).min().map(|(_, name)| name)
}

/// Reads a template, and checks it.
fn read_template(path: &Path) -> anyhow::Result<(scheme::Scheme, String)> {
    let name = path.display();
    let text = read_file(path, "--template", scheme::MAX_TEMPLATE_BYTES as u64)?;
    let text = std::str::from_utf8(&text).map_err(|_| usage(format!("the template {name} is not UTF-8")))?;
    let scheme = scheme::Scheme::template(text)
        .map_err(|error| usage(format!("the template {name} is not valid: {error}")))?;
    Ok((scheme, text.to_owned()))
}

/// A header as `NAME: VALUE`, or `@FILE` with one in each line; `@-` is stdin.
#[derive(Clone)]
pub(crate) enum HeaderFlag {
    One(String, String),
    File(PathBuf),
}

impl fmt::Debug for HeaderFlag {
    /// Leaves out the value of a header, which may be a token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(name, _) => f.debug_tuple("One").field(name).finish_non_exhaustive(),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

impl HeaderFlag {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match text.strip_prefix('@') {
            Some(file) => Ok(Self::File(file.into())),
            None => parse_header(text).map(|(name, value)| Self::One(name, value)),
        }
    }
}

/// Reads all headers, those of files included.
pub(crate) fn read_headers(flags: &[HeaderFlag]) -> anyhow::Result<Vec<(String, String)>> {
    let mut headers = Vec::new();
    for flag in flags {
        match flag {
            HeaderFlag::One(name, value) => headers.push((name.clone(), value.clone())),
            HeaderFlag::File(path) => {
                let text = read_file(path, "-H @-", MAX_HEADER_BYTES)?;
                for (number, line) in (1..).zip(String::from_utf8_lossy(&text).lines()) {
                    // The line of the status or of the request, and the empty line before a body, are no headers.
                    let is_start = number == 1 && (line.starts_with("HTTP/") || line.contains(" HTTP/"));
                    if line.trim().is_empty() || is_start {
                        continue;
                    }
                    let header = parse_header(line).map_err(|why| {
                        usage(format!("line {number} of {} is not a header: {why}", path.display()))
                    })?;
                    headers.push(header);
                }
            }
        }
    }
    Ok(headers)
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("give NAME: VALUE, or @FILE")?;
    let name: reqwest::header::HeaderName =
        name.trim().parse().map_err(|_| "the name is not a valid header name")?;
    Ok((name.to_string(), value.trim().to_owned()))
}

/// Reads the secrets, from files or otherwise from `WEBHOOK_SECRET`.
pub(crate) fn read_secrets(files: &[PathBuf]) -> anyhow::Result<Vec<Secret>> {
    if files.len() > scheme::MAX_SECRETS {
        return Err(usage("give at most 4 secrets"));
    }
    if files.is_empty() {
        let secret = secret::webhook_secret(None, None)?;
        let missing = "give the webhook secret: --webhook-secret-file FILE, or WEBHOOK_SECRET";
        return Ok(vec![secret.ok_or_else(|| usage(missing))?]);
    }
    files.iter().map(|file| Ok(Secret::new(secret::read_file(file, "--webhook-secret-file")?))).collect()
}

/// The content type of a body: JSON or a form.
pub(crate) fn content_type(body: &[u8]) -> &'static str {
    match body.trim_ascii_start().first() {
        Some(b'{' | b'[') => "application/json",
        _ => "application/x-www-form-urlencoded",
    }
}

/// Reads the body in the file that a flag or argument names; `-` is stdin.
pub(crate) fn read_body(path: &Path, named_by: &str) -> anyhow::Result<Bytes> {
    read_file(path, named_by, MAX_BODY_BYTES)
}

fn read_file(path: &Path, named_by: &str, limit: u64) -> anyhow::Result<Bytes> {
    if path.as_os_str() == "-" {
        return read(stdin::open(named_by)?, "stdin", limit);
    }
    let name = path.display().to_string();
    let file = File::open(path).with_context(|| format!("cannot read {name}"))?;
    read(file, &name, limit)
}

fn read(input: impl Read, name: &str, limit: u64) -> anyhow::Result<Bytes> {
    let mut data = Vec::new();
    input.take(limit + 1).read_to_end(&mut data).with_context(|| format!("cannot read {name}"))?;
    if data.len() as u64 > limit {
        return Err(usage(format!("{name} is larger than {limit} bytes")));
    }
    Ok(data.into())
}

/// A usage error with this message.
pub(crate) fn usage(text: impl Into<String>) -> anyhow::Error {
    UsageError(text.into()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_redacts_the_value_of_a_header() {
        let header = HeaderFlag::parse("X-Token: hunter2").unwrap();
        assert_eq!(format!("{header:?}"), r#"One("x-token", ..)"#);
        assert_eq!(read_headers(&[header]).unwrap(), [("x-token".to_owned(), "hunter2".to_owned())]);
    }
}
