//! What must be so, whatever dies: one app's events as its senders and clients see them.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::Instant;

/// How long after it was answered an acknowledgement is on the disk for sure. It takes milliseconds; a slow
/// machine must not be taken for a fault.
const DURABLE_AFTER: Duration = Duration::from_secs(5);

/// An event, by what its sender put into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Name {
    /// How often the app had been registered.
    pub(crate) life: u32,
    pub(crate) sender: u32,
    pub(crate) n: u32,
}

impl Name {
    pub(crate) fn body(self, app: &str) -> String {
        let Self { life, sender, n } = self;
        json!({"app": app, "life": life, "sender": sender, "n": n, "text": "x".repeat(500)}).to_string()
    }

    /// Reads the name back, of an event that must be this app's.
    fn read(app: &str, body: &[u8]) -> Self {
        let body: Value = serde_json::from_slice(body).unwrap();
        assert_eq!(body["app"], app, "crossed over to {app}");
        let number = |name: &str| u32::try_from(body[name].as_u64().unwrap()).unwrap();
        Self { life: number("life"), sender: number("sender"), n: number("n") }
    }
}

/// One app's account.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    app: String,
    /// Answered 201.
    accepted: HashSet<Name>,
    /// Delivered, under these ids.
    delivered: HashMap<Name, HashSet<String>>,
    deliveries: usize,
    /// Acknowledged, and that was answered then.
    acked: HashMap<Name, Instant>,
    /// Delivered although that had been answered.
    came_back: HashSet<Name>,
    /// The last id, and each sender's last event, of those that came for the first time.
    last_id: String,
    last_of: HashMap<u32, Name>,
    /// The events of these lives and of those before must not come any more.
    over: u32,
    /// When the server last died.
    died: Option<Instant>,
}

impl Ledger {
    pub(crate) fn new(app: &str) -> Self {
        Self { app: app.into(), ..Self::default() }
    }

    pub(crate) fn accept(&mut self, name: Name) {
        self.accepted.insert(name);
    }

    pub(crate) fn ack(&mut self, names: impl IntoIterator<Item = Name>) {
        let now = Instant::now();
        self.acked.extend(names.into_iter().map(|name| (name, now)));
    }

    pub(crate) fn die(&mut self) {
        self.died = Some(Instant::now());
    }

    /// The app is about to be unregistered: what it has may come or not.
    pub(crate) fn end_life(&mut self) {
        self.accepted.clear();
    }

    /// The app was unregistered at the end of this life.
    pub(crate) fn ended_life(&mut self, life: u32) {
        self.over = life;
    }

    /// An event has come. It must be this app's, in its place, and none that is gone for sure. Says which it is,
    /// and whether it came for the first time.
    pub(crate) fn deliver(&mut self, id: &str, body: &[u8]) -> (Name, bool) {
        let name = Name::read(&self.app, body);
        assert!(name.life > self.over, "{}: {name:?} was deleted when the app was unregistered", self.app);
        let is_first = !self.delivered.contains_key(&name);
        if is_first {
            assert!(*id > *self.last_id, "{}: {name:?} came after one that came in later", self.app);
            id.clone_into(&mut self.last_id);
            if let Some(last) = self.last_of.insert(name.sender, name) {
                let order = |name: Name| (name.life, name.n);
                assert!(order(last) < order(name), "{}: {name:?} came after {last:?}", self.app);
            }
        }
        if let Some(&acked) = self.acked.get(&name) {
            self.came_back.insert(name);
            let is_durable = self.died.is_none_or(|died| acked + DURABLE_AFTER < died);
            assert!(
                !is_durable,
                "{}: {name:?} came back, acknowledged long before the server died",
                self.app
            );
        }
        self.delivered.entry(name).or_default().insert(id.to_owned());
        self.deliveries += 1;
        (name, is_first)
    }

    pub(crate) fn accepted(&self) -> usize {
        self.accepted.len()
    }

    pub(crate) fn came_back(&self) -> &HashSet<Name> {
        &self.came_back
    }

    /// In the end: every event that was answered 201 was delivered, and none was stored twice.
    pub(crate) fn check(&self) {
        println!(
            "{:>10}: {} events answered 201, {} deliveries of {} events, {} of them after they were acknowledged",
            self.app,
            self.accepted.len(),
            self.deliveries,
            self.delivered.len(),
            self.came_back.len()
        );
        let lost: Vec<_> = self.accepted.iter().filter(|name| !self.delivered.contains_key(*name)).collect();
        assert!(lost.is_empty(), "{}: lost: {lost:?}", self.app);
        let twice: Vec<_> = self.delivered.iter().filter(|(_, ids)| ids.len() > 1).collect();
        assert!(twice.is_empty(), "{}: stored twice: {twice:?}", self.app);
    }
}
