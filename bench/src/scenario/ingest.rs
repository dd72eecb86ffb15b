use std::{sync::Arc, time::Duration};

use clap::Args;

use super::{MIB, median, median_ratio};
use crate::{
    Bench,
    account::Account,
    latency::Latencies,
    plot::{Line, Plot},
    receive::{Way, receive},
    send::{Load, Sent, Until, send},
    target::Target,
};

/// Events a second that are answered 201, by the number of senders, beside the ceiling: the same server
/// over a store that keeps nothing
///
/// Both are measured in turns. What was accepted is then taken with GET, and both are compared event by event.
#[derive(Debug, Args)]
pub(crate) struct Ingest {
    /// How many senders at once
    #[arg(long, value_delimiter = ',', default_value = "1,4,16,64,256")]
    senders: Vec<usize>,
    /// Bytes of a body
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// Seconds of one turn
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Turns of each
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

/// All turns of one server with so many senders.
#[derive(Default)]
struct Turns {
    rates: Vec<f64>,
    latencies: Latencies,
    accepted: usize,
    cpu: Duration,
}

impl Ingest {
    pub(crate) async fn run(&self, bench: &Bench) -> anyhow::Result<()> {
        let target = bench.target().await?;
        let ceiling = if bench.address.is_none() { Some(bench.ceiling(1).await?) } else { None };
        println!(
            "| senders | events/s | ceiling | ratio | p50 | p99 | p999 | CPU µs/event | memory MiB | file MiB \
             | accepted | delivered | missing | repeated | out of order |"
        );
        println!("|{}", "--:|".repeat(15));
        let mut lines = [("wwproxy", Vec::new()), ("ceiling", Vec::new())];
        for &senders in &self.senders {
            let account = Arc::default();
            // What the readers before took is still to be deleted.
            target.rest().await?;
            let (mut durable, mut highest) = (Turns::default(), Turns::default());
            for _ in 0..self.rounds {
                durable.add(&target, self.turn(&target, senders, &account)).await?;
                if let Some(ceiling) = &ceiling {
                    highest.add(ceiling, self.turn(ceiling, senders, &Arc::default())).await?;
                }
            }
            let usage = target.usage();
            let taken = receive(&target, &target.apps[0], Way::Get, usize::MAX, &account).await?;
            let sum = account.sum();
            let ratio = median_ratio(&durable.rates, &highest.rates);
            let (rate, highest) = (median(durable.rates), median(highest.rates));
            println!(
                "| {senders} | {rate:.0} | {highest:.0} | {ratio:.2} | {} | {:.0} | {} | {} | {} | {} | {} | {} | {} |",
                durable.latencies.percentiles(),
                durable.cpu.as_secs_f64() * 1e6 / count(durable.accepted),
                usage.memory / MIB,
                usage.file / MIB,
                sum.accepted,
                sum.delivered,
                sum.missing,
                sum.repeated,
                taken.out_of_order,
            );
            sum.ensure_complete(taken.out_of_order)?;
            lines[0].1.push((count(senders), rate));
            lines[1].1.push((count(senders), highest));
        }
        let lines = lines.map(|(name, points)| Line { name: name.into(), points });
        bench.draw(
            "throughput",
            &Plot {
                title: "Throughput by senders",
                x: "senders",
                y: "events/s",
                logarithmic: true,
                lines: &lines,
            },
        )
    }

    async fn turn(&self, target: &Target, senders: usize, account: &Arc<Account>) -> anyhow::Result<Sent> {
        let until = Until::Time(Duration::from_secs_f64(self.seconds));
        // Each turn has connections of its own, and with them names of its own.
        let first_sender = account.senders();
        send(
            target,
            &target.apps,
            Load { senders, first_sender, size: self.size, until, rate: None },
            account,
        )
        .await
    }
}

impl Turns {
    /// To a turn belongs all that it gives the server to do, also when nobody waits for that.
    async fn add(
        &mut self,
        target: &Target,
        turn: impl Future<Output = anyhow::Result<Sent>>,
    ) -> anyhow::Result<()> {
        let before = target.usage().cpu;
        let sent = turn.await?;
        target.rest().await?;
        self.cpu += target.usage().cpu.saturating_sub(before);
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
