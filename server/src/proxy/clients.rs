//! The connected clients of each app, and their limit.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use wwproxy_protocol::{AppId, ConsumerName};

use super::ProxyError;

/// The connected clients of every app. An app without clients has no entry.
#[derive(Debug)]
pub(super) struct Clients {
    max_per_app: usize,
    apps: Mutex<HashMap<AppId, Connected>>,
}

/// The connected clients of one app.
#[derive(Debug, Default)]
struct Connected {
    websockets: HashMap<ConsumerName, Websockets>,
    leases: usize,
}

/// The websockets of one consumer.
#[derive(Debug, Default)]
struct Websockets {
    count: usize,
    /// Cancelled when the consumer is deleted.
    ended: CancellationToken,
}

impl Connected {
    fn websockets(&self) -> usize {
        self.websockets.values().map(|websockets| websockets.count).sum()
    }

    fn all(&self) -> usize {
        self.websockets() + self.leases
    }
}

/// A client, counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Client {
    clients: Arc<Clients>,
    app: AppId,
    /// The consumer of a websocket. `None`: a lease that waits for its first event.
    consumer: Option<ConsumerName>,
}

impl Clients {
    pub(super) fn new(max_per_app: usize) -> Self {
        Self { max_per_app, apps: Mutex::default() }
    }

    /// Counts one more lease that waits, unless the app has reached its limit.
    pub(super) fn admit_lease(self: &Arc<Self>, app: &AppId) -> Result<Client, ProxyError> {
        self.admit(app, |connected| connected.leases += 1)?;
        Ok(Client { clients: Arc::clone(self), app: app.clone(), consumer: None })
    }

    /// Counts one more websocket that is not a tap, unless the app has reached its limit. Also returns what is cancelled when the
    /// consumer is deleted.
    pub(super) fn admit_websocket(
        self: &Arc<Self>,
        app: &AppId,
        consumer: &ConsumerName,
    ) -> Result<(Client, CancellationToken), ProxyError> {
        let ended = self.admit(app, |connected| {
            let websockets = connected.websockets.entry(consumer.clone()).or_default();
            websockets.count += 1;
            websockets.ended.clone()
        })?;
        let client = Client { clients: Arc::clone(self), app: app.clone(), consumer: Some(consumer.clone()) };
        Ok((client, ended))
    }

    fn admit<T>(&self, app: &AppId, count: impl FnOnce(&mut Connected) -> T) -> Result<T, ProxyError> {
        let mut apps = self.apps.lock();
        let connected = apps.entry(app.clone()).or_default();
        // The limit is at least 1, so the entry of an app that is rejected here is not empty.
        if connected.all() >= self.max_per_app {
            return Err(ProxyError::TooManyClients);
        }
        Ok(count(connected))
    }

    /// How many websockets the app has open.
    pub(super) fn websockets(&self, app: &AppId) -> usize {
        self.apps.lock().get(app).map_or(0, Connected::websockets)
    }

    /// How many websockets a consumer has open.
    pub(super) fn websockets_of(&self, app: &AppId, consumer: &ConsumerName) -> usize {
        let apps = self.apps.lock();
        apps.get(app).and_then(|app| app.websockets.get(consumer)).map_or(0, |websockets| websockets.count)
    }

    /// Closes the websockets of a consumer that was deleted.
    pub(super) fn end(&self, app: &AppId, consumer: &ConsumerName) {
        let mut apps = self.apps.lock();
        if let Some(websockets) = apps.get_mut(app).and_then(|app| app.websockets.get_mut(consumer)) {
            std::mem::take(&mut websockets.ended).cancel();
        }
    }

    /// Closes the websockets of all consumers that end with the registration of their app: all but `default`.
    pub(super) fn end_named(&self, app: &AppId) {
        let mut apps = self.apps.lock();
        for (consumer, websockets) in apps.get_mut(app).into_iter().flat_map(|app| &mut app.websockets) {
            if !consumer.is_default() {
                std::mem::take(&mut websockets.ended).cancel();
            }
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let mut apps = self.clients.apps.lock();
        let Some(connected) = apps.get_mut(&self.app) else { return };
        match &self.consumer {
            None => connected.leases -= 1,
            Some(consumer) => {
                if let Some(websockets) = connected.websockets.get_mut(consumer) {
                    websockets.count -= 1;
                }
                connected.websockets.retain(|_, websockets| websockets.count > 0);
            }
        }
        if connected.all() == 0 {
            apps.remove(&self.app);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn websockets_and_leases_share_the_limit_of_their_app() {
        let clients = Arc::new(Clients::new(2));
        let (app, other): (AppId, AppId) = ("a".parse().unwrap(), "b".parse().unwrap());
        let default = ConsumerName::default();
        let websocket = clients.admit_websocket(&app, &default).unwrap();
        let lease = clients.admit_lease(&app).unwrap();
        assert!(matches!(clients.admit_websocket(&app, &default), Err(ProxyError::TooManyClients)));
        assert!(matches!(clients.admit_lease(&app), Err(ProxyError::TooManyClients)));
        drop(clients.admit_websocket(&other, &default).unwrap());
        drop(clients.admit_lease(&other).unwrap());
        assert_eq!(clients.websockets(&app), 1);
        drop(websocket);
        assert_eq!(clients.websockets(&app), 0);
        drop(clients.admit_lease(&app).unwrap());
        drop(lease);
        assert!(clients.apps.lock().is_empty());
    }

    #[test]
    fn the_websockets_of_a_deleted_consumer_end_and_later_ones_do_not() {
        let clients = Arc::new(Clients::new(9));
        let (app, audit): (AppId, ConsumerName) = ("a".parse().unwrap(), "audit".parse().unwrap());
        let (_default, default_ended) = clients.admit_websocket(&app, &ConsumerName::default()).unwrap();
        let (_one, one_ended) = clients.admit_websocket(&app, &audit).unwrap();
        clients.end(&app, &audit);
        let (_two, two_ended) = clients.admit_websocket(&app, &audit).unwrap();
        assert_eq!(clients.websockets_of(&app, &audit), 2);
        assert!(one_ended.is_cancelled() && !two_ended.is_cancelled());
        clients.end_named(&app);
        assert!(two_ended.is_cancelled() && !default_ended.is_cancelled());
    }
}
