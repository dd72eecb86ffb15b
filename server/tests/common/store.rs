//! Appends to a store of events that need no sender.

use std::sync::Arc;

use wwproxy_protocol::{AppId, Secret, Source};
use wwproxy_server::store::{Appended, DedupeKey, NewEvent, Store, StoreError};

/// Appends an event as if the current source of its name had just verified it. Without one any source did.
pub(crate) async fn append(
    store: &dyn Store,
    app: &AppId,
    event: NewEvent,
    key: Option<DedupeKey>,
) -> Result<Appended, StoreError> {
    let registration = store.registration(app).await?;
    let current = registration.as_ref().and_then(|found| found.source(&event.origin.source));
    let source = current.map_or_else(|| Arc::new(Source::watson_work(Secret::new("any"))), Arc::clone);
    store.append(app, source, event, key).await
}
