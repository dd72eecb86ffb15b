//! Senders and clients that go on whatever happens to the server.

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
    ledger::{Ledger, Name},
    random::Random,
};

/// How a client takes events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Lease,
    Drain,
    Legacy,
    V2,
}

/// One app under load. It lives through all the servers.
pub(crate) struct World {
    app: App,
    /// Where the server is now.
    address: watch::Receiver<String>,
    ledger: Mutex<Ledger>,
    /// Tells of every event that was stored.
    stored: Arc<Notify>,
    stopping: Arc<AtomicBool>,
    /// Indexes of events, which no two have in common.
    next: AtomicU32,
}

/// One that goes on with the next server where this one has died.
struct Visitor<'a> {
    world: &'a World,
    address: watch::Receiver<String>,
}

impl World {
    pub(crate) fn new(
        app: App,
        address: watch::Receiver<String>,
        stored: Arc<Notify>,
        stopping: Arc<AtomicBool>,
    ) -> Self {
        let ledger = Mutex::new(Ledger::new(&app.id));
        Self { app, address, ledger, stored, stopping, next: AtomicU32::new(0) }
    }

    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap()
    }

    /// The app where the server is now.
    pub(crate) fn app(&self) -> App {
        self.visitor().here()
    }

    pub(crate) fn deliver(&self, id: &str, body: &[u8]) -> Name {
        self.ledger().deliver(id, body).0
    }

    /// The same, but `None` for an event that is not to be accepted yet: one of ten has to come again.
    fn deliver_most(&self, id: &str, body: &[u8]) -> Option<Name> {
        let (name, is_first) = self.ledger().deliver(id, body);
        (!is_first || !name.n.is_multiple_of(10)).then_some(name)
    }

    fn visitor(&self) -> Visitor<'_> {
        Visitor { world: self, address: self.address.clone() }
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Until the end: one event after the other.
    pub(crate) async fn send(&self, sender: u32) {
        let mut visitor = self.visitor();
        while !self.is_stopping() {
            visitor.post(1, sender).await;
        }
    }

    /// Until the end: takes events that way and accepts most of them.
    pub(crate) async fn take(&self, way: Way) {
        let mut visitor = self.visitor();
        while !self.is_stopping() {
            let app = visitor.here();
            let taken = match way {
                Way::Lease => lease(self, &app).await,
                Way::Drain => drain(self, &app).await,
                Way::Legacy => listen(self, &app, false).await,
                Way::V2 => listen(self, &app, true).await,
            };
            if taken.is_none() && !self.is_stopping() {
                visitor.moved().await;
            }
        }
    }

    /// Until the end: an app that comes and goes.
    pub(crate) async fn come_and_go(&self, mut random: Random) {
        let mut visitor = self.visitor();
        let registration = json!({"secret": self.app.secret});
        for life in 1.. {
            visitor.until_answered(|app| app.request(Method::PUT, "").json(&registration)).await;
            for _ in 0..random.below(60) {
                visitor.post(life, 0).await;
                if random.one_in(10) && lease(self, &visitor.here()).await.is_none() {
                    visitor.moved().await;
                }
            }
            if self.is_stopping() {
                return;
            }
            self.ledger().end_life();
            visitor.until_answered(|app| app.request(Method::DELETE, "")).await;
            self.ledger().ended_life(life);
        }
    }
}

impl Visitor<'_> {
    fn here(&mut self) -> App {
        App { address: self.address.borrow_and_update().clone(), ..self.world.app.clone() }
    }

    /// The server died, or is about to: waits for the next one.
    async fn moved(&mut self) {
        timeout(DEADLINE, self.address.changed()).await.expect("the server comes back").unwrap();
    }

    /// Asks server after server until one does it.
    async fn until_answered(&mut self, request: impl Fn(&App) -> RequestBuilder) {
        loop {
            let app = self.here();
            match request(&app).send().await {
                Ok(answer) if answer.status().is_success() => return,
                Ok(answer) if !answer.status().is_server_error() => panic!("{answer:?}"),
                _ => self.moved().await,
            }
        }
    }

    /// Posts one event until it is answered 201: as it was, as the platform does.
    async fn post(&mut self, life: u32, sender: u32) {
        let n = self.world.next.fetch_add(1, Ordering::Relaxed);
        let name = Name { life, sender, n };
        let body = name.body(&self.world.app.id);
        self.until_answered(|app| app.indexed(n, &body)).await;
        self.world.ledger().accept(name);
        self.world.stored.notify_one();
    }
}

/// Leases events and acknowledges most. `None` where the server does not answer.
async fn lease(world: &World, app: &App) -> Option<()> {
    let wanted = json!({"max": 50, "wait_ms": 100});
    let answer = app.request(Method::POST, "/lease").json(&wanted).send().await.ok()?;
    let answer = answer.error_for_status().ok()?.text().await.ok()?;
    let mut receipts: Vec<Receipt> = Vec::new();
    let mut names = Vec::new();
    for event in api::decode_lease(&answer).unwrap() {
        if let Some(name) = world.deliver_most(event.id.as_str(), &event.body) {
            receipts.push(event.receipt);
            names.push(name);
        }
    }
    let settled = app.request(Method::POST, "/ack").json(&json!({"ack": receipts})).send().await.ok()?;
    let settled: Value = settled.error_for_status().ok()?.json().await.ok()?;
    if settled["stale"] == json!([]) {
        world.ledger().ack(names);
    }
    Some(())
}

/// Takes what there is with GET.
async fn drain(world: &World, app: &App) -> Option<()> {
    let answer = app.request(Method::GET, "?max=50").send().await.ok()?;
    let answer = answer.error_for_status().ok()?.text().await.ok()?;
    let events = api::decode_poll(&answer).unwrap();
    let names: Vec<_> = events.iter().map(|(id, body)| world.deliver(id.as_str(), body)).collect();
    if names.is_empty() {
        // It does not wait for events.
        sleep(Duration::from_millis(10)).await;
    }
    world.ledger().ack(names);
    Some(())
}

/// Listens until the connection ends, and acknowledges most events. They count as acknowledged once the
/// server has answered a ping that was sent after that.
async fn listen(world: &World, app: &App, v2: bool) -> Option<()> {
    let protocol = v2.then_some(api::SUBPROTOCOL_V2);
    let request = upgrade(&app.address, &app.path(""), &app.token, protocol);
    let stream = TcpStream::connect(&app.address).await.ok()?;
    let (mut socket, _) = client_async(request, stream).await.ok()?;
    let (mut said, mut asked) = (Vec::new(), Vec::new());
    while !world.is_stopping() {
        let Ok(message) = timeout(Duration::from_millis(100), socket.next()).await else { continue };
        match message?.ok()? {
            Message::Text(text) => {
                let Some((id, body)) = event(&text) else { continue };
                if let Some(name) = world.deliver_most(id.as_str(), body.as_bytes()) {
                    socket.feed(Message::text(ClientMessage::ack(&[id]))).await.ok()?;
                    said.push(name);
                }
            }
            Message::Pong(_) => world.ledger().ack(std::mem::take(&mut asked)),
            Message::Close(_) => return None,
            _ => {}
        }
        if asked.is_empty() && !said.is_empty() {
            asked = std::mem::take(&mut said);
            socket.feed(Message::Ping(Bytes::new())).await.ok()?;
        }
        socket.flush().await.ok()?;
    }
    Some(())
}

/// Id and body of a message that is an event, with or without what `wwproxy.v2` adds.
fn event(message: &str) -> Option<(EventId, String)> {
    let message: Value = serde_json::from_str(message).unwrap();
    (message["type"] == "event")
        .then(|| (message["id"].as_str().unwrap().parse().unwrap(), message["data"].to_string()))
}
