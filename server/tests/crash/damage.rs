//! Damages the files of a stopped store at random places. Each event must be delivered byte for byte, or the log or `store check` must
//! report the damage, or the store refuses to open with a sentence that says what to do.
//!
//! `WWPROXY_CRASH_DAMAGES` sets how often (default 30), `WWPROXY_CRASH_SEED` repeats a run.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Output,
    sync::Arc,
    time::Duration,
};

use serde_json::json;
use tokio::time::sleep;
use wwproxy_protocol::api;

use crate::{
    common::{App, Home, Server, eventually},
    random::{Random, seed, setting},
};

const FLAGS: [&str; 2] = ["--log-level", "info"];
const APPS: [&str; 2] = ["first", "second"];
/// Events of each app, and how many of them are acknowledged.
const EVENTS: u32 = 60;
const ACKED: u32 = 10;
const DATABASE: &str = "log.sqlite";
const WAL: &str = "log.sqlite-wal";

/// A store that was stopped or killed, and the apps in it.
struct Original {
    home: Arc<Home>,
    apps: Vec<App>,
}

impl Original {
    async fn new(is_killed: bool) -> Self {
        let mut server = Server::start_in(&Arc::new(Home::new()), &FLAGS);
        let mut apps = Vec::new();
        for id in APPS {
            apps.push(server.app(id).await);
        }
        for n in 0..EVENTS {
            for app in &apps {
                app.post(body(app, n)).await;
            }
        }
        for app in &apps {
            let events = app.lease(json!({"max": ACKED, "leaseMs": 1000})).await;
            let receipts: Vec<_> = events.iter().map(|event| &event.receipt).collect();
            assert_eq!(app.settle(json!({"ack": receipts})).await["acked"], ACKED);
        }
        let home = if is_killed {
            // The acknowledgements become durable.
            sleep(Duration::from_millis(200)).await;
            server.kill()
        } else {
            server.signal("TERM");
            assert!(server.exited().await.success());
            Arc::clone(&server.home)
        };
        Self { home, apps }
    }

    /// A copy of the store.
    fn copy(&self) -> Arc<Home> {
        let copy = Home::new();
        fs::copy(self.home.apps(), copy.apps()).unwrap();
        fs::create_dir(copy.store()).unwrap();
        for file in fs::read_dir(self.home.store()).unwrap() {
            let file = file.unwrap();
            // Shared memory is built anew, and sockets are not a part of the store.
            if file.file_name() != "log.sqlite-shm" && file.file_type().unwrap().is_file() {
                fs::copy(file.path(), copy.store().join(file.file_name())).unwrap();
            }
        }
        Arc::new(copy)
    }
}

/// A body with an app and a number, and a size that depends on the number; some do not fit into a page.
fn body(app: &App, n: u32) -> String {
    let size = if n % 13 == 5 { 20_000 } else { 200 * (n as usize % 7) };
    format!("{{\"app\":\"{}\",\"n\":{n},\"text\":\"{}\"}}", app.id, "x".repeat(size))
}

/// Starts a server with the store. `Err` is its log, if it refuses the store.
fn start(home: &Arc<Home>) -> Result<Server, String> {
    let mut command = home.command();
    let store = format!("file:{}", home.store().display());
    command.args(["--store", &store, "--listen", "127.0.0.1:0"]).args(FLAGS);
    Server::try_launch(Arc::clone(home), command)
}

/// Runs `wwproxy-server store check` on the store, which no server uses.
fn store_check(home: &Home) -> Output {
    let store = format!("file:{}", home.store().display());
    home.command().args(["--store", &store, "store", "check"]).output().unwrap()
}

/// Damages a file. Returns what was done, in words.
fn damage(folder: &Path, random: &mut Random) -> String {
    let files: Vec<_> = [DATABASE, WAL].into_iter().filter(|name| length(&folder.join(name)) > 0).collect();
    let name = *random.pick(&files);
    let path = folder.join(name);
    let mut bytes = fs::read(&path).unwrap();
    let place = usize::try_from(random.below(bytes.len() as u64)).unwrap();
    let (page, sector) = (place / 4096 * 4096, place / 512 * 512);
    let what = match random.below(6) {
        0 | 1 => {
            bytes[place] ^= 1 << random.below(8);
            "one bit is flipped"
        }
        2 => {
            let end = bytes.len().min(place + 16);
            bytes[place..end].fill_with(|| random.next().to_le_bytes()[0]);
            "16 bytes are random"
        }
        3 => {
            let end = bytes.len().min(sector + 512);
            bytes[sector..end].fill(0);
            "a sector is zeroed"
        }
        4 => {
            let end = bytes.len().min(page + 4096);
            bytes[page..end].fill(0);
            "a page is zeroed"
        }
        _ => {
            // A torn write: the second half of the page is that of another page.
            let other = usize::try_from(random.below(bytes.len() as u64 / 4096)).unwrap() * 4096;
            let end = bytes.len().min(page + 4096);
            let half = bytes[other + 2048..(other + 4096).min(bytes.len())].to_vec();
            let length = half.len().min(end.saturating_sub(page + 2048));
            bytes[page + 2048..page + 2048 + length].copy_from_slice(&half[..length]);
            "half of a page is that of another page"
        }
    };
    fs::write(&path, bytes).unwrap();
    format!("{name}: {what} at {place}")
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |file| file.len())
}

/// Receives what is delivered of an app. Returns the numbers of the events. Errors are part of the damage.
async fn receive(app: &App) -> BTreeSet<u32> {
    let mut received = BTreeMap::new();
    // Damage may be found again with every request, so it is not waited for.
    for _ in 0..20 {
        let Ok(response) =
            app.lease_response(json!({"max": 20, "leaseMs": 600_000})).await.error_for_status()
        else {
            continue;
        };
        let leased = api::decode_lease(&response.text().await.unwrap()).unwrap();
        assert!(leased.undecodable.is_empty());
        if leased.events.is_empty() {
            break;
        }
        for event in leased.events {
            let text = std::str::from_utf8(&event.body).unwrap();
            let value: serde_json::Value = serde_json::from_str(text).unwrap();
            let n = u32::try_from(value["n"].as_u64().unwrap()).unwrap();
            assert!(text == body(app, n), "{n} is not what was posted: {text}");
            assert_eq!(received.insert(n, event.id.clone()), None, "{n} is delivered twice");
        }
    }
    received.into_keys().collect()
}

#[tokio::test]
async fn damage_is_never_delivered_and_never_silent() {
    let mut random = Random::new(seed());
    let originals = [Original::new(false).await, Original::new(true).await];
    let (mut refused, mut whole, mut reported, mut checked) = (0, 0, 0, 0);
    for round in 0..setting("WWPROXY_CRASH_DAMAGES").unwrap_or(30) {
        let original = random.pick(&originals);
        let home = original.copy();
        let done = damage(&home.store(), &mut random);
        let server = match start(&home) {
            Ok(server) => server,
            Err(log) => {
                assert!(log.contains("backup") || log.contains("recover"), "{round}: {done}: {log}");
                assert!(!log.contains("panicked"), "{round}: {done}: {log}");
                refused += 1;
                continue;
            }
        };
        let mut missing = Vec::new();
        for app in &original.apps {
            let app = App { address: server.address.clone(), ..app.clone() };
            let received = receive(&app).await;
            missing.extend((ACKED..EVENTS).filter(|n| !received.contains(n)).map(|n| (app.id.clone(), n)));
        }
        let log = server.log();
        assert!(!log.contains("panicked"), "{round}: {done}: {log}");
        if missing.is_empty() {
            whole += 1;
        } else if log.contains("ERROR") {
            reported += 1;
        } else {
            // A row that vanished from its page is found by a check of the whole database only.
            drop(server);
            let check = store_check(&home);
            assert!(
                !check.status.success(),
                "{round}: {done}: {missing:?} are missing without a word: {check:?}"
            );
            checked += 1;
        }
    }
    println!(
        "{whole} rounds without a loss, {reported} with a report in the log, {checked} found by `store check`, {refused} refused"
    );
}

#[tokio::test]
async fn damage_of_one_body_does_not_block_other_events() {
    let original = Original::new(false).await;
    for n in [ACKED, 18, 31, EVENTS - 1] {
        let home = original.copy();
        let path = home.store().join(DATABASE);
        let mut bytes = fs::read(&path).unwrap();
        let text = body(&original.apps[0], n);
        let text = &text.as_bytes()[..text.len().min(100)];
        let place = bytes.windows(text.len()).position(|window| window == text).unwrap();
        bytes[place + 3] ^= 4;
        fs::write(&path, bytes).unwrap();
        let server = start(&home).unwrap();
        for app in &original.apps {
            let app = App { address: server.address.clone(), ..app.clone() };
            let expected = (ACKED..EVENTS).filter(|other| app.id != APPS[0] || *other != n);
            assert_eq!(receive(&app).await, expected.collect::<BTreeSet<_>>());
            app.post(body(&app, EVENTS)).await;
            eventually("a new event is delivered", async || receive(&app).await.contains(&EVENTS)).await;
        }
        assert!(server.log().contains("damaged"), "{}", server.log());
    }
}

#[tokio::test]
async fn half_a_store_is_refused() {
    for is_killed in [false, true] {
        let original = Original::new(is_killed).await;
        for missing in [DATABASE, "high-water"] {
            let home = original.copy();
            fs::remove_file(home.store().join(missing)).unwrap();
            let refusal = start(&home).err().expect("half a store is refused");
            assert!(refusal.contains(missing) && refusal.contains("backup"), "{refusal}");
        }
    }
}

#[tokio::test]
async fn a_missing_write_ahead_log_is_reported() {
    let original = Original::new(true).await;
    let home = original.copy();
    fs::remove_file(home.store().join(WAL)).unwrap();
    match start(&home) {
        Err(refusal) => assert!(refusal.contains("backup"), "{refusal}"),
        Ok(server) => assert!(server.log().contains("lost the newest events"), "{}", server.log()),
    }
}
