//! Whose token is it? The platform knows.

mod apps;
mod builtin;
mod cache;
mod watson_work;

use std::{error::Error, fmt, sync::Arc};

use futures_util::future::BoxFuture;
use wwproxy_protocol::Secret;

pub use self::{
    apps::{Apps, AppsError},
    builtin::{Builtin, DEFAULT_TOKEN_LIFETIME, TokenKey, TokenKeyError},
    cache::Cached,
    watson_work::{InvalidPlatform, WatsonWork},
};

/// A platform that knows which app a token belongs to.
pub trait IdentityProvider: fmt::Debug + Send + Sync {
    /// The id of the token's owner. For a person's token that is no app's.
    fn identify<'a>(&'a self, token: &'a Secret) -> BoxFuture<'a, Result<String, IdentityError>>;

    /// Whether a connection that was opened with this token may stay open, though the token may have
    /// run out since. Asked often, so it must be cheap; a platform that would have to be asked over the
    /// network says yes.
    fn vouches_for(&self, token: &Secret) -> bool {
        let _ = token;
        true
    }

    /// Who gives out the tokens.
    fn platform(&self) -> Platform<'_>;
}

/// Who gives out the tokens.
#[derive(Debug, Clone, Copy)]
pub enum Platform<'a> {
    /// This proxy.
    Here(&'a Builtin),
    /// Another server, of this address, which ends without a slash.
    Elsewhere(&'a str),
}

/// Why a token's owner is not known.
#[derive(Debug, Clone, thiserror::Error)]
pub enum IdentityError {
    /// The platform says that the token or the secret is not good.
    #[error("the platform refused the credentials")]
    Refused,
    /// The platform did not say.
    #[error("the platform could not be asked")]
    Unavailable(#[source] Arc<dyn Error + Send + Sync>),
}

impl IdentityError {
    fn unavailable(error: impl Error + Send + Sync + 'static) -> Self {
        Self::Unavailable(Arc::new(error))
    }
}
