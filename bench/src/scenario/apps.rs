use std::{sync::Arc, time::Instant};

use clap::Args;

use super::MIB;
use crate::{
    Bench,
    ledger::Ledger,
    send::{Load, Until, send},
    server::Shutdown,
};

/// How many events are posted after the registrations.
const EVENTS: usize = 100_000;

/// The cost of many registered apps: registrations per second, memory, recovery time and ingest throughput
#[derive(Debug, Args)]
pub(crate) struct Apps {
    /// Number of registered apps
    #[arg(long, default_value_t = 100_000)]
    apps: usize,
}

impl Apps {
    pub(crate) async fn run(&self, bench: &Bench) -> anyhow::Result<()> {
        println!(
            "| apps | registrations/s | RSS MiB | open ms | RSS MiB after open | events/s | events/s, one app |"
        );
        println!("|{}", "--:|".repeat(7));
        let started = Instant::now();
        let mut server = bench.start(self.apps).await?;
        let registering = started.elapsed();
        let usage = server.usage();
        let opened = server.restart(Shutdown::Kill).await?;
        let rss = server.usage().rss;
        let load =
            Load { senders: 64, first_sender: 0, size: 1024, until: Until::Events(EVENTS), rate: None };
        let ledger: Arc<Ledger> = Arc::default();
        let all = send(&server, &server.apps, load, &ledger).await?;
        let ledger: Arc<Ledger> = Arc::default();
        let one = send(&server, &server.apps[..1], load, &ledger).await?;
        println!(
            "| {} | {:.0} | {} | {} | {} | {:.0} | {:.0} |",
            self.apps,
            f64::from(u32::try_from(self.apps)?) / registering.as_secs_f64(),
            usage.rss / MIB,
            opened.as_millis(),
            rss / MIB,
            all.rate(),
            one.rate(),
        );
        Ok(())
    }
}
