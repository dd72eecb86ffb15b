//! What is dropped in time: events older than the retention, keys beyond their window, and memory that nobody
//! needs.

use std::time::SystemTime;

use super::{change::Change, writer::Writer};
use crate::store::sequence;

impl Writer {
    /// Drops events whose time is over, and keys that need not be known any more.
    pub(super) fn sweep(&mut self) {
        let floor = SystemTime::now().checked_sub(self.limits.retention).map_or(0, sequence::at);
        let mut old = Vec::new();
        for (app, queue) in self.shared.queues.all() {
            let (slots, dropped) = {
                let mut queue = queue.lock();
                queue.rest();
                // What cannot be looked through now is looked through the next time.
                let slots = queue.older_than(tokio::time::Instant::now(), floor).unwrap_or_default();
                (slots, queue.dropped())
            };
            if !slots.is_empty() {
                old.push((app, queue, slots, dropped));
            }
        }
        self.shared.queues.prune();
        let keys = self.recent.floor();
        if old.is_empty() && keys.is_none() {
            return;
        }
        let mut changes = Vec::new();
        for (app, _, slots, dropped) in &old {
            changes.push(Change::Delete(slots.iter().map(|slot| slot.seq).collect()));
            changes.push(Change::Drop { app: app.clone(), count: dropped + slots.len() as u64 });
        }
        changes.extend(keys.map(|below| Change::Forget { below }));
        // Where that is not durable yet and comes back with the next start, it is swept again.
        self.delete(changes);
        for (app, queue, slots, _) in old {
            self.shared.queues.log_expired(&app, slots.len() as u64);
            let mut queue = queue.lock();
            for slot in slots {
                queue.forget(slot);
            }
        }
        if let Some(floor) = keys {
            self.recent.forget_below(floor);
        }
    }
}
