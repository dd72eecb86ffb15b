//! Kills or stops the server under load, repeatedly, and checks a ledger of every event at the end.
//!
//! `WWPROXY_CRASH_ROUNDS` sets how often (default 10), `WWPROXY_CRASH_SEED` repeats the timing of a run.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    common::{App, DEADLINE, Home, Server},
    ledger::Ledger,
    load::{ReceiveMode, Workload},
    random::{Random, seed, setting},
};

/// How many events are stored between two crashes: minimum and maximum.
const EVENTS_PER_ROUND: (u64, u64) = (50, 600);
/// Each consumer has one client, so that the order of deliveries can be checked.
const APPS: [(&str, ReceiveMode, &[&str]); 4] = [
    ("leasing", ReceiveMode::Lease, &["default", "audit"]),
    ("polling", ReceiveMode::Poll, &["default"]),
    ("legacy", ReceiveMode::Legacy, &["default"]),
    ("v2", ReceiveMode::V2, &["default", "audit"]),
];
const SENDERS: u32 = 2;
/// Leases expire quickly, so that unsettled events are redelivered within the test.
const FLAGS: [&str; 4] = ["--log-level", "error", "--lease", "1s"];

/// Runs the server under load and ends it after a random number of events, `rounds` times. Then drains the queues and
/// returns the ledgers.
async fn run(rounds: u64, end: impl AsyncFn(Server) -> Arc<Home>) -> Vec<Ledger> {
    let mut random = Random::new(seed());
    let mut server = Server::start_in(&Arc::new(Home::new()), &FLAGS);
    let (new_address, address) = watch::channel(server.address.clone());
    let (stored, stopping) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
    let mut workloads = Vec::new();
    let mut tasks = JoinSet::new();
    for (id, mode, consumers) in APPS {
        let app = server.app(id).await;
        for consumer in consumers.iter().filter(|name| **name != "default") {
            let path = format!("/consumers/{consumer}");
            let response = app.request(Method::PUT, &path).json(&json!({})).send().await.unwrap();
            assert_eq!(response.status(), StatusCode::CREATED);
        }
        let workload =
            Workload::new(app, address.clone(), Arc::clone(&stored), Arc::clone(&stopping), consumers);
        let workload = Arc::new(workload);
        for sender in 0..SENDERS {
            let workload = Arc::clone(&workload);
            tasks.spawn(async move { workload.send(sender).await });
        }
        for consumer in consumers {
            let client = Arc::clone(&workload);
            tasks.spawn(async move { client.receive(mode, consumer).await });
        }
        workloads.push(workload);
    }
    let app = server.new_app("reregistering").await;
    let reregistering = Workload::new(app, address, Arc::clone(&stored), Arc::clone(&stopping), &["default"]);
    let reregistering = Arc::new(reregistering);
    workloads.push(Arc::clone(&reregistering));
    let choices = random.fork();
    tasks.spawn(async move { reregistering.register_repeatedly(choices).await });

    for _ in 0..rounds {
        for _ in 0..EVENTS_PER_ROUND.0 + random.below(EVENTS_PER_ROUND.1 - EVENTS_PER_ROUND.0) {
            timeout(DEADLINE, stored.notified()).await.expect("events are stored");
        }
        let home = end(server).await;
        for workload in &workloads {
            workload.ledger().record_crash();
        }
        server = Server::start_in(&home, &FLAGS);
        new_address.send_replace(server.address.clone());
    }
    stopping.store(true, Ordering::Relaxed);
    timeout(DEADLINE, tasks.join_all()).await.expect("the load ends");
    for workload in &workloads {
        timeout(DEADLINE, drain(workload)).await.expect("the queue drains");
    }
    let ledgers = workloads.into_iter().map(|workload| std::mem::take(&mut *workload.ledger()));
    ledgers.inspect(Ledger::check).collect()
}

/// Receives all remaining events of all consumers.
async fn drain(workload: &Workload) {
    let app = workload.app();
    let consumers = workload.ledger().consumers();
    for consumer in consumers {
        let query = format!("?consumer={consumer}");
        while pending(&app, &consumer).await > 0 {
            for (id, body) in app.poll(&query).await {
                workload.deliver(&consumer, &id, body.as_bytes());
            }
            // The remaining leases expire soon.
            sleep(Duration::from_millis(10)).await;
        }
    }
}

/// The number of events that a consumer has not settled.
async fn pending(app: &App, consumer: &str) -> u64 {
    let status = app.status().await;
    let consumers = status["consumers"].as_array().unwrap();
    let found = consumers.iter().find(|status| status["name"] == consumer);
    found.and_then(|status| status["pending"].as_u64()).unwrap_or_else(|| panic!("{consumer}: {status}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_under_load_loses_and_duplicates_no_event() {
    let rounds = setting("WWPROXY_CRASH_ROUNDS").unwrap_or(10);
    let ledgers = run(rounds, async |server: Server| server.kill()).await;
    let accepted: usize = ledgers.iter().map(Ledger::accepted).sum();
    println!("{rounds} rounds, {accepted} accepted events: none lost, none delivered to another app");
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_under_load_exits_0_and_redelivers_no_acknowledged_event() {
    let stop = async |mut server: Server| {
        server.signal("TERM");
        assert!(server.exited().await.success());
        Arc::clone(&server.home)
    };
    for ledger in run(3, stop).await {
        assert!(ledger.redelivered_after_ack() == 0, "redelivered after the acknowledgement: {ledger:?}");
    }
}

#[tokio::test]
async fn an_event_that_ends_its_client_and_the_server_is_dead_after_its_attempts() {
    let mut server = Server::start_in(&Arc::new(Home::new()), &FLAGS);
    let (app, other) = (server.app("poisoned").await, server.app("other").await);
    let settings = json!({"maxAttempts": 3});
    let created = app.request(Method::PUT, "/consumers/worker").json(&settings).send().await.unwrap();
    assert_eq!(created.status(), StatusCode::CREATED);
    app.post("{\"poison\":true}").await;
    let at = |app: &App, server: &Server| App { address: server.address.clone(), ..app.clone() };
    let wanted = json!({"consumer": "worker", "leaseMs": 600_000});
    for attempt in 1..=3 {
        let events = at(&app, &server).lease(wanted.clone()).await;
        assert_eq!(events.len(), 1, "{attempt}");
        assert_eq!(events[0].details.attempt, Some(attempt));
        // The lease is durable with an append that begins later than its delay of 20 ms.
        at(&other, &server).post("{}").await;
        sleep(Duration::from_millis(25)).await;
        at(&other, &server).post("{}").await;
        server = Server::start_in(&server.kill(), &FLAGS);
    }
    let app = at(&app, &server);
    assert_eq!(app.lease(wanted).await, []);
    let status = app.status().await;
    let consumers = status["consumers"].as_array().unwrap();
    let worker = consumers.iter().find(|consumer| consumer["name"] == "worker").unwrap();
    assert_eq!((&worker["dead"], &worker["pending"]), (&json!(1), &json!(0)), "{worker}");
}
