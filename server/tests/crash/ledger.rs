//! The ledger of one app: every event as its senders and clients saw it, and the invariants that must hold after a crash.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::Instant;

/// An acknowledgement is certainly durable this long after its response. Usually that takes milliseconds; the margin is
/// for slow machines.
const DURABLE_AFTER: Duration = Duration::from_secs(5);

/// Identifies an event by the members of its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct EventKey {
    /// The registration of the app: incremented each time the app registers.
    pub(crate) epoch: u32,
    pub(crate) sender: u32,
    pub(crate) n: u32,
}

impl EventKey {
    pub(crate) fn body(self, app: &str) -> String {
        let Self { epoch, sender, n } = self;
        json!({"app": app, "epoch": epoch, "sender": sender, "n": n, "text": "x".repeat(500)}).to_string()
    }

    /// Parses the body of an event, which must belong to this app.
    fn parse(app: &str, body: &[u8]) -> Self {
        let body: Value = serde_json::from_slice(body).unwrap();
        assert_eq!(body["app"], app, "delivered to the wrong app, {app}");
        let number = |member: &str| u32::try_from(body[member].as_u64().unwrap()).unwrap();
        Self { epoch: number("epoch"), sender: number("sender"), n: number("n") }
    }
}

/// The events of one app.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    app: String,
    /// Answered 201.
    accepted: HashSet<EventKey>,
    /// Delivered, under these ids.
    delivered: HashMap<EventKey, HashSet<String>>,
    deliveries: usize,
    /// Acknowledged, with the time of the response.
    acked: HashMap<EventKey, Instant>,
    /// Redelivered after the acknowledgement was answered.
    redelivered_after_ack: HashSet<EventKey>,
    /// The last id, and each sender's last event, of first deliveries.
    last_id: String,
    last_of: HashMap<u32, EventKey>,
    /// The last epoch whose events were purged by unregistering.
    purged_epoch: u32,
    /// When the server last ended.
    last_crash: Option<Instant>,
}

impl Ledger {
    pub(crate) fn new(app: &str) -> Self {
        Self { app: app.into(), ..Self::default() }
    }

    pub(crate) fn accept(&mut self, key: EventKey) {
        self.accepted.insert(key);
    }

    pub(crate) fn ack(&mut self, keys: impl IntoIterator<Item = EventKey>) {
        let now = Instant::now();
        self.acked.extend(keys.into_iter().map(|key| (key, now)));
    }

    pub(crate) fn record_crash(&mut self) {
        self.last_crash = Some(Instant::now());
    }

    /// The app is about to unregister: from now on its events may be delivered or purged.
    pub(crate) fn begin_unregister(&mut self) {
        self.accepted.clear();
    }

    /// The app has unregistered at the end of this epoch.
    pub(crate) fn end_unregister(&mut self, epoch: u32) {
        self.purged_epoch = epoch;
    }

    /// Records a delivery, and checks app, order and that the event is not deleted for certain. Returns the event, and
    /// whether this is its first delivery.
    pub(crate) fn deliver(&mut self, id: &str, body: &[u8]) -> (EventKey, bool) {
        let key = EventKey::parse(&self.app, body);
        assert!(key.epoch > self.purged_epoch, "{}: {key:?} was purged when the app unregistered", self.app);
        let is_first = !self.delivered.contains_key(&key);
        if is_first {
            assert!(
                *id > *self.last_id,
                "{}: {key:?} was delivered after an event with a higher id",
                self.app
            );
            id.clone_into(&mut self.last_id);
            if let Some(last) = self.last_of.insert(key.sender, key) {
                let order = |key: EventKey| (key.epoch, key.n);
                assert!(order(last) < order(key), "{}: {key:?} was delivered after {last:?}", self.app);
            }
        }
        if let Some(&acked) = self.acked.get(&key) {
            self.redelivered_after_ack.insert(key);
            let is_durable = self.last_crash.is_none_or(|crash| acked + DURABLE_AFTER < crash);
            assert!(
                !is_durable,
                "{}: {key:?} was redelivered, although acknowledged long before the crash",
                self.app
            );
        }
        self.delivered.entry(key).or_default().insert(id.to_owned());
        self.deliveries += 1;
        (key, is_first)
    }

    pub(crate) fn accepted(&self) -> usize {
        self.accepted.len()
    }

    pub(crate) fn redelivered_after_ack(&self) -> &HashSet<EventKey> {
        &self.redelivered_after_ack
    }

    /// Final check: every event answered 201 was delivered, and none was stored twice.
    pub(crate) fn check(&self) {
        println!(
            "{:>13}: {} events answered 201, {} deliveries of {} events, {} redelivered after their acknowledgement",
            self.app,
            self.accepted.len(),
            self.deliveries,
            self.delivered.len(),
            self.redelivered_after_ack.len()
        );
        let lost: Vec<_> = self.accepted.iter().filter(|key| !self.delivered.contains_key(*key)).collect();
        assert!(lost.is_empty(), "{}: lost: {lost:?}", self.app);
        let twice: Vec<_> = self.delivered.iter().filter(|(_, ids)| ids.len() > 1).collect();
        assert!(twice.is_empty(), "{}: stored twice: {twice:?}", self.app);
    }
}
