//! Replays: an event goes out once more to a consumer that has settled it.

use std::time::Instant;

use wwproxy_protocol::{AppId, ConsumerName, EventId};

use super::{
    changes::{StoredOpen, StoredState},
    flush::Flush,
    overflow::is_over,
    timeline::REPLAYED,
    writer::Writer,
};
use crate::store::{Replayed, StoreError};

impl Writer {
    /// Replays an event to a consumer. The timeline counts the replays, so that their number survives settling.
    pub(super) fn replay(
        &mut self,
        app: &AppId,
        name: &ConsumerName,
        id: &EventId,
    ) -> Result<Replayed, StoreError> {
        let Some((app, consumer)) =
            self.shared.consumer(app, name).filter(|(_, found)| !found.is_ephemeral())
        else {
            return Err(StoreError::NoConsumer(name.clone()));
        };
        let Some(entry) = self.shared.find_event(app.id, id)? else { return Ok(Replayed::NoSuchEvent) };
        let (seq, size) = (entry.seq, entry.size);
        let matches = consumer.filter.matches(&entry);
        if self.shared.update(&consumer, |cursor| cursor.is_pending(seq, matches, Instant::now())) {
            return Ok(Replayed::Pending);
        }
        if self.shared.is_off(name, &consumer) {
            return Err(StoreError::DefaultOff);
        }
        if name.is_default() && is_over(&self.limits, app.unsettled(&consumer).plus(size)) {
            return Ok(Replayed::Full);
        }
        let before: u32 = self.shared.checked(self.shared.readers.read(|db| {
            db.prepare_cached(
                "SELECT ifnull(max(attempt), 0) FROM deliveries WHERE consumer_id = ? AND last_seq = ? AND outcome = ?",
            )?
            .query_row((consumer.id, seq.cast_signed(), REPLAYED), |row| row.get(0))
        }))?;
        let replay = before + 1;
        let mut flush = Flush::take(&self.shared);
        flush.plan(&consumer, |_, changes| {
            let (state, reason) = (StoredState::Retry, None);
            // After an earlier row of the event.
            changes.rows.push(StoredOpen {
                seq,
                size,
                attempt: 0,
                replay,
                state,
                nacked_until: None,
                reason,
            });
            changes.deleted.retain(|deleted| *deleted != seq);
            changes.replayed.push((seq, replay));
        });
        self.flush_with(flush, |_| Ok(()))?;
        self.shared.update(&consumer, |cursor| cursor.replay(seq, size, replay));
        consumer.arrived.notify_one();
        Ok(Replayed::Queued(replay))
    }
}
