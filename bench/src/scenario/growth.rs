use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Args;
use tokio::time::sleep;

use super::{MIB, median, median_ratio};
use crate::{
    Bench,
    ledger::Ledger,
    plot::{Line, Plot},
    receive::{ReceiveMode, receive},
    send::{Load, Until, send},
    server::{ResourceUsage, Shutdown, TestServer},
};

/// The number of senders.
const SENDERS: usize = 64;
/// The backlog is stored in this number of steps; the throughput of each is a point of the plot.
const STEPS: usize = 5;
/// Read throughput is measured for each of this number of parts of the backlog; the table shows the first and the last.
const PARTS: usize = 10;
/// How long the senders post before the server is killed: the write-ahead log has wrapped several times by then.
const KILL_AFTER: Duration = Duration::from_secs(2);

/// The cost of a long backlog: ingest throughput compared with an empty store, memory, recovery time, and read throughput
#[derive(Debug, Args)]
pub(crate) struct Growth {
    /// Size of the backlog, in events
    #[arg(long, default_value_t = 1_000_000)]
    events: usize,
    /// Number of apps that share the backlog
    #[arg(long, value_delimiter = ',', default_value = "1,1000,10000")]
    apps: Vec<usize>,
    /// Body size, in bytes
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// Seconds of one run
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Number of rounds; each has one run with the full store and one with an empty store
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

impl Growth {
    pub(crate) async fn run(&self, bench: &Bench) -> anyhow::Result<()> {
        println!(
            "| apps | events stored | events/s | events/s, empty store | ratio | RSS MiB | RSS MiB, empty store \
             | open ms after SIGTERM | after SIGKILL, idle | after SIGKILL, under load | RSS MiB after open \
             | read events/s, first tenth | last tenth | disk MiB | disk MiB, drained | disk MiB, refilled \
             | lost | duplicates | out of order |"
        );
        println!("|{}", "--:|".repeat(19));
        let mut lines = Vec::new();
        for &apps in &self.apps {
            let line = self.measure(bench, apps).await?;
            lines.push(line);
        }
        bench.draw(
            "backlog",
            &Plot {
                title: "Ingest throughput by backlog size",
                x: "events in the backlog",
                y: "events/s",
                logarithmic: false,
                lines: &lines,
            },
        )
    }

    async fn measure(&self, bench: &Bench, apps: usize) -> anyhow::Result<Line> {
        let mut full = bench.start(apps).await?;
        let ledger: Arc<Ledger> = Arc::default();
        let mut line = Line { name: format!("{apps} apps"), points: Vec::new() };
        let mut stored = 0;
        for _ in 0..STEPS {
            let sent = self.send(&full, Until::Events(self.events / STEPS), &ledger).await?;
            stored += sent.0;
            line.points.push((count(stored), sent.1));
        }
        let until = Until::Time(Duration::from_secs_f64(self.seconds));
        let (mut rates, mut empty_rates, mut empty_usage) =
            (Vec::new(), Vec::new(), ResourceUsage::default());
        for _ in 0..self.rounds {
            let sent = self.send(&full, until, &ledger).await?;
            stored += sent.0;
            rates.push(sent.1);
            full.wait_until_idle().await?;
            // A new store each time: a drained store reuses space in its file and need not allocate.
            let empty = bench.start(apps).await?;
            empty_rates.push(self.send(&empty, until, &Arc::default()).await?.1);
            empty_usage = empty.usage();
        }
        let ratio = median_ratio(&rates, &empty_rates);
        let usage = full.usage();
        let opened = full.restart(Shutdown::Term).await?;
        full.wait_until_idle().await?;
        let opened_idle = full.restart(Shutdown::Kill).await?;
        stored += self.kill_under_load(&full, &ledger).await?;
        let opened_under_load = full.restart(Shutdown::Kill).await?;
        let rss = full.usage().rss;

        let (rates_read, out_of_order) = self.read(&full, &ledger, stored).await?;
        let totals = ledger.reconcile();
        let drained = full.usage().disk;
        let refill: Arc<Ledger> = Arc::default();
        self.send(&full, Until::Events(self.events / STEPS), &refill).await?;
        println!(
            "| {apps} | {stored} | {:.0} | {:.0} | {ratio:.2} | {} | {} | {} | {} | {} | {} | {:.0} | {:.0} | {} | {} | {} | {} | {} | {out_of_order} |",
            median(rates),
            median(empty_rates),
            usage.rss / MIB,
            empty_usage.rss / MIB,
            opened.as_millis(),
            opened_idle.as_millis(),
            opened_under_load.as_millis(),
            rss / MIB,
            rates_read.first().unwrap_or(&0.0),
            rates_read.last().unwrap_or(&0.0),
            usage.disk / MIB,
            drained / MIB,
            full.usage().disk / MIB,
            totals.lost,
            totals.duplicates,
        );
        totals.ensure_complete(out_of_order)?;
        Ok(line)
    }

    /// Kills the server while the senders post. Returns the number of accepted events.
    async fn kill_under_load(&self, server: &TestServer, ledger: &Arc<Ledger>) -> anyhow::Result<usize> {
        let kill = async {
            sleep(KILL_AFTER).await;
            ledger.close();
            server.kill();
        };
        // The senders stop when the ledger is closed.
        let flood = self.send(server, Until::Time(Duration::MAX), ledger);
        Ok(tokio::join!(flood, kill).0?.0)
    }

    /// Posts events. Returns the number of accepted events and the throughput.
    async fn send(
        &self,
        server: &TestServer,
        until: Until,
        ledger: &Arc<Ledger>,
    ) -> anyhow::Result<(usize, f64)> {
        let load = Load {
            senders: SENDERS,
            first_sender: ledger.sender_count(),
            size: self.size,
            until,
            rate: None,
        };
        let sent = send(server, &server.apps, load, ledger).await?;
        Ok((sent.accepted, sent.rate()))
    }

    /// Drains the backlog, app by app. Returns the throughput of each part, and the number of events out of order.
    async fn read(
        &self,
        server: &TestServer,
        ledger: &Arc<Ledger>,
        stored: usize,
    ) -> anyhow::Result<(Vec<f64>, usize)> {
        let part = (stored / PARTS).max(1);
        let (mut rates, mut out_of_order) = (Vec::new(), 0);
        let (mut started, mut events) = (Instant::now(), 0);
        for app in &server.apps {
            loop {
                let received = receive(server, app, ReceiveMode::Lease, part - events, ledger).await?;
                out_of_order += received.out_of_order;
                events += received.events;
                if events >= part {
                    rates.push(count(events) / started.elapsed().as_secs_f64());
                    (started, events) = (Instant::now(), 0);
                } else if received.events == 0 {
                    break;
                }
            }
        }
        Ok((rates, out_of_order))
    }
}

#[expect(clippy::cast_precision_loss, reason = "no run has 2^52 of anything")]
fn count(number: usize) -> f64 {
    number as f64
}
