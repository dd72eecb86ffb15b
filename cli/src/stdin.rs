//! Stdin, which can be read once.

use std::{
    io::{self, StdinLock},
    sync::OnceLock,
};

use crate::error::UsageError;

/// What stdin is read for: the flag or argument that names it.
static READER: OnceLock<String> = OnceLock::new();

/// Opens stdin for the given flag or argument. Fails if another one has read it: the second reader would find nothing.
pub(crate) fn open(reader: &str) -> Result<StdinLock<'static>, UsageError> {
    READER.set(reader.to_owned()).map_err(|_| {
        let first = READER.get().map_or("another one", String::as_str);
        UsageError(format!(
            "stdin can be read only once, not for {first} and for {reader}: give a file for one of them"
        ))
    })?;
    Ok(io::stdin().lock())
}
