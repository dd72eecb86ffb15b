//! The null store: it keeps registrations, accepts every append, and discards the event. A server with it is the ceiling.

use std::{
    collections::HashMap,
    future::{pending, ready},
    sync::Arc,
};

use parking_lot::RwLock;
use wwproxy_protocol::{AppId, EventId, Source};
use wwproxy_server::store::{
    Appended, DedupeKey, Delivery, Lease, NewEvent, Registration, Settled, Settlement, Stats, Store,
    StoreFuture, Tap,
};

#[derive(Debug, Default)]
pub(crate) struct NullStore {
    registrations: RwLock<HashMap<AppId, Arc<Registration>>>,
}

impl Store for NullStore {
    fn put_registration<'a>(&'a self, app: &'a AppId, registration: Registration) -> StoreFuture<'a, ()> {
        let mut registrations = self.registrations.write();
        registrations.insert(app.clone(), Arc::new(registration));
        Box::pin(ready(Ok(())))
    }

    fn registration<'a>(&'a self, app: &'a AppId) -> StoreFuture<'a, Option<Arc<Registration>>> {
        let registrations = self.registrations.read();
        Box::pin(ready(Ok(registrations.get(app).cloned())))
    }

    fn remove_registration<'a>(&'a self, app: &'a AppId) -> StoreFuture<'a, ()> {
        self.registrations.write().remove(app);
        Box::pin(ready(Ok(())))
    }

    fn append<'a>(
        &'a self,
        _: &'a AppId,
        _: Arc<Source>,
        event: NewEvent,
        _: Option<DedupeKey>,
    ) -> StoreFuture<'a, Appended> {
        drop(event);
        let id: EventId = "discarded".parse().expect("the id is printable ASCII");
        Box::pin(ready(Ok(Appended::Stored(id))))
    }

    fn lease<'a>(&'a self, _: &'a AppId, _: Lease) -> StoreFuture<'a, Vec<Delivery>> {
        Box::pin(pending())
    }

    fn settle<'a>(&'a self, _: &'a AppId, _: Settlement) -> StoreFuture<'a, Settled> {
        Box::pin(ready(Ok(Settled::default())))
    }

    fn tap<'a>(&'a self, _: &'a AppId) -> StoreFuture<'a, Option<Tap>> {
        Box::pin(ready(Ok(None)))
    }

    fn stats<'a>(&'a self, _: &'a AppId) -> StoreFuture<'a, Stats> {
        Box::pin(ready(Ok(Stats::default())))
    }

    fn ready(&self) -> StoreFuture<'_, ()> {
        Box::pin(ready(Ok(())))
    }

    fn close(&self) -> StoreFuture<'_, ()> {
        Box::pin(ready(Ok(())))
    }
}
