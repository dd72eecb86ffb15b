use clap::Args;
use futures_util::StreamExt;
use tokio::task::JoinSet;
use wwproxy_protocol::api;

use crate::{
    Bench,
    account::Account,
    receive::open,
    send::{Load, Until, send},
};

/// What an open websocket costs that has nothing to say
#[derive(Debug, Args)]
pub(crate) struct Idle {
    /// How many are opened, each of an app of its own
    #[arg(long, default_value_t = 10_000)]
    sockets: usize,
    /// Seconds that they stay: long enough for a ping
    #[arg(long, default_value_t = 25)]
    seconds: u64,
}

impl Idle {
    pub(crate) async fn run(&self, bench: &Bench) -> anyhow::Result<()> {
        let target = bench.start(self.sockets).await?;
        // What the first event costs is not what a websocket costs.
        let load = Load { senders: 1, first_sender: 0, size: 1024, until: Until::Events(1), rate: None };
        send(&target, &target.apps[..1], load, &std::sync::Arc::<Account>::default()).await?;
        let before = target.usage().memory;
        let mut open_ones = JoinSet::new();
        for app in &target.apps {
            let mut socket = open(&target.address, app, api::DEFAULT_WINDOW, true).await?;
            open_ones.spawn(async move { while socket.next().await.is_some() {} });
        }
        tokio::time::sleep(std::time::Duration::from_secs(self.seconds)).await;
        anyhow::ensure!(open_ones.try_join_next().is_none(), "the server closed an idle websocket");
        let usage = target.usage();
        println!("| websockets | MiB before | MiB with them | KiB each |\n|--:|--:|--:|--:|");
        let each = f64::from(u32::try_from(usage.memory.saturating_sub(before) >> 10)?)
            / f64::from(u32::try_from(self.sockets)?);
        println!("| {} | {} | {} | {each:.1} |", self.sockets, before >> 20, usage.memory >> 20);
        Ok(())
    }
}
