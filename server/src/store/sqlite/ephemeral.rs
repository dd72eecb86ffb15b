//! Ephemeral consumers: in memory only, until the value that stands for one is dropped.

use std::sync::{Arc, atomic::Ordering};

use wwproxy_protocol::{AppId, ConsumerName, ConsumerSettings, Start};

use super::{
    Seq,
    cursor::Cursor,
    record::decode_id,
    registry,
    state::{App, Consumer},
    writer::Writer,
};
use crate::store::{Ephemeral, StoreError};

/// Ends an ephemeral consumer when it is dropped.
struct End {
    app: Arc<App>,
    name: ConsumerName,
}

impl Drop for End {
    fn drop(&mut self) {
        let ended = self.app.ephemeral.write().remove(&self.name);
        if let Some(consumer) = ended {
            consumer.end();
            self.app.lost_ephemeral.store(true, Ordering::Release);
        }
    }
}

impl Writer {
    /// Opens an ephemeral consumer. `None`: the app is not registered, or never had the event of [`Start::After`].
    pub(super) fn open_ephemeral(
        &mut self,
        app: &AppId,
        start: &Start,
    ) -> Result<Option<Ephemeral>, StoreError> {
        let Some(app) = self.shared.app(app) else { return Ok(None) };
        let position = match (self.start(&app, start)?, start) {
            (Some((position, _)), _) => Some(position),
            // A client goes on after the last event that it received, which retention may have removed.
            (None, Start::After(id)) => self.removed(id)?,
            (None, _) => None,
        };
        let Some(position) = position else { return Ok(None) };
        let missed = if *start == Start::All { 0 } else { self.missed(&app, position)? };
        let number = self.shared.lease_number();
        let name = ConsumerName::ephemeral(number);
        let cursor = Cursor::new(position, self.shared.total_at(&app, position)?, 0);
        // No row of the database has a negative id.
        let consumer = Consumer::new(-number.cast_signed(), 0, ConsumerSettings::default(), cursor);
        app.ephemeral.write().insert(name.clone(), Arc::new(consumer));
        Ok(Some(Ephemeral { name: name.clone(), missed, _end: Box::new(End { app, name }) }))
    }

    /// The seq of an event that is not stored any more. `None`: it is another app's, or was never stored.
    fn removed(&self, id: &wwproxy_protocol::EventId) -> Result<Option<Seq>, StoreError> {
        let Some((seq, _)) = decode_id(id).filter(|(seq, _)| *seq <= self.last_seq) else { return Ok(None) };
        let found = self.shared.checked(self.shared.readers.read(|db| registry::totals_at(db, seq)))?;
        Ok(found.is_none().then_some(seq))
    }

    /// How many events after a position were removed, at most: all that were removed of the app, unless fewer events of all apps are
    /// between the position and the oldest event of the app.
    fn missed(&self, app: &App, position: Seq) -> Result<u64, StoreError> {
        let oldest = self.shared.first_after(app, 0)?.map_or(self.last_seq + 1, |entry| entry.seq);
        let removed = self.shared.total_at(app, 0)?.count;
        Ok(removed.min(oldest.saturating_sub(position + 1)))
    }
}
