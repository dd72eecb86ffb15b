use std::sync::Arc;

use clap::Args;

use crate::{
    Bench,
    ledger::Ledger,
    receive::{ReceiveMode, receive},
    send::{Load, Until, send},
};

/// Throughput of one client that drains a stored backlog, acknowledgements included
#[derive(Debug, Args)]
pub(crate) struct Backlog {
    /// Size of the backlog, in events
    #[arg(long, default_value_t = 200_000)]
    events: usize,
    /// Body sizes, in bytes
    #[arg(long, value_delimiter = ',', default_value = "1024")]
    sizes: Vec<usize>,
    /// How the client receives events
    #[arg(long = "ways", value_delimiter = ',', value_enum, default_value = "socket,legacy,lease,get")]
    modes: Vec<ReceiveMode>,
}

impl Backlog {
    pub(crate) async fn run(&self, bench: &Bench) -> anyhow::Result<()> {
        let servers = [Some(bench.server().await?), bench.start_beside(1).await?];
        println!(
            "| receive mode | version | body bytes | events/s | CPU µs/event | accepted | delivered | lost | duplicates | out of order | remaining |"
        );
        println!("|--|--|{}", "--:|".repeat(9));
        let runs = self.sizes.iter().flat_map(|&size| self.modes.iter().map(move |&mode| (size, mode)));
        let runs = runs.flat_map(|run| servers.iter().flatten().enumerate().map(move |server| (run, server)));
        for ((size, mode), (place, server)) in runs {
            let version = if place == 0 { "this" } else { "other" };
            let ledger: Arc<Ledger> = Arc::default();
            let until = Until::Events(self.events);
            let load = Load { senders: 64, first_sender: 0, size, until, rate: None };
            send(server, &server.apps, load, &ledger).await?;
            let before = server.usage().cpu;
            let received = receive(server, &server.apps[0], mode, self.events, &ledger).await?;
            let cpu = server.usage().cpu.saturating_sub(before);
            let totals = ledger.reconcile();
            println!(
                "| {mode:?} | {version} | {size} | {:.0} | {:.1} | {} | {} | {} | {} | {} | {} |",
                received.rate(),
                cpu.as_secs_f64() * 1e6 / f64::from(u32::try_from(received.events)?),
                totals.accepted,
                totals.delivered,
                totals.lost,
                totals.duplicates,
                received.out_of_order,
                server.status(&server.apps[0]).await?.stored,
            );
            totals.ensure_complete(received.out_of_order)?;
        }
        Ok(())
    }
}
