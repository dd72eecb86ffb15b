use std::sync::Arc;

use clap::Args;

use crate::{
    Bench,
    account::Account,
    receive::{Way, receive},
    send::{Load, Until, send},
};

/// Events a second of a stored backlog to one client, acknowledgements included
#[derive(Debug, Args)]
pub(crate) struct Backlog {
    /// How many events are stored first
    #[arg(long, default_value_t = 200_000)]
    events: usize,
    /// Bytes of a body
    #[arg(long, value_delimiter = ',', default_value = "1024")]
    sizes: Vec<usize>,
    /// How they are taken
    #[arg(long, value_delimiter = ',', value_enum, default_value = "socket,legacy,lease,get")]
    ways: Vec<Way>,
}

impl Backlog {
    pub(crate) async fn run(&self, bench: &Bench) -> anyhow::Result<()> {
        let target = bench.target().await?;
        println!(
            "| taken by | bytes | events/s | CPU µs/event | accepted | delivered | missing | repeated | out of order | left |"
        );
        println!("|--|{}", "--:|".repeat(9));
        for (&size, &way) in self.sizes.iter().flat_map(|size| self.ways.iter().map(move |way| (size, way))) {
            let account: Arc<Account> = Arc::default();
            let until = Until::Events(self.events);
            let load = Load { senders: 64, first_sender: 0, size, until, rate: None };
            send(&target, &target.apps, load, &account).await?;
            let before = target.usage().cpu;
            let taken = receive(&target, &target.apps[0], way, self.events, &account).await?;
            let cpu = target.usage().cpu.saturating_sub(before);
            let sum = account.sum();
            println!(
                "| {way:?} | {size} | {:.0} | {:.1} | {} | {} | {} | {} | {} | {} |",
                taken.rate(),
                cpu.as_secs_f64() * 1e6 / f64::from(u32::try_from(taken.events)?),
                sum.accepted,
                sum.delivered,
                sum.missing,
                sum.repeated,
                taken.out_of_order,
                target.status(&target.apps[0]).await?.stored,
            );
            sum.ensure_complete(taken.out_of_order)?;
        }
        Ok(())
    }
}
