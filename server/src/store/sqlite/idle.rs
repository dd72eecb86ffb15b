//! The removal of consumers that no client uses.

use std::time::{Duration, Instant};

use super::{cursor::Cursor, state::Consumer, writer::Writer};
use crate::store::StoreError;

/// After a start clients have this time to come back, unless the expiry is shorter.
const RETURN: Duration = Duration::from_secs(3600);

impl Writer {
    /// Removes consumers that were not used for their time, and has the last use of the others written.
    pub(super) fn expire_consumers(&mut self, wall: i64, opened: Instant) -> Result<(), StoreError> {
        let is_idle = |consumer: &Consumer| {
            // A client may be handling a leased event for longer than the time.
            if consumer.cursor().leased_and_dead(Instant::now()).0 > 0 {
                consumer.last_use.touch();
            }
            let expiry = consumer.settings.lock().idle_expiry.unwrap_or(self.limits.consumer_idle_expiry);
            let idle =
                Duration::from_micros(wall.saturating_sub(consumer.last_use.get()).max(0).cast_unsigned());
            idle >= expiry && opened.elapsed() >= expiry.min(RETURN)
        };
        let mut idle = Vec::new();
        for (id, app) in &*self.shared.apps.read() {
            for (name, consumer) in &*app.consumers.read() {
                if !name.is_default() && is_idle(consumer) {
                    idle.push((id.clone(), name.clone()));
                } else if consumer.last_use.is_due() {
                    self.shared.update(consumer, Cursor::used);
                }
            }
        }
        for (app, name) in idle {
            if self.delete_consumer(&app, &name)? {
                tracing::info!(%app, consumer = %name, "removed a consumer that no client used");
            }
        }
        Ok(())
    }
}
