//! How a store keeps a source: its settings as JSON, with the secrets.
//!
//! A source that cannot be read stays as it is stored, so that it stops neither the server nor the other sources.

use std::sync::Arc;

use wwproxy_protocol::{AppId, InvalidSource, Secret, Source, SourceSettings};
use zeroize::Zeroizing;

use super::Registration;

/// A source, or what is stored in its place.
pub type StoredSource = Result<Arc<Source>, UnreadableSource>;

/// A stored source that this server cannot read. It receives nothing until it is replaced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the stored source {reason}; register the source again, or delete it")]
pub struct UnreadableSource {
    /// The settings as they are stored, with the secrets.
    settings: Secret,
    reason: Reason,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Reason {
    #[error("is not valid for this version of the server: {0}")]
    Invalid(InvalidSource),
    #[error("is damaged: it does not have its checksum")]
    Damaged,
}

/// Decodes a source.
pub(super) fn decode(settings: &str) -> StoredSource {
    let source = SourceSettings::parse(settings).and_then(Source::new);
    source.map(Arc::new).map_err(|reason| unreadable(settings, Reason::Invalid(reason)))
}

/// A source whose settings do not have their checksum.
pub(super) fn damaged(settings: &str) -> UnreadableSource {
    unreadable(settings, Reason::Damaged)
}

fn unreadable(settings: &str, reason: Reason) -> UnreadableSource {
    UnreadableSource { settings: Secret::new(settings), reason }
}

/// Encodes a source. One that cannot be read is encoded as it is stored.
pub(super) fn encode(source: &StoredSource) -> Zeroizing<String> {
    match source {
        Ok(source) => source.settings().expose(),
        Err(unreadable) => Zeroizing::new(unreadable.settings.expose().to_owned()),
    }
}

/// Logs the sources of an app that cannot be read.
pub(super) fn log_unreadable(app: &AppId, registration: &Registration) {
    for (source, stored) in &registration.sources {
        if let Err(error) = stored {
            tracing::error!(%app, %source, %error, "a stored source is skipped");
        }
    }
}
