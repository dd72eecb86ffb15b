//! A store with something of everything, and the commands on it.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use tempfile::TempDir;
use wwproxy_protocol::ConsumerSettings;
use wwproxy_server::store::Store;

use crate::fixture::{TestLog, larger, typed};

/// Events of `app-1` in the sample. Every tenth has a large body, every third the type `push`.
pub(crate) const EVENTS: u32 = 200;

/// A store with two apps and the consumer `audit`, which receives `push` only. Of `default` 20 events are acknowledged, 5 dead, 5 wait
/// for a retry.
pub(crate) async fn sample() -> TestLog {
    let store = TestLog::new().await;
    let settings = ConsumerSettings { types: ["push".to_owned()].into(), ..ConsumerSettings::default() };
    store.put("audit", settings).await;
    for n in 0..EVENTS {
        let event = match n {
            _ if n % 10 == 0 => larger(n, 5000),
            _ if n % 3 == 0 => typed(n, "push"),
            _ => typed(n, "ping"),
        };
        store.append_to(&store.app, event).await;
    }
    let other = store.register("app-2").await;
    store.append_many(&other, 1000..1020).await;
    let taken = store.take(30).await;
    store.ack("default", &taken[..20]).await;
    store.reject(&taken[20..25]).await;
    store.release(&taken[25..], Duration::from_secs(3600)).await;
    store
}

/// Closes the store and returns its folder.
pub(crate) async fn stopped(store: TestLog) -> TempDir {
    store.log.close().await.unwrap();
    store.folder
}

/// Writes the index up to now, as the server does after some 25,000 events.
pub(crate) fn write_index(folder: &Path) {
    execute(
        folder,
        "INSERT INTO by_app SELECT app_id, seq, source, type, size FROM events; \
         UPDATE watermark SET seq = (SELECT max(seq) FROM events)",
    );
}

/// Changes the database of a stopped store, and leaves no WAL.
pub(crate) fn execute(folder: &Path, sql: &str) {
    rusqlite::Connection::open(folder.join("log.sqlite")).unwrap().execute_batch(sql).unwrap();
}

/// Runs `wwproxy-server store …`.
pub(crate) fn store(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wwproxy-server"));
    command.env_clear().args(["--store", "memory:", "store"]).args(arguments).output().unwrap()
}

/// Runs a command that must succeed, and returns its stdout.
pub(crate) fn done(arguments: &[&str]) -> String {
    let output = store(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command that must fail, and returns its stdout and stderr.
pub(crate) fn failed(arguments: &[&str]) -> String {
    let output = store(arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
}

/// The contents of all files in a folder.
pub(crate) fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
