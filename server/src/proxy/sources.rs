//! The sources of an app: how they are registered, replaced and removed.

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use http::Method;
use tokio::sync::{Mutex, OwnedMutexGuard, OwnedRwLockReadGuard};
use wwproxy_protocol::{
    AppId, Secret, Source, SourceName, SourceSettings,
    api::{ArmStatus, MAX_SOURCES, SourceStatus},
    scheme::MAX_SECRETS,
};

use super::{Proxy, ProxyError};
use crate::store::{Registration, StoreError, StoredSource};

/// The number of locks: apps with the same hash share one.
const LOCKS: usize = 32;

/// Serialises the changes of an app's registration, which is read, changed and stored as a whole.
#[derive(Debug, Default)]
pub(super) struct Locks {
    hasher: RandomState,
    locks: [Arc<Mutex<()>>; LOCKS],
}

impl Locks {
    pub(super) async fn lock(&self, app: &AppId) -> OwnedMutexGuard<()> {
        let at = self.hasher.hash_one(app) % LOCKS as u64;
        let lock = &self.locks[usize::try_from(at).expect("it is below the number of locks")];
        Arc::clone(lock).lock_owned().await
    }
}

impl Proxy {
    /// Registers or replaces a source. Returns whether it is new.
    pub(crate) async fn put_source(
        self: &Arc<Self>,
        app: &AppId,
        token: &Secret,
        name: &SourceName,
        settings: SourceSettings,
    ) -> Result<bool, ProxyError> {
        let source = Source::new(settings)?;
        let shared = self.registration_change(app, token).await?;
        if source.scheme().is_unverified() && !self.allow_unverified {
            return Err(ProxyError::UnverifiedForbidden);
        }
        let scheme = source.scheme().name().to_owned();
        let name = name.clone();
        let put = async move |proxy: Arc<Self>, app: AppId| {
            // The handshake was expected by the replaced settings.
            proxy.armed.disarm(&app, Some(&name));
            let is_new = proxy.store_source(&app, &name, source).await?;
            if let Some(count) = proxy.registered.add(1) {
                tracing::info!(%app, source = %name, scheme, count, "registered");
            }
            Ok(is_new)
        };
        self.change_app(app, shared, put).await
    }

    /// Changes the sources or consumers of an app under its lock: one change of an app at a time is in the store's queue, however
    /// many its clients send. A client or sender that disconnects cancels the wait for the lock, but not the
    /// change, which is a task of its own: otherwise the lock would be released before the store has applied the change, and the
    /// next change would start from the sources before it, and restore them.
    pub(super) async fn change_app<T, F>(
        self: &Arc<Self>,
        app: &AppId,
        shared: OwnedRwLockReadGuard<()>,
        change: impl FnOnce(Arc<Self>, AppId) -> F,
    ) -> Result<T, ProxyError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, ProxyError>> + Send + 'static,
    {
        let lock = self.source_locks.lock(app).await;
        let change = change(Arc::clone(self), app.clone());
        let task = tokio::spawn(async move {
            let _guards = (shared, lock);
            change.await
        });
        task.await.map_err(StoreError::engine)?
    }

    /// Adds a source to the stored registration, under the app's lock. Returns whether it is new.
    async fn store_source(&self, app: &AppId, name: &SourceName, source: Source) -> Result<bool, ProxyError> {
        let mut registration = self.stored_registration(app).await?;
        let is_new = registration.sources.insert(name.clone(), Ok(Arc::new(source))).is_none();
        if registration.sources.len() > MAX_SOURCES {
            return Err(ProxyError::TooManySources);
        }
        self.store.put_registration(app, registration).await?;
        Ok(is_new)
    }

    /// Removes a source. Its events stay.
    pub(crate) async fn delete_source(
        self: &Arc<Self>,
        app: &AppId,
        token: &Secret,
        name: &SourceName,
    ) -> Result<(), ProxyError> {
        let shared = self.registration_change(app, token).await?;
        let name = name.clone();
        let delete = async move |proxy: Arc<Self>, app: AppId| {
            let mut registration = proxy.stored_registration(&app).await?;
            if registration.sources.remove(&name).is_none() {
                return Err(ProxyError::NoSource);
            }
            proxy.armed.disarm(&app, Some(&name));
            proxy.store.put_registration(&app, registration).await?;
            proxy.activity.forget(&app, Some(&name));
            if let Some(count) = proxy.unregistered.add(1) {
                tracing::info!(%app, source = %name, count, "source removed");
            }
            Ok(())
        };
        self.change_app(app, shared, delete).await
    }

    /// Ends the app's registration and deletes its events.
    pub(crate) async fn unregister(self: &Arc<Self>, app: &AppId, token: &Secret) -> Result<(), ProxyError> {
        let shared = self.registration_change(app, token).await?;
        let unregister = async move |proxy: Arc<Self>, app: AppId| {
            proxy.armed.disarm(&app, None);
            proxy.store.remove_registration(&app).await?;
            proxy.clients.end_named(&app);
            proxy.activity.forget(&app, None);
            if let Some(count) = proxy.unregistered.add(1) {
                tracing::info!(%app, count, "unregistered");
            }
            Ok(())
        };
        self.change_app(app, shared, unregister).await
    }

    /// Returns the source that receives a request of this method. Without one the body is not even read. `name` is `None` if the hook's
    /// URL has an invalid one.
    pub(crate) async fn receiving_source(
        &self,
        app: &AppId,
        name: Option<&SourceName>,
        method: &Method,
    ) -> Result<Arc<Source>, ProxyError> {
        if !self.identity.serves(app) {
            return Err(ProxyError::NotRegistered);
        }
        let registration = self.store.registration(app).await?.ok_or(ProxyError::NotRegistered)?;
        let source = name.and_then(|name| registration.sources.get(name)).ok_or(ProxyError::UnknownSource)?;
        if self.identity.is_suspended(app) {
            return Err(ProxyError::Suspended);
        }
        let source = valid(source)?;
        if source.scheme().is_unverified() && !self.allow_unverified {
            return Err(ProxyError::UnverifiedNotAllowed);
        }
        let methods = source.scheme().methods();
        if methods.contains(&method.as_str()) {
            Ok(Arc::clone(source))
        } else {
            Err(ProxyError::Method(methods))
        }
    }

    /// The app's sources without their secrets, sorted by name.
    pub(crate) async fn sources(&self, app: &AppId) -> Result<Vec<SourceStatus>, ProxyError> {
        let registration = self.stored_registration(app).await?;
        let status = |(name, source): (&SourceName, &StoredSource)| self.source_status(app, name, source);
        Ok(registration.sources.iter().map(status).collect())
    }

    fn source_status(&self, app: &AppId, name: &SourceName, source: &StoredSource) -> SourceStatus {
        let mut status = match source {
            Ok(source) => valid_status(name, source),
            Err(unreadable) => SourceStatus::invalid(name.clone(), unreadable.to_string()),
        };
        let times = self.activity.times(app, name);
        status.last_accepted = times.accepted.map(rfc3339);
        status.last_refused = times.refused.map(rfc3339);
        status
    }

    async fn stored_registration(&self, app: &AppId) -> Result<Registration, ProxyError> {
        let registration = self.store.registration(app).await?;
        Ok(registration.map(Arc::unwrap_or_clone).unwrap_or_default())
    }

    /// Arms a source for the handshake that sets its secret.
    pub(crate) async fn arm(
        &self,
        app: &AppId,
        token: &Secret,
        name: &SourceName,
    ) -> Result<ArmStatus, ProxyError> {
        let _shared = self.registration_change(app, token).await?;
        let _lock = self.source_locks.lock(app).await;
        let registration = self.stored_registration(app).await?;
        let source = valid(registration.sources.get(name).ok_or(ProxyError::NoSource)?)?;
        if !source.scheme().learns_secret() {
            return Err(ProxyError::NoHandshake);
        }
        check_room(source)?;
        Ok(self.armed.arm(app, name))
    }

    /// Returns whether a source is armed, and whether the handshake took place.
    pub(crate) fn arm_status(&self, app: &AppId, name: &SourceName) -> ArmStatus {
        self.armed.status(app, name)
    }

    /// Stores the secret that a sender's handshake brings, if the owner of this very source expects it. Under the app's lock, so that
    /// only one of two handshakes sets a secret, and none undoes a change of the source.
    pub(super) async fn learn_secret(
        self: &Arc<Self>,
        app: &AppId,
        name: &SourceName,
        source: Arc<Source>,
        secret: Secret,
    ) -> Result<(), ProxyError> {
        let shared = Arc::clone(&self.registration_changes).read_owned().await;
        let name = name.clone();
        let learn = async move |proxy: Arc<Self>, app: AppId| {
            let registration = proxy.stored_registration(&app).await?;
            if !(registration.has(&name, &source) && proxy.armed.expects_handshake(&app, &name)) {
                return Err(ProxyError::NotArmed);
            }
            let shown = source.scheme().name() == "notion";
            check_room(&source)?;
            let mut settings = source.settings().clone();
            // The newest secret is the last one.
            settings.secrets.retain(|other| *other != secret);
            settings.secrets.push(secret.clone());
            proxy.store_source(&app, &name, Source::new(settings)?).await?;
            proxy.armed.set_done(&app, &name, shown.then_some(secret));
            tracing::info!(%app, source = %name, "a handshake has set a secret of the source");
            Ok(())
        };
        self.change_app(app, shared, learn).await
    }
}

/// Returns a stored source that can receive webhooks.
fn valid(source: &StoredSource) -> Result<&Arc<Source>, ProxyError> {
    source.as_ref().map_err(|unreadable| ProxyError::UnreadableSource(unreadable.clone()))
}

fn valid_status(name: &SourceName, source: &Source) -> SourceStatus {
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
    status
}

/// Checks that a handshake can add a secret to the source. A handshake never replaces one: it is not signed, so it may come from
/// anyone, and a removed secret cannot be restored.
fn check_room(source: &Source) -> Result<(), ProxyError> {
    if source.settings().secrets.len() < MAX_SECRETS { Ok(()) } else { Err(ProxyError::TooManySecrets) }
}

/// Formats a time for a response.
pub(super) fn rfc3339(time: std::time::SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::{super::fixture::proxy, *};
    use crate::store::{Limits, SqliteStore};

    /// A change whose client disconnects while it is being stored is not undone by the next change.
    #[tokio::test]
    async fn a_cancelled_change_takes_place_before_the_next_one() {
        let proxy = proxy(SqliteStore::in_memory(Limits::default()).await.unwrap());
        let (app, token): (AppId, _) = ("bot".parse().unwrap(), Secret::new("token"));
        let [a, b, c]: [SourceName; 3] = ["a", "b", "c"].map(|name| name.parse().unwrap());
        let put = async |name: &SourceName| {
            let settings = SourceSettings { secrets: vec![Secret::new("secret")], ..Default::default() };
            proxy.put_source(&app, &token, name, settings).await
        };
        let names = async || {
            let sources = proxy.sources(&app).await.unwrap();
            sources.into_iter().map(|source| source.name.to_string()).collect::<Vec<_>>()
        };
        assert!(put(&a).now_or_never().is_none(), "it waits for the store");
        put(&b).await.unwrap();
        assert_eq!(names().await, ["a", "b"]);
        assert!(proxy.delete_source(&app, &token, &a).now_or_never().is_none());
        put(&c).await.unwrap();
        assert_eq!(names().await, ["b", "c"]);
        assert!(proxy.unregister(&app, &token).now_or_never().is_none());
        put(&a).await.unwrap();
        assert_eq!(names().await, ["a"]);
    }
}
