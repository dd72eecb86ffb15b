//! `--store` and `--overflow`: where events are stored, and what happens when there are too many.

use std::{fmt, path::PathBuf, str::FromStr};

use clap::ValueEnum;

/// What to do with a webhook that finds the consumer `default` at its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Overflow {
    /// Refuse it, so that its sender retries
    Reject,
    /// Drop the oldest events of `default`
    DropOldest,
    /// Store it; `default` receives no events at all
    Off,
}

impl fmt::Display for Overflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().expect("no value is skipped").get_name())
    }
}

impl From<Overflow> for wwproxy_protocol::Overflow {
    fn from(overflow: Overflow) -> Self {
        match overflow {
            Overflow::Reject => Self::Reject,
            Overflow::DropOldest => Self::DropOldest,
            Overflow::Off => Self::Off,
        }
    }
}

/// Where events are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreAddress {
    /// In this folder.
    File(PathBuf),
    /// In memory only.
    Memory,
}

impl FromStr for StoreAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text.split_once(':') {
            Some(("memory", "")) => Ok(Self::Memory),
            Some(("file", folder)) if !folder.is_empty() => Ok(Self::File(folder.into())),
            _ => Err("a store is file:DIR or memory:"),
        }
    }
}

impl fmt::Display for StoreAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(folder) => write!(f, "file:{}", folder.display()),
            Self::Memory => f.write_str("memory:"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_folder_or_memory() {
        assert_eq!("file:a:b".parse(), Ok(StoreAddress::File("a:b".into())));
        assert_eq!("memory:".parse(), Ok(StoreAddress::Memory));
        for bad in ["", "file:", "memory", "redis:x"] {
            assert!(bad.parse::<StoreAddress>().is_err(), "{bad}");
        }
    }
}
