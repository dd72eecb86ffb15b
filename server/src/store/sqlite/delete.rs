//! The deletion of events from the history and from every consumer: one event by a client, or many since the store is over its size.

use std::sync::Arc;

use rusqlite::Connection;
use wwproxy_protocol::{AppId, EventId};

use super::{app_log::Entry, flush::Flush, removal::Removal, state::App, writer::Writer};
use crate::store::StoreError;

impl Writer {
    /// Deletes an event. Returns whether it was stored.
    pub(super) fn delete_event(&mut self, app: &AppId, id: &EventId) -> Result<bool, StoreError> {
        let Some(app) = self.shared.app(app) else { return Ok(false) };
        let Some(entry) = self.shared.find_event(app.id, id)? else { return Ok(false) };
        let (app_id, seq) = (app.id, entry.seq.cast_signed());
        self.delete(&app, &[entry], false, |db| {
            db.execute(
                "DELETE FROM deliveries WHERE consumer_id IN (SELECT consumer_id FROM consumers WHERE app_id = ?) \
                 AND last_seq = ? AND first_seq = last_seq",
                (app_id, seq),
            )?;
            Ok(())
        })?;
        Ok(true)
    }

    /// Deletes events, whether consumers have settled them or not. `counts`: consumers that have not count them as dropped.
    pub(super) fn delete(
        &mut self,
        app: &Arc<App>,
        entries: &[Entry],
        counts: bool,
        write: impl FnOnce(&Connection) -> rusqlite::Result<()>,
    ) -> Result<(), StoreError> {
        let consumers = app.all_consumers();
        let mut flush = Flush::take(&self.shared);
        for consumer in consumers.iter().filter(|consumer| !consumer.is_ephemeral()) {
            flush.plan(consumer, |cursor, changes| {
                for entry in entries {
                    cursor.plan_delete(entry, consumer.filter.matches(entry), counts, changes);
                }
            });
        }
        let mut removal = Removal::new(app);
        for entry in entries {
            removal.push(entry.seq, entry.size);
        }
        self.remove_with(flush, &[removal], write)?;
        for entry in entries {
            self.shared.ring.remove(entry.seq);
            for consumer in &consumers {
                let matches = consumer.filter.matches(entry);
                self.shared.update(consumer, |cursor| cursor.delete(entry, matches, counts));
            }
        }
        Ok(())
    }
}
