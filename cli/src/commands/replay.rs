//! `wwproxy replay`: hands saved events to a target.

use std::path::PathBuf;

use anyhow::anyhow;
use wwproxy_sdk::sanitize;

use crate::{
    access::Access,
    event_file, format,
    output::{Output, counted, seconds},
    shutdown::Shutdown,
    target::{Offer, OfferOutcome, Origin, Policy, Targets},
};

/// Hand events that `listen --save` wrote to a target, byte for byte
#[derive(clap::Args)]
#[command(after_help = "\
Events are handed over one by one in the given order, each with retries. Needs no server and no
credentials. --app-id gives the path (/hook/ID) that is appended to a URL that ends in `/`.

Examples:
  wwproxy replay saved --forward-to 3000
  wwproxy replay failed/0192e4a0-*.json --exec './handle.sh' --max-attempts 1")]
pub(crate) struct Replay {
    /// Saved events: files, or folders, whose `*.json` files are read in the order in which the events arrived
    #[arg(value_name = "FILE|DIR", required = true)]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    targets: Targets,
    #[command(flatten)]
    policy: Policy,
}

impl Replay {
    pub(crate) async fn run(self, access: Access) -> anyhow::Result<()> {
        self.targets.required()?;
        let app = access.app_id()?;
        let http = access.http()?.connect_timeout(self.policy.connect_timeout());
        let routes = self.targets.open(&http, app.as_ref())?;
        let shutdown = Shutdown::on_signal()?;
        let mut output = Output::stdout();
        let mut failed = 0;
        let files = event_file::list(&self.paths)?;
        // A file that is no event is reported before the first event is sent. The events are read again, as they may not fit in memory.
        for path in &files {
            event_file::read(path)?;
        }
        for path in &files {
            let event = event_file::read(path)?;
            let Some(target) = routes.target(&event) else {
                let line = format!("{}: no target for its type", path.display());
                output.write((sanitize(&line) + "\n").as_bytes()).await?;
                failed += 1;
                continue;
            };
            output.write(format::arrival_line(&event).as_bytes()).await?;
            let mut lines = Output::stdout();
            let retried = async |tried: &_, delay: std::time::Duration| {
                let next = format!(", again in {}", seconds(delay));
                // A closed stdout does not stop the replay.
                let _ = lines.write(format::result_line(&event, tried, &next).as_bytes()).await;
            };
            let offer = Offer { event: &event, origin: Origin::File, earlier_tries: 0 };
            let last = match self.policy.offer(target, offer, &shutdown, retried).await {
                OfferOutcome::Stopped => return Err(anyhow!("stopped at {}", path.display())),
                OfferOutcome::Accepted { last, .. }
                | OfferOutcome::GivenUp { last, .. }
                | OfferOutcome::Throttled { last, .. } => last,
            };
            failed += u64::from(!last.accepted);
            output.write(format::result_line(&event, &last, "").as_bytes()).await?;
        }
        if failed == 0 {
            Ok(())
        } else {
            let all = files.len();
            let one = format!("of {} was not accepted", counted(all as u64, "event", "events"));
            Err(anyhow!(counted(failed, &one, &format!("of {all} events were not accepted"))))
        }
    }
}
