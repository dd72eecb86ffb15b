//! `--on-failure`: events that their target did not accept.

use std::{fmt, path::PathBuf};

use crate::event_file::EventFolder;

/// What to do with an event that its target did not accept.
#[derive(Debug, Clone)]
pub(crate) enum OnFailure<F = PathBuf> {
    /// Return it to the server, which redelivers it.
    Keep,
    /// Reject it: it is dead, kept on the server and not delivered again.
    Dead,
    /// Acknowledge it.
    Drop,
    /// Save it as a file, then acknowledge it.
    Save(F),
}

impl OnFailure {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            None if text == "keep" => Ok(Self::Keep),
            None if text == "dead" => Ok(Self::Dead),
            None if text == "drop" => Ok(Self::Drop),
            Some(("save", folder)) if !folder.is_empty() => Ok(Self::Save(folder.into())),
            _ => Err("give keep, dead, drop, or save=DIR".into()),
        }
    }

    pub(crate) fn open(&self) -> anyhow::Result<OnFailure<EventFolder>> {
        Ok(match self {
            Self::Keep => OnFailure::Keep,
            Self::Dead => OnFailure::Dead,
            Self::Drop => OnFailure::Drop,
            Self::Save(path) => OnFailure::Save(EventFolder::open(path)?),
        })
    }
}

/// What happened to the events, for the last message.
impl fmt::Display for OnFailure<EventFolder> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keep => f.write_str("kept on the server"),
            Self::Dead => f.write_str("dead, kept on the server and not delivered again"),
            Self::Drop => f.write_str("dropped"),
            Self::Save(folder) => write!(f, "saved in {}", folder.path().display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_actions_on_failure_are_parsed() {
        assert!(matches!(OnFailure::parse("keep"), Ok(OnFailure::Keep)));
        assert!(matches!(OnFailure::parse("dead"), Ok(OnFailure::Dead)));
        assert!(matches!(OnFailure::parse("drop"), Ok(OnFailure::Drop)));
        assert!(
            matches!(OnFailure::parse("save=a=b"), Ok(OnFailure::Save(path)) if path.as_os_str() == "a=b")
        );
        for bad in ["", "save", "save=", "keep=x", "lose"] {
            assert!(OnFailure::parse(bad).is_err(), "{bad}");
        }
    }
}
