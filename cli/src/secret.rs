//! Secrets from flags, the environment, files and stdin. Only flags are visible in the list of processes.

use std::{env, fs::File, io::Read, path::Path};

use anyhow::Context as _;
use wwproxy_sdk::Secret;

use crate::{error::UsageError, stdin};

/// The longest secret that is read, in bytes.
const MAX_SECRET_BYTES: u64 = 64 * 1024;

/// The secret of a pair of flags: the text itself, or the file of `file_flag`.
pub(crate) fn from_flags(
    text: Option<&str>,
    file: Option<&Path>,
    file_flag: &str,
) -> anyhow::Result<Option<String>> {
    match (text, file) {
        (Some(""), _) => {
            Err(UsageError("the flag for the secret or token is empty; omit it or give a value".into())
                .into())
        }
        (Some(text), _) => Ok(Some(text.to_owned())),
        (None, Some(file)) => read_file(file, file_flag).map(Some),
        (None, None) => Ok(None),
    }
}

/// The webhook secret, from flags, otherwise from `WEBHOOK_SECRET`.
pub(crate) fn webhook_secret(text: Option<&str>, file: Option<&Path>) -> anyhow::Result<Option<Secret>> {
    let given = from_flags(text, file, "--webhook-secret-file")?;
    let given = given.map_or_else(|| from_environment("WEBHOOK_SECRET"), |given| Ok(Some(given)))?;
    Ok(given.map(Secret::new))
}

/// The secret in the variable `NAME`, otherwise in the file that `NAME_FILE` names.
pub(crate) fn from_environment(name: &str) -> anyhow::Result<Option<String>> {
    Ok(named_from_environment(name)?.map(|(_, secret)| secret))
}

/// The secret of [`from_environment`], after the name of its variable.
pub(crate) fn named_from_environment(name: &str) -> anyhow::Result<Option<(String, String)>> {
    if let Some(text) = variable(name)? {
        // Kubernetes and Docker set variables from files, including the line end.
        let secret = without_line_end(&text);
        let missing = || UsageError(format!("{name} of the environment contains only a line end"));
        return if secret.is_empty() {
            Err(missing().into())
        } else {
            Ok(Some((name.to_owned(), secret.to_owned())))
        };
    }
    let name = format!("{name}_FILE");
    let Some(file) = variable(&name)? else { return Ok(None) };
    let secret = read_file(file.as_ref(), &name)?;
    Ok(Some((name, secret)))
}

/// An environment variable. Scripts leave empty ones, which count as unset.
pub(crate) fn variable(name: &str) -> anyhow::Result<Option<String>> {
    match env::var(name) {
        Ok(text) => Ok(Some(text).filter(|text| !text.is_empty())),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(_)) => {
            Err(UsageError(format!("{name} of the environment is not UTF-8")).into())
        }
    }
}

/// Reads the secret in the file that a flag, argument or variable names; `-` is stdin.
pub(crate) fn read_file(path: &Path, named_by: &str) -> anyhow::Result<String> {
    if path.as_os_str() == "-" {
        return read(stdin::open(named_by)?).context("cannot use the secret from stdin");
    }
    let name = path.display();
    let file = File::open(path).with_context(|| format!("cannot read the secret from {name}"))?;
    read(file).with_context(|| format!("cannot use the secret in {name}"))
}

/// Reads a secret of limited length.
fn read(input: impl Read) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    input.take(MAX_SECRET_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_SECRET_BYTES {
        return Err(
            UsageError(format!("it is longer than {MAX_SECRET_BYTES} bytes; is it the right file?")).into()
        );
    }
    Ok(parse(&bytes)?)
}

/// Parses the content of a secret file: one line, with or without a line end and a byte order mark, in UTF-8 or in UTF-16 as
/// PowerShell's `>` writes it.
fn parse(bytes: &[u8]) -> Result<String, UsageError> {
    let wrong = |what: &str| Err(UsageError(what.into()));
    let Some(text) = decode(bytes).filter(|text| !text.contains('\0')) else {
        return wrong("it is neither UTF-8 nor UTF-16 with a byte order mark; save it as UTF-8");
    };
    let secret = without_line_end(&text);
    if secret.is_empty() {
        return wrong("it is empty");
    }
    if secret.contains(['\n', '\r']) {
        return wrong("it has more than one line; save only the secret in the file");
    }
    if is_assignment(secret) {
        return wrong("it contains NAME=VALUE, as environment files do; save only the value in the file");
    }
    Ok(secret.to_owned())
}

fn decode(bytes: &[u8]) -> Option<String> {
    let utf16 = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let (pairs, rest) = bytes.as_chunks::<2>();
        let units: Vec<_> = pairs.iter().map(|pair| unit(*pair)).collect();
        String::from_utf16(&units).ok().filter(|_| rest.is_empty())
    };
    match bytes {
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, rest @ ..] | rest => String::from_utf8(rest.to_vec()).ok(),
    }
}

/// Removes line ends at the end. Before CRLF also spaces: `echo secret > file` in cmd.exe writes one.
fn without_line_end(text: &str) -> &str {
    let line = text.trim_end_matches(['\n', '\r']);
    if text[line.len()..].starts_with('\r') { line.trim_end_matches(' ') } else { line }
}

/// Whether a line assigns a variable with the name of a secret, such as `export WEBHOOK_SECRET=...`.
fn is_assignment(line: &str) -> bool {
    let line = line.strip_prefix("export ").unwrap_or(line);
    line.split_once('=').is_some_and(|(name, _)| {
        name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
            && ["SECRET", "TOKEN", "KEY", "PASSWORD"].iter().any(|end| name.ends_with(end))
    })
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn line_ends_and_encodings_of_editors_and_shells_are_accepted() {
        let utf16 = |text: &str, bytes: fn(u16) -> [u8; 2]| -> Vec<u8> {
            text.encode_utf16().flat_map(bytes).collect()
        };
        for (input, secret) in [
            (b"s".to_vec(), "s"),
            (b"s\n".to_vec(), "s"),
            (b"s\r\n".to_vec(), "s"),
            (b"s\n\n".to_vec(), "s"),
            (b"s \r\n".to_vec(), "s"),
            (b" s \n".to_vec(), " s "),
            (b"\xef\xbb\xbfs\r\n".to_vec(), "s"),
            (utf16("\u{feff}sé\r\n", u16::to_le_bytes), "sé"),
            (utf16("\u{feff}s\n", u16::to_be_bytes), "s"),
            (b"c2VjcmV0==\n".to_vec(), "c2VjcmV0=="),
            (b"a=b\n".to_vec(), "a=b"),
        ] {
            assert_eq!(read(&*input).unwrap(), secret, "{input:?}");
        }
        assert!(read(io::repeat(b'x')).is_err());
    }

    #[test]
    fn an_invalid_secret_file_is_an_error_without_its_content() {
        for (input, says) in [
            (&b"\xff"[..], "save it as UTF-8"),
            (b"s\0e\0\n\0", "save it as UTF-8"),
            (b"\xff\xfes", "save it as UTF-8"),
            (b"", "empty"),
            (b"\n", "empty"),
            (b"\xef\xbb\xbf\r\n", "empty"),
            (b"hunter2\nb\n", "more than one line"),
            (b"SECRET=hunter2\n", "NAME=VALUE"),
            (b"export WEBHOOK_SECRET=hunter2", "NAME=VALUE"),
        ] {
            let error = read(input).unwrap_err().to_string();
            assert!(error.contains(says) && !error.contains("hunter2"), "{error}");
        }
    }
}
