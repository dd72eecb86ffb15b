//! A server with one app on a simulated disk, and shorthands for the tests of faults.

use reqwest::{Method, StatusCode};
use serde_json::json;
use wwproxy_protocol::api::{self, LeasedEvent};

use crate::{
    common::{App, Server, eventually, problem},
    disk::{Disk, Fault},
    random::{Random, seed},
};

const FLAGS: [&str; 2] = ["--log-level", "info"];
/// Longer than any test, in milliseconds.
const LONG_MS: u64 = 600_000;

pub(crate) struct Fixture {
    pub(crate) disk: Disk,
    pub(crate) server: Server,
    pub(crate) app: App,
    /// The size of events, in bytes.
    size: usize,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        Self::with_events_of(2000).await
    }

    /// Its events have this size, in bytes.
    pub(crate) async fn with_events_of(size: usize) -> Self {
        let mut disk = Disk::new();
        let server = disk.start(&FLAGS);
        let app = server.app("bot").await;
        Self { disk, server, app, size }
    }

    /// Posts an event, which has a delivery id. Returns the status of the answer.
    pub(crate) async fn post(&self, n: u32) -> StatusCode {
        let response = self.app.indexed(n, &self.body(n)).send().await.unwrap();
        let status = response.status();
        if status != StatusCode::CREATED {
            // It has a Retry-After.
            problem(response, 503).await;
        }
        status
    }

    /// Posts events that must be stored.
    pub(crate) async fn store(&self, numbers: impl IntoIterator<Item = u32>) {
        for n in numbers {
            assert_eq!(self.post(n).await, StatusCode::CREATED, "{n}");
        }
    }

    /// Posts an event that must be refused.
    pub(crate) async fn refuse(&self, n: u32) {
        assert_eq!(self.post(n).await, StatusCode::SERVICE_UNAVAILABLE, "{n}");
    }

    /// Posts an event until it is stored, as its sender does.
    pub(crate) async fn retry(&self, n: u32) {
        eventually("the event is stored", async || self.post(n).await == StatusCode::CREATED).await;
    }

    pub(crate) async fn is_ready(&self) -> bool {
        let response = self.server.get("/readyz").await;
        if response.status() == StatusCode::OK {
            return true;
        }
        problem(response, 503).await;
        false
    }

    pub(crate) async fn wait_until_ready(&self) {
        eventually("the server is ready", async || self.is_ready().await).await;
    }

    /// Leases available events for longer than the test.
    pub(crate) async fn take(&self, max: u32) -> Vec<LeasedEvent> {
        self.app.lease(json!({"max": max, "leaseMs": LONG_MS})).await
    }

    pub(crate) async fn ack(&self, events: &[LeasedEvent]) {
        let receipts: Vec<_> = events.iter().map(|event| &event.receipt).collect();
        let settled = self.app.settle(json!({"ack": receipts})).await;
        assert_eq!(settled["acked"], events.len(), "{settled}");
    }

    pub(crate) async fn release(&self, events: &[LeasedEvent]) {
        let receipts: Vec<_> = events.iter().map(|event| &event.receipt).collect();
        self.app.settle(json!({"release": receipts})).await;
    }

    /// Returns the numbers of the pending events in order, and leaves them pending.
    pub(crate) async fn pending(&self) -> Vec<u32> {
        let mut all = Vec::new();
        loop {
            let taken = self.take(api::MAX_LEASE_EVENTS).await;
            if taken.is_empty() {
                break;
            }
            all.extend(taken);
        }
        for events in all.chunks(api::MAX_RECEIPTS) {
            self.release(events).await;
        }
        let mut numbers = self.numbers(&all);
        numbers.sort_unstable();
        numbers
    }

    /// The numbers of events, whose bodies must be whole.
    pub(crate) fn numbers(&self, events: &[LeasedEvent]) -> Vec<u32> {
        let number = |event: &LeasedEvent| {
            let n = std::str::from_utf8(&event.body[2..8]).unwrap().parse().unwrap();
            assert!(event.body[..] == *self.body(n).as_bytes(), "{n}: the body was changed");
            n
        };
        events.iter().map(number).collect()
    }

    fn body(&self, n: u32) -> String {
        format!("[\"{n:06}\",\"{}\",\"end of {n:06}\"]", "x".repeat(self.size))
    }

    /// Sends a request with the app's token, and returns the status of the answer.
    pub(crate) async fn request(&self, method: Method, path: &str, body: serde_json::Value) -> StatusCode {
        self.app.request(method, path).json(&body).send().await.unwrap().status()
    }

    /// Sets a fault, and returns the number of faults before.
    pub(crate) fn set_fault(&self, fault: Fault) -> u64 {
        self.disk.set_fault(Some(fault));
        self.disk.faults()
    }

    /// Kills the server and starts another one. The page cache survives.
    pub(crate) fn after_kill(self) -> Self {
        drop(self.server.kill());
        self.disk.clear();
        Self::start(self.disk, self.app, self.size)
    }

    /// Cuts the power and starts another server. The disk has as much free space as before.
    pub(crate) fn after_power_cut(mut self) -> Self {
        drop(self.server.kill());
        let free = self.disk.free_bytes();
        self.disk.cut_power(&mut Random::new(seed()));
        self.disk.set_free_bytes(free);
        Self::start(self.disk, self.app, self.size)
    }

    /// Stops the server, which closes the store, and starts another one with this many free bytes on the disk.
    pub(crate) async fn after_stop(mut self, free: u64) -> Self {
        self.server.signal("TERM");
        assert!(self.server.exited().await.success());
        self.disk.clear();
        self.disk.set_free_bytes(Some(free));
        Self::start(self.disk, self.app, self.size)
    }

    fn start(mut disk: Disk, app: App, size: usize) -> Self {
        let server = disk.start(&FLAGS);
        let app = App { address: server.address.clone(), ..app };
        Self { disk, server, app, size }
    }
}
