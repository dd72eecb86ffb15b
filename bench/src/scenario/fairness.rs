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
    account::Account,
    latency::Latencies,
    receive::{Listener, Way, open, receive},
    send::{Load, Until, send},
    target::{App, Setup, Target},
};

/// How many senders the other app has.
const FLOOD: usize = 64;
/// The bytes of a large body.
const LARGE: usize = 256 << 10;
/// A turn has at least so many events of the app that is measured: of fewer there are no percentiles.
const FEWEST: usize = 10;

/// What one app's flood, full queue or stuck client does to another app's latency
///
/// The app that is measured has senders that keep a rate, and a listener that acknowledges.
#[derive(Debug, Clone, Args)]
pub(crate) struct Fairness {
    /// Events a second of the app that is measured
    #[arg(long, default_value_t = 200.0)]
    rate: f64,
    /// Events a second of a flood; it also comes as fast as it is answered
    #[arg(long, default_value_t = 10_000.0)]
    flood: f64,
    /// Bytes of a body
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// Seconds of one turn, or less where the other app's client has taken its backlog before
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Turns of each, the quiet and the disturbed
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// Events that wait for the other app's client
    #[arg(long, default_value_t = 100_000)]
    backlog: usize,
    /// What the other app does
    #[arg(
        long,
        value_delimiter = ',',
        value_enum,
        default_value = "flood,unbounded-flood,large-bodies,full-queue,drain,acks-nothing,reads-nothing"
    )]
    others: Vec<Disturbance>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Disturbance {
    /// Posts at the rate of `--flood`
    Flood,
    /// Posts as fast as it is answered
    UnboundedFlood,
    /// The same with bodies of 256 KiB
    LargeBodies,
    /// Posts to a queue that is full: each sender waits 5 ms after it is refused, and posts again
    FullQueue,
    /// A client that takes and acknowledges a backlog
    Drain,
    /// A client that takes its events and acknowledges none: once its window is full there is nothing more to do
    AcksNothing,
    /// A client that does not even read
    ReadsNothing,
}

impl Disturbance {
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
            "| the other app | post p50 | p99 | p999 | received p50 | p99 | p999 | post p99, times the quiet | received p99 | memory MiB |"
        );
        println!("|--|{}", "--:|".repeat(9));
        for &disturbance in &self.others {
            self.measure(bench, disturbance).await?;
        }
        Ok(())
    }

    async fn measure(&self, bench: &Bench, disturbance: Disturbance) -> anyhow::Result<()> {
        let queued = self.backlog.to_string();
        let flags = [
            "--max-queued-events",
            if disturbance == Disturbance::FullQueue { &queued } else { "100000000" },
        ];
        let flags = [&flags[..], &["--max-queued-bytes", "1000GiB"]].concat();
        let target =
            Target::start(Setup { folder: &bench.folder, ceiling: false, apps: 2, flags: &flags }).await?;
        let target = Arc::new(target);
        let (mut quiet, mut disturbed) = <(Turns, Turns)>::default();
        let (measured, other) = (&target.apps[0], &target.apps[1]);
        for round in 0..self.rounds {
            if disturbance.needs_backlog(round) {
                let load = Load { until: Until::Events(self.backlog), ..self.flood(disturbance) };
                send(&target, std::slice::from_ref(other), load, &Arc::<Account>::default()).await?;
            }
            target.rest().await?;
            quiet.add(self.turn(&target, measured, pending()).await?);
            let mut other = Other::start(self, &target, other, disturbance);
            let turn = self.turn(&target, measured, other.ended()).await;
            // What it failed with says more than what that did to the turn.
            other.end()?;
            disturbed.add(turn?);
        }
        println!("| quiet | {} | {} | | | |", quiet.post.all.percentiles(), quiet.received.all.percentiles());
        println!(
            "| {} | {} | {} | {:.2} | {:.2} | {} |",
            self.name(disturbance),
            disturbed.post.all.percentiles(),
            disturbed.received.all.percentiles(),
            median_ratio(&disturbed.post.p99s, &quiet.post.p99s),
            median_ratio(&disturbed.received.p99s, &quiet.received.p99s),
            target.usage().memory / MIB,
        );
        Ok(())
    }

    /// The times from post to 201, and from post to the listener, of what is posted until that is over.
    async fn turn(
        &self,
        target: &Target,
        app: &Arc<App>,
        over: impl Future<Output = ()>,
    ) -> anyhow::Result<(Latencies, Latencies)> {
        let account: Arc<Account> = Arc::default();
        let socket = open(&target.address, app, api::MAX_WINDOW, true).await?;
        let listener = Listener::start(socket, &account);
        let until = Until::Time(Duration::from_secs_f64(self.seconds));
        let load = Load { senders: 8, first_sender: 0, size: self.size, until, rate: Some(self.rate) };
        let close = async {
            over.await;
            account.close();
            pending().await
        };
        let sent = tokio::select! {
            sent = send(target, std::slice::from_ref(app), load, &account) => sent?,
            never = close => never,
        };
        let taken = listener.finish(sent.accepted).await?;
        account.sum().ensure_complete(taken.out_of_order)?;
        ensure!(
            sent.accepted >= FEWEST,
            "a turn was over after {} events, too few to measure: try more --seconds, --backlog or --rate",
            sent.accepted
        );
        Ok((sent.latencies, taken.latencies))
    }

    /// Goes on until it is dropped, or the backlog is taken that there was to drain.
    async fn disturb(&self, target: &Target, app: &Arc<App>, disturbance: Disturbance) -> anyhow::Result<()> {
        let apps = std::slice::from_ref(app);
        match disturbance {
            Disturbance::Flood
            | Disturbance::UnboundedFlood
            | Disturbance::LargeBodies
            | Disturbance::FullQueue => {
                send(target, apps, self.flood(disturbance), &Arc::<Account>::default()).await?;
            }
            Disturbance::Drain => {
                receive(target, app, Way::Socket, self.backlog, &Arc::default()).await?;
            }
            Disturbance::AcksNothing | Disturbance::ReadsNothing => {
                let mut socket = open(&target.address, app, api::MAX_WINDOW, true).await?;
                if disturbance == Disturbance::AcksNothing {
                    while let Some(message) = socket.next().await {
                        message?;
                    }
                }
                return pending().await;
            }
        }
        Ok(())
    }

    fn name(&self, disturbance: Disturbance) -> String {
        match disturbance {
            Disturbance::Flood => format!("{FLOOD} senders, {} events/s", self.flood),
            Disturbance::UnboundedFlood => format!("{FLOOD} senders, as fast as they are answered"),
            Disturbance::LargeBodies => {
                format!("{FLOOD} senders of bodies of {} KiB, as fast as they are answered", LARGE >> 10)
            }
            Disturbance::FullQueue => format!("{FLOOD} senders to a full queue"),
            Disturbance::Drain => format!("a client that takes {} events", self.backlog),
            Disturbance::AcksNothing => "a client that acknowledges nothing".to_owned(),
            Disturbance::ReadsNothing => "a client that reads nothing".to_owned(),
        }
    }

    /// What the other app's senders post.
    fn flood(&self, disturbance: Disturbance) -> Load {
        let size = if disturbance == Disturbance::LargeBodies { LARGE } else { self.size };
        let rate = (disturbance == Disturbance::Flood).then_some(self.flood);
        let ever = Until::Time(Duration::from_secs(3600));
        Load { senders: FLOOD, first_sender: 0, size, until: ever, rate }
    }
}

/// All turns with a disturbance, or all without.
#[derive(Default)]
struct Turns {
    post: Times,
    received: Times,
}

#[derive(Default)]
struct Times {
    all: Latencies,
    /// Of each turn: where the machine stands still for a moment, that is one turn's.
    p99s: Vec<f64>,
}

impl Turns {
    fn add(&mut self, (post, received): (Latencies, Latencies)) {
        for (times, turn) in [(&mut self.post, post), (&mut self.received, received)] {
            times.p99s.push(turn.percentiles().p99.as_secs_f64());
            times.all.merge(&turn);
        }
    }
}

/// What the other app does, in a thread of its own: nobody is to wait for it but in the server. It gets the processor
/// when nobody else wants it, as far as the system can do that: in truth its clients are on other machines.
struct Other {
    stop: oneshot::Sender<()>,
    /// Closed when the thread ends.
    ended: oneshot::Receiver<()>,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl Other {
    fn start(fairness: &Fairness, target: &Arc<Target>, app: &Arc<App>, disturbance: Disturbance) -> Self {
        let (fairness, target, app) = (fairness.clone(), Arc::clone(target), Arc::clone(app));
        let (stop, stopped) = oneshot::channel();
        let (ends, ended) = oneshot::channel::<()>();
        // To stand back takes a while in which nobody is disturbed.
        let begins = Arc::new(Barrier::new(2));
        let has_stood_back = Arc::clone(&begins);
        let thread = thread::spawn(move || {
            let _ends = ends;
            stand_back();
            has_stood_back.wait();
            tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
                tokio::select! {
                    ended = fairness.disturb(&target, &app, disturbance) => ended,
                    _ = stopped => Ok(()),
                }
            })
        });
        begins.wait();
        Self { stop, ended, thread }
    }

    /// Waits until it ends by itself.
    async fn ended(&mut self) {
        // Nothing is sent: the sender goes with the thread.
        let _ = (&mut self.ended).await;
    }

    fn end(self) -> anyhow::Result<()> {
        drop(self.stop);
        self.thread.join().map_err(|_| anyhow!("the other app's thread panicked"))?
    }
}

/// Lets this thread run only when no other wants the processor.
fn stand_back() {
    let Ok(thread) = fs::read_link("/proc/thread-self") else { return };
    let Some(thread) = thread.file_name() else { return };
    let done = Command::new("chrt").args(["--idle", "--pid", "0"]).arg(thread).status();
    if !done.is_ok_and(|status| status.success()) {
        eprintln!("without chrt the other app's clients compete with the server for the processor");
    }
}
