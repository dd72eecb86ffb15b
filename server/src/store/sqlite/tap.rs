//! Taps: subscribers that receive an app's events as they are stored, without leasing them.
//!
//! Each tap has a bounded buffer. A tap exerts no backpressure: an event that does not fit is counted, as a gap in its place.

use std::{collections::VecDeque, sync::Arc};

use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use tokio::sync::Notify;
use wwproxy_protocol::Event;

use super::state::App;
use crate::store::log::{Tap, TapItem};

/// Taps of an app, at most.
const MAX_TAPS: usize = 16;
/// Events in the buffer of a tap, at most.
const MAX_EVENTS: usize = 256;
/// Bytes of the events in the buffer of a tap, at most. One event always fits.
const MAX_BYTES: u64 = 1 << 20;

/// The taps of one app. `None` since it unregistered.
#[derive(Debug)]
pub(super) struct Taps(Mutex<Option<Vec<Arc<Feed>>>>);

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
    ended: bool,
}

/// The receiving end of a tap, which frees its place when it is dropped.
struct Subscription {
    app: Arc<App>,
    feed: Arc<Feed>,
}

impl Default for Taps {
    fn default() -> Self {
        Self(Mutex::new(Some(Vec::new())))
    }
}

/// Opens a tap of an app. `None` if the app has as many as it may, or has unregistered.
pub(super) fn open(app: Arc<App>) -> Option<Tap> {
    let feed = Arc::<Feed>::default();
    let mut taps = app.taps.0.lock();
    let feeds = taps.as_mut().filter(|feeds| feeds.len() < MAX_TAPS)?;
    feeds.push(Arc::clone(&feed));
    drop(taps);
    let subscription = Subscription { app, feed };
    let next =
        async |subscription: Subscription| subscription.feed.next().await.map(|item| (item, subscription));
    Some(stream::unfold(subscription, next).boxed())
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(feeds) = &mut *self.app.taps.0.lock() {
            feeds.retain(|feed| !Arc::ptr_eq(feed, &self.feed));
        }
    }
}

impl Taps {
    /// Adds committed events, in order of arrival, to the buffer of each tap.
    pub(super) fn publish<'a>(&self, events: &(impl Iterator<Item = (u32, &'a Arc<Event>)> + Clone)) {
        for feed in self.0.lock().iter().flatten() {
            feed.change(|buffer| events.clone().for_each(|(size, event)| buffer.add(event, size)));
        }
    }

    /// Ends all taps.
    pub(super) fn end(&self) {
        for feed in self.0.lock().take().iter().flatten() {
            feed.change(|buffer| buffer.ended = true);
        }
    }
}

impl Feed {
    fn change(&self, change: impl FnOnce(&mut Buffer)) {
        change(&mut self.buffer.lock());
        self.changed.notify_one();
    }

    /// Waits for the next item. `None` if the tap has ended.
    async fn next(&self) -> Option<TapItem> {
        loop {
            let (item, ended) = self.buffer.lock().take();
            if item.is_some() || ended {
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

    /// Takes the oldest item. Returns whether the tap has ended, too.
    fn take(&mut self) -> (Option<TapItem>, bool) {
        let Some((item, size)) = self.items.pop_front() else { return (None, self.ended) };
        self.events -= usize::from(matches!(item, TapItem::Event(_)));
        self.bytes -= u64::from(size);
        (Some(item), self.ended)
    }
}
