use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Args;
use tokio::time::sleep;

use super::{MIB, median, median_ratio};
use crate::{
    Bench,
    account::Account,
    plot::{Line, Plot},
    receive::{Way, receive},
    send::{Load, Until, send},
    target::{End, Target, Usage},
};

/// How many senders store the backlog, and measure beside it.
const SENDERS: usize = 64;
/// How many events are stored between two measurements of what it costs to add one.
const STEPS: usize = 5;
/// Into how many parts the backlog is divided where it is read: the first and the last are compared.
const PARTS: usize = 10;
/// How long they post before the server is killed under them: its journal has been full several times then.
const FLOODED: Duration = Duration::from_secs(2);

/// What a long backlog costs: storing more beside an empty store, memory, opening, and reading at its ends
#[derive(Debug, Args)]
pub(crate) struct Growth {
    /// How many events are stored
    #[arg(long, default_value_t = 1_000_000)]
    events: usize,
    /// How many apps share them
    #[arg(long, value_delimiter = ',', default_value = "1,1000,10000")]
    apps: Vec<usize>,
    /// Bytes of a body
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// Seconds of one turn
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Turns of each store, the empty one and the full one
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

impl Growth {
    pub(crate) async fn run(&self, bench: &Bench) -> anyhow::Result<()> {
        println!(
            "| apps | events stored | events/s | empty | ratio | memory MiB | empty \
             | opened in ms | after a kill at rest | under load | memory MiB then \
             | first read events/s | last read | file MiB | read empty | filled again | missing | repeated | out of order |"
        );
        println!("|{}", "--:|".repeat(19));
        let mut lines = Vec::new();
        for &apps in &self.apps {
            let line = self.fill(bench, apps).await?;
            lines.push(line);
        }
        bench.draw(
            "backlog",
            &Plot {
                title: "Cost by backlog",
                x: "events stored",
                y: "events/s stored on top",
                logarithmic: false,
                lines: &lines,
            },
        )
    }

    async fn fill(&self, bench: &Bench, apps: usize) -> anyhow::Result<Line> {
        let mut full = bench.start(apps).await?;
        let account: Arc<Account> = Arc::default();
        let mut line = Line { name: format!("{apps} apps"), points: Vec::new() };
        let mut stored = 0;
        for _ in 0..STEPS {
            let sent = self.send(&full, Until::Events(self.events / STEPS), &account).await?;
            stored += sent.0;
            line.points.push((count(stored), sent.1));
        }
        let until = Until::Time(Duration::from_secs_f64(self.seconds));
        let (mut rates, mut empty_rates, mut empty_usage) = (Vec::new(), Vec::new(), Usage::default());
        for _ in 0..self.rounds {
            let sent = self.send(&full, until, &account).await?;
            stored += sent.0;
            rates.push(sent.1);
            full.rest().await?;
            // A new one each time: one that was emptied has room in its file, for which the disk need not find any.
            let empty = bench.start(apps).await?;
            empty_rates.push(self.send(&empty, until, &Arc::default()).await?.1);
            empty_usage = empty.usage();
        }
        let ratio = median_ratio(&rates, &empty_rates);
        let usage = full.usage();
        let opened = full.restart(End::Stop).await?;
        full.rest().await?;
        let opened_at_rest = full.restart(End::Kill).await?;
        stored += self.kill_under_load(&full, &account).await?;
        let opened_under_load = full.restart(End::Kill).await?;
        let memory = full.usage().memory;

        let (rates_read, out_of_order) = self.read(&full, &account, stored).await?;
        let sum = account.sum();
        let read_empty = full.usage().file;
        let again: Arc<Account> = Arc::default();
        self.send(&full, Until::Events(self.events / STEPS), &again).await?;
        println!(
            "| {apps} | {stored} | {:.0} | {:.0} | {ratio:.2} | {} | {} | {} | {} | {} | {} | {:.0} | {:.0} | {} | {} | {} | {} | {} | {out_of_order} |",
            median(rates),
            median(empty_rates),
            usage.memory / MIB,
            empty_usage.memory / MIB,
            opened.as_millis(),
            opened_at_rest.as_millis(),
            opened_under_load.as_millis(),
            memory / MIB,
            rates_read.first().unwrap_or(&0.0),
            rates_read.last().unwrap_or(&0.0),
            usage.file / MIB,
            read_empty / MIB,
            full.usage().file / MIB,
            sum.missing,
            sum.repeated,
        );
        sum.ensure_complete(out_of_order)?;
        Ok(line)
    }

    /// Kills the server while all post. Says how many events were accepted.
    async fn kill_under_load(&self, target: &Target, account: &Arc<Account>) -> anyhow::Result<usize> {
        let kill = async {
            sleep(FLOODED).await;
            account.close();
            target.kill();
        };
        // Ends with the account.
        let flood = self.send(target, Until::Time(Duration::MAX), account);
        Ok(tokio::join!(flood, kill).0?.0)
    }

    /// How many events were accepted, and how many a second.
    async fn send(
        &self,
        target: &Target,
        until: Until,
        account: &Arc<Account>,
    ) -> anyhow::Result<(usize, f64)> {
        let load =
            Load { senders: SENDERS, first_sender: account.senders(), size: self.size, until, rate: None };
        let sent = send(target, &target.apps, load, account).await?;
        Ok((sent.accepted, sent.rate()))
    }

    /// Takes all events of one app after the other. Says events a second of each part, and how many were
    /// out of order.
    async fn read(
        &self,
        target: &Target,
        account: &Arc<Account>,
        stored: usize,
    ) -> anyhow::Result<(Vec<f64>, usize)> {
        let part = (stored / PARTS).max(1);
        let (mut rates, mut out_of_order) = (Vec::new(), 0);
        let (mut began, mut events) = (Instant::now(), 0);
        for app in &target.apps {
            loop {
                let taken = receive(target, app, Way::Lease, part - events, account).await?;
                out_of_order += taken.out_of_order;
                events += taken.events;
                if events >= part {
                    rates.push(count(events) / began.elapsed().as_secs_f64());
                    (began, events) = (Instant::now(), 0);
                } else if taken.events == 0 {
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
