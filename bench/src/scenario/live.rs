use std::{sync::Arc, time::Duration};

use clap::Args;
use wwproxy_protocol::api;

use crate::{
    Bench,
    ledger::Ledger,
    plot::{Line, Plot},
    receive::{Listener, open},
    send::{Load, Until, send},
};

/// Ingest and delivery latency by offered load, with a websocket listener that acknowledges
#[derive(Debug, Args)]
pub(crate) struct Live {
    /// Offered loads, in events per second
    #[arg(long, value_delimiter = ',', default_value = "100,500,1000,2000,4000,8000")]
    rates: Vec<f64>,
    /// Number of senders that share the load
    #[arg(long, default_value_t = 64)]
    senders: usize,
    /// Body size, in bytes
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// Seconds of one run
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
}

impl Live {
    pub(crate) async fn run(&self, bench: &Bench) -> anyhow::Result<()> {
        let server = bench.server().await?;
        println!(
            "| offered events/s | achieved | ingest p50 | p99 | p99.9 | delivery p50 | p99 | p99.9 | p99 ratio \
             | accepted | delivered | lost | duplicates | out of order |"
        );
        println!("|{}", "--:|".repeat(14));
        let names = ["ingest p50", "ingest p99", "delivery p50", "delivery p99"];
        let mut lines = names.map(|name| Line { name: name.into(), points: Vec::new() });
        for &rate in &self.rates {
            let ledger: Arc<Ledger> = Arc::default();
            let app = &server.apps[0];
            let socket = open(&server.address, app, api::MAX_WINDOW, true).await?;
            let listener = Listener::start(socket, &ledger);
            let until = Until::Time(Duration::from_secs_f64(self.seconds));
            let load =
                Load { senders: self.senders, first_sender: 0, size: self.size, until, rate: Some(rate) };
            let sent = send(&server, &server.apps, load, &ledger).await?;
            let received = listener.finish(sent.accepted).await?;
            let (ingest, delivery) = (sent.latencies.percentiles(), received.latencies.percentiles());
            let totals = ledger.reconcile();
            println!(
                "| {rate} | {:.0} | {ingest} | {delivery} | {:.2} | {} | {} | {} | {} | {} |",
                sent.rate(),
                delivery.p99.as_secs_f64() / ingest.p99.as_secs_f64(),
                totals.accepted,
                totals.delivered,
                totals.lost,
                totals.duplicates,
                received.out_of_order,
            );
            totals.ensure_complete(received.out_of_order)?;
            for (line, time) in lines.iter_mut().zip([ingest.p50, ingest.p99, delivery.p50, delivery.p99]) {
                line.points.push((rate, time.as_secs_f64() * 1000.0));
            }
        }
        bench.draw(
            "latency",
            &Plot {
                title: "Latency by offered load",
                x: "offered events/s",
                y: "latency, ms",
                logarithmic: true,
                lines: &lines,
            },
        )
    }
}
