use std::{
    fs,
    future::pending,
    process::Command,
    sync::{Arc, Barrier},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{anyhow, ensure};
use clap::{Args, ValueEnum};
use futures_util::StreamExt;
use tokio::sync::oneshot;
use wwproxy_protocol::api;

use super::{MIB, median_ratio};
use crate::{
    Bench,
    latency::Latencies,
    ledger::Ledger,
    receive::{Listener, ReceiveMode, open, receive},
    send::{Load, Until, send},
    server::{App, ServerOptions, TestServer},
};

/// The number of senders of the noisy neighbour.
const FLOOD_SENDERS: usize = 64;
/// The size of a large body, in bytes.
const LARGE_BODY: usize = 256 << 10;
/// The minimum number of samples of a run: percentiles of fewer are meaningless.
const MIN_EVENTS: usize = 10;

/// Latency of one app beside a noisy neighbour: an app with a flood, a full queue or a stuck client
///
/// The measured app has open-loop senders and a listener that acknowledges.
#[derive(Debug, Clone, Args)]
pub(crate) struct Fairness {
    /// Events per second of the measured app
    #[arg(long, default_value_t = 200.0)]
    rate: f64,
    /// Events per second of the neighbour in `flood`
    #[arg(long, default_value_t = 10_000.0)]
    flood: f64,
    /// Body size, in bytes
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// Seconds of one run; a `drain` run ends earlier when the backlog is drained
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Number of rounds; each has one run alone and one beside the neighbour
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// Backlog of the neighbour, in events
    #[arg(long, default_value_t = 100_000)]
    backlog: usize,
    /// What the neighbour does
    #[arg(
        long = "others",
        value_delimiter = ',',
        value_enum,
        default_value = "flood,unbounded-flood,large-bodies,full-queue,drain,acks-nothing,reads-nothing"
    )]
    neighbours: Vec<Neighbour>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Neighbour {
    /// Posts at the rate of `--flood`
    Flood,
    /// Posts in a closed loop: each sender as fast as it is answered
    UnboundedFlood,
    /// The same with bodies of 256 KiB
    LargeBodies,
    /// Posts to a full queue; each sender retries 5 ms after a rejection
    FullQueue,
    /// Drains a backlog with one client
    Drain,
    /// Has a client that never acknowledges: its prefetch window fills and stays full
    AcksNothing,
    /// Has a client that never reads from its websocket
    ReadsNothing,
}

impl Neighbour {
    fn needs_backlog(self, round: usize) -> bool {
        match self {
            Self::Flood | Self::UnboundedFlood | Self::LargeBodies => false,
            Self::FullQueue | Self::AcksNothing | Self::ReadsNothing => round == 0,
            Self::Drain => true,
        }
    }
}

impl Fairness {
    pub(crate) async fn run(&self, bench: &Bench) -> anyhow::Result<()> {
        println!(
            "| neighbour | ingest p50 | p99 | p99.9 | delivery p50 | p99 | p99.9 | ingest p99 ratio | delivery p99 ratio | RSS MiB |"
        );
        println!("|--|{}", "--:|".repeat(9));
        for &neighbour in &self.neighbours {
            self.measure(bench, neighbour).await?;
        }
        Ok(())
    }

    async fn measure(&self, bench: &Bench, neighbour: Neighbour) -> anyhow::Result<()> {
        let queued = self.backlog.to_string();
        let flags =
            ["--max-queued-events", if neighbour == Neighbour::FullQueue { &queued } else { "100000000" }];
        let flags = [&flags[..], &["--max-queued-bytes", "1000GiB"]].concat();
        let server = TestServer::start(ServerOptions {
            folder: &bench.folder,
            ceiling: false,
            program: None,
            apps: 2,
            flags: &flags,
        })
        .await?;
        let server = Arc::new(server);
        let (mut alone, mut beside) = <(Runs, Runs)>::default();
        let (measured, other) = (&server.apps[0], &server.apps[1]);
        for round in 0..self.rounds {
            if neighbour.needs_backlog(round) {
                let load = Load { until: Until::Events(self.backlog), ..self.flood(neighbour) };
                send(&server, std::slice::from_ref(other), load, &Arc::<Ledger>::default()).await?;
            }
            server.wait_until_idle().await?;
            alone.add(self.run_once(&server, measured, pending()).await?);
            let mut noise = NeighbourThread::start(self, &server, other, neighbour);
            let run = self.run_once(&server, measured, noise.ended()).await;
            // Report the neighbour's error first: it may be the cause of a failed run.
            noise.stop()?;
            beside.add(run?);
        }
        println!(
            "| none | {} | {} | | | |",
            alone.ingest.all.percentiles(),
            alone.delivery.all.percentiles()
        );
        println!(
            "| {} | {} | {} | {:.2} | {:.2} | {} |",
            self.label(neighbour),
            beside.ingest.all.percentiles(),
            beside.delivery.all.percentiles(),
            median_ratio(&beside.ingest.p99s, &alone.ingest.p99s),
            median_ratio(&beside.delivery.p99s, &alone.delivery.p99s),
            server.usage().rss / MIB,
        );
        Ok(())
    }

    /// Runs the measured app until `--seconds` have passed or `neighbour_ended` completes. Returns the ingest and the
    /// delivery latencies.
    async fn run_once(
        &self,
        server: &TestServer,
        app: &Arc<App>,
        neighbour_ended: impl Future<Output = ()>,
    ) -> anyhow::Result<(Latencies, Latencies)> {
        let ledger: Arc<Ledger> = Arc::default();
        let socket = open(&server.address, app, api::MAX_WINDOW, true).await?;
        let listener = Listener::start(socket, &ledger);
        let until = Until::Time(Duration::from_secs_f64(self.seconds));
        let load = Load { senders: 8, first_sender: 0, size: self.size, until, rate: Some(self.rate) };
        let close = async {
            neighbour_ended.await;
            ledger.close();
            pending().await
        };
        let sent = tokio::select! {
            sent = send(server, std::slice::from_ref(app), load, &ledger) => sent?,
            never = close => never,
        };
        let received = listener.finish(sent.accepted).await?;
        ledger.reconcile().ensure_complete(received.out_of_order)?;
        ensure!(
            sent.accepted >= MIN_EVENTS,
            "a run had only {} events, too few for percentiles: increase --seconds, --backlog or --rate",
            sent.accepted
        );
        Ok((sent.latencies, received.latencies))
    }

    /// Runs the neighbour until it is cancelled, or, for `Drain`, until the backlog is drained.
    async fn run_neighbour(
        &self,
        server: &TestServer,
        app: &Arc<App>,
        neighbour: Neighbour,
    ) -> anyhow::Result<()> {
        let apps = std::slice::from_ref(app);
        match neighbour {
            Neighbour::Flood | Neighbour::UnboundedFlood | Neighbour::LargeBodies | Neighbour::FullQueue => {
                send(server, apps, self.flood(neighbour), &Arc::<Ledger>::default()).await?;
            }
            Neighbour::Drain => {
                receive(server, app, ReceiveMode::Socket, self.backlog, &Arc::default()).await?;
            }
            Neighbour::AcksNothing | Neighbour::ReadsNothing => {
                let mut socket = open(&server.address, app, api::MAX_WINDOW, true).await?;
                if neighbour == Neighbour::AcksNothing {
                    while let Some(message) = socket.next().await {
                        message?;
                    }
                }
                return pending().await;
            }
        }
        Ok(())
    }

    fn label(&self, neighbour: Neighbour) -> String {
        match neighbour {
            Neighbour::Flood => format!("{FLOOD_SENDERS} senders, {} events/s", self.flood),
            Neighbour::UnboundedFlood => format!("{FLOOD_SENDERS} senders, closed loop"),
            Neighbour::LargeBodies => {
                format!("{FLOOD_SENDERS} senders, closed loop, {} KiB bodies", LARGE_BODY >> 10)
            }
            Neighbour::FullQueue => format!("{FLOOD_SENDERS} senders to a full queue"),
            Neighbour::Drain => format!("a client that drains {} events", self.backlog),
            Neighbour::AcksNothing => "a client that acknowledges nothing".to_owned(),
            Neighbour::ReadsNothing => "a client that reads nothing".to_owned(),
        }
    }

    /// The load of the neighbour's senders.
    fn flood(&self, neighbour: Neighbour) -> Load {
        let size = if neighbour == Neighbour::LargeBodies { LARGE_BODY } else { self.size };
        let rate = (neighbour == Neighbour::Flood).then_some(self.flood);
        let unlimited = Until::Time(Duration::from_secs(3600));
        Load { senders: FLOOD_SENDERS, first_sender: 0, size, until: unlimited, rate }
    }
}

/// All runs beside a neighbour, or all runs alone.
#[derive(Default)]
struct Runs {
    ingest: Samples,
    delivery: Samples,
}

#[derive(Default)]
struct Samples {
    all: Latencies,
    /// The p99 of each run, so that a stall of the machine affects one run only.
    p99s: Vec<f64>,
}

impl Runs {
    fn add(&mut self, (ingest, delivery): (Latencies, Latencies)) {
        for (samples, run) in [(&mut self.ingest, ingest), (&mut self.delivery, delivery)] {
            samples.p99s.push(run.percentiles().p99.as_secs_f64());
            samples.all.merge(&run);
        }
    }
}

/// The neighbour's load in its own thread, so that it interferes with the measured app in the server only. The thread has
/// idle scheduling priority, because in production the neighbour's clients run on other machines.
struct NeighbourThread {
    stop: oneshot::Sender<()>,
    /// Closed when the thread ends.
    ended: oneshot::Receiver<()>,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl NeighbourThread {
    fn start(fairness: &Fairness, server: &Arc<TestServer>, app: &Arc<App>, neighbour: Neighbour) -> Self {
        let (fairness, server, app) = (fairness.clone(), Arc::clone(server), Arc::clone(app));
        let (stop, stopped) = oneshot::channel();
        let (ends, ended) = oneshot::channel::<()>();
        // Start the run after the priority is set, which takes a while.
        let ready = Arc::new(Barrier::new(2));
        let thread_ready = Arc::clone(&ready);
        let thread = thread::spawn(move || {
            let _ends = ends;
            set_idle_priority();
            thread_ready.wait();
            tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
                tokio::select! {
                    ended = fairness.run_neighbour(&server, &app, neighbour) => ended,
                    _ = stopped => Ok(()),
                }
            })
        });
        ready.wait();
        Self { stop, ended, thread }
    }

    /// Waits until the thread ends by itself.
    async fn ended(&mut self) {
        // The channel closes when the thread drops the sender.
        let _ = (&mut self.ended).await;
    }

    fn stop(self) -> anyhow::Result<()> {
        drop(self.stop);
        self.thread.join().map_err(|_| anyhow!("the neighbour's thread panicked"))?
    }
}

/// Gives this thread idle scheduling priority (`SCHED_IDLE`).
fn set_idle_priority() {
    let Ok(thread) = fs::read_link("/proc/thread-self") else { return };
    let Some(thread) = thread.file_name() else { return };
    let status = Command::new("chrt").args(["--idle", "--pid", "0"]).arg(thread).status();
    if !status.is_ok_and(|status| status.success()) {
        eprintln!("chrt failed: the neighbour's clients compete with the server for CPU time");
    }
}
