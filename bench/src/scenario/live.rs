use std::{sync::Arc, time::Duration};

use clap::Args;
use wwproxy_protocol::api;

use crate::{
    Bench,
    account::Account,
    plot::{Line, Plot},
    receive::{Listener, open},
    send::{Load, Until, send},
};

/// How long an event takes to its 201 and to a listener that acknowledges it, by events a second
#[derive(Debug, Args)]
pub(crate) struct Live {
    /// Events a second
    #[arg(long, value_delimiter = ',', default_value = "100,500,1000,2000,4000,8000")]
    rates: Vec<f64>,
    /// How many senders keep the rate together
    #[arg(long, default_value_t = 64)]
    senders: usize,
    /// Bytes of a body
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// Seconds of each rate
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
}

impl Live {
    pub(crate) async fn run(&self, bench: &Bench) -> anyhow::Result<()> {
        let target = bench.target().await?;
        println!(
            "| events/s | reached | post p50 | p99 | p999 | received p50 | p99 | p999 | ratio of p99 \
             | accepted | delivered | missing | repeated | out of order |"
        );
        println!("|{}", "--:|".repeat(14));
        let names = ["post, p50", "post, p99", "received, p50", "received, p99"];
        let mut lines = names.map(|name| Line { name: name.into(), points: Vec::new() });
        for &rate in &self.rates {
            let account: Arc<Account> = Arc::default();
            let app = &target.apps[0];
            let socket = open(&target.address, app, api::MAX_WINDOW, true).await?;
            let listener = Listener::start(socket, &account);
            let until = Until::Time(Duration::from_secs_f64(self.seconds));
            let load =
                Load { senders: self.senders, first_sender: 0, size: self.size, until, rate: Some(rate) };
            let sent = send(&target, &target.apps, load, &account).await?;
            let taken = listener.finish(sent.accepted).await?;
            let (post, received) = (sent.latencies.percentiles(), taken.latencies.percentiles());
            let sum = account.sum();
            println!(
                "| {rate} | {:.0} | {post} | {received} | {:.2} | {} | {} | {} | {} | {} |",
                sent.rate(),
                received.p99.as_secs_f64() / post.p99.as_secs_f64(),
                sum.accepted,
                sum.delivered,
                sum.missing,
                sum.repeated,
                taken.out_of_order,
            );
            sum.ensure_complete(taken.out_of_order)?;
            for (line, time) in lines.iter_mut().zip([post.p50, post.p99, received.p50, received.p99]) {
                line.points.push((rate, time.as_secs_f64() * 1000.0));
            }
        }
        bench.draw(
            "latency",
            &Plot { title: "Latency by load", x: "events/s", y: "ms", logarithmic: true, lines: &lines },
        )
    }
}
