use clap::Args;
use futures_util::StreamExt;
use tokio::task::JoinSet;
use wwproxy_protocol::api;

use crate::{
    Bench,
    ledger::Ledger,
    receive::open,
    send::{Load, Until, send},
};

/// Memory of idle websockets
#[derive(Debug, Args)]
pub(crate) struct Idle {
    /// Number of websockets, each of its own app
    #[arg(long, default_value_t = 10_000)]
    sockets: usize,
    /// Seconds that they stay open: longer than the ping interval
    #[arg(long, default_value_t = 25)]
    seconds: u64,
}

impl Idle {
    pub(crate) async fn run(&self, bench: &Bench) -> anyhow::Result<()> {
        let server = bench.start(self.sockets).await?;
        // Warm-up: the first event allocates memory that is not part of a websocket.
        let load = Load { senders: 1, first_sender: 0, size: 1024, until: Until::Events(1), rate: None };
        send(&server, &server.apps[..1], load, &std::sync::Arc::<Ledger>::default()).await?;
        let before = server.usage().rss;
        let mut sockets = JoinSet::new();
        for app in &server.apps {
            let mut socket = open(&server.address, app, api::DEFAULT_WINDOW, true).await?;
            sockets.spawn(async move { while socket.next().await.is_some() {} });
        }
        tokio::time::sleep(std::time::Duration::from_secs(self.seconds)).await;
        anyhow::ensure!(sockets.try_join_next().is_none(), "the server closed an idle websocket");
        let usage = server.usage();
        println!(
            "| websockets | RSS MiB before | RSS MiB with websockets | KiB per websocket |\n|--:|--:|--:|--:|"
        );
        let each = f64::from(u32::try_from(usage.rss.saturating_sub(before) >> 10)?)
            / f64::from(u32::try_from(self.sockets)?);
        println!("| {} | {} | {} | {each:.1} |", self.sockets, before >> 20, usage.rss >> 20);
        Ok(())
    }
}
