//! What happens when the consumer `default` has reached its limits.

use std::sync::Arc;

use wwproxy_protocol::{ConsumerName, Overflow};

use super::{
    app_log::{Next, Total},
    cursor::Cursor,
    state::{App, Consumer, READ_AHEAD, Shared},
    writer::Writer,
};
use crate::{
    log_limit::LogLimit,
    store::{Limits, StoreError},
};

/// Events that the consumer `default` had no room for.
static EVICTED: LogLimit = LogLimit::per_minute(1);

/// Events that are dropped at once, at most: after a move to the oldest event there may be a million, which would hold up the appends
/// of all apps.
const MAX_DROPPED: usize = 10_000;

/// Logs dropped events, within a rate limit.
pub(super) fn log_dropped(limit: &LogLimit, app: &App, events: u64, message: &str) {
    if events > 0
        && let Some(events) = limit.add(events)
    {
        tracing::warn!(events, last = app.name.as_ref().map(tracing::field::display), "{message}");
    }
}

/// Whether the consumer `default` has more than it may.
pub(super) fn is_over(limits: &Limits, unsettled: Total) -> bool {
    unsettled.count > limits.max_pending_events || unsettled.bytes > limits.max_pending_bytes
}

/// The consumer `default` of an app, and what happens at its limits.
pub(super) fn of_default(app: &App, limits: &Limits) -> Option<(Arc<Consumer>, Overflow)> {
    let default = app.consumers.read().get(&ConsumerName::default()).map(Arc::clone)?;
    let overflow = default.settings.lock().overflow.unwrap_or(limits.overflow);
    Some((default, overflow))
}

impl Writer {
    /// Drops what `default` may not have, after its setting or the server's changed, or after events were appended.
    pub(super) fn apply_overflow(&self, app: &App) {
        let dropped = match of_default(app, &self.limits) {
            Some((default, Overflow::DropOldest)) => {
                let before = default.cursor().dropped();
                let done = self.drop_oldest(app, &default);
                let events = default.cursor().dropped() - before;
                log_dropped(
                    &EVICTED,
                    app,
                    events,
                    "the consumer default was full: its oldest events are dropped",
                );
                done
            }
            Some((default, Overflow::Off)) => {
                drop_all(&self.shared, app, &default, self.last_seq);
                default.wake_all();
                Ok(())
            }
            _ => Ok(()),
        };
        if let Err(error) = dropped {
            tracing::debug!(%error, "the oldest events are dropped after the next append");
        }
    }

    /// Applies the setting of every app, at open.
    pub(super) fn apply_overflows(&self) {
        let apps: Vec<_> = self.shared.apps.read().values().map(Arc::clone).collect();
        for app in apps {
            self.apply_overflow(&app);
        }
    }

    /// Drops the oldest events of `default`, at most [`MAX_DROPPED`]: the next append goes on.
    fn drop_oldest(&self, app: &App, default: &Arc<Consumer>) -> Result<(), StoreError> {
        for _ in 0..MAX_DROPPED {
            let unsettled = app.unsettled(default);
            // The newest event stays, however large it is.
            if !is_over(&self.limits, unsettled) || unsettled.count <= 1 {
                return Ok(());
            }
            let newest = self.last_seq;
            let is_dropped = self.shared.update(default, Cursor::drop_waiting)
                || (self.read_on(app, default)?
                    && self.shared.update(default, |cursor| cursor.drop_fresh(newest)))
                || self.shared.update(default, Cursor::drop_leased);
            if !is_dropped {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Reads more of the log into the cursor. Returns whether there was more.
    fn read_on(&self, app: &App, default: &Consumer) -> Result<bool, StoreError> {
        let mut cursor = default.cursor();
        let Some(from) = cursor.wants_fresh(1) else { return Ok(true) };
        let next = app.log.lock().after(from, READ_AHEAD);
        let (entries, scanned) = match next {
            Next::End => {
                cursor.reached_end(app.log.lock().total);
                return Ok(false);
            }
            Next::Memory(entries) => (entries, from),
            Next::Database(indexed) => {
                drop(cursor);
                let entries = self.shared.read_index(app.id, from, READ_AHEAD)?;
                cursor = default.cursor();
                (entries, indexed)
            }
        };
        let scanned = entries.last().map_or(scanned, |entry| entry.seq);
        cursor.add_fresh(from, scanned, entries);
        Ok(true)
    }
}

fn drop_all(shared: &Shared, app: &App, default: &Arc<Consumer>, last_seq: u64) {
    shared.update(default, |cursor| {
        let total = app.log.lock().total;
        cursor.drop_all(last_seq, total);
    });
}
