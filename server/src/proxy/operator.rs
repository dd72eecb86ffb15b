//! The operator's use cases, which need no token, and the revocation of clients that follows from them.

use std::{path::PathBuf, sync::Arc};

use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedRwLockReadGuard, watch};
use wwproxy_protocol::{AppId, ConsumerName, Secret};

use super::{Proxy, ProxyError};
use crate::store::StoreError;

/// What the store has of an app.
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
    /// Whether the store has no data of the app.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        !self.registered && self.events == 0
    }
}

impl Proxy {
    /// Returns what is stored of an app.
    pub(crate) async fn inspect(&self, app: &AppId) -> Result<Stored, StoreError> {
        let registration = self.store.registration(app).await?;
        let registered = registration.is_some_and(|registration| !registration.sources.is_empty());
        let (events, bytes) = match self.stored_consumer(app, &ConsumerName::default()).await {
            Ok(default) => (default.pending.unwrap_or_default(), default.pending_bytes.unwrap_or_default()),
            Err(_) => (0, 0),
        };
        Ok(Stored { registered, events, bytes })
    }

    /// Ends an app's registration and deletes its events, and returns what was deleted. A client whose token was revoked
    /// before cannot register the app again.
    pub(crate) async fn purge(&self, app: &AppId) -> Result<Stored, StoreError> {
        let _exclusive = self.registration_changes.write().await;
        self.recheck_tokens();
        let stored = self.inspect(app).await?;
        self.armed.disarm(app, None);
        self.store.remove_registration(app).await?;
        self.clients.end_named(app);
        self.activity.forget(app, None);
        tracing::info!(%app, registered = stored.registered, events = stored.events, "purged by the operator");
        Ok(stored)
    }

    /// Writes a copy of the store to a file that does not exist yet.
    pub(crate) async fn backup(&self, to: PathBuf) -> Result<(), StoreError> {
        self.store.backup(to.clone()).await?;
        tracing::info!(file = %to.display(), "the store was backed up by the operator");
        Ok(())
    }

    /// Authorises a client that changes its registration, and blocks a purge until the guard is dropped. The platform may be slow,
    /// so it is queried before the lock is taken, and again if tokens may have been revoked in between.
    pub(super) async fn registration_change(
        &self,
        app: &AppId,
        token: &Secret,
    ) -> Result<OwnedRwLockReadGuard<()>, ProxyError> {
        let mut revocations = self.revocations();
        loop {
            revocations.mark_unchanged();
            self.authorise(app, token).await?;
            let shared = Arc::clone(&self.registration_changes).read_owned().await;
            // An error means that the sender is gone, which lives as long as the proxy.
            if !revocations.has_changed().unwrap_or(false) {
                return Ok(shared);
            }
        }
    }

    /// Makes every open websocket and every waiting lease check its token again.
    pub(crate) fn recheck_tokens(&self) {
        self.revocations.send_replace(());
    }

    /// Subscribes to notifications that tokens may have been revoked.
    pub(crate) fn revocations(&self) -> watch::Receiver<()> {
        self.revocations.subscribe()
    }

    /// Waits until the client's token is refused, and returns the error.
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

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicBool, Ordering},
        time::Duration,
    };

    use futures_util::future::BoxFuture;
    use tokio::sync::Notify;
    use wwproxy_protocol::{SourceName, SourceSettings};

    use super::*;
    use crate::{
        Settings,
        identity::{IdentityError, IdentityProvider},
        store::fake::FakeStore,
    };

    /// A platform that answers each question after a notification. It knows one token, until that is revoked.
    #[derive(Debug, Default)]
    struct Slow {
        asked: Notify,
        answer: Notify,
        revoked: AtomicBool,
    }

    impl Slow {
        async fn wait_for_question(&self) {
            let asked = tokio::time::timeout(Duration::from_secs(1), self.asked.notified());
            asked.await.expect("the platform is asked");
        }
    }

    impl IdentityProvider for Slow {
        fn identify<'a>(&'a self, _: &'a Secret) -> BoxFuture<'a, Result<String, IdentityError>> {
            Box::pin(async {
                let revoked = self.revoked.load(Ordering::SeqCst);
                self.asked.notify_one();
                self.answer.notified().await;
                if revoked { Err(IdentityError::Refused) } else { Ok("bot".into()) }
            })
        }

        fn is_suspended(&self, _: &AppId) -> bool {
            false
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_purge_does_not_wait_for_the_platform_and_is_not_undone_by_a_late_registration() {
        let platform = Arc::new(Slow::default());
        let store = Arc::new(FakeStore::default());
        let proxy = Arc::new(Proxy::new(store, Arc::clone(&platform) as _, &Settings::default()));
        let app: AppId = "bot".parse().unwrap();
        for unregisters in [false, true] {
            platform.revoked.store(false, Ordering::SeqCst);
            let change = tokio::spawn({
                let (proxy, app) = (Arc::clone(&proxy), app.clone());
                async move {
                    let token = Secret::new("token");
                    if unregisters {
                        proxy.unregister(&app, &token).await
                    } else {
                        let settings =
                            SourceSettings { secrets: vec![Secret::new("secret")], ..Default::default() };
                        proxy.put_source(&app, &token, &SourceName::default(), settings).await.map(drop)
                    }
                }
            });
            platform.wait_for_question().await;
            platform.revoked.store(true, Ordering::SeqCst);
            let purged = tokio::time::timeout(Duration::from_secs(1), proxy.purge(&app)).await;
            assert!(purged.expect("the platform has not answered").is_ok());
            // The answer to the question from before the purge, then that to the second question.
            platform.answer.notify_one();
            platform.wait_for_question().await;
            platform.answer.notify_one();
            assert!(matches!(change.await.unwrap(), Err(ProxyError::Refused)));
            assert_eq!(proxy.inspect(&app).await.unwrap(), Stored::default());
        }
    }
}
