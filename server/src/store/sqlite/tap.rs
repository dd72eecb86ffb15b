//! Taps: subscribers that receive an app's events as they are stored, without leasing them.
//!
//! Each tap has a bounded buffer. A tap exerts no backpressure: an event that does not fit is counted, as a gap in its place.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use futures_util::{StreamExt, stream};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;
use wwproxy_protocol::{AppId, Event};

use crate::store::{Tap, TapItem};

/// Taps of an app, at most.
const MAX_TAPS: usize = 16;
/// Events in the buffer of a tap, at most.
const MAX_EVENTS: usize = 256;
/// Bytes of the events in the buffer of a tap, at most. One event always fits.
const MAX_BYTES: u64 = 1 << 20;

/// The taps of all apps. A tap stays when its app unregisters, and receives the events of the next registration.
#[derive(Debug, Default)]
pub(super) struct Taps(RwLock<HashMap<AppId, Vec<Arc<Feed>>>>);

/// The way to one tap.
#[derive(Debug, Default)]
struct Feed {
    buffer: Mutex<Buffer>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Buffer {
    /// Items with their sizes. No two gaps are next to each other, so there is at most one more gap than events.
    items: VecDeque<(TapItem, u32)>,
    events: usize,
    bytes: u64,
}

/// The receiving end of a tap, which frees its place when it is dropped.
struct Subscription {
    taps: Arc<Taps>,
    app: AppId,
    feed: Arc<Feed>,
}

/// Opens a tap of an app. `None` if the app has as many as it may.
pub(super) fn open(taps: &Arc<Taps>, app: &AppId) -> Option<Tap> {
    let feed = Arc::<Feed>::default();
    let mut apps = taps.0.write();
    let feeds = apps.entry(app.clone()).or_default();
    if feeds.len() >= MAX_TAPS {
        return None;
    }
    feeds.push(Arc::clone(&feed));
    drop(apps);
    let subscription = Subscription { taps: Arc::clone(taps), app: app.clone(), feed };
    let next = async |subscription: Subscription| Some((subscription.feed.next().await, subscription));
    Some(stream::unfold(subscription, next).boxed())
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut taps = self.taps.0.write();
        if let Some(feeds) = taps.get_mut(&self.app) {
            feeds.retain(|feed| !Arc::ptr_eq(feed, &self.feed));
            if feeds.is_empty() {
                taps.remove(&self.app);
            }
        }
    }
}

impl Taps {
    /// Adds committed events of an app, in order of arrival, to the buffer of each tap.
    pub(super) fn publish<'a>(
        &self,
        app: &AppId,
        events: &(impl Iterator<Item = (u32, &'a Arc<Event>)> + Clone),
    ) {
        for feed in self.0.read().get(app).into_iter().flatten() {
            let mut buffer = feed.buffer.lock();
            events.clone().for_each(|(size, event)| buffer.add(event, size));
            drop(buffer);
            feed.changed.notify_one();
        }
    }
}

impl Feed {
    async fn next(&self) -> TapItem {
        loop {
            let item = self.buffer.lock().take();
            if let Some(item) = item {
                return item;
            }
            self.changed.notified().await;
        }
    }
}

impl Buffer {
    fn add(&mut self, event: &Arc<Event>, size: u32) {
        let bytes = self.bytes + u64::from(size);
        if self.events == 0 || (self.events < MAX_EVENTS && bytes <= MAX_BYTES) {
            self.events += 1;
            self.bytes = bytes;
            self.items.push_back((TapItem::Event(Arc::clone(event)), size));
        } else if let Some((TapItem::Gap(missed), _)) = self.items.back_mut() {
            *missed += 1;
        } else {
            self.items.push_back((TapItem::Gap(1), 0));
        }
    }

    /// Takes the oldest item.
    fn take(&mut self) -> Option<TapItem> {
        let (item, size) = self.items.pop_front()?;
        self.events -= usize::from(matches!(item, TapItem::Event(_)));
        self.bytes -= u64::from(size);
        Some(item)
    }
}
