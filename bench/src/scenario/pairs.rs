//! Two stores in one process, without HTTP: the present engine and the event log, in turns.

mod engine;

use std::{
    fmt::Write as _,
    fs, io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::Args;
use futures_util::future::join_all;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use wwproxy_protocol::AppId;

use self::engine::{Engine, Kind, Reader, event};
use super::{MIB, median, median_ratio};
use crate::{Bench, latency::Latencies};

/// How long a consumer waits for events in one call.
const WAIT: Duration = Duration::from_millis(50);
/// Apps that have a consumer, at most.
const MAX_CONSUMERS: usize = 64;
/// Appends that fill a store before the measurement.
const FILLERS: usize = 512;

/// Throughput and latency of the stores: the present engine and the event log, turn by turn in alternating order
#[derive(Debug, Args)]
pub(crate) struct Pairs {
    /// Concurrent appends
    #[arg(long, value_delimiter = ',', default_value = "1,4,16,64,256")]
    senders: Vec<usize>,
    /// Size of a body, in bytes
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// Apps; the senders take them in turns
    #[arg(long, default_value_t = 1)]
    apps: usize,
    /// Events that are stored over all apps before the measurement, and pending
    #[arg(long, default_value_t = 0)]
    stored: usize,
    /// The stored events were delivered and acknowledged: history for the event log, deleted by the present engine
    #[arg(long)]
    settled: bool,
    /// Measure how fast a consumer leases and acknowledges this number of stored events, instead
    #[arg(long, default_value_t = 0, conflicts_with = "apps")]
    backlog: usize,
    /// No consumers: the events stay pending
    #[arg(long)]
    no_consumer: bool,
    /// A read transaction of another connection stays open while the event log is measured
    #[arg(long)]
    reader: bool,
    /// Duration of a turn of one store
    #[arg(long, default_value_t = 1.5)]
    seconds: f64,
    /// Turns of each store
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Measure one engine only, for a profile
    #[arg(long)]
    only: Option<Kind>,
}

/// An engine with its figures.
struct Side {
    kind: Kind,
    folder: TempDir,
    engine: Arc<dyn Engine>,
    rates: Vec<f64>,
    p99: Vec<f64>,
    longest: Duration,
    latencies: Latencies,
    cpu: Duration,
    events: usize,
}

impl Pairs {
    pub(crate) fn run(&self, bench: &Bench) -> anyhow::Result<()> {
        // The store's callers have threads of their own, as in the server.
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let apps: Vec<AppId> =
            (0..self.apps).map(|n| format!("app-{n}").parse()).collect::<Result<_, _>>()?;
        let kinds = match self.only {
            Some(kind) => vec![kind],
            None => vec![Kind::Redb, Kind::Sqlite],
        };
        let mut sides = Vec::new();
        for kind in kinds {
            let side = runtime.block_on(Side::open(kind, &bench.folder))?;
            runtime.block_on(side.prepare(&apps, self.stored, self.size))?;
            if self.settled {
                runtime.block_on(side.drain_all(&apps, apps.len()))?;
            }
            sides.push(side);
        }
        println!(
            "| load | store | events/s | to the first | p50 ms | p99 | p99.9 | p99 to the first | longest ms | CPU µs/event | disk MiB | process MiB | load average |"
        );
        println!("|{}", "---|".repeat(13));
        let loads: &[usize] = if self.backlog > 0 { &[0] } else { &self.senders };
        for &senders in loads {
            for side in &mut sides {
                side.clear();
            }
            for round in 0..self.rounds {
                for place in 0..sides.len() {
                    let place = (place + round) % sides.len();
                    self.turn(&runtime, &mut sides[place], &apps, senders)?;
                }
            }
            self.report(&sides, senders)?;
        }
        for side in &sides {
            runtime.block_on(side.engine.close())?;
        }
        Ok(())
    }

    fn turn(&self, runtime: &Runtime, side: &mut Side, apps: &[AppId], senders: usize) -> anyhow::Result<()> {
        if self.backlog > 0 {
            runtime.block_on(side.fill(apps, self.backlog, self.size))?;
        }
        let reader = if self.reader && side.kind == Kind::Sqlite {
            Some(Reader::open(side.folder.path())?)
        } else {
            None
        };
        let (cpu, start) = (cpu_time()?, Instant::now());
        let events = if self.backlog > 0 {
            let engine = Arc::clone(&side.engine);
            runtime.block_on(drain(&*engine, &apps[0], self.backlog))?;
            self.backlog
        } else {
            let latencies = runtime.block_on(self.load(&side.engine, apps, senders))?;
            let sorted = latencies.percentiles();
            side.p99.push(sorted.p99.as_secs_f64());
            side.longest = side.longest.max(latencies.longest());
            side.latencies.merge(&latencies);
            latencies.count()
        };
        side.rates.push(f64::from(u32::try_from(events)?) / start.elapsed().as_secs_f64());
        side.cpu += cpu_time()?.saturating_sub(cpu);
        side.events += events;
        drop(reader);
        // What a turn leaves behind must not burden the next one, of the other store.
        if self.backlog == 0 && !self.no_consumer {
            runtime.block_on(side.drain_all(apps, MAX_CONSUMERS))?;
        }
        std::thread::sleep(Duration::from_millis(200));
        Ok(())
    }

    /// Appends with concurrent senders, while a consumer of each app leases and acknowledges.
    async fn load(
        &self,
        engine: &Arc<dyn Engine>,
        apps: &[AppId],
        senders: usize,
    ) -> anyhow::Result<Latencies> {
        let stop = Arc::new(AtomicBool::new(false));
        let consumed = if self.no_consumer { &[][..] } else { &apps[..apps.len().min(MAX_CONSUMERS)] };
        let consumers = consumed.iter().map(|app| {
            let (engine, app, stop) = (Arc::clone(engine), app.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    engine.consume(&app, WAIT).await?;
                }
                anyhow::Ok(())
            })
        });
        let consumers: Vec<_> = consumers.collect();
        let until = Instant::now() + Duration::from_secs_f64(self.seconds);
        let next = Arc::new(AtomicUsize::new(0));
        let tasks = (0..senders).map(|_| {
            let (engine, apps, next) = (Arc::clone(engine), apps.to_vec(), Arc::clone(&next));
            let event = event(self.size);
            tokio::spawn(async move {
                let mut latencies = Latencies::default();
                while Instant::now() < until {
                    let app = &apps[next.fetch_add(1, Ordering::Relaxed) % apps.len()];
                    let start = Instant::now();
                    engine.append(app, event.clone()).await?;
                    latencies.add(start.elapsed());
                }
                anyhow::Ok(latencies)
            })
        });
        let mut latencies = Latencies::default();
        for task in tasks.collect::<Vec<_>>() {
            latencies.merge(&task.await??);
        }
        stop.store(true, Ordering::Relaxed);
        for consumer in consumers {
            consumer.await??;
        }
        Ok(latencies)
    }

    fn report(&self, sides: &[Side], senders: usize) -> anyhow::Result<()> {
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split(' ').next().unwrap_or_default();
        for side in sides {
            let first = &sides[0];
            let mut line = String::new();
            let what = if self.backlog > 0 {
                format!("backlog of {}", self.backlog)
            } else {
                format!("{senders} senders")
            };
            write!(
                line,
                "| {what} | {:?} | {:.0} | {:.2} | {} | {:.2} | {:.1} | {:.1} | {} | {} | {load} |",
                side.kind,
                median(side.rates.clone()),
                median_ratio(&side.rates, &first.rates),
                side.latencies.percentiles(),
                median_ratio(&side.p99, &first.p99),
                side.longest.as_secs_f64() * 1000.0,
                side.cpu.as_secs_f64() * 1e6 / f64::from(u32::try_from(side.events.max(1))?),
                disk_usage(side.folder.path())? / MIB,
                memory()? / MIB,
            )?;
            println!("{line}");
        }
        Ok(())
    }
}

impl Side {
    async fn open(kind: Kind, folder: &Path) -> anyhow::Result<Self> {
        let folder = TempDir::new_in(folder)?;
        let engine = kind.open(folder.path()).await?;
        Ok(Self {
            kind,
            folder,
            engine,
            rates: Vec::new(),
            p99: Vec::new(),
            longest: Duration::ZERO,
            latencies: Latencies::default(),
            cpu: Duration::ZERO,
            events: 0,
        })
    }

    fn clear(&mut self) {
        (self.rates, self.p99, self.latencies) = (Vec::new(), Vec::new(), Latencies::default());
        (self.longest, self.cpu, self.events) = (Duration::ZERO, Duration::ZERO, 0);
    }

    async fn prepare(&self, apps: &[AppId], stored: usize, size: usize) -> anyhow::Result<()> {
        for app in apps {
            self.engine.register(app).await?;
        }
        self.fill(apps, stored, size).await
    }

    /// Appends events over all apps.
    async fn fill(&self, apps: &[AppId], count: usize, size: usize) -> anyhow::Result<()> {
        let next = Arc::new(AtomicUsize::new(0));
        let tasks = (0..FILLERS).map(|_| {
            let (engine, apps, next, event) =
                (Arc::clone(&self.engine), apps.to_vec(), Arc::clone(&next), event(size));
            tokio::spawn(async move {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        return anyhow::Ok(());
                    }
                    engine.append(&apps[n % apps.len()], event.clone()).await?;
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await??;
        }
        Ok(())
    }

    /// Leases and acknowledges all that is left of the first apps.
    async fn drain_all(&self, apps: &[AppId], count: usize) -> anyhow::Result<()> {
        let drains = apps.iter().take(count).map(async |app| {
            while self.engine.consume(app, Duration::ZERO).await? > 0 {}
            anyhow::Ok(())
        });
        join_all(drains).await.into_iter().collect()
    }
}

async fn drain(engine: &dyn Engine, app: &AppId, count: usize) -> anyhow::Result<()> {
    let mut consumed = 0;
    while consumed < count {
        let leased = engine.consume(app, Duration::ZERO).await?;
        anyhow::ensure!(leased > 0, "{consumed} of {count} events were delivered");
        consumed += leased;
    }
    Ok(())
}

/// CPU time of this process: stores, senders and consumers.
fn cpu_time() -> anyhow::Result<Duration> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<_> = stat.rsplit(')').next().context("no name")?.split_whitespace().collect();
    let ticks = fields[11].parse::<u32>()? + fields[12].parse::<u32>()?;
    // USER_HZ is 100 on every Linux.
    Ok(Duration::from_secs(1) * ticks / 100)
}

/// The memory of this process, in bytes: only with `--only` it is that of one store.
fn memory() -> anyhow::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(resident.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}

fn disk_usage(folder: &Path) -> io::Result<u64> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.metadata()?.len())).sum()
}
