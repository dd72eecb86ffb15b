use std::{sync::Arc, time::Instant};

use clap::Args;

use super::MIB;
use crate::{
    Bench,
    account::Account,
    send::{Load, Until, send},
    target::End,
};

/// How many events are posted to see what many registrations cost.
const EVENTS: usize = 100_000;

/// What many registered apps cost: memory, opening, and storing an event of any of them
#[derive(Debug, Args)]
pub(crate) struct Apps {
    /// How many are registered
    #[arg(long, default_value_t = 100_000)]
    apps: usize,
}

impl Apps {
    pub(crate) async fn run(&self, bench: &Bench) -> anyhow::Result<()> {
        println!(
            "| apps | registered a second | memory MiB | opened in ms | memory MiB then | events/s | of one app alone |"
        );
        println!("|{}", "--:|".repeat(7));
        let began = Instant::now();
        let mut target = bench.start(self.apps).await?;
        let registering = began.elapsed();
        let usage = target.usage();
        let opened = target.restart(End::Kill).await?;
        let memory = target.usage().memory;
        let load =
            Load { senders: 64, first_sender: 0, size: 1024, until: Until::Events(EVENTS), rate: None };
        let account: Arc<Account> = Arc::default();
        let all = send(&target, &target.apps, load, &account).await?;
        let account: Arc<Account> = Arc::default();
        let alone = send(&target, &target.apps[..1], load, &account).await?;
        println!(
            "| {} | {:.0} | {} | {} | {} | {:.0} | {:.0} |",
            self.apps,
            f64::from(u32::try_from(self.apps)?) / registering.as_secs_f64(),
            usage.memory / MIB,
            opened.as_millis(),
            memory / MIB,
            all.rate(),
            alone.rate(),
        );
        Ok(())
    }
}
