//! Taps: who looks on as an app's events arrive, and takes none of them.
//!
//! What is stored is put into a buffer for each tap. Nobody ever waits for one: what does not fit is
//! counted, and told as a gap in its place.

use std::sync::{Arc, Mutex};

use tokio::sync::Notify;
use wwproxy_protocol::Event;

use super::queues::{AppQueue, lock};

/// The most taps that one app has open at once.
const MAX_TAPS: usize = 16;
/// The most events that wait for one tap.
const MAX_WAITING_EVENTS: usize = 256;
/// The most bytes of events that wait for one tap, though one event always may.
const MAX_WAITING_BYTES: u64 = 1 << 20;

/// What a tap sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// An event, which was stored.
    Event(Arc<Event>),
    /// So many events were stored here that the tap is not shown.
    Gap(u64),
}

/// Sees an app's events as they arrive, until it is dropped.
#[derive(Debug)]
pub struct Tap {
    queue: Arc<AppQueue>,
    feed: Arc<Feed>,
}

/// The taps of one app.
#[derive(Debug, Default)]
pub(super) struct Taps(Mutex<Vec<Arc<Feed>>>);

/// The way to one tap.
#[derive(Debug, Default)]
struct Feed {
    waiting: Mutex<Waiting>,
    arrived: Notify,
}

/// What has arrived since the tap last looked.
#[derive(Debug, Default)]
struct Waiting {
    /// No two gaps stand next to each other, so there are never many more of them than events.
    shown: Vec<Shown>,
    events: usize,
    bytes: u64,
}

impl Tap {
    /// A tap on this queue, or `None` where it has as many as it may.
    pub(super) fn open(queue: Arc<AppQueue>) -> Option<Self> {
        let feed = Arc::<Feed>::default();
        let mut taps = lock(&queue.taps().0);
        if taps.len() >= MAX_TAPS {
            return None;
        }
        taps.push(Arc::clone(&feed));
        drop(taps);
        Some(Self { queue, feed })
    }

    /// All that has arrived since the last time, in order of arrival; waits for a first event. Dropping
    /// the future loses nothing.
    pub async fn next(&mut self) -> Vec<Shown> {
        loop {
            let Waiting { shown, .. } = std::mem::take(&mut *lock(&self.feed.waiting));
            if !shown.is_empty() {
                return shown;
            }
            self.feed.arrived.notified().await;
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        lock(&self.queue.taps().0).retain(|feed| !Arc::ptr_eq(feed, &self.feed));
    }
}

impl Taps {
    /// Shows an event of so many bytes to each tap. It is only made where there is one.
    pub(super) fn show(&self, size: u32, event: impl FnOnce() -> Event) {
        let taps = lock(&self.0);
        if taps.is_empty() {
            return;
        }
        let event = Arc::new(event());
        for feed in taps.iter() {
            lock(&feed.waiting).add(&event, size);
            feed.arrived.notify_one();
        }
    }
}

impl Waiting {
    fn add(&mut self, event: &Arc<Event>, size: u32) {
        let bytes = self.bytes + u64::from(size);
        let has_room = self.events < MAX_WAITING_EVENTS && bytes <= MAX_WAITING_BYTES;
        if self.events > 0 && !has_room {
            return self.miss();
        }
        self.events += 1;
        self.bytes = bytes;
        self.shown.push(Shown::Event(Arc::clone(event)));
    }

    fn miss(&mut self) {
        match self.shown.last_mut() {
            Some(Shown::Gap(missed)) => *missed += 1,
            _ => self.shown.push(Shown::Gap(1)),
        }
    }
}
