//! Why the configuration cannot be used.

use crate::{
    identity::{AppsError, InvalidPlatform, TokenKeyError},
    store::OpenError,
};

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is no data directory.
    #[error(
        "HOME is not set, so this user has no data directory: name the store and the credentials file with --store file:DIR and \
         --apps FILE"
    )]
    NoDataDirectory,
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// There is no key that signs tokens.
    #[error(transparent)]
    TokenKey(#[from] TokenKeyError),
    /// The credentials file cannot be used.
    #[error(transparent)]
    Apps(#[from] AppsError),
    /// The platform's URL is not valid.
    #[error(transparent)]
    Platform(#[from] InvalidPlatform),
    /// `--allow-app` was given for the builtin identity, whose apps are in the credentials file.
    #[error(
        "--allow-app works with --identity watsonwork only: the apps of the builtin identity are those of its credentials \
         file, see `wwproxy-server app list`"
    )]
    AllowedAppsOfBuiltin,
    /// A webhook of the largest size could never be received.
    #[error(
        "--max-buffered-bytes ({max_buffered_bytes} bytes) is smaller than --max-body ({max_body} bytes), so a webhook of that \
         size could never be received: raise the first or lower the second"
    )]
    TooFewBufferedBytes {
        /// The most bytes of all bodies.
        max_buffered_bytes: u64,
        /// The longest body, in bytes.
        max_body: u64,
    },
}
