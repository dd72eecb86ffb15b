//! Senders and clients that retry across server restarts.

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    sync::{Notify, watch},
    time::{sleep, timeout},
};
use tokio_tungstenite::{
    client_async,
    tungstenite::{Bytes, Message},
};
use wwproxy_protocol::{
    ClientMessage, EventId,
    api::{self, Receipt},
};

use crate::{
    common::{App, DEADLINE, upgrade},
    ledger::{EventKey, Ledger},
    random::Random,
};

/// How a client receives events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReceiveMode {
    Lease,
    Poll,
    Legacy,
    V2,
}

/// The senders and the client of one app, across all restarts of the server.
pub(crate) struct Workload {
    app: App,
    /// The address of the running server.
    address: watch::Receiver<String>,
    ledger: Mutex<Ledger>,
    /// Notified for every stored event.
    stored: Arc<Notify>,
    stopping: Arc<AtomicBool>,
    /// The index of the next event, unique within the app.
    next: AtomicU32,
}

/// A client that reconnects to the next server after a crash.
struct RetryingClient<'a> {
    workload: &'a Workload,
    address: watch::Receiver<String>,
}

impl Workload {
    pub(crate) fn new(
        app: App,
        address: watch::Receiver<String>,
        stored: Arc<Notify>,
        stopping: Arc<AtomicBool>,
        consumers: &[&str],
    ) -> Self {
        let ledger = Mutex::new(Ledger::new(&app.id, consumers));
        Self { app, address, ledger, stored, stopping, next: AtomicU32::new(0) }
    }

    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap()
    }

    /// The app at the current address of the server.
    pub(crate) fn app(&self) -> App {
        self.client().app()
    }

    /// Records a delivery that is also an acknowledgement.
    pub(crate) fn deliver(&self, consumer: &str, id: &str, body: &[u8]) -> EventKey {
        let mut ledger = self.ledger();
        let (key, _) = ledger.deliver(consumer, id, body);
        ledger.settle(consumer, key);
        key
    }

    /// Like `deliver`, but returns `None` for the first delivery of every tenth event, which the client does not
    /// acknowledge so that it is redelivered.
    fn deliver_unless_skipped(&self, consumer: &str, id: &str, body: &[u8]) -> Option<EventKey> {
        let mut ledger = self.ledger();
        let (key, is_first) = ledger.deliver(consumer, id, body);
        let is_settled = !is_first || !key.n.is_multiple_of(10);
        if is_settled {
            ledger.settle(consumer, key);
        }
        is_settled.then_some(key)
    }

    fn client(&self) -> RetryingClient<'_> {
        RetryingClient { workload: self, address: self.address.clone() }
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Posts one event after the other until the test stops.
    pub(crate) async fn send(&self, sender: u32) {
        let mut client = self.client();
        while !self.is_stopping() {
            client.post(1, sender).await;
        }
    }

    /// Receives events and acknowledges most of them until the test stops.
    pub(crate) async fn receive(&self, mode: ReceiveMode, consumer: &str) {
        let mut client = self.client();
        while !self.is_stopping() {
            let app = client.app();
            let received = match mode {
                ReceiveMode::Lease => lease(self, &app, consumer).await,
                ReceiveMode::Poll => poll(self, &app, consumer).await,
                ReceiveMode::Legacy => listen(self, &app, consumer, false).await,
                ReceiveMode::V2 => listen(self, &app, consumer, true).await,
            };
            if received.is_none() && !self.is_stopping() {
                client.wait_for_restart().await;
            }
        }
    }

    /// Registers and unregisters the app until the test stops.
    pub(crate) async fn register_repeatedly(&self, mut random: Random) {
        let mut client = self.client();
        let registration = json!({"secret": self.app.secret});
        for epoch in 1.. {
            client.retry_until_success(|app| app.request(Method::PUT, "").json(&registration)).await;
            for _ in 0..random.below(60) {
                client.post(epoch, 0).await;
                if random.one_in(10) && lease(self, &client.app(), "default").await.is_none() {
                    client.wait_for_restart().await;
                }
            }
            if self.is_stopping() {
                return;
            }
            self.ledger().begin_unregister();
            client.retry_until_success(|app| app.request(Method::DELETE, "")).await;
            self.ledger().end_unregister(epoch);
        }
    }
}

impl RetryingClient<'_> {
    fn app(&mut self) -> App {
        App { address: self.address.borrow_and_update().clone(), ..self.workload.app.clone() }
    }

    /// Waits for the next server, after a failed request.
    async fn wait_for_restart(&mut self) {
        timeout(DEADLINE, self.address.changed()).await.expect("the server restarts").unwrap();
    }

    /// Sends a request until a server answers with success.
    async fn retry_until_success(&mut self, request: impl Fn(&App) -> RequestBuilder) {
        loop {
            let app = self.app();
            match request(&app).send().await {
                Ok(response) if response.status().is_success() => return,
                Ok(response) if !response.status().is_server_error() => panic!("{response:?}"),
                _ => self.wait_for_restart().await,
            }
        }
    }

    /// Posts one event and retries it unchanged until it is answered 201, as the platform does.
    async fn post(&mut self, epoch: u32, sender: u32) {
        let n = self.workload.next.fetch_add(1, Ordering::Relaxed);
        let key = EventKey { epoch, sender, n };
        let body = key.body(&self.workload.app.id);
        self.retry_until_success(|app| app.indexed(n, &body)).await;
        self.workload.ledger().accept(key);
        self.workload.stored.notify_one();
    }
}

/// Leases events and acknowledges most of them. Returns `None` if a request fails.
async fn lease(workload: &Workload, app: &App, consumer: &str) -> Option<()> {
    let request = json!({"consumer": consumer, "max": 50, "waitMs": 100});
    let response = app.request(Method::POST, "/lease").json(&request).send().await.ok()?;
    let response = response.error_for_status().ok()?.text().await.ok()?;
    let mut receipts: Vec<Receipt> = Vec::new();
    let mut keys = Vec::new();
    for event in api::decode_lease(&response).unwrap().events {
        if let Some(key) = workload.deliver_unless_skipped(consumer, event.id.as_str(), &event.body) {
            receipts.push(event.receipt);
            keys.push(key);
        }
    }
    let settled = app
        .request(Method::POST, "/ack")
        .json(&json!({"consumer": consumer, "ack": receipts}))
        .send()
        .await
        .ok()?;
    let settled: Value = settled.error_for_status().ok()?.json().await.ok()?;
    if settled["stale"] == json!([]) {
        workload.ledger().ack(consumer, keys);
    }
    Some(())
}

/// Receives available events with `GET`, which also acknowledges them.
async fn poll(workload: &Workload, app: &App, consumer: &str) -> Option<()> {
    let response = app.request(Method::GET, &format!("?max=50&consumer={consumer}")).send().await.ok()?;
    let response = response.error_for_status().ok()?.text().await.ok()?;
    let events = api::decode_poll(&response).unwrap();
    let keys: Vec<_> =
        events.iter().map(|(id, body)| workload.deliver(consumer, id.as_str(), body)).collect();
    if keys.is_empty() {
        // The poll returns at once if there are no events.
        sleep(Duration::from_millis(10)).await;
    }
    workload.ledger().ack(consumer, keys);
    Some(())
}

/// Listens until the connection ends, and acknowledges most events. The ledger records an acknowledgement when the server
/// has answered a ping that was sent after it.
async fn listen(workload: &Workload, app: &App, consumer: &str, v2: bool) -> Option<()> {
    let protocol = v2.then_some(api::SUBPROTOCOL_V2);
    let request = upgrade(&app.address, &app.path(&format!("?consumer={consumer}")), &app.token, protocol);
    let stream = TcpStream::connect(&app.address).await.ok()?;
    let (mut socket, _) = client_async(request, stream).await.ok()?;
    let (mut sent, mut confirming) = (Vec::new(), Vec::new());
    while !workload.is_stopping() {
        let Ok(message) = timeout(Duration::from_millis(100), socket.next()).await else { continue };
        match message?.ok()? {
            Message::Text(text) => {
                let Some((id, body)) = event(&text) else { continue };
                if let Some(key) = workload.deliver_unless_skipped(consumer, id.as_str(), body.as_bytes()) {
                    socket.feed(Message::text(ClientMessage::ack(&[id]))).await.ok()?;
                    sent.push(key);
                }
            }
            Message::Pong(_) => workload.ledger().ack(consumer, std::mem::take(&mut confirming)),
            Message::Close(_) => return None,
            _ => {}
        }
        if confirming.is_empty() && !sent.is_empty() {
            confirming = std::mem::take(&mut sent);
            socket.feed(Message::Ping(Bytes::new())).await.ok()?;
        }
        socket.flush().await.ok()?;
    }
    Some(())
}

/// Parses the id and the body of an event message, with or without the members of `wwproxy.v2`.
fn event(message: &str) -> Option<(EventId, String)> {
    let message: Value = serde_json::from_str(message).unwrap();
    (message["type"] == "event")
        .then(|| (message["id"].as_str().unwrap().parse().unwrap(), message["data"].to_string()))
}
