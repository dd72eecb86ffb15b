//! Clients that receive and acknowledge events: websocket listeners, leases and polls.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::ValueEnum;
use futures_util::{SinkExt, StreamExt};
use tokio::{net::TcpStream, sync::watch, task::JoinHandle, time::timeout};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest, http::HeaderValue},
};
use wwproxy_protocol::{
    ClientMessage, EventId,
    api::{self, AckRequest, LeaseRequest},
};

use crate::{
    latency::Latencies,
    ledger::{EventKey, Ledger, OrderCheck},
    server::{App, TestServer},
};

/// The maximum number of events in one acknowledgement of a listener.
const ACK_BATCH: usize = 256;
/// A client that receives nothing for this long considers the queue empty.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) type Socket = WebSocketStream<TcpStream>;

/// How a client receives events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReceiveMode {
    /// Websocket with wwproxy.v2: one acknowledgement for all events read together
    Socket,
    /// Websocket without a subprotocol: one acknowledgement for each event
    Legacy,
    /// Lease and acknowledge requests
    Lease,
    /// Polling with GET, which also acknowledges
    Get,
}

/// What a client received.
#[derive(Debug, Default)]
pub(crate) struct ReceiveReport {
    pub(crate) events: usize,
    pub(crate) out_of_order: usize,
    /// From the first request to the last acknowledgement.
    pub(crate) elapsed: Duration,
    /// Delivery latency: from the post of an event to its first delivery.
    pub(crate) latencies: Latencies,
}

impl ReceiveReport {
    #[expect(clippy::cast_precision_loss, reason = "no run has 2^52 events")]
    pub(crate) fn rate(&self) -> f64 {
        self.events as f64 / self.elapsed.as_secs_f64()
    }
}

/// Records the deliveries to one client.
struct Recorder {
    ledger: Arc<Ledger>,
    order: OrderCheck,
    report: ReceiveReport,
    started: Instant,
}

impl Recorder {
    fn new(ledger: &Arc<Ledger>) -> Self {
        let (order, report) = <(OrderCheck, ReceiveReport)>::default();
        Self { ledger: Arc::clone(ledger), order, report, started: Instant::now() }
    }

    fn record(&mut self, message: &str) -> anyhow::Result<()> {
        let key = EventKey::find(message).context("received an event that this run did not send")?;
        self.report.events += 1;
        if let Some(posted) = self.ledger.record_delivery(key) {
            self.report.latencies.add(posted.elapsed());
            self.order.record(key);
        }
        Ok(())
    }

    /// Records that all events so far are acknowledged.
    fn record_ack(&mut self) {
        self.report.elapsed = self.started.elapsed();
    }

    fn finish(mut self) -> ReceiveReport {
        self.report.out_of_order = self.order.out_of_order;
        self.report
    }
}

/// Receives and acknowledges this number of events, or fewer if the queue is empty before.
pub(crate) async fn receive(
    server: &TestServer,
    app: &App,
    mode: ReceiveMode,
    events: usize,
    ledger: &Arc<Ledger>,
) -> anyhow::Result<ReceiveReport> {
    match mode {
        ReceiveMode::Socket | ReceiveMode::Legacy => {
            let recorder = Recorder::new(ledger);
            let socket = open(&server.address, app, api::MAX_WINDOW, mode == ReceiveMode::Socket).await?;
            let (_wanted_tx, wanted) = watch::channel(events);
            listen(socket, mode == ReceiveMode::Socket, wanted, recorder).await
        }
        ReceiveMode::Lease => lease(server, app, events, ledger).await,
        ReceiveMode::Get => poll(server, app, events, ledger).await,
    }
}

/// Opens a websocket.
pub(crate) async fn open(address: &str, app: &App, window: u32, v2: bool) -> anyhow::Result<Socket> {
    let url = format!("ws://{address}{}?window={window}", api::path::webhooks(&app.id));
    let mut request = url.into_client_request()?;
    let headers = request.headers_mut();
    headers.insert("authorization", HeaderValue::from_str(&format!("Bearer {}", app.token))?);
    if v2 {
        headers.insert("sec-websocket-protocol", HeaderValue::from_static(api::SUBPROTOCOL_V2));
    }
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(client_async(request, stream).await?.0)
}

/// A websocket listener in its own task.
pub(crate) struct Listener {
    wanted: watch::Sender<usize>,
    task: JoinHandle<anyhow::Result<ReceiveReport>>,
}

impl Listener {
    pub(crate) fn start(socket: Socket, ledger: &Arc<Ledger>) -> Self {
        let (wanted, wanted_rx) = watch::channel(usize::MAX);
        let task = tokio::spawn(listen(socket, true, wanted_rx, Recorder::new(ledger)));
        Self { wanted, task }
    }

    /// Waits until the listener has received this number of events, or is idle, and returns its report.
    pub(crate) async fn finish(self, events: usize) -> anyhow::Result<ReceiveReport> {
        self.wanted.send_replace(events);
        self.task.await?
    }
}

async fn listen(
    socket: Socket,
    v2: bool,
    mut wanted: watch::Receiver<usize>,
    mut recorder: Recorder,
) -> anyhow::Result<ReceiveReport> {
    let (mut sink, stream) = socket.split();
    let mut stream = stream.ready_chunks(ACK_BATCH);
    while recorder.report.events < *wanted.borrow_and_update() {
        let messages = tokio::select! {
            messages = timeout(IDLE_TIMEOUT, stream.next()) => messages,
            Ok(()) = wanted.changed() => continue,
        };
        let Ok(Some(messages)) = messages else { break };
        let mut ids = Vec::new();
        for message in messages {
            let Message::Text(text) = message? else { continue };
            if let Some(id) = id(&text) {
                recorder.record(&text)?;
                ids.push(id);
            }
        }
        for batch in ids.chunks(if v2 { ACK_BATCH } else { 1 }) {
            sink.feed(Message::text(ClientMessage::ack(batch))).await?;
        }
        sink.flush().await?;
        if !ids.is_empty() {
            recorder.record_ack();
        }
    }
    // The close handshake ensures that the server has read the acknowledgements.
    sink.send(Message::Close(None)).await?;
    let closed = async { while stream.next().await.is_some() {} };
    let _ = timeout(IDLE_TIMEOUT, closed).await;
    Ok(recorder.finish())
}

/// Parses the id at the start of an event message. Cheaper than parsing the JSON.
fn id(message: &str) -> Option<EventId> {
    message.strip_prefix("{\"type\":\"event\",\"id\":\"")?.split_once('"')?.0.parse().ok()
}

async fn lease(
    server: &TestServer,
    app: &App,
    events: usize,
    ledger: &Arc<Ledger>,
) -> anyhow::Result<ReceiveReport> {
    let mut recorder = Recorder::new(ledger);
    let request = LeaseRequest { max: Some(api::MAX_LEASE_EVENTS), ..LeaseRequest::default() };
    while recorder.report.events < events {
        let leased = server.post(app, &api::path::lease(&app.id), serde_json::to_string(&request)?).await?;
        let leased = api::decode_lease(&leased)?.events;
        if leased.is_empty() {
            break;
        }
        let mut settlement = AckRequest::default();
        for event in leased {
            recorder.record(std::str::from_utf8(&event.body)?)?;
            settlement.ack.push(event.receipt);
        }
        server.post(app, &api::path::ack(&app.id), serde_json::to_string(&settlement)?).await?;
        recorder.record_ack();
    }
    Ok(recorder.finish())
}

async fn poll(
    server: &TestServer,
    app: &App,
    events: usize,
    ledger: &Arc<Ledger>,
) -> anyhow::Result<ReceiveReport> {
    let mut recorder = Recorder::new(ledger);
    while recorder.report.events < events {
        let polled = server.get(app, &format!("{}?max=10000", api::path::webhooks(&app.id))).await?;
        let polled = api::decode_poll(&polled)?;
        if polled.is_empty() {
            break;
        }
        for (_, body) in polled {
            recorder.record(std::str::from_utf8(&body)?)?;
        }
        // The server acknowledges when the whole response is sent.
        recorder.record_ack();
    }
    Ok(recorder.finish())
}
