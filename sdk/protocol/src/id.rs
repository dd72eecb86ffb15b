//! Ids of apps and events.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// The longest app id, in characters.
const MAX_APP_ID_LEN: usize = 128;
/// The longest event id that a client accepts, in bytes. Ids of a wwproxy server have 36.
const MAX_EVENT_ID_LEN: usize = 256;

/// The id of an app: 1 to 128 of `A-Z a-z 0-9 . _ -`, except `.` and `..`, which are path segments with a meaning.
///
/// Needs no escaping in a path, a header or a log line. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AppId(Arc<str>);

/// The id of an event, assigned by the server: unique, opaque, ascending in order of arrival within an app.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EventId(Arc<str>);

/// The text is not a valid id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// Not an [`AppId`].
    #[error("an app id is 1 to 128 of the characters A-Z a-z 0-9 . _ -, and neither . nor ..")]
    App,
    /// Not a [`SourceName`](crate::SourceName).
    #[error("the name of a source is 1 to 64 of the characters A-Z a-z 0-9 . _ -, and neither . nor ..")]
    Source,
    /// Not a [`ConsumerName`](crate::ConsumerName).
    #[error("the name of a consumer is 1 to 64 of the characters A-Z a-z 0-9 . _ -, and neither . nor ..")]
    Consumer,
    /// Not an [`EventId`].
    #[error("an event id is 1 to 256 printable ASCII characters")]
    Event,
}

impl FromStr for AppId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let is_dot_segment = matches!(text, "." | "..");
        if (1..=MAX_APP_ID_LEN).contains(&text.len()) && text.bytes().all(allowed) && !is_dot_segment {
            Ok(Self(text.into()))
        } else {
            Err(InvalidId::App)
        }
    }
}

impl FromStr for EventId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        if (1..=MAX_EVENT_ID_LEN).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidId::Event)
        }
    }
}

macro_rules! text_id {
    ($name:ident) => {
        impl $name {
            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;

            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id!(AppId);
text_id!(EventId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn app_ids_are_validated() {
        for valid in ["a", "...", ".a", "0c1d2e3f-4a5b-4c6d-8e7f-9a0b1c2d3e4f", "A.b_c-9", &"x".repeat(128)] {
            assert_eq!(valid.parse::<AppId>().unwrap().as_str(), valid);
        }
        for invalid in ["", ".", "..", "a/b", "a b", "a%2fb", "a?b", "é", "a\n", &"x".repeat(129)] {
            assert_eq!(invalid.parse::<AppId>(), Err(InvalidId::App), "{invalid:?}");
        }
    }

    #[test]
    fn event_ids_are_printable_ascii() {
        assert!("0192e4a0-0000-7000-8000-000000000000".parse::<EventId>().is_ok());
        assert_eq!("a\nb".parse::<EventId>(), Err(InvalidId::Event));
        assert_eq!("".parse::<EventId>(), Err(InvalidId::Event));
    }
}
