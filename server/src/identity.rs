//! Identity providers: which app a token belongs to, and who issues tokens.

mod apps;
mod builtin;
mod cache;
mod private_file;
mod watson_work;

use std::{error::Error, fmt, sync::Arc};

use futures_util::future::BoxFuture;
use wwproxy_protocol::{AppId, Secret, api::TokenResponse};

pub use self::{
    apps::{Apps, AppsError, ErrorLine},
    builtin::{Builtin, DEFAULT_TOKEN_LIFETIME, TokenKey, TokenKeyError},
    cache::Cached,
    watson_work::{InvalidPlatform, WatsonWork},
};

/// Knows which app a token belongs to.
pub trait IdentityProvider: fmt::Debug + Send + Sync {
    /// Returns the id of the token's owner. The owner of a person's token is no app.
    fn identify<'a>(&'a self, token: &'a Secret) -> BoxFuture<'a, Result<String, IdentityError>>;

    /// Returns the id of the owner of a token that opened a websocket. Called at each heartbeat, so the answer may be cached
    /// for some minutes. A provider that can tell an expired token from a revoked one returns the owner of an expired one.
    fn revalidate<'a>(&'a self, token: &'a Secret) -> BoxFuture<'a, Result<String, IdentityError>> {
        self.identify(token)
    }

    /// Whether this server serves the app at all, regardless of its client's token.
    fn serves(&self, app: &AppId) -> bool {
        let _ = app;
        true
    }

    /// Whether the app's credentials are disabled or missing, so that no client of it can be authorised. Meanwhile its webhooks
    /// are rejected, and their senders retry.
    fn is_suspended(&self, app: &AppId) -> bool;

    /// The issuer of tokens, if this server issues them itself.
    fn issuer(&self) -> Option<&dyn TokenIssuer> {
        None
    }

    /// The base URL of the platform that issues the tokens, without a trailing slash; `None` if this server issues them.
    fn platform_url(&self) -> Option<&str> {
        None
    }
}

/// Issues tokens to apps.
pub trait TokenIssuer: fmt::Debug + Send + Sync {
    /// Issues a token for an app, given its secret.
    fn issue(&self, app: &str, secret: &Secret) -> Result<TokenResponse, IdentityError>;
}

/// Why a token's owner is not known.
#[derive(Debug, Clone, thiserror::Error)]
pub enum IdentityError {
    /// The token or the secret is not valid.
    #[error("the platform refused the credentials")]
    Refused,
    /// The platform gave no answer.
    #[error("the platform could not be asked")]
    Unavailable(#[source] Arc<dyn Error + Send + Sync>),
}

impl IdentityError {
    fn unavailable(error: impl Error + Send + Sync + 'static) -> Self {
        Self::Unavailable(Arc::new(error))
    }
}
