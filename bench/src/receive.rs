//! Listeners that acknowledge, and pollers.

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
    account::{Account, Name, Order},
    latency::Latencies,
    target::{App, Target},
};

/// How many messages a listener takes before it acknowledges them together.
const ACKED_AT_ONCE: usize = 256;
/// How long nothing comes before a reader takes it that nothing is left.
const SILENCE: Duration = Duration::from_secs(5);

pub(crate) type Socket = WebSocketStream<TcpStream>;

/// How events are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Way {
    /// A websocket that speaks wwproxy.v2 and acknowledges what came together, in one message
    Socket,
    /// A websocket that acknowledges each event with a message of its own
    Legacy,
    /// Leases and their settlement
    Lease,
    /// Polls with GET
    Get,
}

/// What a reader took.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    pub(crate) events: usize,
    pub(crate) out_of_order: usize,
    /// From before the first of them was asked for until the last was acknowledged.
    pub(crate) took: Duration,
    /// From the post of an event to its coming, of first deliveries.
    pub(crate) latencies: Latencies,
}

impl Taken {
    #[expect(clippy::cast_precision_loss, reason = "no run has 2^52 events")]
    pub(crate) fn rate(&self) -> f64 {
        self.events as f64 / self.took.as_secs_f64()
    }
}

/// Notes what one reader sees, from now on.
struct Reader {
    account: Arc<Account>,
    order: Order,
    taken: Taken,
    began: Instant,
}

impl Reader {
    fn new(account: &Arc<Account>) -> Self {
        let (order, taken) = <(Order, Taken)>::default();
        Self { account: Arc::clone(account), order, taken, began: Instant::now() }
    }

    fn see(&mut self, message: &str) -> anyhow::Result<()> {
        let name = Name::find(message).context("an event that this program did not send")?;
        self.taken.events += 1;
        if let Some(posted) = self.account.delivered(name) {
            self.taken.latencies.add(posted.elapsed());
            self.order.first(name);
        }
        Ok(())
    }

    /// What was seen is acknowledged.
    fn acknowledged(&mut self) {
        self.taken.took = self.began.elapsed();
    }

    fn finish(mut self) -> Taken {
        self.taken.out_of_order = self.order.out_of_order;
        self.taken
    }
}

/// Takes so many events, or all that come until there is silence.
pub(crate) async fn receive(
    target: &Target,
    app: &App,
    way: Way,
    events: usize,
    account: &Arc<Account>,
) -> anyhow::Result<Taken> {
    match way {
        Way::Socket | Way::Legacy => {
            let reader = Reader::new(account);
            let socket = open(&target.address, app, api::MAX_WINDOW, way == Way::Socket).await?;
            let (_all_wanted, wanted) = watch::channel(events);
            listen(socket, way == Way::Socket, wanted, reader).await
        }
        Way::Lease => lease(target, app, events, account).await,
        Way::Get => poll(target, app, events, account).await,
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

/// A listener in a task of its own.
pub(crate) struct Listener {
    wanted: watch::Sender<usize>,
    task: JoinHandle<anyhow::Result<Taken>>,
}

impl Listener {
    pub(crate) fn start(socket: Socket, account: &Arc<Account>) -> Self {
        let (wanted, wanted_there) = watch::channel(usize::MAX);
        let task = tokio::spawn(listen(socket, true, wanted_there, Reader::new(account)));
        Self { wanted, task }
    }

    /// What it took, once that are so many events or there is silence.
    pub(crate) async fn finish(self, events: usize) -> anyhow::Result<Taken> {
        self.wanted.send_replace(events);
        self.task.await?
    }
}

async fn listen(
    socket: Socket,
    v2: bool,
    mut wanted: watch::Receiver<usize>,
    mut reader: Reader,
) -> anyhow::Result<Taken> {
    let (mut sink, stream) = socket.split();
    let mut stream = stream.ready_chunks(ACKED_AT_ONCE);
    while reader.taken.events < *wanted.borrow_and_update() {
        let messages = tokio::select! {
            messages = timeout(SILENCE, stream.next()) => messages,
            Ok(()) = wanted.changed() => continue,
        };
        let Ok(Some(messages)) = messages else { break };
        let mut ids = Vec::new();
        for message in messages {
            let Message::Text(text) = message? else { continue };
            if let Some(id) = id(&text) {
                reader.see(&text)?;
                ids.push(id);
            }
        }
        for together in ids.chunks(if v2 { ACKED_AT_ONCE } else { 1 }) {
            sink.feed(Message::text(ClientMessage::ack(together))).await?;
        }
        sink.flush().await?;
        if !ids.is_empty() {
            reader.acknowledged();
        }
    }
    // What was said is heard before the connection goes.
    sink.send(Message::Close(None)).await?;
    let goodbye = async { while stream.next().await.is_some() {} };
    let _ = timeout(SILENCE, goodbye).await;
    Ok(reader.finish())
}

/// The id of an event's message, which it begins with.
fn id(message: &str) -> Option<EventId> {
    message.strip_prefix("{\"type\":\"event\",\"id\":\"")?.split_once('"')?.0.parse().ok()
}

async fn lease(target: &Target, app: &App, events: usize, account: &Arc<Account>) -> anyhow::Result<Taken> {
    let mut reader = Reader::new(account);
    let request = LeaseRequest { max: Some(api::MAX_LEASE_EVENTS), ..LeaseRequest::default() };
    while reader.taken.events < events {
        let leased = target.post(app, &api::path::lease(&app.id), serde_json::to_string(&request)?).await?;
        let leased = api::decode_lease(&leased)?;
        if leased.is_empty() {
            break;
        }
        let mut settlement = AckRequest::default();
        for event in leased {
            reader.see(std::str::from_utf8(&event.body)?)?;
            settlement.ack.push(event.receipt);
        }
        target.post(app, &api::path::ack(&app.id), serde_json::to_string(&settlement)?).await?;
        reader.acknowledged();
    }
    Ok(reader.finish())
}

async fn poll(target: &Target, app: &App, events: usize, account: &Arc<Account>) -> anyhow::Result<Taken> {
    let mut reader = Reader::new(account);
    while reader.taken.events < events {
        let polled = target.get(app, &format!("{}?max=10000", api::path::webhooks(&app.id))).await?;
        let polled = api::decode_poll(&polled)?;
        if polled.is_empty() {
            break;
        }
        for (_, body) in polled {
            reader.see(std::str::from_utf8(&body)?)?;
        }
        // With the answer, all of which has come.
        reader.acknowledged();
    }
    Ok(reader.finish())
}
