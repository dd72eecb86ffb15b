//! Sources that wait for a handshake which sets their secret: their owner arms them for a short time.

use std::{
    collections::HashMap,
    time::{Duration, Instant, SystemTime},
};

use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};
use wwproxy_protocol::{
    AppId, Secret, SourceName,
    api::{ARMED_SECONDS, ArmStatus},
};

use super::sources::rfc3339;

/// The armed sources, in memory: a restart disarms them. Changed under the lock of the app's sources.
#[derive(Debug, Default)]
pub(super) struct Armed(Mutex<HashMap<AppId, HashMap<SourceName, State>>>);

#[derive(Debug)]
struct State {
    expires: Instant,
    /// The time of the expiry, for the owner.
    until: SystemTime,
    /// Whether a handshake has set the secret.
    done: bool,
    /// The secret, if the owner has to enter it at the sender.
    token: Option<Secret>,
}

impl Armed {
    pub(super) fn arm(&self, app: &AppId, name: &SourceName) -> ArmStatus {
        let time = Duration::from_secs(ARMED_SECONDS);
        let (expires, until) = (Instant::now() + time, SystemTime::now() + time);
        let state = State { expires, until, done: false, token: None };
        let status = state.status();
        self.0.lock().entry(app.clone()).or_default().insert(name.clone(), state);
        status
    }

    pub(super) fn status(&self, app: &AppId, name: &SourceName) -> ArmStatus {
        self.current(app, name).map(|state| state.status()).unwrap_or_default()
    }

    /// Whether the source is armed, and no handshake has set its secret since.
    pub(super) fn expects_handshake(&self, app: &AppId, name: &SourceName) -> bool {
        self.current(app, name).is_some_and(|state| !state.done)
    }

    /// Ends the wait for a handshake. `token` is shown to the owner of the source until the time is over.
    pub(super) fn set_done(&self, app: &AppId, name: &SourceName, token: Option<Secret>) {
        if let Some(mut state) = self.current(app, name) {
            (state.done, state.token) = (true, token);
        }
    }

    /// Disarms a source, or all sources of an app.
    pub(super) fn disarm(&self, app: &AppId, name: Option<&SourceName>) {
        let mut apps = self.0.lock();
        if let (Some(name), Some(sources)) = (name, apps.get_mut(app)) {
            sources.remove(name);
            if !sources.is_empty() {
                return;
            }
        }
        apps.remove(app);
    }

    /// The state of a source, unless its time is over.
    fn current(&self, app: &AppId, name: &SourceName) -> Option<MappedMutexGuard<'_, State>> {
        let now = Instant::now();
        MutexGuard::try_map(self.0.lock(), |apps| {
            let sources = apps.get_mut(app)?;
            sources.retain(|_, state| state.expires > now);
            sources.get_mut(name)
        })
        .ok()
    }
}

impl State {
    fn status(&self) -> ArmStatus {
        ArmStatus {
            armed_until: (!self.done).then(|| rfc3339(self.until)),
            done: self.done,
            token: self.token.as_ref().map(|token| token.expose().to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use http::HeaderMap;
    use tokio::time::timeout;
    use wwproxy_protocol::SourceSettings;

    use super::super::{fixture::webhook, *};
    use super::*;
    use crate::store::{Limits, SqliteStore};

    /// The longest time that a change of a source may take, on a busy machine.
    const MAX_TIME: Duration = Duration::from_secs(20);

    async fn handshake(
        proxy: &Proxy,
        app: &AppId,
        name: &SourceName,
        secret: &'static str,
    ) -> (Arc<Webhook>, Verified) {
        let headers: HeaderMap =
            [("x-hook-secret".parse().unwrap(), secret.parse().unwrap())].into_iter().collect();
        let webhook = webhook(headers, "{}");
        let permit = proxy.verification_permit(app, &webhook).await.unwrap();
        let verified = proxy.verify(app, name, &webhook, permit).await.unwrap();
        (webhook, verified)
    }

    /// A handshake whose sender disconnects while its secret is being stored takes place as a whole.
    #[tokio::test]
    async fn a_cancelled_handshake_leaves_no_source_armed() {
        let proxy = fixture::proxy(SqliteStore::in_memory(Limits::default()).await.unwrap());
        let token = Secret::new("token");
        let (app, name): (AppId, SourceName) = ("bot".parse().unwrap(), "asana".parse().unwrap());
        let settings = SourceSettings { scheme: "asana".into(), secrets: Vec::new(), ..Default::default() };
        proxy.put_source(&app, &token, &name, settings.clone()).await.unwrap();
        proxy.arm(&app, &token, &name).await.unwrap();
        let (first, verified) = handshake(&proxy, &app, &name, "first").await;
        assert!(
            proxy.receive(&app, &name, &first, verified).now_or_never().is_none(),
            "it waits for the store"
        );
        // Waits until the change has released the app's lock.
        let changed = async || drop(timeout(MAX_TIME, proxy.source_locks.lock(&app)).await.unwrap());
        changed().await;
        assert_eq!(proxy.sources(&app).await.unwrap()[0].secrets, 1);
        let (second, verified) = handshake(&proxy, &app, &name, "second").await;
        let second = proxy.receive(&app, &name, &second, verified).await;
        assert!(matches!(second, Err(ProxyError::NotArmed)), "a second handshake is refused");
        assert!(proxy.arm_status(&app, &name).done);
        proxy.arm(&app, &token, &name).await.unwrap();
        assert!(proxy.put_source(&app, &token, &name, settings).now_or_never().is_none());
        changed().await;
        assert_eq!(proxy.arm_status(&app, &name), ArmStatus::default(), "a cancelled PUT disarms");
    }
}
