//! What the operator of the server asks for, who needs no token of an app, and what follows for its clients.

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use wwproxy_protocol::{AppId, Secret};

use super::{Proxy, ProxyError};
use crate::store::StoreError;

/// What a store has of an app.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Whether the app is registered.
    pub registered: bool,
    /// Its events.
    pub events: u64,
    /// Their size in bytes.
    pub bytes: u64,
}

impl Stored {
    /// Whether there is nothing of the app.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        !self.registered && self.events == 0
    }
}

impl Proxy {
    /// What is stored of an app.
    pub(crate) async fn inspect(&self, app: &AppId) -> Result<Stored, StoreError> {
        let registered = self.store.registration(app).await?.is_some();
        let stats = self.store.stats(app).await?;
        Ok(Stored { registered, events: stats.stored as u64, bytes: stats.bytes })
    }

    /// Ends an app's registration and deletes its events, and returns what there was. Clients whose token was revoked
    /// before cannot register the app again.
    pub(crate) async fn purge(&self, app: &AppId) -> Result<Stored, StoreError> {
        let _exclusive = self.registration_changes.write().await;
        self.recheck_tokens();
        let stored = self.inspect(app).await?;
        self.store.remove_registration(app).await?;
        tracing::info!(%app, registered = stored.registered, events = stored.events, "purged by the operator");
        Ok(stored)
    }

    /// Has every open websocket and every waiting lease check its token again.
    pub(crate) fn recheck_tokens(&self) {
        self.revocations.send_replace(());
    }

    /// Changes whenever tokens may have been revoked.
    pub(crate) fn revocations(&self) -> watch::Receiver<()> {
        self.revocations.subscribe()
    }

    /// Waits until the token of a client is refused, and says why.
    pub(crate) async fn refused(&self, app: &AppId, token: &Secret) -> ProxyError {
        let mut revocations = self.revocations();
        loop {
            if let Err(error @ (ProxyError::Refused | ProxyError::NotServed)) =
                self.authorise(app, token).await
            {
                return error;
            }
            // The sender lives as long as the proxy.
            let _ = revocations.changed().await;
        }
    }
}
