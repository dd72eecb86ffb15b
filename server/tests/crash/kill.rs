//! A server that dies under load, again and again, and an account of every event in the end.
//!
//! `WWPROXY_CRASH_ROUNDS` says how often it dies (10 where not said), `WWPROXY_CRASH_SEED` when.

use std::{
    collections::{HashMap, HashSet},
    env,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::timeout,
};
use wwproxy_protocol::api::{self, Receipt};

use crate::common::{App, DEADLINE, Home, Server};

const SENDERS: usize = 8;
/// How many events are taken between two deaths, at least and at most.
const LIFE: (u64, u64) = (50, 600);
/// So short that a lease whose server died ends within the test.
const LEASE_MS: u64 = 1000;

/// What happened, as seen from outside.
#[derive(Default)]
struct Ledger {
    /// Events answered 201, by their number.
    accepted: HashSet<u32>,
    /// The ids under which each event was delivered.
    delivered: HashMap<u32, HashSet<String>>,
    deliveries: usize,
    /// Events whose acknowledgement was answered.
    acked: HashSet<u32>,
    /// Events delivered although their acknowledgement had been answered.
    came_back: HashSet<u32>,
}

struct World {
    ledger: Mutex<Ledger>,
    /// Where the server is now, in the app's eyes.
    app: watch::Receiver<App>,
    stored: Notify,
    stopping: AtomicBool,
    next: AtomicU32,
}

impl World {
    /// Until the end: one event after the other, each until it is answered 201. An event that was not
    /// answered is posted again as it was, as the platform does.
    async fn send(&self) {
        while !self.stopping.load(Ordering::Relaxed) {
            let n = self.next.fetch_add(1, Ordering::Relaxed);
            let body = format!("{{\"n\":{n},\"text\":\"{}\"}}", "x".repeat(500));
            let mut app = self.app.clone();
            loop {
                let here = app.borrow_and_update().clone();
                if here.indexed(n, &body).send().await.is_ok_and(|answer| answer.status() == 201) {
                    break;
                }
                // It died, or is about to.
                timeout(DEADLINE, app.changed()).await.expect("the server comes back").unwrap();
            }
            self.ledger.lock().unwrap().accepted.insert(n);
            self.stored.notify_one();
        }
    }

    /// Until the end: leases events and acknowledges most of them.
    async fn take(&self) {
        let mut app = self.app.clone();
        while !self.stopping.load(Ordering::Relaxed) {
            let here = app.borrow_and_update().clone();
            if self.take_some(&here).await.is_none() {
                timeout(DEADLINE, app.changed()).await.expect("the server comes back").unwrap();
            }
        }
    }

    /// `None` where the server does not answer.
    async fn take_some(&self, app: &App) -> Option<()> {
        let wanted = json!({"max": 50, "wait_ms": 100, "lease_ms": LEASE_MS});
        let answer = app.request(Method::POST, "/lease").json(&wanted).send().await.ok()?;
        let answer = answer.error_for_status().ok()?.text().await.ok()?;
        let events = api::decode_lease(&answer).unwrap();
        let mut receipts: Vec<Receipt> = Vec::new();
        let mut numbers = Vec::new();
        for event in events {
            let n = self.delivered(event.id.as_str(), &event.body);
            if !n.is_multiple_of(10) {
                receipts.push(event.receipt);
                numbers.push(n);
            }
        }
        let settled = app.request(Method::POST, "/ack").json(&json!({"ack": receipts})).send().await.ok()?;
        let settled: Value = settled.error_for_status().ok()?.json().await.ok()?;
        if settled["stale"] == json!([]) {
            self.ledger.lock().unwrap().acked.extend(numbers);
        }
        Some(())
    }

    fn delivered(&self, id: &str, body: &[u8]) -> u32 {
        let body: Value = serde_json::from_slice(body).unwrap();
        let n = u32::try_from(body["n"].as_u64().unwrap()).unwrap();
        let mut ledger = self.ledger.lock().unwrap();
        if ledger.acked.contains(&n) {
            ledger.came_back.insert(n);
        }
        ledger.delivered.entry(n).or_default().insert(id.to_owned());
        ledger.deliveries += 1;
        n
    }
}

/// Runs the server under load and ends it after a random number of events, so many times; then drains
/// it, and gives the ledger.
async fn run(rounds: u64, end: impl AsyncFn(Server) -> Arc<Home>) -> Ledger {
    let seed = env::var("WWPROXY_CRASH_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| u64::from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos()));
    println!("WWPROXY_CRASH_SEED={seed}");
    let mut random = seed;
    let mut server = Server::start_in(&Arc::new(Home::new()), &["--log-level", "error"]);
    let first = server.app("bot").await;
    let (moved, app) = watch::channel(first.clone());
    let world = Arc::new(World {
        ledger: Mutex::default(),
        app,
        stored: Notify::new(),
        stopping: AtomicBool::new(false),
        next: AtomicU32::new(0),
    });
    let mut load = JoinSet::new();
    for _ in 0..SENDERS {
        let world = Arc::clone(&world);
        load.spawn(async move { world.send().await });
    }
    let taker = Arc::clone(&world);
    load.spawn(async move { taker.take().await });

    for _ in 0..rounds {
        // Knuth's generator: any will do that a seed repeats.
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let life = LIFE.0 + (random >> 33) % (LIFE.1 - LIFE.0);
        let goal = world.ledger.lock().unwrap().accepted.len() as u64 + life;
        while (world.ledger.lock().unwrap().accepted.len() as u64) < goal {
            timeout(DEADLINE, world.stored.notified()).await.expect("events are stored");
        }
        let home = end(server).await;
        server = Server::start_in(&home, &["--log-level", "error"]);
        moved.send_replace(server.known_app("bot", &first.app_secret, &first.token));
    }
    world.stopping.store(true, Ordering::Relaxed);
    timeout(DEADLINE, load.join_all()).await.expect("the load ends");

    let app = world.app.borrow().clone();
    let drained = async {
        while app.figure("stored").await > 0 {
            for (id, body) in app.poll("").await {
                world.delivered(&id, body.as_bytes());
            }
            // What is leased comes back soon.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(DEADLINE, drained).await.expect("the queue drains");
    let ledger = Arc::into_inner(world).expect("the load has ended").ledger.into_inner().unwrap();
    println!(
        "{rounds} rounds: {} events answered 201, {} deliveries of {} events",
        ledger.accepted.len(),
        ledger.deliveries,
        ledger.delivered.len()
    );
    ledger
}

/// Every event that was answered 201 was delivered, none was stored twice, and there is none besides.
fn check(ledger: &Ledger) {
    let delivered: HashSet<u32> = ledger.delivered.keys().copied().collect();
    let lost: Vec<_> = ledger.accepted.difference(&delivered).collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    let unknown: Vec<_> = delivered.difference(&ledger.accepted).collect();
    assert!(unknown.is_empty(), "from nowhere: {unknown:?}");
    let twice: Vec<_> = ledger.delivered.iter().filter(|(_, ids)| ids.len() > 1).collect();
    assert!(twice.is_empty(), "stored twice: {twice:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_under_load_loses_nothing_and_stores_nothing_twice() {
    let rounds = env::var("WWPROXY_CRASH_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(10);
    let ledger = run(rounds, async |server: Server| server.kill()).await;
    check(&ledger);
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_under_load_exits_0_and_repeats_no_acknowledged_event() {
    let stop = async |mut server: Server| {
        server.signal("TERM");
        assert!(server.exited().await.success());
        Arc::clone(&server.home)
    };
    let ledger = run(3, stop).await;
    check(&ledger);
    assert!(ledger.came_back.is_empty(), "acknowledged, and delivered again: {:?}", ledger.came_back);
}
