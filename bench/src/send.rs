//! Signed senders.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{sleep, sleep_until},
};
use wwproxy_protocol::{Scheme, Secret, api};

use crate::{
    account::{Account, Name},
    latency::Latencies,
    target::{App, Target},
};

/// How long a sender waits after it was refused.
const PAUSE: Duration = Duration::from_millis(5);
/// More than the head of any answer.
const ANSWER_BYTES: usize = 4096;

/// What is posted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// Connections, each with one request under way at most.
    pub(crate) senders: usize,
    /// The first one's number in the account.
    pub(crate) first_sender: usize,
    /// Bytes of a body.
    pub(crate) size: usize,
    pub(crate) until: Until,
    /// Events a second of all senders together, or as fast as they are answered.
    pub(crate) rate: Option<f64>,
}

/// When posting ends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Until {
    Time(Duration),
    Events(usize),
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    pub(crate) accepted: usize,
    /// Answers 503.
    pub(crate) refused: usize,
    pub(crate) took: Duration,
    /// From the post to its 201. At a given rate, from when the post was due, where the sender was still
    /// waiting for an earlier answer: what a sender that keeps its rate would see.
    pub(crate) latencies: Latencies,
}

impl Sent {
    #[expect(clippy::cast_precision_loss, reason = "no run has 2^52 events")]
    pub(crate) fn rate(&self) -> f64 {
        self.accepted as f64 / self.took.as_secs_f64()
    }
}

/// Posts to these apps in turn, until that is over or the account is closed.
pub(crate) async fn send(
    target: &Target,
    apps: &[Arc<App>],
    load: Load,
    account: &Arc<Account>,
) -> anyhow::Result<Sent> {
    let began = Instant::now();
    let mut senders = JoinSet::new();
    for place in 0..load.senders {
        let connection = Connection::open(&target.address).await?;
        let sender =
            Sender { place, load, began, apps: apps.to_vec(), account: Arc::clone(account), connection };
        senders.spawn(sender.run());
    }
    let mut sent = Sent::default();
    while let Some(one) = senders.join_next().await {
        let one = one??;
        sent.accepted += one.accepted;
        sent.refused += one.refused;
        sent.latencies.merge(&one.latencies);
    }
    sent.took = began.elapsed();
    Ok(sent)
}

struct Sender {
    place: usize,
    load: Load,
    began: Instant,
    apps: Vec<Arc<App>>,
    account: Arc<Account>,
    connection: Connection,
}

impl Sender {
    async fn run(mut self) -> anyhow::Result<Sent> {
        let mut sent = Sent::default();
        match self.post_all(&mut sent).await {
            // It may have been closed because the server is killed.
            Err(_) if self.account.is_closed() => Ok(sent),
            posted => posted.map(|()| sent),
        }
    }

    async fn post_all(&mut self, sent: &mut Sent) -> anyhow::Result<()> {
        let mut turn = self.place;
        while self.goes_on(turn) {
            let posted = self.turn_begins(turn).await;
            let app = Arc::clone(&self.apps[turn % self.apps.len()]);
            let Some(name) = self.account.post(self.load.first_sender + self.place, posted) else { break };
            let request = request(&app, name, self.load.size);
            while !self.connection.post(&request).await? {
                sent.refused += 1;
                if !self.goes_on(turn) {
                    return Ok(());
                }
                sleep(PAUSE).await;
            }
            self.account.accepted(name);
            sent.latencies.add(posted.elapsed());
            sent.accepted += 1;
            turn += self.load.senders;
        }
        Ok(())
    }

    /// Waits until the event is due, and says from when its time counts.
    async fn turn_begins(&self, turn: usize) -> Instant {
        match self.due(turn) {
            // Waited for an earlier answer.
            Some(due) if due <= Instant::now() => due,
            Some(due) => {
                // To wake up late is not the server's fault.
                sleep_until(due.into()).await;
                Instant::now()
            }
            None => Instant::now(),
        }
    }

    fn goes_on(&self, turn: usize) -> bool {
        match self.load.until {
            Until::Time(time) => self.began.elapsed() < time,
            Until::Events(events) => turn < events,
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "no run has 2^52 events")]
    fn due(&self, turn: usize) -> Option<Instant> {
        Some(self.began + Duration::from_secs_f64(turn as f64 / self.load.rate?))
    }
}

fn request(app: &App, name: Name, size: usize) -> Vec<u8> {
    let body = name.body(size);
    let signature = sign(&app.webhook_secret, body.as_bytes());
    format!(
        "POST {} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{}: {signature}\r\n\
         {}: {}\r\n{}: 0\r\nuser-agent: wwproxy-bench\r\n\r\n{body}",
        api::path::hook(&app.id),
        body.len(),
        api::OUTBOUND_TOKEN,
        api::OUTBOUND_INDEX,
        name.number,
        api::OUTBOUND_RETRY_COUNT,
    )
    .into_bytes()
}

fn sign(secret: &Secret, body: &[u8]) -> String {
    Scheme::WatsonWork.sign(secret, body)
}

/// A connection that is kept open. It reads no more of an answer than it must: what the sender costs
/// would be taken for what the server costs, as both are on one machine.
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(address: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(ANSWER_BYTES) })
    }

    /// Whether the answer was 201; not where it was 503.
    async fn post(&mut self, request: &[u8]) -> anyhow::Result<bool> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        let end = loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                bail!("the server closed a sender's connection");
            }
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
        };
        let head = std::str::from_utf8(&self.buffer[..end]).context("an answer's head is text")?;
        let status = head.get(9..12).context("an answer has a status")?.to_owned();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.map_or(Ok(0), str::parse)?;
        while self.buffer.len() < end + length {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                bail!("the server closed a sender's connection");
            }
        }
        match status.as_str() {
            "201" => Ok(true),
            "503" => Ok(false),
            other => bail!("a post was answered {other}"),
        }
    }
}
