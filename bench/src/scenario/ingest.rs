use std::{sync::Arc, time::Duration};

use clap::Args;

use super::{MIB, median, median_ratio};
use crate::{
    Bench,
    latency::Latencies,
    ledger::Ledger,
    plot::{Line, Plot},
    receive::{ReceiveMode, receive},
    send::{Load, SendReport, Until, send},
    server::TestServer,
};

/// Ingest throughput and latency by number of senders, compared with a baseline: the server of another version (`--beside`), or
/// the ceiling, which is the same server with a null store
///
/// Runs of both alternate. Then a client polls all events, and the ledger of accepted and delivered events is reconciled.
#[derive(Debug, Args)]
pub(crate) struct Ingest {
    /// Numbers of concurrent senders
    #[arg(long, value_delimiter = ',', default_value = "1,4,16,64,256")]
    senders: Vec<usize>,
    /// Body size, in bytes
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// Seconds of one run
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Number of apps that the senders post to, in turns
    #[arg(long, default_value_t = 1)]
    apps: usize,
    /// Number of rounds; each has one run of the server and one of the baseline
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

/// All runs of one server with the same number of senders.
#[derive(Default)]
struct Runs {
    rates: Vec<f64>,
    latencies: Latencies,
    accepted: usize,
    cpu: Duration,
}

impl Ingest {
    pub(crate) async fn run(&self, bench: &Bench) -> anyhow::Result<()> {
        let server = bench.server_with(self.apps).await?;
        let baseline = match bench.start_beside(self.apps).await? {
            None if bench.address.is_none() => Some(bench.ceiling(self.apps).await?),
            beside => beside,
        };
        println!(
            "| senders | events/s | baseline events/s | ratio | p50 | p99 | p99.9 | baseline p99 | CPU µs/event | RSS MiB | disk MiB \
             | accepted | delivered | lost | duplicates | out of order |"
        );
        println!("|{}", "--:|".repeat(16));
        let mut lines = [("wwproxy", Vec::new()), ("baseline", Vec::new())];
        for &senders in &self.senders {
            let ledger = Arc::default();
            // The deletions of the previous client may still be in progress.
            server.wait_until_idle().await?;
            let (mut runs, mut baselines) = (Runs::default(), Runs::default());
            for _ in 0..self.rounds {
                runs.add(&server, self.run_once(&server, senders, &ledger)).await?;
                if let Some(baseline) = &baseline {
                    baselines.add(baseline, self.run_once(baseline, senders, &Arc::default())).await?;
                }
            }
            let usage = server.usage();
            let mut out_of_order = 0;
            for app in &server.apps {
                let received = receive(&server, app, ReceiveMode::Get, usize::MAX, &ledger).await?;
                out_of_order += received.out_of_order;
            }
            let totals = ledger.reconcile();
            let ratio = median_ratio(&runs.rates, &baselines.rates);
            let (rate, baseline_rate) = (median(runs.rates), median(baselines.rates));
            println!(
                "| {senders} | {rate:.0} | {baseline_rate:.0} | {ratio:.2} | {} | {:.2} | {:.0} | {} | {} | {} | {} | {} | {} | {} |",
                runs.latencies.percentiles(),
                baselines.latencies.percentiles().p99.as_secs_f64() * 1000.0,
                runs.cpu.as_secs_f64() * 1e6 / count(runs.accepted),
                usage.rss / MIB,
                usage.disk / MIB,
                totals.accepted,
                totals.delivered,
                totals.lost,
                totals.duplicates,
                out_of_order,
            );
            totals.ensure_complete(out_of_order)?;
            lines[0].1.push((count(senders), rate));
            lines[1].1.push((count(senders), baseline_rate));
        }
        let lines = lines.map(|(name, points)| Line { name: name.into(), points });
        bench.draw(
            "throughput",
            &Plot {
                title: "Ingest throughput by number of senders",
                x: "senders",
                y: "events/s",
                logarithmic: true,
                lines: &lines,
            },
        )
    }

    async fn run_once(
        &self,
        server: &TestServer,
        senders: usize,
        ledger: &Arc<Ledger>,
    ) -> anyhow::Result<SendReport> {
        let until = Until::Time(Duration::from_secs_f64(self.seconds));
        // Each run has new connections, and a new range of sender numbers in the ledger.
        let first_sender = ledger.sender_count();
        send(server, &server.apps, Load { senders, first_sender, size: self.size, until, rate: None }, ledger)
            .await
    }
}

impl Runs {
    /// The CPU time of a run includes the checkpoint after it.
    async fn add(
        &mut self,
        server: &TestServer,
        run: impl Future<Output = anyhow::Result<SendReport>>,
    ) -> anyhow::Result<()> {
        let before = server.usage().cpu;
        let sent = run.await?;
        server.wait_until_idle().await?;
        self.cpu += server.usage().cpu.saturating_sub(before);
        self.rates.push(sent.rate());
        self.accepted += sent.accepted;
        self.latencies.merge(&sent.latencies);
        Ok(())
    }
}

#[expect(clippy::cast_precision_loss, reason = "no run has 2^52 of anything")]
fn count(number: usize) -> f64 {
    number as f64
}
