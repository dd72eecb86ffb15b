//! `wwproxy listen`: prints events, or hands them to a target.

mod checks;
mod consumer;
mod counts;
mod disposition;
mod failed_tries;
mod failure;
mod ready;
mod reporter;
mod skipped;
mod throttled;
mod unmatched;
mod worker;

use std::{
    collections::VecDeque,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::anyhow;
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::select;
use wwproxy_sdk::{Client, HttpOptions, ListenOptions, Subscription};

pub(crate) use self::consumer::parse_start;
use self::{
    checks::Checks,
    consumer::ConsumerFlags,
    disposition::Disposition,
    failed_tries::FailedTries,
    failure::OnFailure,
    ready::ReadyFile,
    reporter::Reporter,
    throttled::Throttled,
    worker::{EventOutcome, Worker},
};
use crate::{
    access::Access,
    duration::parse_duration,
    error::UsageError,
    event_file::EventFolder,
    format::Format,
    output::{counted, require_stdout},
    selection::Selection,
    shutdown::Shutdown,
    target::{Policy, Targets},
};

/// The prefetch window without a target, in events.
const PRINT_WINDOW: u32 = 64;
/// The minimum prefetch window with a target, in events: small, as each event waits for its turn within its lease.
const TARGET_WINDOW: u32 = 16;

const EXAMPLES: &str = "\
Without a target, an event is acknowledged once it is written to stdout. With a target, it is
acknowledged once the target accepted it (2xx, exit 0).
An unreachable target is retried without limit. Its Retry-After is honoured up to 5 min, without
blocking other events.
Delivery is at least once: an event that is not acknowledged is redelivered, with the same
wwproxy-event-id.
Without --consumer, the clients of one app share its events: each event goes to one of them. With
--consumer, events are shared with the clients of that consumer only, and the server sends only
those of --type and --source.
Without --consumer, events of other sources than --source stay on the server, for other clients.
Other events that do not match (--type, --filter, --route) are skipped: acknowledged, so that no
client gets them; they remain in the history. The first one is reported on stderr, and the last
line counts them.
SIGINT, SIGTERM and SIGHUP stop it: events that are not finished within 2 s are released. A second
signal ends it at once.

Examples:
  wwproxy listen | jq --unbuffered .data
  wwproxy listen --forward-to 3000
  wwproxy listen --forward-to 3000 --type 'message-*' \\
    --filter '.userName != \"me\"'
  wwproxy listen --source github --type 'issues.*' --exec './handle.sh'
  wwproxy listen --route 'message-*=3000' \\
    --route 'space-*=http://localhost:4000/spaces'
  wwproxy listen --exec './handle.sh' --concurrency 4 --on-failure save=failed
  wwproxy listen --consumer audit --create --type 'issues.*' --since all \\
    --forward-to 3000 --on-failure dead --dead-after 20
  wwproxy listen --since 1h --format data
  wwproxy listen --format data --ready-file ready --max-events 1 \\
    --exit-after-idle 30s";

/// Take events as they arrive: print them, forward them to a URL, or run a command for each
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Listen {
    /// The output format; by default pretty on a terminal, otherwise json
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<Format>,
    /// Save each event as a file in this folder, before it is handled; `replay` and `send --file` send it again. Other files in the
    /// folder are not overwritten
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
    /// Stop after this number of events; events that did not match, or are kept or left on the server, do not count
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_events: Option<u64>,
    /// Stop when no event arrived for this time, such as `30s`; events that are left on the server do not count
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    exit_after_idle: Option<Duration>,
    /// Give up when there is no connection for this time; by default it reconnects forever
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    max_reconnect_time: Option<Duration>,
    /// Create this file once the server is ready to deliver events. The ready file of an earlier run is removed first; any other file
    /// is an error
    #[arg(long, value_name = "PATH")]
    ready_file: Option<PathBuf>,
    /// Exit with code 4 if the app is not registered, instead of waiting until it is
    #[arg(long)]
    require_registered: bool,
    /// The prefetch window: how many events may be in flight; by default 64, with a target 16; 1 for strictly one at a time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    window: Option<u32>,
    #[command(flatten)]
    targets: Targets,
    #[command(flatten)]
    policy: Policy,
    /// What to do with an event that its target did not accept: `keep` it on the server, which redelivers it after a minute, make it
    /// `dead` (it is not redelivered, and kept with the target's last answer as the reason), `drop` (acknowledge) it, or `save=DIR` it
    /// as a file and acknowledge it
    #[arg(long, value_name = "WHAT", default_value = "keep", value_parser = OnFailure::parse, help_heading = "Targets")]
    on_failure: OnFailure,
    /// How many events are handled concurrently; with more than 1 their order is not kept
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024), help_heading = "Targets")]
    concurrency: u32,
    #[command(flatten)]
    consumer: ConsumerFlags,
    #[command(flatten)]
    selection: Selection,
    /// Leave events that do not match on the server, for other clients, instead of skipping (acknowledging) them. Events that no
    /// client takes are redelivered, at least every 5 s
    #[arg(long, help_heading = "Selection")]
    leave_unmatched: bool,
}

impl Listen {
    pub(crate) async fn run(self, access: Access) -> anyhow::Result<()> {
        let http = access.http()?;
        let client = access.client(http.clone())?;
        self.listen(&client, &http).await
    }

    async fn listen(mut self, client: &Client, http: &HttpOptions) -> anyhow::Result<()> {
        let format = Format::for_stdout(self.format)?;
        let target_http = http.clone().connect_timeout(self.policy.connect_timeout());
        let routes = self.targets.open(&target_http, Some(client.app_id()))?;
        if routes.is_empty() && self.save.is_none() {
            require_stdout(
                "events would be acknowledged without being printed; open stdout, give --save or a target, or use --exec true to \
                 acknowledge them unread",
            )?;
        }
        let save = self.save.as_deref().map(EventFolder::open).transpose()?;
        let shutdown = Shutdown::on_signal()?;
        let ready_file = self.ready_file.map(ReadyFile::prepare).transpose()?;
        let on_failure = self.on_failure.open()?;
        let (consumer, max_wait) = (self.consumer, self.max_reconnect_time);
        let cursor = consumer.open(client, &mut self.selection, max_wait, &shutdown).await?;
        let Some(cursor) = cursor else { return Ok(()) };
        let leave_unmatched = self.leave_unmatched;
        if leave_unmatched && cursor.name().is_none() {
            return Err(UsageError(
                "with --since and without --consumer there are no other clients to leave events for: leave out --leave-unmatched".into(),
            )
            .into());
        }
        let about = format!("{}: events to {}", cursor.describe(client), self.targets);
        let reporter = Reporter::new(client.server(), about, ready_file);
        reporter.advise_on_skipped(cursor.skip_advice());
        let usual = if routes.is_empty() { PRINT_WINDOW } else { TARGET_WINDOW.max(self.concurrency) };
        let window = self.window.unwrap_or(usual);
        let states = reporter.clone();
        let mut options = ListenOptions::new().window(window).on_state(move |state| states.set_state(state));
        if let Some(limit) = self.max_reconnect_time {
            options = options.max_disconnected(limit);
        }
        if !routes.is_empty() {
            // A target may take longer than the lease, also because it cannot be reached.
            options = options.extend_leases();
        }
        let selects = !self.selection.is_all() || !routes.is_for_all();
        let mut events = cursor.listen(client, options);
        let worker = Worker {
            routes,
            policy: self.policy,
            on_failure,
            selection: self.selection,
            leave_unmatched,
            is_shared: cursor.name().is_some(),
            save,
            printer: worker::Printer::new(format, reporter.progress().clone(), shutdown.clone()),
            reporter: reporter.clone(),
            shutdown,
            failed_tries: FailedTries::default(),
            throttled: Throttled::default(),
        };
        let limits = Limits {
            max_events: self.max_events.unwrap_or(u64::MAX),
            concurrency: self.concurrency as usize,
            window: window as usize,
            idle: self.exit_after_idle,
        };
        let checks = Checks {
            selection: &worker.selection,
            skips: selects && !leave_unmatched && cursor.name().is_some(),
            consumer: cursor.name().unwrap_or_default(),
            require_registered: self.require_registered,
        };
        let result = select! {
            result = handle_all(&mut events, &worker, &limits) => result,
            error = checks.run(client, &reporter) => Err(error),
        };
        events.close().await;
        reporter.print_summary();
        result
    }
}

/// When to stop without a signal.
struct Limits {
    max_events: u64,
    concurrency: usize,
    /// The prefetch window.
    window: usize,
    idle: Option<Duration>,
}

/// Handles events until the maximum is reached, stdout is closed, the idle limit is over, or a signal arrives.
///
/// Its inputs: the signal; events that have been handled, skipped or left; the event that is filtered; the next event, if there is
/// room for one; the idle and report timers. One event is filtered at a time, which keeps their order. If unmatched events are
/// left, events are read ahead, so that those of other clients do not wait behind a slow one. No event is filtered before the names of
/// `--source` are checked.
///
/// At `--max-events`, and when no event comes, no event is being handled. After a signal handlers have 2 s; an error or a closed
/// stdout drops them, and their events are redelivered.
async fn handle_all(events: &mut Subscription, worker: &Worker, limits: &Limits) -> anyhow::Result<()> {
    let (mut done, mut failed) = (0, 0);
    let mut waiting = VecDeque::new();
    let (mut handling, mut settling) = (FuturesUnordered::new(), FuturesUnordered::new());
    let mut deciding = FuturesUnordered::new();
    let mut last = Instant::now();
    while done < limits.max_events {
        let stopping = worker.shutdown.is_requested();
        let has_room =
            |started: usize| started < limits.concurrency && done + (started as u64) < limits.max_events;
        while !stopping
            && has_room(handling.len())
            && let Some(delivery) = waiting.pop_front()
        {
            handling.push(worker.handle(delivery));
        }
        let reads_ahead = worker.may_leave() && waiting.len() < limits.window;
        let reads = !stopping
            && deciding.is_empty()
            && settling.len() < limits.window
            && (reads_ahead || has_room(handling.len() + waiting.len()));
        let idle = handling.is_empty() && settling.is_empty() && deciding.is_empty();
        select! {
            biased;
            () = worker.shutdown.requested(), if !stopping => {}
            Some(handled) = handling.next() => {
                last = Instant::now();
                match handled? {
                    EventOutcome::Done => done += 1,
                    EventOutcome::Failed => (done, failed) = (done + 1, failed + 1),
                    EventOutcome::Kept => failed += 1,
                    EventOutcome::Throttled | EventOutcome::Stopped => {}
                    EventOutcome::OutputClosed => return Ok(()),
                }
            }
            Some(()) = settling.next() => {}
            // Nothing is in progress, and nothing new is started.
            () = std::future::ready(()), if stopping && handling.is_empty() => return Ok(()),
            Some(decided) = deciding.next() => {
                let (delivery, disposition) = decided?;
                if disposition != Disposition::Leave {
                    // Events that are left are redelivered again and again.
                    last = Instant::now();
                }
                match disposition {
                    Disposition::Handle => waiting.push_back(delivery),
                    Disposition::Skip | Disposition::Leave => settling.push(worker.settle(delivery, disposition)),
                }
            }
            event = events.next(), if reads => {
                let Some(event) = event else { break };
                deciding.push(worker.decide(event?));
            }
            () = worker.reporter.idle_for(limits.idle, last), if idle => break,
            () = worker.reporter.next_report() => worker.reporter.report_counts(),
        }
        // Events of a lost connection are redelivered.
        waiting.retain(|delivery| !delivery.is_stale());
    }
    // Acknowledgements of skipped events that are not sent yet.
    let settled = async { while settling.next().await.is_some() {} };
    select! { () = settled => {} () = worker.shutdown.grace_expired() => {} }
    if failed == 0 {
        return Ok(());
    }
    let failed =
        counted(failed, "event was not accepted by its target", "events were not accepted by their target");
    Err(anyhow!("{failed}; {}", worker.on_failure))
}
