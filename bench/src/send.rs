//! The load generator: senders of signed webhooks.

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
use wwproxy_protocol::{Secret, api, sign_watson_work};

use crate::{
    latency::Latencies,
    ledger::{EventKey, Ledger},
    server::{App, TestServer},
};

/// How long a sender waits after a 503.
const RETRY_DELAY: Duration = Duration::from_millis(5);
/// The buffer for a response, in bytes: more than the head of any response.
const RESPONSE_BYTES: usize = 4096;

/// The load of one run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// The number of connections, each with at most one request in flight.
    pub(crate) senders: usize,
    /// The number of the first sender in the ledger.
    pub(crate) first_sender: usize,
    /// Bytes of a body.
    pub(crate) size: usize,
    pub(crate) until: Until,
    /// Open loop: events per second of all senders together. `None` is closed loop: each sender posts its next event after
    /// the response.
    pub(crate) rate: Option<f64>,
}

/// When a run ends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Until {
    Time(Duration),
    Events(usize),
}

/// The result of a run.
#[derive(Debug, Default)]
pub(crate) struct SendReport {
    pub(crate) accepted: usize,
    /// Responses with 503.
    pub(crate) rejected: usize,
    pub(crate) elapsed: Duration,
    /// Ingest latency: from the post to its 201. In an open loop, if the previous response delayed the post, from its
    /// scheduled time: otherwise the figures would suffer from coordinated omission.
    pub(crate) latencies: Latencies,
}

impl SendReport {
    #[expect(clippy::cast_precision_loss, reason = "no run has 2^52 events")]
    pub(crate) fn rate(&self) -> f64 {
        self.accepted as f64 / self.elapsed.as_secs_f64()
    }
}

/// Posts to these apps, round robin, until the end of the run or until the ledger is closed.
pub(crate) async fn send(
    server: &TestServer,
    apps: &[Arc<App>],
    load: Load,
    ledger: &Arc<Ledger>,
) -> anyhow::Result<SendReport> {
    let started = Instant::now();
    let mut senders = JoinSet::new();
    for number in 0..load.senders {
        let connection = Connection::open(&server.address).await?;
        let sender =
            Sender { number, load, started, apps: apps.to_vec(), ledger: Arc::clone(ledger), connection };
        senders.spawn(sender.run());
    }
    let mut sent = SendReport::default();
    while let Some(one) = senders.join_next().await {
        let one = one??;
        sent.accepted += one.accepted;
        sent.rejected += one.rejected;
        sent.latencies.merge(&one.latencies);
    }
    sent.elapsed = started.elapsed();
    Ok(sent)
}

struct Sender {
    /// Counts from 0 in each run.
    number: usize,
    load: Load,
    started: Instant,
    apps: Vec<Arc<App>>,
    ledger: Arc<Ledger>,
    connection: Connection,
}

impl Sender {
    async fn run(mut self) -> anyhow::Result<SendReport> {
        let mut sent = SendReport::default();
        match self.post_all(&mut sent).await {
            // The ledger is closed before the server is killed.
            Err(_) if self.ledger.is_closed() => Ok(sent),
            posted => posted.map(|()| sent),
        }
    }

    async fn post_all(&mut self, sent: &mut SendReport) -> anyhow::Result<()> {
        let mut index = self.number;
        while !self.is_over(index) {
            let posted = self.wait_for_schedule(index).await;
            let app = Arc::clone(&self.apps[index % self.apps.len()]);
            let Some(key) = self.ledger.record_post(self.load.first_sender + self.number, posted) else {
                break;
            };
            let request = request(&app, key, self.load.size);
            while !self.connection.post(&request).await? {
                sent.rejected += 1;
                if self.is_over(index) {
                    return Ok(());
                }
                sleep(RETRY_DELAY).await;
            }
            self.ledger.record_accepted(key);
            sent.latencies.add(posted.elapsed());
            sent.accepted += 1;
            index += self.load.senders;
        }
        Ok(())
    }

    /// Waits until the event is due, and returns the start of its latency.
    async fn wait_for_schedule(&self, index: usize) -> Instant {
        match self.due(index) {
            // The previous response delayed this post: count from the schedule (coordinated omission).
            Some(due) if due <= Instant::now() => due,
            Some(due) => {
                // A late wakeup of the timer does not count as latency of the server.
                sleep_until(due.into()).await;
                Instant::now()
            }
            None => Instant::now(),
        }
    }

    fn is_over(&self, index: usize) -> bool {
        match self.load.until {
            Until::Time(time) => self.started.elapsed() >= time,
            Until::Events(events) => index >= events,
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "no run has 2^52 events")]
    fn due(&self, index: usize) -> Option<Instant> {
        Some(self.started + Duration::from_secs_f64(index as f64 / self.load.rate?))
    }
}

fn request(app: &App, key: EventKey, size: usize) -> Vec<u8> {
    let body = key.body(size);
    let signature = sign(&app.webhook_secret, body.as_bytes());
    format!(
        "POST {} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{}: {signature}\r\n\
         {}: {}\r\n{}: 0\r\nuser-agent: wwproxy-bench\r\n\r\n{body}",
        api::path::hook(&app.id),
        body.len(),
        api::OUTBOUND_TOKEN,
        api::OUTBOUND_INDEX,
        key.number,
        api::OUTBOUND_RETRY_COUNT,
    )
    .into_bytes()
}

fn sign(secret: &Secret, body: &[u8]) -> String {
    sign_watson_work(secret, body)
}

/// A keep-alive connection with a minimal HTTP client: sender and server share the machine, so the sender must use little
/// CPU time.
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(address: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(RESPONSE_BYTES) })
    }

    /// Posts a request. Returns true for 201, false for 503.
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
        let head = std::str::from_utf8(&self.buffer[..end]).context("the response head is not UTF-8")?;
        let status = head.get(9..12).context("the response has no status")?.to_owned();
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
            other => bail!("a post was answered with {other}"),
        }
    }
}
