//! A store with one app, and shorthands for the tests.

use std::{fs, path::Path, sync::Arc, time::Duration};

use futures_util::future::join_all;
use rusqlite::Connection;
use tempfile::TempDir;
use wwproxy_protocol::{AppId, ConsumerName, ConsumerSettings, EventId, Secret, Source, api::Receipt};
use wwproxy_server::store::{
    Appended, ConsumerStatus, DedupeKey, Delivery, Lease, Limits, NewEvent, PutConsumer, Registration,
    Reject, Release, Settled, Settlement, SqliteStore, Store, StoreError,
};

pub(crate) use crate::eventually::{DEADLINE, eventually};

/// A duration longer than any test.
pub(crate) const LONG: Duration = Duration::from_secs(600);
/// A lease or a delay whose end the test waits for.
pub(crate) const SHORT: Duration = Duration::from_millis(50);

/// A store in a folder of its own, with the app `app-1`.
#[derive(Debug)]
pub(crate) struct TestLog {
    pub(crate) folder: TempDir,
    pub(crate) log: Arc<SqliteStore>,
    pub(crate) app: AppId,
}

impl TestLog {
    pub(crate) async fn new() -> Self {
        Self::limited(Limits::default()).await
    }

    pub(crate) async fn limited(limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = Arc::new(SqliteStore::open(folder.path(), limits).await.unwrap());
        let this = Self { folder, log, app: "app-1".parse().unwrap() };
        this.register("app-1").await;
        this
    }

    /// The same store, with another app.
    pub(crate) fn of_app(&self, app: AppId) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), log: Arc::clone(&self.log), app }
    }

    pub(crate) async fn register(&self, app: &str) -> AppId {
        let app = app.parse().unwrap();
        self.log.put_registration(&app, registration()).await.unwrap();
        app
    }

    /// Closes the store and opens it again.
    pub(crate) async fn reopen(self) -> Self {
        self.log.close().await.unwrap();
        self.open_again().await
    }

    /// Closes the store and opens it again, after a statement that changes one row.
    pub(crate) async fn reopen_after(self, statement: &str) -> Self {
        self.log.close().await.unwrap();
        let db = Connection::open(self.folder.path().join("log.sqlite")).unwrap();
        assert_eq!(db.execute(statement, []).unwrap(), 1, "{statement}");
        drop(db);
        self.open_again().await
    }

    /// Opens what a killed server would leave on its disk now.
    pub(crate) async fn crash(&self) -> Self {
        let folder = tempfile::tempdir().unwrap();
        copy(self.folder.path(), folder.path());
        let log = Arc::new(SqliteStore::open(folder.path(), Limits::default()).await.unwrap());
        Self { folder, log, app: self.app.clone() }
    }

    pub(crate) async fn try_append(&self, event: NewEvent) -> Appended {
        self.try_append_to(&self.app, event).await
    }

    /// Appends an event as if the current source of its name had just verified it. Without one any source did.
    async fn try_append_to(&self, app: &AppId, event: NewEvent) -> Appended {
        self.append_keyed(app, event, None).await.unwrap()
    }

    /// Appends an event with a dedupe key, as [`Self::try_append`] does.
    pub(crate) async fn append_keyed(
        &self,
        app: &AppId,
        event: NewEvent,
        key: Option<DedupeKey>,
    ) -> Result<Appended, StoreError> {
        let registration = self.log.registration(app).await.unwrap();
        let current = registration.as_ref().and_then(|found| found.source(&event.origin.source));
        let source = current.map_or_else(|| Arc::new(Source::watson_work(Secret::new("any"))), Arc::clone);
        self.log.append(app, source, event, key).await
    }

    /// Opens the store again after its files were changed. It must be closed.
    pub(crate) async fn open_again(self) -> Self {
        let log = Arc::new(SqliteStore::open(self.folder.path(), Limits::default()).await.unwrap());
        Self { log, ..self }
    }

    pub(crate) async fn append(&self, n: u32) -> EventId {
        self.append_to(&self.app, event(n)).await
    }

    pub(crate) async fn append_to(&self, app: &AppId, event: NewEvent) -> EventId {
        match self.try_append_to(app, event).await {
            Appended::Stored(id) => id,
            rejected => panic!("{rejected:?}"),
        }
    }

    pub(crate) async fn append_all(&self, numbers: impl IntoIterator<Item = u32>) {
        for n in numbers {
            self.append(n).await;
        }
    }

    /// Appends many events in few commits. Returns their numbers in the order of their ids.
    pub(crate) async fn append_many(&self, app: &AppId, numbers: impl IntoIterator<Item = u32>) -> Vec<u32> {
        let append = async |n| (self.append_to(app, event(n)).await, n);
        let mut appended = join_all(numbers.into_iter().map(append)).await;
        appended.sort();
        appended.into_iter().map(|(_, n)| n).collect()
    }

    pub(crate) async fn put(&self, name: &str, settings: ConsumerSettings) -> PutConsumer {
        self.log.put_consumer(&self.app, &consumer(name), settings).await.unwrap()
    }

    pub(crate) async fn status(&self, name: &str) -> ConsumerStatus {
        let all = self.log.consumers(&self.app).await.unwrap();
        all.into_iter().find(|status| status.name.as_str() == name).unwrap()
    }

    /// Leases available events of `default`, for [`LONG`].
    pub(crate) async fn take(&self, max_events: usize) -> Vec<Delivery> {
        self.lease("default", now(max_events)).await
    }

    /// Waits for events until the deadline.
    pub(crate) async fn wait(&self, max_events: usize) -> Vec<Delivery> {
        self.lease("default", Lease { wait: DEADLINE, ..now(max_events) }).await
    }

    pub(crate) async fn lease(&self, name: &str, lease: Lease) -> Vec<Delivery> {
        self.log.lease(&self.app, &consumer(name), lease).await.unwrap()
    }

    pub(crate) async fn settle(&self, name: &str, settlement: Settlement) -> Settled {
        self.log.settle(&self.app, &consumer(name), settlement).await.unwrap()
    }

    pub(crate) async fn ack(&self, name: &str, deliveries: &[Delivery]) -> Settled {
        self.settle(name, Settlement { acks: receipts(deliveries), ..Settlement::default() }).await
    }

    pub(crate) async fn release(&self, deliveries: &[Delivery], delay: Duration) -> Settled {
        let release = |receipt| Release { receipt, delay: Some(delay), reason: Some("try later".into()) };
        let releases = receipts(deliveries).into_iter().map(release).collect();
        self.settle("default", Settlement { releases, ..Settlement::default() }).await
    }

    /// Releases events that did not reach a client.
    pub(crate) async fn return_undelivered(&self, deliveries: &[Delivery]) -> Settled {
        let release = |receipt| Release { receipt, delay: None, reason: None };
        let releases = receipts(deliveries).into_iter().map(release).collect();
        self.settle("default", Settlement { releases, ..Settlement::default() }).await
    }

    /// Leases available events of `default` for [`SHORT`].
    pub(crate) async fn take_shortly(&self, max_events: usize) -> Vec<Delivery> {
        self.lease("default", Lease { time: SHORT, ..now(max_events) }).await
    }

    pub(crate) async fn reject(&self, deliveries: &[Delivery]) -> Settled {
        let reject = |receipt| Reject { receipt, reason: Some("bad".into()) };
        let rejects = receipts(deliveries).into_iter().map(reject).collect();
        self.settle("default", Settlement { rejects, ..Settlement::default() }).await
    }

    /// Leases and acknowledges all available events of a consumer, and returns their numbers in order.
    pub(crate) async fn drain(&self, name: &str) -> Vec<u32> {
        let mut drained = Vec::new();
        loop {
            let taken = self.lease(name, now(100)).await;
            if taken.is_empty() {
                return drained;
            }
            drained.extend(numbers(&taken));
            assert_eq!(self.ack(name, &taken).await.acked, taken.len());
        }
    }
}

/// A registration with the sources `default` and `shop`.
pub(crate) fn registration() -> Registration {
    let mut registration = Registration::watson_work(Secret::new("secret"));
    let shop = Arc::new(Source::watson_work(Secret::new("secret")));
    registration.sources.insert("shop".parse().unwrap(), Ok(shop));
    registration
}

/// Copies the files of a store.
pub(crate) fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        // The shared memory file is rebuilt from the WAL.
        if !entry.file_name().to_string_lossy().ends_with("-shm") {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

pub(crate) fn consumer(name: &str) -> ConsumerName {
    name.parse().unwrap()
}

/// An event with its number in the body.
pub(crate) fn event(n: u32) -> NewEvent {
    let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
    NewEvent::new(headers, None, format!(r#"{{"n":{n:06}}}"#).into())
}

pub(crate) fn typed(n: u32, event_type: &str) -> NewEvent {
    let mut event = event(n);
    event.origin.event_type = Some(event_type.to_owned());
    event
}

/// An event with its number in the body, larger by `bytes`.
pub(crate) fn larger(n: u32, bytes: usize) -> NewEvent {
    NewEvent::new(Vec::new(), None, format!(r#"{{"n":{n:06}}}{}"#, " ".repeat(bytes)).into())
}

pub(crate) fn numbers(deliveries: &[Delivery]) -> Vec<u32> {
    deliveries.iter().map(number).collect()
}

pub(crate) fn number(delivery: &Delivery) -> u32 {
    std::str::from_utf8(&delivery.event.body[5..11]).unwrap().parse().unwrap()
}

pub(crate) fn receipts(deliveries: &[Delivery]) -> Vec<Receipt> {
    deliveries.iter().map(|delivery| delivery.receipt.clone()).collect()
}

/// A lease of available events, without waiting, for [`LONG`].
pub(crate) fn now(max_events: usize) -> Lease {
    Lease { max_events, max_bytes: u64::MAX, wait: Duration::ZERO, time: LONG }
}
