//! What each type of webhook tells.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, de};
use serde_json::Value;

use crate::{Error, ErrorKind};

/// A new message.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct MessageCreated {
    /// Its space.
    pub space_id: String,
    /// The title of the space.
    pub space_name: Option<String>,
    /// Its conversation, the same as its space as far as seen. Absent before version 1.8.
    pub conversation_id: Option<String>,
    /// What kind of conversation that is. Absent before version 1.8.
    pub conversation_type: Option<String>,
    /// The message.
    pub message_id: String,
    /// When it was written.
    #[serde(deserialize_with = "milliseconds")]
    pub time: SystemTime,
    /// Who wrote it: a user, or an app, maybe this one.
    pub user_id: String,
    /// The user's name. Absent where an app wrote it.
    pub user_name: Option<String>,
    /// What the content is, such as `text/markdown`.
    pub content_type: String,
    /// The text. May be empty: an app writes its own into an annotation.
    #[serde(default)]
    pub content: String,
}

/// A message with a new content.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct MessageEdited {
    /// Its space.
    pub space_id: String,
    /// Its conversation.
    pub conversation_id: Option<String>,
    /// What kind of conversation that is.
    pub conversation_type: Option<String>,
    /// The message.
    pub message_id: String,
    /// When it was edited.
    #[serde(deserialize_with = "milliseconds")]
    pub time: SystemTime,
    /// Who edited it.
    pub user_id: String,
    /// What the content is, such as `text/markdown`.
    pub content_type: String,
    /// The new text.
    #[serde(default)]
    pub content: String,
}

/// A message that is gone. Who deleted it is not told.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct MessageDeleted {
    /// Its space.
    pub space_id: String,
    /// Its conversation.
    pub conversation_id: Option<String>,
    /// What kind of conversation that is.
    pub conversation_type: Option<String>,
    /// The message.
    pub message_id: String,
    /// When it was deleted.
    #[serde(deserialize_with = "milliseconds")]
    pub time: SystemTime,
}

/// An annotation of a message: a focus or a moment that Watson found, a card that an app wrote, a button that
/// somebody pressed (`actionSelected`).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct MessageAnnotationAdded {
    /// The message's space.
    pub space_id: String,
    /// The title of the space.
    pub space_name: Option<String>,
    /// The message.
    pub message_id: String,
    /// The annotation.
    pub annotation_id: String,
    /// What kind of annotation, such as `actionSelected`, `generic` or `message-nlp-entities`.
    pub annotation_type: String,
    /// What it holds: JSON in a string. See [`payload`](Self::payload).
    pub annotation_payload: String,
    /// When it was added.
    #[serde(deserialize_with = "milliseconds")]
    pub time: SystemTime,
    /// Who added it: a user, an app, or one of the platform's services.
    pub user_id: String,
    /// The user's name. Absent for apps and services.
    pub user_name: Option<String>,
}

impl MessageAnnotationAdded {
    /// What the annotation holds, parsed. A name that stands twice in it, as `type` does in `actionSelected`, has its last value.
    ///
    /// ```
    /// use wwproxy_sdk::watson_work::Event;
    ///
    /// let body = r#"{"type":"message-annotation-added","time":1538560000123,"spaceId":"5b0a","messageId":"5b0b",
    ///     "annotationId":"5b0c","annotationType":"actionSelected","userId":"1111",
    ///     "annotationPayload":"{\"type\":\"actionSelected\",\"actionId\":\"/triggers\",\"type\":\"actionSelected\"}"}"#;
    /// let Event::MessageAnnotationAdded(annotation) = Event::parse(body)? else { panic!() };
    /// assert_eq!(annotation.payload()?["actionId"], "/triggers");
    /// # Ok::<(), wwproxy_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`]: it is no JSON.
    pub fn payload(&self) -> Result<Value, Error> {
        serde_json::from_str(&self.annotation_payload).map_err(|error| {
            Error::new(ErrorKind::Protocol, "the annotation's payload is no JSON").because(error)
        })
    }
}

/// An annotation that is gone. Of which kind it was is not told.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct MessageAnnotationRemoved {
    /// The message's space.
    pub space_id: String,
    /// The title of the space.
    pub space_name: Option<String>,
    /// The message.
    pub message_id: String,
    /// The annotation.
    pub annotation_id: String,
    /// When it was removed.
    #[serde(deserialize_with = "milliseconds")]
    pub time: SystemTime,
    /// Who removed it.
    pub user_id: String,
    /// The user's name. Absent for apps and services.
    pub user_name: Option<String>,
}

/// A reaction to something, given or taken back.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Reaction {
    /// The space of what it is about.
    pub space_id: String,
    /// The reaction: any text, mostly an emoji.
    pub reaction: String,
    /// What it is about, such as a message.
    pub object_id: String,
    /// What kind of thing that is, such as `MESSAGE`.
    pub object_type: String,
    /// When it was given or taken back.
    #[serde(deserialize_with = "milliseconds")]
    pub time: SystemTime,
    /// Who reacted.
    pub user_id: String,
}

/// Users and apps who joined or left a space. By whose doing is not told.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct SpaceMembers {
    /// The space.
    pub space_id: String,
    /// The title of the space.
    pub space_name: Option<String>,
    /// Who joined or left: users, and apps by their app id.
    pub member_ids: Vec<String>,
    /// When.
    #[serde(deserialize_with = "milliseconds")]
    pub time: SystemTime,
}

/// A space with new properties. Only those that changed are told.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct SpaceUpdated {
    /// The space.
    pub space_id: String,
    /// Its new title.
    pub title: Option<String>,
    /// Its new description.
    pub description: Option<String>,
    /// Who may see it from now on.
    pub visibility: Option<String>,
    /// Whether guests may join from now on.
    pub allow_guests: Option<bool>,
    /// Its new status. What values there are is documented nowhere.
    pub status_value: Option<Value>,
    /// Its new properties. What they are is documented nowhere.
    pub space_properties: Option<Value>,
    /// When it changed.
    #[serde(deserialize_with = "milliseconds")]
    pub time: SystemTime,
    /// Who changed it.
    pub user_id: String,
}

/// A space that is gone.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct SpaceDeleted {
    /// The space.
    pub space_id: String,
    /// When it was deleted.
    #[serde(deserialize_with = "milliseconds")]
    pub time: SystemTime,
    /// Who deleted it.
    pub user_id: String,
}

/// A time in milliseconds since the start of 1970, UTC.
fn milliseconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
    let since = Duration::from_millis(u64::deserialize(deserializer)?);
    SystemTime::UNIX_EPOCH.checked_add(since).ok_or_else(|| de::Error::custom("a time beyond all calendars"))
}
