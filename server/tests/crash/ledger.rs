//! The ledger of one app and its consumers: every event as its senders and clients saw it, and the invariants that must hold
//! after a crash.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
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

/// The events of one app, and what each of its consumers received.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    app: String,
    /// Answered 201.
    accepted: HashSet<EventKey>,
    views: BTreeMap<String, View>,
    /// The last epoch whose events were purged by unregistering.
    purged_epoch: u32,
    /// When the server last ended.
    last_crash: Option<Instant>,
}

/// What one consumer received.
#[derive(Debug, Default)]
struct View {
    /// Delivered, under these ids.
    delivered: HashMap<EventKey, HashSet<String>>,
    deliveries: usize,
    /// The client settled them, or tried to. Any other event must be delivered again.
    settled: HashSet<EventKey>,
    /// Acknowledged, with the time of the response.
    acked: HashMap<EventKey, Instant>,
    /// Redelivered after the acknowledgement was answered.
    redelivered_after_ack: HashSet<EventKey>,
    /// The last id, and each sender's last event, of first deliveries.
    last_id: String,
    last_of: HashMap<u32, EventKey>,
}

impl Ledger {
    pub(crate) fn new(app: &str, consumers: &[&str]) -> Self {
        let views = consumers.iter().map(|name| ((*name).to_owned(), View::default())).collect();
        Self { app: app.into(), views, ..Self::default() }
    }

    pub(crate) fn consumers(&self) -> Vec<String> {
        self.views.keys().cloned().collect()
    }

    pub(crate) fn accept(&mut self, key: EventKey) {
        self.accepted.insert(key);
    }

    /// The consumer's acknowledgement of these events was answered.
    pub(crate) fn ack(&mut self, consumer: &str, keys: impl IntoIterator<Item = EventKey>) {
        let now = Instant::now();
        self.view(consumer).acked.extend(keys.into_iter().map(|key| (key, now)));
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

    /// Records a delivery, and checks app, order and that the event is not settled for certain. Returns the event, and
    /// whether this is its first delivery.
    pub(crate) fn deliver(&mut self, consumer: &str, id: &str, body: &[u8]) -> (EventKey, bool) {
        let key = EventKey::parse(&self.app, body);
        let at = format!("{} {consumer}: {key:?}", self.app);
        assert!(key.epoch > self.purged_epoch, "{at} was purged when the app unregistered");
        let last_crash = self.last_crash;
        let view = self.view(consumer);
        let is_first = !view.delivered.contains_key(&key);
        if is_first {
            assert!(*id > *view.last_id, "{at} was delivered after an event with a higher id");
            id.clone_into(&mut view.last_id);
            if let Some(last) = view.last_of.insert(key.sender, key) {
                let order = |key: EventKey| (key.epoch, key.n);
                assert!(order(last) < order(key), "{at} was delivered after {last:?}");
            }
        }
        if let Some(&acked) = view.acked.get(&key) {
            view.redelivered_after_ack.insert(key);
            let is_durable = last_crash.is_none_or(|crash| acked + DURABLE_AFTER < crash);
            assert!(!is_durable, "{at} was redelivered, although acknowledged long before the crash");
        }
        view.delivered.entry(key).or_default().insert(id.to_owned());
        view.deliveries += 1;
        (key, is_first)
    }

    /// The client is about to settle the event.
    pub(crate) fn settle(&mut self, consumer: &str, key: EventKey) {
        self.view(consumer).settled.insert(key);
    }

    pub(crate) fn accepted(&self) -> usize {
        self.accepted.len()
    }

    /// Events that a consumer received again after their acknowledgement was answered.
    pub(crate) fn redelivered_after_ack(&self) -> usize {
        self.views.values().map(|view| view.redelivered_after_ack.len()).sum()
    }

    /// Final check: every event answered 201 was delivered to each consumer until it was settled, and none was stored twice.
    pub(crate) fn check(&self) {
        for (consumer, view) in &self.views {
            println!(
                "{:>13} {consumer:>7}: {} events answered 201, {} deliveries of {} events, {} redelivered after their \
                 acknowledgement",
                self.app,
                self.accepted.len(),
                view.deliveries,
                view.delivered.len(),
                view.redelivered_after_ack.len()
            );
            let lost: Vec<_> = self.accepted.iter().filter(|key| !view.settled.contains(*key)).collect();
            assert!(lost.is_empty(), "{} {consumer}: lost: {lost:?}", self.app);
            let twice: Vec<_> = view.delivered.iter().filter(|(_, ids)| ids.len() > 1).collect();
            assert!(twice.is_empty(), "{} {consumer}: stored twice: {twice:?}", self.app);
        }
    }

    fn view(&mut self, consumer: &str) -> &mut View {
        self.views.get_mut(consumer).expect("a consumer of the test")
    }
}
