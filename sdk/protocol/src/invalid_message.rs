//! Why a message of the server cannot be read.

/// The server's message is invalid.
#[derive(Debug, thiserror::Error)]
pub enum InvalidMessage {
    /// The message is not a JSON object, or a member has the wrong type.
    #[error("the message is not valid for a wwproxy server")]
    Json(#[from] serde_json::Error),
    /// A required member is missing or invalid.
    #[error("the message has no {0}")]
    Missing(&'static str),
    /// A member of the metadata of an event has the wrong type, or a value of a later version. The value is not shown, as it may be
    /// secret.
    #[error("the message has an unreadable {0}; update this client")]
    Metadata(&'static str),
    /// The body is not a string of its encoding.
    #[error("the data of the message is not {0}")]
    Encoding(&'static str),
    /// The body has an encoding of a later version.
    #[error("the data of the message has the unknown encoding {0:?}; update this client")]
    UnknownEncoding(String),
}
