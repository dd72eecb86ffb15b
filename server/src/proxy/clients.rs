//! The connected clients of each app, and their limit.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use wwproxy_protocol::AppId;

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
    websockets: usize,
    leases: usize,
}

impl Connected {
    fn count(&mut self, kind: Kind) -> &mut usize {
        match kind {
            Kind::Websocket => &mut self.websockets,
            Kind::Lease => &mut self.leases,
        }
    }

    fn all(&self) -> usize {
        self.websockets + self.leases
    }
}

/// How a client receives events.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// A websocket that is not a tap.
    Websocket,
    /// A lease that waits for its first event.
    Lease,
}

/// A client, counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Client {
    clients: Arc<Clients>,
    app: AppId,
    kind: Kind,
}

impl Clients {
    pub(super) fn new(max_per_app: usize) -> Self {
        Self { max_per_app, apps: Mutex::default() }
    }

    /// Counts one more client, unless the app has reached its limit.
    pub(super) fn admit(self: &Arc<Self>, app: &AppId, kind: Kind) -> Result<Client, ProxyError> {
        let mut apps = self.apps.lock();
        let connected = apps.entry(app.clone()).or_default();
        // The limit is at least 1, so the entry of an app that is rejected here is not empty.
        if connected.all() >= self.max_per_app {
            return Err(ProxyError::TooManyClients);
        }
        *connected.count(kind) += 1;
        drop(apps);
        Ok(Client { clients: Arc::clone(self), app: app.clone(), kind })
    }

    /// How many websockets the app has open.
    pub(super) fn websockets(&self, app: &AppId) -> usize {
        self.apps.lock().get(app).map_or(0, |connected| connected.websockets)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let mut apps = self.clients.apps.lock();
        if let Some(connected) = apps.get_mut(&self.app) {
            *connected.count(self.kind) -= 1;
            if connected.all() == 0 {
                apps.remove(&self.app);
            }
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
        let websocket = clients.admit(&app, Kind::Websocket).unwrap();
        let lease = clients.admit(&app, Kind::Lease).unwrap();
        for kind in [Kind::Websocket, Kind::Lease] {
            assert!(matches!(clients.admit(&app, kind), Err(ProxyError::TooManyClients)));
            clients.admit(&other, kind).unwrap();
        }
        assert_eq!(clients.websockets(&app), 1);
        drop(websocket);
        assert_eq!(clients.websockets(&app), 0);
        drop(clients.admit(&app, Kind::Websocket).unwrap());
        drop(lease);
        assert!(clients.apps.lock().is_empty());
    }
}
