//! Sources that wait for a handshake which sets their secret: an owner arms them for a short time.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use wwproxy_protocol::{
    AppId, Secret, SourceName,
    api::{ARMED_SECONDS, ArmStatus},
};

use super::{Proxy, ProxyError, sources::rfc3339};

type Key = (AppId, SourceName);

/// The armed sources, in memory: a restart disarms them.
#[derive(Debug, Default)]
pub(super) struct Armed(Mutex<HashMap<Key, State>>);

#[derive(Debug, Clone)]
struct State {
    until: SystemTime,
    /// A handshake is being stored, or was.
    used: bool,
    done: bool,
    token: Option<Secret>,
}

/// An armed source whose handshake is being stored. Armed again if it is dropped before it is done.
pub(super) struct Handshake<'a> {
    armed: &'a Armed,
    key: Key,
    is_done: bool,
}

impl Armed {
    fn arm(&self, key: Key) -> ArmStatus {
        let until = SystemTime::now() + Duration::from_secs(ARMED_SECONDS);
        let state = State { until, used: false, done: false, token: None };
        let status = state.status();
        self.states().insert(key, state);
        status
    }

    fn status(&self, key: &Key) -> ArmStatus {
        self.states().get(key).map(State::status).unwrap_or_default()
    }

    /// Begins a handshake, if the source is armed and no other handshake has begun.
    pub(super) fn take(&self, app: &AppId, name: &SourceName) -> Option<Handshake<'_>> {
        let key = (app.clone(), name.clone());
        let mut states = self.states();
        let state = states.get_mut(&key).filter(|state| !state.used)?;
        state.used = true;
        drop(states);
        Some(Handshake { armed: self, key, is_done: false })
    }

    /// The states that have not expired.
    fn states(&self) -> MutexGuard<'_, HashMap<Key, State>> {
        let mut states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = SystemTime::now();
        states.retain(|_, state| state.until > now);
        states
    }
}

impl State {
    fn status(&self) -> ArmStatus {
        ArmStatus {
            armed_until: (!self.used).then(|| rfc3339(self.until)),
            done: self.done,
            token: self.token.as_ref().map(|token| token.expose().to_owned()),
        }
    }
}

impl Handshake<'_> {
    /// Ends the handshake. `token` is shown to the owner of the source.
    pub(super) fn done(mut self, token: Option<Secret>) {
        self.is_done = true;
        if let Some(state) = self.armed.states().get_mut(&self.key) {
            (state.done, state.token) = (true, token);
        }
    }
}

impl Drop for Handshake<'_> {
    fn drop(&mut self) {
        if !self.is_done
            && let Some(state) = self.armed.states().get_mut(&self.key)
        {
            state.used = false;
        }
    }
}

impl Proxy {
    /// Arms a source for the handshake that sets its secret.
    pub(crate) async fn arm(
        &self,
        app: &AppId,
        token: &Secret,
        name: &SourceName,
    ) -> Result<ArmStatus, ProxyError> {
        let _shared = self.registration_change(app, token).await?;
        if !self.source(app, name).await?.scheme().learns_secret() {
            return Err(ProxyError::NoHandshake);
        }
        Ok(self.armed.arm((app.clone(), name.clone())))
    }

    /// Returns whether a source is armed, and whether the handshake took place.
    pub(crate) fn arm_status(&self, app: &AppId, name: &SourceName) -> ArmStatus {
        self.armed.status(&(app.clone(), name.clone()))
    }
}
