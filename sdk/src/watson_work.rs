//! Typed webhooks of IBM Watson Work.
//!
//! Source: the webhook guides of Watson Work Services and, if they differ, captured traffic. Ids are opaque strings:
//! ids of users, spaces and messages look alike, and ids of services are not UUIDs. Unknown members are ignored, and of
//! duplicate members the last one wins.
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

use std::{fmt, time::SystemTime};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::Value;
use wwproxy_protocol::message::EventMessage;

pub use self::kinds::{
    MessageAnnotationAdded, MessageAnnotationRemoved, MessageCreated, MessageDeleted, MessageEdited,
    Reaction, SpaceDeleted, SpaceMembers, SpaceUpdated,
};
use crate::{Delivery, Error, ErrorKind};

/// A Watson Work webhook, by its `type`. `Debug` leaves out the texts of messages, names and titles.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// `message-created`: a user or an app, possibly this one, wrote a message.
    MessageCreated(MessageCreated),
    /// `message-edited`: the content of a message changed.
    MessageEdited(MessageEdited),
    /// `message-deleted`: a message was deleted.
    MessageDeleted(MessageDeleted),
    /// `message-annotation-added`: Watson or an app annotated a message, or a user pressed one of its buttons.
    MessageAnnotationAdded(MessageAnnotationAdded),
    /// `message-annotation-removed`: an annotation was removed.
    MessageAnnotationRemoved(MessageAnnotationRemoved),
    /// `reaction-added`: a user reacted to a message.
    ReactionAdded(Reaction),
    /// `reaction-removed`: a user removed a reaction.
    ReactionRemoved(Reaction),
    /// `space-members-added`: users or apps joined a space. An app finds its own id in it when it is added to a space.
    SpaceMembersAdded(SpaceMembers),
    /// `space-members-removed`: users or apps, possibly this app, left a space.
    SpaceMembersRemoved(SpaceMembers),
    /// `space-updated`: the title or other properties of a space changed.
    SpaceUpdated(SpaceUpdated),
    /// `space-deleted`: a space was deleted.
    SpaceDeleted(SpaceDeleted),
    /// A type that this version of the SDK does not know.
    Other(Other),
}

/// A webhook of a type that this version of the SDK does not know.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Other {
    /// Its `type`, if it has one.
    pub kind: Option<String>,
    /// The body, unchanged.
    pub body: Bytes,
}

impl fmt::Debug for Other {
    /// Leaves out the body, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Other").field("kind", &self.kind).field("body_bytes", &self.body.len()).finish()
    }
}

impl Event {
    /// Parses the body of a webhook.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`]: the body is not a JSON object, or a known type lacks a required member.
    pub fn parse(body: impl AsRef<[u8]>) -> Result<Self, Error> {
        let body = body.as_ref();
        // Parse into a `Value` first: it keeps the last of duplicate members, which serde's derive rejects.
        let value: Value = serde_json::from_slice(body).map_err(invalid)?;
        if !value.is_object() {
            return Err(Error::new(ErrorKind::Protocol, INVALID));
        }
        let kind = value["type"].as_str().map(str::to_owned);
        Ok(match kind.as_deref() {
            Some("message-created") => Self::MessageCreated(deserialize(value)?),
            Some("message-edited") => Self::MessageEdited(deserialize(value)?),
            Some("message-deleted") => Self::MessageDeleted(deserialize(value)?),
            Some("message-annotation-added") => Self::MessageAnnotationAdded(deserialize(value)?),
            Some("message-annotation-removed") => Self::MessageAnnotationRemoved(deserialize(value)?),
            Some("reaction-added") => Self::ReactionAdded(deserialize(value)?),
            Some("reaction-removed") => Self::ReactionRemoved(deserialize(value)?),
            Some("space-members-added") => Self::SpaceMembersAdded(deserialize(value)?),
            Some("space-members-removed") => Self::SpaceMembersRemoved(deserialize(value)?),
            Some("space-updated") => Self::SpaceUpdated(deserialize(value)?),
            Some("space-deleted") => Self::SpaceDeleted(deserialize(value)?),
            _ => Self::Other(Other { kind, body: Bytes::copy_from_slice(body) }),
        })
    }

    /// The id of the user or app that caused the event, if the event has one. An app also receives the events that it
    /// causes itself: ignore those, or an app that replies to messages replies to itself forever.
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

    /// The id of the space.
    #[must_use]
    pub fn space_id(&self) -> Option<&str> {
        self.space_and_time().map(|(space_id, _)| space_id)
    }

    /// The time of the event, in milliseconds.
    #[must_use]
    pub fn time(&self) -> Option<SystemTime> {
        self.space_and_time().map(|(_, time)| time)
    }

    fn space_and_time(&self) -> Option<(&str, SystemTime)> {
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

const INVALID: &str = "the body is not a valid Watson Work webhook";

fn deserialize<T: DeserializeOwned>(value: Value) -> Result<T, Error> {
    serde_json::from_value(value).map_err(invalid)
}

fn invalid(error: serde_json::Error) -> Error {
    Error::new(ErrorKind::Protocol, INVALID).with_source(error)
}

#[cfg(test)]
mod tests;
