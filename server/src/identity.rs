//! Whose token is it? The platform knows.

mod apps;
mod builtin;
mod cache;
mod private_file;
mod watson_work;

use std::{error::Error, fmt, sync::Arc};

use futures_util::future::BoxFuture;
use wwproxy_protocol::{AppId, Secret};

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

    /// The id of the owner of a token that a websocket was opened with. Called at each heartbeat, so an answer may be some
    /// minutes old; and a platform that can tell an expired token from a revoked one names the owner of an expired one.
    fn revalidate<'a>(&'a self, token: &'a Secret) -> BoxFuture<'a, Result<String, IdentityError>> {
        self.identify(token)
    }

    /// Whether this server serves the app at all, whatever token its client has.
    fn serves(&self, app: &AppId) -> bool {
        let _ = app;
        true
    }

    /// Whether the app's credentials are disabled or missing, so that no client of it can be authorised: its webhooks are
    /// refused meanwhile, for their senders to retry.
    fn is_suspended(&self, app: &AppId) -> bool;

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
