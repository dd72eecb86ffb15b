//! Cuts the power or kills the server, repeatedly, at any write. After a power cut any part of the unsynced writes
//! survives, complete or torn. After a kill the page cache survives; if an fsync failed before, it holds data that is not
//! on the disk. After each restart the store must contain every operation that it answered.

use std::sync::Arc;

use futures_util::future::join_all;

use crate::{
    disk::{Disk, Fault, StoreFile},
    fence::Fence,
    model::Model,
    random::{Random, seed, setting},
};

const APPS: [&str; 3] = ["app-0", "app-1", "app-2"];
/// The default of `WWPROXY_CRASH_CUTS`: how often the server is ended.
const DEFAULT_CUTS: u64 = 40;
/// The maximum number of changes of files until the server is killed: during open, during commits, and after checkpoints.
const MAX_CHANGES: [u64; 3] = [60, 1_000, 8_000];
const FLAGS: [&str; 2] = ["--log-level", "warn"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answered_operations_survive_power_cuts_and_kills() {
    let mut random = Random::new(seed());
    let mut disk = Disk::new();
    let fence = Arc::new(Fence::default());
    let server = disk.start(&FLAGS);
    let mut models = Vec::new();
    for id in APPS {
        let app = server.new_app(id).await;
        models.push(Model::new(app, Arc::clone(&fence), random.fork()));
    }
    drop(server);
    let (mut opened, cuts) = (0, setting("WWPROXY_CRASH_CUTS").unwrap_or(DEFAULT_CUTS));
    for _ in 0..cuts {
        let max_changes = *random.pick(&MAX_CHANGES);
        disk.kill_after(random.below(max_changes));
        let is_faulty = random.one_in(4);
        fence.restart(is_faulty);
        if is_faulty {
            let file = *random.pick(&[StoreFile::Database, StoreFile::Wal]);
            disk.set_fault(Some(Fault::OneSync(file, random.below(20))));
        }
        match disk.try_start(&FLAGS) {
            Ok(server) => {
                opened += 1;
                join_all(models.iter_mut().map(|model| model.check_and_run(&server.address))).await;
                assert!(
                    disk.has_killed() || disk.faults() > 0,
                    "the server failed without a reason: {}",
                    server.log()
                );
                let log = server.log();
                assert!(!log.contains("damaged") && !log.contains("lost the newest"), "{log}");
            }
            Err(log) => assert!(disk.has_killed() || disk.faults() > 0, "{log}"),
        }
        models.iter_mut().for_each(Model::end_server);
        if random.one_in(2) {
            disk.clear();
        } else {
            disk.cut_power(&mut random);
        }
    }
    let numbers: u32 = models.iter().map(Model::numbers_used).sum();
    let pending: usize = models.iter().map(Model::pending).sum();
    println!(
        "{opened} of {cuts} starts listened; {numbers} events and secrets; {pending} pending at the end"
    );
    assert!(opened > 0);
}

#[test]
fn a_store_can_be_created_after_a_power_cut_during_its_creation() {
    let mut random = Random::new(seed());
    let mut changes = 0;
    loop {
        let mut disk = Disk::new();
        disk.kill_after(changes);
        let is_created = disk.try_start(&FLAGS).is_ok();
        disk.cut_power(&mut random);
        drop(disk.start(&FLAGS));
        if is_created {
            break;
        }
        changes += 1 + changes / 8;
    }
    assert!(changes > 10, "creation makes more than ten changes");
}
