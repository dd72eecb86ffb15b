//! Counts the pending events of a consumer with a filter, when its state is asked for the first time.
//!
//! A count reads the index in bounded slices, so that no read transaction lasts long.

use std::sync::Arc;

use super::{
    app_log::{Next, Total},
    cursor::Count,
    state::{App, Consumer, Shared},
};
use crate::store::StoreError;

/// Rows of the index that one read transaction counts, at most.
const SLICE: usize = 4096;

/// Begins to count, unless the number is known.
pub(super) fn spawn(shared: &Arc<Shared>, app: &Arc<App>, consumer: &Arc<Consumer>) {
    let Some(count) = consumer.cursor().begin_count() else { return };
    let (shared, app, consumer) = (Arc::clone(shared), Arc::clone(app), Arc::clone(consumer));
    tokio::spawn(async move {
        if let Err(error) = run(&shared, &app, &consumer, &count).await {
            tracing::debug!(%error, "the pending events of a consumer were not counted");
            consumer.cursor().abandon_count(&count);
        }
    });
}

async fn run(
    shared: &Arc<Shared>,
    app: &Arc<App>,
    consumer: &Consumer,
    count: &Count,
) -> Result<(), StoreError> {
    let (mut from, mut matching) = (count.from, Total::default());
    while !consumer.is_deleted() {
        let entries = {
            let mut cursor = consumer.cursor();
            let next = app.log.lock().after(from, SLICE);
            match next {
                Next::End => {
                    cursor.end_count(count, matching, from);
                    return Ok(());
                }
                Next::Memory(entries) => Ok(entries),
                Next::Database(indexed) => Err(indexed),
            }
        };
        let entries = match entries {
            Ok(entries) => entries,
            Err(indexed) => {
                let (shared, app_id) = (Arc::clone(shared), app.id);
                let read = move || shared.read_index(app_id, from, SLICE);
                let entries = tokio::task::spawn_blocking(read).await.map_err(StoreError::engine)??;
                from = if entries.is_empty() { indexed } else { from };
                entries
            }
        };
        from = entries.last().map_or(from, |entry| entry.seq);
        let counted =
            entries.iter().filter(|entry| consumer.filter.matches(entry) && count.includes(entry.seq));
        matching = counted.fold(matching, |matching, entry| matching.plus(entry.size));
    }
    Ok(())
}
