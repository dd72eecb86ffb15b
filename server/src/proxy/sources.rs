//! The sources of an app: how they are registered, replaced and removed.

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use tokio::sync::{Mutex, MutexGuard};
use wwproxy_protocol::{
    AppId, Secret, Source, SourceName, SourceSettings,
    api::{MAX_SOURCES, SourceStatus},
};

use super::{Proxy, ProxyError};
use crate::store::Registration;

/// The number of locks: each app has the one of its hash.
const LOCKS: usize = 64;

/// Serialises the changes of an app's registration, which is read, changed and stored as a whole.
#[derive(Debug, Default)]
pub(super) struct Locks {
    hasher: RandomState,
    locks: [[Mutex<()>; LOCKS / 8]; 8],
}

impl Locks {
    async fn lock(&self, app: &AppId) -> MutexGuard<'_, ()> {
        let locks = self.locks.as_flattened();
        let at = self.hasher.hash_one(app) % locks.len() as u64;
        locks[usize::try_from(at).expect("it is below the number of locks")].lock().await
    }
}

impl Proxy {
    /// Registers or replaces a source. Returns whether it is new.
    pub(crate) async fn put_source(
        &self,
        app: &AppId,
        token: &Secret,
        name: &SourceName,
        settings: SourceSettings,
    ) -> Result<bool, ProxyError> {
        let source = Source::new(settings)?;
        let _shared = self.registration_change(app, token).await?;
        if source.scheme().is_unverified() && !self.allow_unverified {
            return Err(ProxyError::UnverifiedNotAllowed);
        }
        let scheme = source.scheme().name().to_owned();
        let is_new = self.store_source(app, name, source).await?;
        if let Some(count) = self.registered.add(1) {
            tracing::info!(%app, source = %name, scheme, count, "registered");
        }
        Ok(is_new)
    }

    async fn store_source(&self, app: &AppId, name: &SourceName, source: Source) -> Result<bool, ProxyError> {
        let _lock = self.source_locks.lock(app).await;
        let mut registration = self.stored_registration(app).await?;
        let is_new = registration.sources.insert(name.clone(), Arc::new(source)).is_none();
        if registration.sources.len() > MAX_SOURCES {
            return Err(ProxyError::TooManySources);
        }
        self.store.put_registration(app, registration).await?;
        Ok(is_new)
    }

    /// Removes a source. Its events stay.
    pub(crate) async fn delete_source(
        &self,
        app: &AppId,
        token: &Secret,
        name: &SourceName,
    ) -> Result<(), ProxyError> {
        let _shared = self.registration_change(app, token).await?;
        let _lock = self.source_locks.lock(app).await;
        let mut registration = self.stored_registration(app).await?;
        registration.sources.remove(name).ok_or(ProxyError::NoSource)?;
        self.store.put_registration(app, registration).await?;
        self.activity.forget(app, Some(name));
        if let Some(count) = self.unregistered.add(1) {
            tracing::info!(%app, source = %name, count, "source removed");
        }
        Ok(())
    }

    /// Ends the app's registration and deletes its events.
    pub(crate) async fn unregister(&self, app: &AppId, token: &Secret) -> Result<(), ProxyError> {
        let _shared = self.registration_change(app, token).await?;
        let _lock = self.source_locks.lock(app).await;
        self.store.remove_registration(app).await?;
        self.activity.forget(app, None);
        if let Some(count) = self.unregistered.add(1) {
            tracing::info!(%app, count, "unregistered");
        }
        Ok(())
    }

    /// Returns the source of a webhook. Without one its body is not even read.
    pub(crate) async fn source(&self, app: &AppId, name: &SourceName) -> Result<Arc<Source>, ProxyError> {
        if !self.identity.serves(app) {
            return Err(ProxyError::NotRegistered);
        }
        let registration = self.store.registration(app).await?.ok_or(ProxyError::NotRegistered)?;
        let source = registration.sources.get(name).ok_or(ProxyError::NotRegistered)?;
        if self.identity.is_suspended(app) {
            return Err(ProxyError::Suspended);
        }
        if source.scheme().is_unverified() && !self.allow_unverified {
            return Err(ProxyError::UnverifiedNotAllowed);
        }
        Ok(Arc::clone(source))
    }

    /// The app's sources without their secrets, sorted by name.
    pub(crate) async fn sources(&self, app: &AppId) -> Result<Vec<SourceStatus>, ProxyError> {
        let registration = self.stored_registration(app).await?;
        let status = |(name, source): (&SourceName, &Arc<Source>)| self.source_status(app, name, source);
        Ok(registration.sources.iter().map(status).collect())
    }

    fn source_status(&self, app: &AppId, name: &SourceName, source: &Source) -> SourceStatus {
        let (scheme, settings) = (source.scheme(), source.settings());
        let mut status = SourceStatus::new(
            name.clone(),
            scheme.name().to_owned(),
            scheme.covers(),
            !scheme.is_unverified(),
            settings.secrets.len(),
        );
        status.tolerance = settings.tolerance;
        status.url.clone_from(&settings.url);
        let times = self.activity.times(app, name);
        status.last_accepted = times.accepted.map(rfc3339);
        status.last_refused = times.refused.map(rfc3339);
        status
    }

    async fn stored_registration(&self, app: &AppId) -> Result<Registration, ProxyError> {
        let registration = self.store.registration(app).await?;
        Ok(registration.map(Arc::unwrap_or_clone).unwrap_or_default())
    }

    /// Stores the secret that a sender's handshake brings, if the owner of the source expects it.
    pub(super) async fn learn_secret(
        &self,
        app: &AppId,
        name: &SourceName,
        secret: Secret,
    ) -> Result<(), ProxyError> {
        let _shared = self.registration_changes.read().await;
        let source = self.source(app, name).await?;
        let armed = self.armed.take(app, name).ok_or(ProxyError::NotArmed)?;
        let shown = source.scheme().name() == "notion";
        let settings = SourceSettings { secrets: vec![secret.clone()], ..source.settings().clone() };
        self.store_source(app, name, Source::new(settings)?).await?;
        armed.done(shown.then_some(secret));
        tracing::info!(%app, source = %name, "a handshake has set the secret of the source");
        Ok(())
    }
}

/// Formats a time for a response.
pub(super) fn rfc3339(time: std::time::SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}
