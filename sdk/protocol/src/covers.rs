//! What a verification vouches for.

/// Which part of the request a valid signature vouches for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Covers {
    /// The whole body.
    Body,
    /// The URL, not the body.
    Url,
    /// Neither: a token, or single fields.
    Nothing,
    /// A value of a later version, which a server may send. No scheme of this version has it.
    #[serde(other)]
    Unknown,
}
