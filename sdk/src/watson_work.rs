//! The events of Watson Work, typed.
//!
//! A wwproxy server hands on what the platform sent, byte for byte; [`Event::parse`] tells which of
//! the platform's events it is. What is optional here is not always there: the fields differ from
//! type to type and grew over time. Fields that are not named here are passed over.
//!
//! ```
//! use wwproxy_sdk::watson_work::Event;
//!
//! let body = br#"{"type":"message-created","spaceId":"s","messageId":"m","time":1538560000123,
//!     "userId":"u","userName":"Ada","contentType":"text/markdown","content":"hello"}"#;
//! match Event::parse(body)? {
//!     Event::MessageCreated(message) => assert_eq!(message.content, "hello"),
//!     Event::Other { kind, .. } => panic!("unexpected: {kind:?}"),
//!     _ => {}
//! }
//! # Ok::<(), wwproxy_sdk::Error>(())
//! ```

use bytes::Bytes;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use wwproxy_protocol::json::each_member;

use crate::{Error, ErrorKind};

/// One event of Watson Work, by the `type` of its body.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// `message-created`. Apps are told of their own messages too.
    MessageCreated(MessageCreated),
    /// `message-edited`
    MessageEdited(MessageEdited),
    /// `message-deleted`
    MessageDeleted(MessageDeleted),
    /// `message-annotation-added`
    AnnotationAdded(AnnotationAdded),
    /// `message-annotation-removed`
    AnnotationRemoved(AnnotationRemoved),
    /// `reaction-added`
    ReactionAdded(ReactionAdded),
    /// `space-updated`
    SpaceUpdated(SpaceUpdated),
    /// `space-deleted`
    SpaceDeleted(SpaceDeleted),
    /// `space-members-added`. An app that finds its own id here has been added to the space.
    SpaceMembersAdded(SpaceMembers),
    /// `space-members-removed`. Also told to an app that was itself just removed.
    SpaceMembersRemoved(SpaceMembers),
    /// `verification`. A wwproxy server answers it itself and keeps it from its clients.
    Verification(Verification),
    /// A type that is not known here, or a known one without the fields that it should have.
    #[non_exhaustive]
    Other {
        /// The body's `type`, if it has one that is a string.
        kind: Option<String>,
        /// The whole body, byte for byte.
        body: Bytes,
    },
}

/// A message was posted.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct MessageCreated {
    /// The space that it was posted to.
    pub space_id: String,
    /// The space's name.
    pub space_name: Option<String>,
    /// The conversation within the space.
    pub conversation_id: Option<String>,
    /// The conversation's type; the platform does not tell which there are.
    pub conversation_type: Option<String>,
    /// The message.
    pub message_id: String,
    /// When, in milliseconds since the epoch.
    pub time: u64,
    /// Who posted it: a user or an app.
    pub user_id: String,
    /// The name of who posted it.
    pub user_name: Option<String>,
    /// The media type of the content, such as `text/markdown`.
    pub content_type: String,
    /// The text.
    pub content: String,
}

/// A message was changed.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct MessageEdited {
    /// The message's space.
    pub space_id: String,
    /// The conversation within the space.
    pub conversation_id: Option<String>,
    /// The conversation's type; the platform does not tell which there are.
    pub conversation_type: Option<String>,
    /// The message.
    pub message_id: String,
    /// When, in milliseconds since the epoch.
    pub time: u64,
    /// Who changed it.
    pub user_id: String,
    /// The media type of the content, such as `text/markdown`.
    pub content_type: String,
    /// The text as it is now.
    pub content: String,
}

/// A message was deleted. By whom is not told.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct MessageDeleted {
    /// The message's space.
    pub space_id: String,
    /// The conversation within the space.
    pub conversation_id: Option<String>,
    /// The conversation's type; the platform does not tell which there are.
    pub conversation_type: Option<String>,
    /// The message that was.
    pub message_id: String,
    /// When, in milliseconds since the epoch.
    pub time: u64,
}

/// Something was attached to a message: what the platform found in it, or a user's click.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct AnnotationAdded {
    /// The message's space.
    pub space_id: String,
    /// The space's name.
    pub space_name: Option<String>,
    /// The message.
    pub message_id: String,
    /// The annotation.
    pub annotation_id: String,
    /// What it is, such as `actionSelected` or `message-nlp-keywords`.
    pub annotation_type: String,
    /// What it says: JSON within a string. See [`payload`](Self::payload).
    pub annotation_payload: String,
    /// When, in milliseconds since the epoch.
    pub time: u64,
    /// Who added it: a user, an app or a service of the platform.
    pub user_id: String,
    /// The name of who added it. Services and apps have none here.
    pub user_name: Option<String>,
}

impl AnnotationAdded {
    /// What the annotation says. The platform may write a key twice; the last one counts.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`]: the payload is no JSON, or nested deeper than `serde_json` goes (128).
    pub fn payload(&self) -> Result<Value, Error> {
        serde_json::from_str(&self.annotation_payload).map_err(|error| {
            Error::new(ErrorKind::Protocol, "the annotation's payload is not JSON; pass over it")
                .because(error)
        })
    }
}

/// An annotation was taken off a message.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct AnnotationRemoved {
    /// The message's space.
    pub space_id: String,
    /// The space's name.
    pub space_name: Option<String>,
    /// The message.
    pub message_id: String,
    /// The annotation that was.
    pub annotation_id: String,
    /// When, in milliseconds since the epoch.
    pub time: u64,
    /// Who removed it.
    pub user_id: String,
    /// The name of who removed it.
    pub user_name: Option<String>,
}

/// Somebody reacted to something.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ReactionAdded {
    /// The space.
    pub space_id: String,
    /// The reaction: any string, mostly an emoji.
    pub reaction: String,
    /// What was reacted to; a message's id where the type is `MESSAGE`.
    pub object_id: String,
    /// The type of what was reacted to.
    pub object_type: String,
    /// When, in milliseconds since the epoch.
    pub time: u64,
    /// Who reacted.
    pub user_id: String,
}

/// A space was changed. Only what changed is there.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct SpaceUpdated {
    /// The space.
    pub space_id: String,
    /// When, in milliseconds since the epoch.
    pub time: u64,
    /// Who changed it.
    pub user_id: String,
    /// The new title.
    pub title: Option<String>,
    /// The new description.
    pub description: Option<String>,
    /// Who can see the space now.
    pub visibility: Option<String>,
    /// Whether guests are allowed now.
    pub allow_guests: Option<bool>,
    /// The new status, as the platform wrote it.
    pub status_value: Option<Value>,
    /// The new properties, as the platform wrote them.
    pub space_properties: Option<Value>,
}

/// A space was deleted.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct SpaceDeleted {
    /// The space that was.
    pub space_id: String,
    /// When, in milliseconds since the epoch.
    pub time: u64,
    /// Who deleted it.
    pub user_id: String,
}

/// Members came to a space or left it. By whom is not told.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct SpaceMembers {
    /// The space.
    pub space_id: String,
    /// The space's name.
    pub space_name: Option<String>,
    /// Users and apps.
    pub member_ids: Vec<String>,
    /// When, in milliseconds since the epoch.
    pub time: u64,
}

/// The platform asks whether a webhook's address is right.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct Verification {
    /// What the answer must repeat.
    pub challenge: String,
}

impl Event {
    /// Reads the body of an event.
    ///
    /// A type that is not known, and a known one whose fields are missing or of another type, is [`Other`](Self::Other): a
    /// platform that changes breaks no app. Of a field that stands twice the last one counts. A value that cannot be
    /// held, such as one nested deeper than `serde_json` goes (128), is as good as absent.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`]: the body is no JSON object.
    pub fn parse(body: &[u8]) -> Result<Self, Error> {
        let wrong = || Error::new(ErrorKind::Protocol, "the event's body is not a JSON object");
        let text = std::str::from_utf8(body).map_err(|error| wrong().because(error))?;
        // Only the outermost level is walked here, so that depth and doubles in what nobody asked for do no harm.
        let mut fields = Map::new();
        each_member(text, |name, value| {
            if let Ok(name) = std::str::from_utf8(name) {
                let value = serde_json::from_str(value.get()).unwrap_or_default();
                fields.insert(name.to_owned(), value);
            }
        })
        .map_err(|error| wrong().because(error))?;
        let kind = fields.get("type").and_then(Value::as_str).map(str::to_owned);
        let known = kind.as_deref().and_then(|kind| Self::known(kind, fields));
        Ok(known.unwrap_or_else(|| Self::Other { kind, body: Bytes::copy_from_slice(body) }))
    }

    fn known(kind: &str, fields: Map<String, Value>) -> Option<Self> {
        fn read<T: DeserializeOwned>(fields: Map<String, Value>, event: fn(T) -> Event) -> Option<Event> {
            // What does not fit is told as `Other`, with the whole body.
            serde_json::from_value(Value::Object(fields)).ok().map(event)
        }
        match kind {
            "message-created" => read(fields, Self::MessageCreated),
            "message-edited" => read(fields, Self::MessageEdited),
            "message-deleted" => read(fields, Self::MessageDeleted),
            "message-annotation-added" => read(fields, Self::AnnotationAdded),
            "message-annotation-removed" => read(fields, Self::AnnotationRemoved),
            "reaction-added" => read(fields, Self::ReactionAdded),
            "space-updated" => read(fields, Self::SpaceUpdated),
            "space-deleted" => read(fields, Self::SpaceDeleted),
            "space-members-added" => read(fields, Self::SpaceMembersAdded),
            "space-members-removed" => read(fields, Self::SpaceMembersRemoved),
            "verification" => read(fields, Self::Verification),
            _ => None,
        }
    }
}
