//! Secrets from flags, the environment, files and stdin, of which only flags stand in the list of processes.

use std::{
    env,
    fs::File,
    io::{self, Read},
    path::Path,
};

use anyhow::Context as _;

use crate::args::Usage;

/// The longest secret that is read, in bytes.
const MAX_SECRET_BYTES: u64 = 64 * 1024;

/// The secret that flags give: as it is, or in which file.
pub(crate) fn of_flags(text: Option<&str>, file: Option<&Path>) -> anyhow::Result<Option<String>> {
    match (text, file) {
        (Some(""), _) => {
            Err(Usage("the secret or token of the flag is empty; leave the flag out or give one".into())
                .into())
        }
        (Some(text), _) => Ok(Some(text.to_owned())),
        (None, Some(file)) => read_file(file).map(Some),
        (None, None) => Ok(None),
    }
}

/// The secret in a variable, or in the file that the variable with `_FILE` after its name gives.
pub(crate) fn of_environment(name: &str) -> anyhow::Result<Option<String>> {
    if let Some(text) = variable(name)? {
        return Ok(Some(text));
    }
    variable(&format!("{name}_FILE"))?.map(|file| read_file(file.as_ref())).transpose()
}

/// A variable of the environment. An empty one, as scripts leave them, is none.
pub(crate) fn variable(name: &str) -> anyhow::Result<Option<String>> {
    match env::var(name) {
        Ok(text) => Ok(Some(text).filter(|text| !text.is_empty())),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(_)) => {
            Err(Usage(format!("{name} of the environment is not UTF-8")).into())
        }
    }
}

/// The secret in a file; `-` is stdin.
pub(crate) fn read_file(path: &Path) -> anyhow::Result<String> {
    if path.as_os_str() == "-" {
        return read(io::stdin().lock()).context("cannot use the secret from stdin");
    }
    let name = path.display();
    let file = File::open(path).with_context(|| format!("cannot read the secret from {name}"))?;
    read(file).with_context(|| format!("cannot use the secret in {name}"))
}

/// The secret in the input, without the newline that editors and `echo` end it with.
fn read(input: impl Read) -> anyhow::Result<String> {
    let mut secret = String::new();
    input.take(MAX_SECRET_BYTES + 1).read_to_string(&mut secret)?;
    if secret.len() as u64 > MAX_SECRET_BYTES {
        return Err(
            Usage(format!("it is longer than {MAX_SECRET_BYTES} bytes; is it the right file?")).into()
        );
    }
    let line = secret.strip_suffix('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
    let secret = line.unwrap_or(&secret);
    if secret.is_empty() {
        return Err(Usage("it is empty".into()).into());
    }
    Ok(secret.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_newline_at_the_end_is_not_part_of_the_secret() {
        for (input, secret) in [("s", "s"), ("s\n", "s"), ("s\r\n", "s"), ("s\n\n", "s\n"), (" s \n", " s ")]
        {
            assert_eq!(read(input.as_bytes()).unwrap(), secret, "{input:?}");
        }
        assert!(read(io::repeat(b'x')).is_err());
        for bad in [&b"\xff"[..], b"", b"\n"] {
            assert!(read(bad).is_err());
        }
    }
}
