//! The deletion of an event by a client: from the history, and from every consumer.

use wwproxy_protocol::{AppId, EventId};

use super::{flush::Flush, removal::Removal, writer::Writer};
use crate::store::StoreError;

impl Writer {
    /// Deletes an event. Returns whether it was stored.
    pub(super) fn delete_event(&mut self, app: &AppId, id: &EventId) -> Result<bool, StoreError> {
        let Some(app) = self.shared.app(app) else { return Ok(false) };
        let Some(entry) = self.shared.find_event(app.id, id)? else { return Ok(false) };
        let (app_id, seq) = (app.id, entry.seq.cast_signed());
        let consumers = app.all_consumers();
        let mut flush = Flush::take(&self.shared);
        for consumer in consumers.iter().filter(|consumer| !consumer.is_ephemeral()) {
            flush.plan(consumer, |cursor, changes| cursor.plan_delete(&entry, changes));
        }
        let mut removal = Removal::new(&app);
        removal.push(entry.seq, entry.size);
        self.remove_with(flush, &[removal], |db| {
            db.execute(
                "DELETE FROM deliveries WHERE consumer_id IN (SELECT consumer_id FROM consumers WHERE app_id = ?) \
                 AND last_seq = ? AND first_seq = last_seq",
                (app_id, seq),
            )?;
            Ok(())
        })?;
        self.shared.ring.remove(entry.seq);
        for consumer in &consumers {
            let matches = consumer.filter.matches(&entry);
            self.shared.update(consumer, |cursor| cursor.delete(&entry, matches));
        }
        Ok(true)
    }
}
