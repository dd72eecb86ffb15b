//! A server that dies under load, again and again, and an account of every event in the end.
//!
//! `WWPROXY_CRASH_ROUNDS` says how often it dies (10 where not said), `WWPROXY_CRASH_SEED` when.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    common::{DEADLINE, Home, Server},
    ledger::Ledger,
    load::{Way, World},
    random::{Random, seed, setting},
};

/// How many events are stored between two deaths, at least and at most.
const LIFE: (u64, u64) = (50, 600);
/// Each app with its senders and its one client: with two the order would be nobody's.
const APPS: [(&str, Way); 4] =
    [("leasing", Way::Lease), ("draining", Way::Drain), ("listening", Way::Legacy), ("v2", Way::V2)];
const SENDERS: u32 = 2;
/// Leases are so short that what is left comes again within the test.
const FLAGS: [&str; 4] = ["--log-level", "error", "--lease", "1s"];

/// Runs the server under load and ends it after a random number of events, so many times; then drains
/// it, and gives the ledgers.
async fn run(rounds: u64, end: impl AsyncFn(Server) -> Arc<Home>) -> Vec<Ledger> {
    let mut random = Random::new(seed());
    let mut server = Server::start_in(&Arc::new(Home::new()), &FLAGS);
    let (moved, address) = watch::channel(server.address.clone());
    let (stored, stopping) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
    let mut worlds = Vec::new();
    let mut load = JoinSet::new();
    for (id, way) in APPS {
        let app = server.app(id).await;
        let world = World::new(app, address.clone(), Arc::clone(&stored), Arc::clone(&stopping));
        let world = Arc::new(world);
        for sender in 0..SENDERS {
            let world = Arc::clone(&world);
            load.spawn(async move { world.send(sender).await });
        }
        let client = Arc::clone(&world);
        load.spawn(async move { client.take(way).await });
        worlds.push(world);
    }
    let app = server.new_app("fickle").await;
    let fickle = Arc::new(World::new(app, address, Arc::clone(&stored), Arc::clone(&stopping)));
    worlds.push(Arc::clone(&fickle));
    let choices = random.fork();
    load.spawn(async move { fickle.come_and_go(choices).await });

    for _ in 0..rounds {
        for _ in 0..LIFE.0 + random.below(LIFE.1 - LIFE.0) {
            timeout(DEADLINE, stored.notified()).await.expect("events are stored");
        }
        let home = end(server).await;
        for world in &worlds {
            world.ledger().die();
        }
        server = Server::start_in(&home, &FLAGS);
        moved.send_replace(server.address.clone());
    }
    stopping.store(true, Ordering::Relaxed);
    timeout(DEADLINE, load.join_all()).await.expect("the load ends");
    for world in &worlds {
        timeout(DEADLINE, empty(world)).await.expect("the queue drains");
    }
    let ledgers = worlds.into_iter().map(|world| std::mem::take(&mut *world.ledger()));
    ledgers.inspect(Ledger::check).collect()
}

/// Takes everything that is left.
async fn empty(world: &World) {
    let app = world.app();
    while app.figure("stored").await > 0 {
        for (id, body) in app.poll("").await {
            world.deliver(&id, body.as_bytes());
        }
        // What is leased comes back soon.
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_under_load_loses_nothing_and_stores_nothing_twice() {
    let rounds = setting("WWPROXY_CRASH_ROUNDS").unwrap_or(10);
    let ledgers = run(rounds, async |server: Server| server.kill()).await;
    let accepted: usize = ledgers.iter().map(Ledger::accepted).sum();
    println!("{rounds} rounds: of {accepted} events none was lost and none crossed over");
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_under_load_exits_0_and_repeats_no_acknowledged_event() {
    let stop = async |mut server: Server| {
        server.signal("TERM");
        assert!(server.exited().await.success());
        Arc::clone(&server.home)
    };
    for ledger in run(3, stop).await {
        assert!(ledger.came_back().is_empty(), "acknowledged, and delivered again: {ledger:?}");
    }
}
