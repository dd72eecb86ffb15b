use std::{fmt, sync::Arc, time::Duration};

use clap::Args;
use futures_util::StreamExt;
use wwproxy_protocol::api;

use crate::{
    Bench,
    account::Account,
    latency::Percentiles,
    receive::{listener, open},
    send::{Load, Until, send},
    target::{App, Setup, Target},
};

/// How many senders the other app has.
const FLOOD: usize = 64;
/// How often each disturbance is measured, with the quiet before it.
const ROUNDS: usize = 3;

/// What one app's flood, full queue or stuck client does to another app's latency
///
/// The app that is measured has senders that keep a rate, and a listener that acknowledges.
#[derive(Debug, Args)]
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
    /// Seconds of each measurement
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Events that wait for a client that is stuck
    #[arg(long, default_value_t = 100_000)]
    backlog: usize,
}

/// What the other app does.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Disturbance {
    Flood(f64),
    UnboundedFlood,
    FullQueue,
    AcksNothing,
    ReadsNothing,
}

impl fmt::Display for Disturbance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flood(rate) => write!(f, "{FLOOD} senders, {rate} events/s"),
            Self::UnboundedFlood => write!(f, "{FLOOD} senders, as fast as they are answered"),
            Self::FullQueue => write!(f, "{FLOOD} senders to a full queue"),
            Self::AcksNothing => f.write_str("a client that acknowledges nothing"),
            Self::ReadsNothing => f.write_str("a client that reads nothing"),
        }
    }
}

impl Fairness {
    pub(crate) async fn run(&self, bench: &Bench) -> anyhow::Result<()> {
        println!(
            "| the other app | post p50 | p99 | p999 | received p50 | p99 | p999 | post p99, times the quiet | received p99 | memory MiB |"
        );
        println!("|--|{}", "--:|".repeat(9));
        let disturbances = [
            Disturbance::Flood(self.flood),
            Disturbance::UnboundedFlood,
            Disturbance::FullQueue,
            Disturbance::AcksNothing,
            Disturbance::ReadsNothing,
        ];
        for disturbance in disturbances {
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
        let (mut quiet, mut disturbed) = (Vec::new(), Vec::new());
        let (measured, other) = (&target.apps[0], &target.apps[1]);
        if !matches!(disturbance, Disturbance::Flood(_) | Disturbance::UnboundedFlood) {
            let load = self.flood(Until::Events(self.backlog), None);
            send(&target, std::slice::from_ref(other), load, &Arc::<Account>::default()).await?;
        }
        for _ in 0..ROUNDS {
            quiet.push(self.latency(&target, measured).await?);
            tokio::select! {
                latency = self.latency(&target, measured) => disturbed.push(latency?),
                error = self.disturb(&target, other, disturbance) => error?,
            }
        }
        let middle = |mut rounds: Vec<[Percentiles; 2]>| {
            rounds.sort_by_key(|[post, _]| post.p99);
            rounds[rounds.len() / 2]
        };
        let ([post, received], [quiet_post, quiet_received]) = (middle(disturbed), middle(quiet));
        let times = |loud: Duration, quiet: Duration| loud.as_secs_f64() / quiet.as_secs_f64();
        println!("| quiet | {quiet_post} | {quiet_received} | | | |");
        println!(
            "| {disturbance} | {post} | {received} | {:.2} | {:.2} | {} |",
            times(post.p99, quiet_post.p99),
            times(received.p99, quiet_received.p99),
            target.usage().memory >> 20,
        );
        Ok(())
    }

    /// From post to 201, and from post to the listener.
    async fn latency(&self, target: &Target, app: &Arc<App>) -> anyhow::Result<[Percentiles; 2]> {
        let account: Arc<Account> = Arc::default();
        let listening = listener(open(&target.address, app, api::MAX_WINDOW, true).await?, &account);
        let until = Until::Time(Duration::from_secs_f64(self.seconds));
        let load = Load { senders: 8, first_sender: 0, size: self.size, until, rate: Some(self.rate) };
        let sent = send(target, std::slice::from_ref(app), load, &account).await?;
        let taken = listening.await??;
        Ok([sent.latencies.percentiles(), taken.latencies.percentiles()])
    }

    /// Goes on until it is dropped.
    async fn disturb(&self, target: &Target, app: &Arc<App>, disturbance: Disturbance) -> anyhow::Result<()> {
        let apps = std::slice::from_ref(app);
        let ever = Until::Time(Duration::from_secs(3600));
        let rate = match disturbance {
            Disturbance::Flood(rate) => Some(rate),
            Disturbance::UnboundedFlood | Disturbance::FullQueue => None,
            Disturbance::AcksNothing | Disturbance::ReadsNothing => {
                let mut socket = open(&target.address, app, api::MAX_WINDOW, true).await?;
                if disturbance == Disturbance::AcksNothing {
                    while let Some(message) = socket.next().await {
                        message?;
                    }
                }
                return std::future::pending().await;
            }
        };
        send(target, apps, self.flood(ever, rate), &Arc::<Account>::default()).await?;
        Ok(())
    }

    fn flood(&self, until: Until, rate: Option<f64>) -> Load {
        Load { senders: FLOOD, first_sender: 0, size: self.size, until, rate }
    }
}
