//! The members of each webhook type.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Deserializer, de};
use serde_json::Value;

use crate::{Error, ErrorKind};

/// A new message.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct MessageCreated {
    /// Its space.
    pub space_id: String,
    /// The title of the space.
    pub space_name: Option<String>,
    /// Its conversation; in captured traffic always equal to the space. Absent before version 1.8.
    pub conversation_id: Option<String>,
    /// The type of that conversation. Absent before version 1.8.
    pub conversation_type: Option<String>,
    /// The message.
    pub message_id: String,
    /// When it was written.
    #[serde(deserialize_with = "milliseconds")]
    pub time: SystemTime,
    /// The author: a user or an app, possibly this one.
    pub user_id: String,
    /// The user's name. Absent if an app wrote it.
    pub user_name: Option<String>,
    /// The media type of the content, such as `text/markdown`.
    pub content_type: String,
    /// The text. Empty if an app wrote it: apps put their text into an annotation.
    #[serde(default)]
    pub content: String,
}

/// A message with changed content.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct MessageEdited {
    /// Its space.
    pub space_id: String,
    /// Its conversation.
    pub conversation_id: Option<String>,
    /// The type of that conversation.
    pub conversation_type: Option<String>,
    /// The message.
    pub message_id: String,
    /// When it was edited.
    #[serde(deserialize_with = "milliseconds")]
    pub time: SystemTime,
    /// The user or app that edited it.
    pub user_id: String,
    /// The media type of the content, such as `text/markdown`.
    pub content_type: String,
    /// The new text.
    #[serde(default)]
    pub content: String,
}

/// A deleted message. The webhook does not say who deleted it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct MessageDeleted {
    /// Its space.
    pub space_id: String,
    /// Its conversation.
    pub conversation_id: Option<String>,
    /// The type of that conversation.
    pub conversation_type: Option<String>,
    /// The message.
    pub message_id: String,
    /// When it was deleted.
    #[serde(deserialize_with = "milliseconds")]
    pub time: SystemTime,
}

/// An annotation of a message: a focus or a moment found by Watson, a card written by an app, or a button pressed by a
/// user (`actionSelected`).
#[derive(Clone, PartialEq, Eq, Deserialize)]
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
    /// The type of the annotation, such as `actionSelected`, `generic` or `message-nlp-entities`.
    pub annotation_type: String,
    /// The payload: JSON in a string. See [`payload`](Self::payload).
    pub annotation_payload: String,
    /// When it was added.
    #[serde(deserialize_with = "milliseconds")]
    pub time: SystemTime,
    /// The user, app or platform service that added it.
    pub user_id: String,
    /// The user's name. Absent for apps and services.
    pub user_name: Option<String>,
}

impl MessageAnnotationAdded {
    /// Parses the payload. Of duplicate members, such as `type` in `actionSelected`, the last one wins.
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
    /// [`ErrorKind::Protocol`]: the payload is not JSON.
    pub fn payload(&self) -> Result<Value, Error> {
        serde_json::from_str(&self.annotation_payload).map_err(|error| {
            Error::new(ErrorKind::Protocol, "the annotation's payload is not JSON").with_source(error)
        })
    }
}

/// A removed annotation. The webhook does not give its type.
#[derive(Clone, PartialEq, Eq, Deserialize)]
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
    /// The user, app or platform service that removed it.
    pub user_id: String,
    /// The user's name. Absent for apps and services.
    pub user_name: Option<String>,
}

/// A reaction that was added or removed.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Reaction {
    /// The space of the object.
    pub space_id: String,
    /// The reaction: any text, usually an emoji.
    pub reaction: String,
    /// The object reacted to, such as a message.
    pub object_id: String,
    /// The type of the object, such as `MESSAGE`.
    pub object_type: String,
    /// When it was added or removed.
    #[serde(deserialize_with = "milliseconds")]
    pub time: SystemTime,
    /// The user that reacted.
    pub user_id: String,
}

/// Users and apps that joined or left a space. The webhook does not say who added or removed them.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct SpaceMembers {
    /// The space.
    pub space_id: String,
    /// The title of the space.
    pub space_name: Option<String>,
    /// The users, and apps by their app id, that joined or left.
    pub member_ids: Vec<String>,
    /// When they joined or left.
    #[serde(deserialize_with = "milliseconds")]
    pub time: SystemTime,
}

/// A space with changed properties. Unchanged properties are absent.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct SpaceUpdated {
    /// The space.
    pub space_id: String,
    /// Its new title.
    pub title: Option<String>,
    /// Its new description.
    pub description: Option<String>,
    /// Its new visibility.
    pub visibility: Option<String>,
    /// Whether guests may join now.
    pub allow_guests: Option<bool>,
    /// Its new status. The values are not documented.
    pub status_value: Option<Value>,
    /// Its new properties. They are not documented.
    pub space_properties: Option<Value>,
    /// When it changed.
    #[serde(deserialize_with = "milliseconds")]
    pub time: SystemTime,
    /// The user or app that changed it.
    pub user_id: String,
}

/// A deleted space.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct SpaceDeleted {
    /// The space.
    pub space_id: String,
    /// When it was deleted.
    #[serde(deserialize_with = "milliseconds")]
    pub time: SystemTime,
    /// The user or app that deleted it.
    pub user_id: String,
}

/// Implements `Debug` with these members only. Texts that people write, names and titles are left out, as events are logged.
macro_rules! debug_members {
    ($($kind:ident { $($member:ident),+ })+) => {$(
        impl fmt::Debug for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($kind))$(.field(stringify!($member), &self.$member))+.finish_non_exhaustive()
            }
        }
    )+};
}

debug_members! {
    MessageCreated { space_id, conversation_id, conversation_type, message_id, time, user_id, content_type }
    MessageEdited { space_id, conversation_id, conversation_type, message_id, time, user_id, content_type }
    MessageAnnotationAdded { space_id, message_id, annotation_id, annotation_type, time, user_id }
    MessageAnnotationRemoved { space_id, message_id, annotation_id, time, user_id }
    Reaction { space_id, object_id, object_type, time, user_id }
    SpaceMembers { space_id, member_ids, time }
    SpaceUpdated { space_id, visibility, allow_guests, time, user_id }
}

/// Deserializes a time from milliseconds since the Unix epoch.
fn milliseconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
    let since_epoch = Duration::from_millis(u64::deserialize(deserializer)?);
    SystemTime::UNIX_EPOCH
        .checked_add(since_epoch)
        .ok_or_else(|| de::Error::custom("the time is out of range"))
}
