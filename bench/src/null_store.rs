//! The null store: it keeps registrations, accepts every append, and discards the event. A server with it is the ceiling.

use std::{
    collections::HashMap,
    future::{pending, ready},
    path::PathBuf,
    sync::Arc,
};

use parking_lot::RwLock;
use wwproxy_protocol::{AppId, ConsumerName, ConsumerSettings, EventId, Source, Start};
use wwproxy_server::store::{
    Appended, ConsumerStatus, DedupeKey, Delivery, Ephemeral, EventPage, EventQuery, Health, Lease, NewEvent,
    PutConsumer, Registration, Replayed, Settled, Settlement, Sought, Store, StoreError, StoreFuture,
    StoredEvent, Tap,
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

    fn lease<'a>(&'a self, _: &'a AppId, _: &'a ConsumerName, _: Lease) -> StoreFuture<'a, Vec<Delivery>> {
        Box::pin(pending())
    }

    fn settle<'a>(&'a self, _: &'a AppId, _: &'a ConsumerName, _: Settlement) -> StoreFuture<'a, Settled> {
        Box::pin(ready(Ok(Settled::default())))
    }

    fn consumers<'a>(&'a self, _: &'a AppId) -> StoreFuture<'a, Vec<ConsumerStatus>> {
        Box::pin(ready(Ok(Vec::new())))
    }

    fn health(&self) -> Health {
        Health::Ready
    }

    fn close(&self) -> StoreFuture<'_, ()> {
        Box::pin(ready(Ok(())))
    }

    fn put_consumer<'a>(
        &'a self,
        _: &'a AppId,
        _: &'a ConsumerName,
        _: ConsumerSettings,
    ) -> StoreFuture<'a, PutConsumer> {
        nothing()
    }

    fn delete_consumer<'a>(&'a self, _: &'a AppId, _: &'a ConsumerName) -> StoreFuture<'a, bool> {
        nothing()
    }

    fn seek<'a>(&'a self, _: &'a AppId, _: &'a ConsumerName, _: Start) -> StoreFuture<'a, Sought> {
        nothing()
    }

    fn open_ephemeral<'a>(&'a self, _: &'a AppId, _: Start) -> StoreFuture<'a, Option<Ephemeral>> {
        nothing()
    }

    fn replay<'a>(&'a self, _: &'a AppId, _: &'a ConsumerName, _: &'a EventId) -> StoreFuture<'a, Replayed> {
        nothing()
    }

    fn events<'a>(&'a self, _: &'a AppId, _: EventQuery) -> StoreFuture<'a, EventPage> {
        nothing()
    }

    fn event<'a>(&'a self, _: &'a AppId, _: &'a EventId) -> StoreFuture<'a, Option<StoredEvent>> {
        nothing()
    }

    fn delete_event<'a>(&'a self, _: &'a AppId, _: &'a EventId) -> StoreFuture<'a, bool> {
        nothing()
    }

    fn tap<'a>(&'a self, _: &'a AppId) -> StoreFuture<'a, Option<Tap>> {
        nothing()
    }

    fn backup(&self, _: PathBuf) -> StoreFuture<'_, ()> {
        nothing()
    }
}

fn nothing<'a, T: Send + 'a>() -> StoreFuture<'a, T> {
    Box::pin(ready(Err(StoreError::Unavailable("it stores nothing"))))
}
