//! The webhooks of IBM Watson Work, as types.
//!
//! Source: the webhook guides of Watson Work Services, and what was seen on the wire where they differ. Ids are opaque
//! strings: of users, spaces and messages they look alike, and those of services are no UUIDs. Members that are not
//! named here are ignored, and of a name that stands twice the last one counts.
//!
//! ```
//! use wwproxy_sdk::watson_work::Event;
//!
//! let body = br#"{"type":"message-created","time":1538560000123,"spaceId":"5b0a","messageId":"5b0b",
//!     "userId":"1111","userName":"Ada","contentType":"text/markdown","content":"hello"}"#;
//! match Event::parse(body)? {
//!     Event::MessageCreated(message) => assert_eq!(message.content, "hello"),
//!     other => panic!("{other:?}"),
//! }
//! # Ok::<(), wwproxy_sdk::Error>(())
//! ```

mod kinds;

use std::time::SystemTime;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::Value;
use wwproxy_protocol::message::EventMessage;

pub use self::kinds::{
    MessageAnnotationAdded, MessageAnnotationRemoved, MessageCreated, MessageDeleted, MessageEdited,
    Reaction, SpaceDeleted, SpaceMembers, SpaceUpdated,
};
use crate::{Delivery, Error, ErrorKind};

/// One webhook of Watson Work, by its `type`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// `message-created`: somebody, maybe the app itself, wrote a message.
    MessageCreated(MessageCreated),
    /// `message-edited`: a message has a new content.
    MessageEdited(MessageEdited),
    /// `message-deleted`: a message is gone.
    MessageDeleted(MessageDeleted),
    /// `message-annotation-added`: something was found in a message, added to it, or pressed on it.
    MessageAnnotationAdded(MessageAnnotationAdded),
    /// `message-annotation-removed`: an annotation is gone.
    MessageAnnotationRemoved(MessageAnnotationRemoved),
    /// `reaction-added`: somebody reacted to a message.
    ReactionAdded(Reaction),
    /// `reaction-removed`: somebody took a reaction back.
    ReactionRemoved(Reaction),
    /// `space-members-added`: users or apps joined a space. One's own id among them is how an app learns of a new space.
    SpaceMembersAdded(SpaceMembers),
    /// `space-members-removed`: users or apps left a space, which an app is also told of itself.
    SpaceMembersRemoved(SpaceMembers),
    /// `space-updated`: a space has a new title or other properties.
    SpaceUpdated(SpaceUpdated),
    /// `space-deleted`: a space is gone.
    SpaceDeleted(SpaceDeleted),
    /// A type that this version does not know.
    Other(Other),
}

/// A webhook of a type that this version does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Other {
    /// Its `type`, if it has one.
    pub kind: Option<String>,
    /// The body as it came.
    pub body: Bytes,
}

impl Event {
    /// Reads the body of a webhook.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`]: it is no JSON object, or of a known type without a member that this type always has.
    pub fn parse(body: impl AsRef<[u8]>) -> Result<Self, Error> {
        let body = body.as_ref();
        // By way of a value, in which a name that stood twice stands once.
        let value: Value = serde_json::from_slice(body).map_err(unreadable)?;
        if !value.is_object() {
            return Err(Error::new(ErrorKind::Protocol, UNREADABLE));
        }
        let kind = value["type"].as_str().map(str::to_owned);
        Ok(match kind.as_deref() {
            Some("message-created") => Self::MessageCreated(read(value)?),
            Some("message-edited") => Self::MessageEdited(read(value)?),
            Some("message-deleted") => Self::MessageDeleted(read(value)?),
            Some("message-annotation-added") => Self::MessageAnnotationAdded(read(value)?),
            Some("message-annotation-removed") => Self::MessageAnnotationRemoved(read(value)?),
            Some("reaction-added") => Self::ReactionAdded(read(value)?),
            Some("reaction-removed") => Self::ReactionRemoved(read(value)?),
            Some("space-members-added") => Self::SpaceMembersAdded(read(value)?),
            Some("space-members-removed") => Self::SpaceMembersRemoved(read(value)?),
            Some("space-updated") => Self::SpaceUpdated(read(value)?),
            Some("space-deleted") => Self::SpaceDeleted(read(value)?),
            _ => Self::Other(Other { kind, body: Bytes::copy_from_slice(body) }),
        })
    }

    /// Who did it, where that is told. An app is told of its own doings too: one that answers those never stops.
    #[must_use]
    pub fn user_id(&self) -> Option<&str> {
        match self {
            Self::MessageCreated(event) => Some(&event.user_id),
            Self::MessageEdited(event) => Some(&event.user_id),
            Self::MessageAnnotationAdded(event) => Some(&event.user_id),
            Self::MessageAnnotationRemoved(event) => Some(&event.user_id),
            Self::ReactionAdded(event) | Self::ReactionRemoved(event) => Some(&event.user_id),
            Self::SpaceUpdated(event) => Some(&event.user_id),
            Self::SpaceDeleted(event) => Some(&event.user_id),
            Self::MessageDeleted(_)
            | Self::SpaceMembersAdded(_)
            | Self::SpaceMembersRemoved(_)
            | Self::Other(_) => None,
        }
    }

    /// Where it happened.
    #[must_use]
    pub fn space_id(&self) -> Option<&str> {
        self.place_and_time().map(|(space_id, _)| space_id)
    }

    /// When it happened, to the millisecond.
    #[must_use]
    pub fn time(&self) -> Option<SystemTime> {
        self.place_and_time().map(|(_, time)| time)
    }

    fn place_and_time(&self) -> Option<(&str, SystemTime)> {
        match self {
            Self::MessageCreated(event) => Some((&event.space_id, event.time)),
            Self::MessageEdited(event) => Some((&event.space_id, event.time)),
            Self::MessageDeleted(event) => Some((&event.space_id, event.time)),
            Self::MessageAnnotationAdded(event) => Some((&event.space_id, event.time)),
            Self::MessageAnnotationRemoved(event) => Some((&event.space_id, event.time)),
            Self::ReactionAdded(event) | Self::ReactionRemoved(event) => Some((&event.space_id, event.time)),
            Self::SpaceMembersAdded(event) | Self::SpaceMembersRemoved(event) => {
                Some((&event.space_id, event.time))
            }
            Self::SpaceUpdated(event) => Some((&event.space_id, event.time)),
            Self::SpaceDeleted(event) => Some((&event.space_id, event.time)),
            Self::Other(_) => None,
        }
    }
}

impl TryFrom<&EventMessage> for Event {
    type Error = Error;

    fn try_from(event: &EventMessage) -> Result<Self, Error> {
        Self::parse(&event.body)
    }
}

impl TryFrom<&Delivery> for Event {
    type Error = Error;

    fn try_from(delivery: &Delivery) -> Result<Self, Error> {
        Self::parse(delivery.body())
    }
}

const UNREADABLE: &str = "the body is not a Watson Work webhook that can be read";

fn read<T: DeserializeOwned>(value: Value) -> Result<T, Error> {
    serde_json::from_value(value).map_err(unreadable)
}

fn unreadable(error: serde_json::Error) -> Error {
    Error::new(ErrorKind::Protocol, UNREADABLE).because(error)
}

#[cfg(test)]
mod tests;
