//! One app's queue, with shorthands for the tests.

use std::{ops::Range, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use wwproxy_protocol::{AppId, EventId, Secret, api::Receipt};
use wwproxy_server::store::{
    Appended, DedupeKey, Delivery, Lease, Limits, NewEvent, Registration, Settled, Settlement, Stats, Store,
};

use crate::store::append;

/// A duration longer than any test.
pub(crate) const LONG: Duration = Duration::from_secs(600);
/// A lease or a delay whose expiry the test waits for.
pub(crate) const SHORT: Duration = Duration::from_millis(50);
/// How long a test waits for an expected state.
pub(crate) const DEADLINE: Duration = Duration::from_secs(5);

/// Opens the store of one test.
pub(crate) type Open<'a> = &'a dyn Fn(Limits) -> Arc<dyn Store>;

/// One app's queue in a store. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct TestQueue {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) app: AppId,
}

impl TestQueue {
    /// Opens a store with the default limits and registers an app.
    pub(crate) async fn open(open: Open<'_>) -> Self {
        Self::limited(open, Limits::default()).await
    }

    pub(crate) async fn limited(open: Open<'_>, limits: Limits) -> Self {
        Self::register(open(limits), "app-1").await
    }

    pub(crate) async fn register(store: Arc<dyn Store>, app: &str) -> Self {
        let queue = Self { store, app: app.parse().unwrap() };
        queue.register_with("secret").await;
        queue
    }

    pub(crate) async fn register_with(&self, secret: &str) {
        self.store.put_registration(&self.app, registration(secret)).await.unwrap();
    }

    pub(crate) async fn unregister(&self) {
        self.store.remove_registration(&self.app).await.unwrap();
    }

    /// Another app's queue in the same store.
    pub(crate) async fn other(&self, app: &str) -> Self {
        Self::register(Arc::clone(&self.store), app).await
    }

    /// Appends an event that must be stored.
    pub(crate) async fn append(&self, n: u32) -> EventId {
        match self.try_append(event(n), None).await {
            Appended::Stored(id) => id,
            rejected => panic!("event {n}: {rejected:?}"),
        }
    }

    pub(crate) async fn append_all(&self, numbers: impl IntoIterator<Item = u32>) {
        for n in numbers {
            self.append(n).await;
        }
    }

    /// Appends these events in order, up to 20 concurrently.
    pub(crate) async fn append_together(&self, numbers: Range<u32>) {
        let mut ids = stream::iter(numbers).map(|n| self.append(n)).buffered(20);
        let mut last = None;
        while let Some(id) = ids.next().await {
            assert!(last < Some(id.clone()), "ids ascend in append order");
            last = Some(id);
        }
    }

    pub(crate) async fn try_append(&self, event: NewEvent, key: Option<DedupeKey>) -> Appended {
        append(&*self.store, &self.app, event, key).await.unwrap()
    }

    /// Leases available events without waiting, for [`LONG`].
    pub(crate) async fn take(&self, max_events: usize) -> Vec<Delivery> {
        self.take_for(max_events, LONG).await
    }

    pub(crate) async fn take_for(&self, max_events: usize, time: Duration) -> Vec<Delivery> {
        self.lease(Lease { time, ..now(max_events) }).await
    }

    /// Waits for events until the deadline and leases them for [`LONG`].
    pub(crate) async fn wait(&self, max_events: usize) -> Vec<Delivery> {
        self.lease(Lease { wait: DEADLINE, ..now(max_events) }).await
    }

    pub(crate) async fn lease(&self, lease: Lease) -> Vec<Delivery> {
        self.store.lease(&self.app, lease).await.unwrap()
    }

    pub(crate) async fn ack(&self, deliveries: &[Delivery]) -> Settled {
        self.settle(receipts(deliveries), Vec::new()).await
    }

    pub(crate) async fn release(&self, deliveries: &[Delivery]) -> Settled {
        self.settle(Vec::new(), receipts(deliveries)).await
    }

    pub(crate) async fn nack(&self, deliveries: &[Delivery], delay: Duration) -> Settled {
        let nacks = receipts(deliveries).into_iter().map(|receipt| (receipt, delay)).collect();
        self.store.settle(&self.app, Settlement { nacks, ..Settlement::default() }).await.unwrap()
    }

    pub(crate) async fn settle(&self, acks: Vec<Receipt>, releases: Vec<Receipt>) -> Settled {
        self.store.settle(&self.app, Settlement { acks, releases, ..Settlement::default() }).await.unwrap()
    }

    pub(crate) async fn stats(&self) -> Stats {
        self.store.stats(&self.app).await.unwrap()
    }

    /// Leases and acknowledges all available events, and returns their numbers in order.
    pub(crate) async fn drain(&self) -> Vec<u32> {
        let mut drained = Vec::new();
        loop {
            let taken = self.take(100).await;
            if taken.is_empty() {
                return drained;
            }
            drained.extend(numbers(&taken));
            assert_eq!(self.ack(&taken).await.acked, taken.len());
        }
    }
}

pub(crate) fn registration(secret: &str) -> Registration {
    Registration::watson_work(Secret::new(secret))
}

/// An event with its number in the body. All these events have the same size.
pub(crate) fn event(n: u32) -> NewEvent {
    let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
    NewEvent::new(headers, None, format!(r#"{{"n":{n:06}}}"#).into())
}

/// An event with its number in the body, larger by `bytes`.
pub(crate) fn larger(n: u32, bytes: usize) -> NewEvent {
    let body = format!(r#"{{"n":{n:06}}}{}"#, " ".repeat(bytes));
    NewEvent::new(event(n).headers, None, body.into())
}

pub(crate) fn number(delivery: &Delivery) -> u32 {
    std::str::from_utf8(&delivery.event.body[5..11]).unwrap().parse().unwrap()
}

pub(crate) fn numbers(deliveries: &[Delivery]) -> Vec<u32> {
    deliveries.iter().map(number).collect()
}

pub(crate) fn receipts(deliveries: &[Delivery]) -> Vec<Receipt> {
    deliveries.iter().map(|delivery| delivery.receipt.clone()).collect()
}

#[expect(clippy::unnecessary_wraps, reason = "the type that an append takes")]
pub(crate) fn key(n: u8) -> Option<DedupeKey> {
    Some([n; 16])
}

/// A lease of available events, without waiting, for [`LONG`].
pub(crate) fn now(max_events: usize) -> Lease {
    Lease { max_events, max_bytes: u64::MAX, wait: Duration::ZERO, time: LONG }
}

/// Polls a condition until it holds; panics after the deadline.
pub(crate) async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let polling = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let outcome = tokio::time::timeout(DEADLINE, polling).await;
    assert!(outcome.is_ok(), "not within {DEADLINE:?}: {what}");
}
