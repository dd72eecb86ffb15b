//! The commands that change registrations and consumers, each in a transaction of its own.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use parking_lot::{Mutex, RwLock};
use rusqlite::Connection;
use wwproxy_protocol::{AppId, ConsumerName, ConsumerSettings, Start, api::MAX_CONSUMERS};

use super::{
    app_log::{AppLog, Total},
    commands::{Control, answer},
    cursor::Cursor,
    flush::Flush,
    registry,
    state::{App, Consumer},
    writer::Writer,
};
use crate::store::{PutConsumer, Registration, StoreError};

impl Writer {
    /// Runs a command and answers its caller.
    pub(super) fn control(&mut self, control: Control) {
        match control {
            Control::Register { app, registration: Some(registration), reply } => {
                answer(reply, self.register(&app, registration));
            }
            Control::Register { app, registration: None, reply } => answer(reply, self.unregister(&app)),
            Control::PutConsumer { app, name, settings, reply } => {
                answer(reply, self.put_consumer(&app, name, settings));
            }
            Control::DeleteConsumer { app, name, reply } => answer(reply, self.delete_consumer(&app, &name)),
            Control::Seek { app, consumer, to, reply } => answer(reply, self.seek(&app, &consumer, &to)),
            Control::DeleteEvent { app, id, reply } => answer(reply, self.delete_event(&app, &id)),
            Control::Flush { reply } => {
                let flush = Flush::take(&self.shared);
                answer(reply, if flush.is_empty() { Ok(()) } else { self.commit(Vec::new(), flush) });
            }
            Control::OpenEphemeral { app, start, reply } => answer(reply, self.open_ephemeral(&app, &start)),
            Control::Replay { app, consumer, id, reply } => answer(reply, self.replay(&app, &consumer, &id)),
        }
    }

    fn register(&mut self, app: &AppId, registration: Registration) -> Result<(), StoreError> {
        if let Some(known) = self.shared.app(app) {
            self.database.transaction(|db| registry::put_sources(db, known.id, &registration))?;
            *known.registration.write() = Arc::new(registration);
            return Ok(());
        }
        let position = self.last_seq;
        let (name, settings) = (ConsumerName::default(), ConsumerSettings::default());
        let (app_id, consumer_id) = self.database.transaction(|db| {
            let app_id = registry::insert_app(db, app)?;
            registry::put_sources(db, app_id, &registration)?;
            let consumer =
                registry::insert_consumer(db, app_id, &name, &settings, position, Total::default())?;
            Ok((app_id, consumer))
        })?;
        let cursor = Cursor::new(position, Total::default(), settings.max_attempts);
        let identity = registry::identity(app_id, &name, &settings);
        let default = Arc::new(Consumer::new(consumer_id, identity, settings, cursor).started(position));
        let new = App {
            name: Some(app.clone()),
            id: app_id,
            registration: RwLock::new(Arc::new(registration)),
            // Nothing of this epoch is before the position.
            log: Mutex::new(AppLog::new(Total::default(), Total::default(), position)),
            consumers: RwLock::new([(name, default)].into()),
            ephemeral: RwLock::default(),
            lost_ephemeral: AtomicBool::default(),
        };
        self.shared.apps.write().insert(app.clone(), Arc::new(new));
        self.shared.registered.notify_waiters();
        Ok(())
    }

    fn unregister(&mut self, app: &AppId) -> Result<(), StoreError> {
        let Some(known) = self.shared.app(app) else { return Ok(()) };
        self.database.transaction(|db| registry::remove_app(db, known.id, app))?;
        self.shared.apps.write().remove(app);
        for (_, consumer) in std::mem::take(&mut *known.consumers.write()) {
            consumer.end();
        }
        for (_, consumer) in std::mem::take(&mut *known.ephemeral.write()) {
            consumer.end();
        }
        self.retention.sweep_again(known.id);
        self.retention.purge_timelines();
        self.shared.ended.lock().push(known);
        Ok(())
    }

    fn put_consumer(
        &mut self,
        app: &AppId,
        name: ConsumerName,
        settings: ConsumerSettings,
    ) -> Result<PutConsumer, StoreError> {
        let Some(app) = self.shared.app(app) else { return Ok(PutConsumer::Unregistered) };
        let settings = registry::as_stored(settings);
        let known = app.consumers.read().get(&name).map(Arc::clone);
        if let Some(consumer) = known {
            return self.update_consumer(&app, &name, &consumer, settings);
        }
        if app.consumers.read().len() >= MAX_CONSUMERS {
            return Ok(PutConsumer::TooMany);
        }
        let Some((position, passed)) = self.start(&app, &settings.start)? else {
            return Ok(PutConsumer::NoSuchEvent);
        };
        let id = self
            .database
            .transaction(|db| registry::insert_consumer(db, app.id, &name, &settings, position, passed))?;
        let mut cursor = Cursor::new(position, passed, settings.max_attempts);
        if settings.start == Start::New {
            cursor.reached_end(passed);
        }
        let identity = registry::identity(app.id, &name, &settings);
        let consumer = Consumer::new(id, identity, settings, cursor).started(position);
        app.consumers.write().insert(name, Arc::new(consumer));
        Ok(PutConsumer::Created)
    }

    fn update_consumer(
        &mut self,
        app: &App,
        name: &ConsumerName,
        consumer: &Consumer,
        settings: ConsumerSettings,
    ) -> Result<PutConsumer, StoreError> {
        let current = consumer.settings.lock().clone();
        let fixed = |settings: &ConsumerSettings| {
            (settings.types.clone(), settings.sources.clone(), settings.start.clone())
        };
        if fixed(&settings) != fixed(&current) {
            return Ok(PutConsumer::Conflict);
        }
        if settings == current {
            return Ok(PutConsumer::Updated);
        }
        self.database
            .transaction(|db| registry::update_consumer(db, consumer.id, app.id, name, &settings))?;
        consumer.cursor().set_max_attempts(settings.max_attempts);
        consumer.identity.store(registry::identity(app.id, name, &settings), Ordering::Relaxed);
        *consumer.settings.lock() = settings;
        self.apply_overflow(app);
        Ok(PutConsumer::Updated)
    }

    pub(super) fn delete_consumer(&mut self, app: &AppId, name: &ConsumerName) -> Result<bool, StoreError> {
        let found = self.shared.consumer(app, name).filter(|_| !name.is_default());
        let Some((app, consumer)) = found else { return Ok(false) };
        // Before the rows go: no flush may bring one back.
        consumer.deleted.store(true, Ordering::Release);
        let settings = consumer.settings.lock().clone();
        let end = |db: &Connection| registry::end_consumer(db, consumer.id, app.id, name, &settings);
        if let Err(error) = self.database.transaction(end) {
            consumer.deleted.store(false, Ordering::Release);
            return Err(error);
        }
        app.consumers.write().remove(name);
        consumer.end();
        self.retention.sweep_again(app.id);
        self.retention.purge_timelines();
        Ok(true)
    }
}
