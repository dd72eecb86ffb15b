//! The ceiling: a store that knows who is registered, and keeps no event.

use std::{
    collections::HashMap,
    future::{pending, ready},
    sync::{Arc, PoisonError, RwLock},
};

use wwproxy_protocol::{AppId, EventId};
use wwproxy_server::store::{
    Answer, Appended, DedupeKey, Delivery, Lease, NewEvent, Registration, Settled, Settlement, Stats, Store,
    Tap,
};

#[derive(Debug, Default)]
pub(crate) struct Nothing {
    registrations: RwLock<HashMap<AppId, Arc<Registration>>>,
}

impl Store for Nothing {
    fn put_registration<'a>(&'a self, app: &'a AppId, registration: Registration) -> Answer<'a, ()> {
        let mut registrations = self.registrations.write().unwrap_or_else(PoisonError::into_inner);
        registrations.insert(app.clone(), Arc::new(registration));
        Box::pin(ready(Ok(())))
    }

    fn registration<'a>(&'a self, app: &'a AppId) -> Answer<'a, Option<Arc<Registration>>> {
        let registrations = self.registrations.read().unwrap_or_else(PoisonError::into_inner);
        Box::pin(ready(Ok(registrations.get(app).cloned())))
    }

    fn remove_registration<'a>(&'a self, app: &'a AppId) -> Answer<'a, ()> {
        self.registrations.write().unwrap_or_else(PoisonError::into_inner).remove(app);
        Box::pin(ready(Ok(())))
    }

    fn append<'a>(&'a self, _: &'a AppId, event: NewEvent, _: Option<DedupeKey>) -> Answer<'a, Appended> {
        drop(event);
        let id: EventId = "nothing".parse().expect("an id is printable ASCII");
        Box::pin(ready(Ok(Appended::Stored(id))))
    }

    fn lease<'a>(&'a self, _: &'a AppId, _: Lease) -> Answer<'a, Vec<Delivery>> {
        Box::pin(pending())
    }

    fn settle<'a>(&'a self, _: &'a AppId, _: Settlement) -> Answer<'a, Settled> {
        Box::pin(ready(Ok(Settled::default())))
    }

    fn tap<'a>(&'a self, _: &'a AppId) -> Answer<'a, Option<Tap>> {
        Box::pin(ready(Ok(None)))
    }

    fn stats<'a>(&'a self, _: &'a AppId) -> Answer<'a, Stats> {
        Box::pin(ready(Ok(Stats::default())))
    }

    fn ready(&self) -> Answer<'_, ()> {
        Box::pin(ready(Ok(())))
    }

    fn close(&self) -> Answer<'_, ()> {
        Box::pin(ready(Ok(())))
    }
}
