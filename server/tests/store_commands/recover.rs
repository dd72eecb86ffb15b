//! `store recover`.

use std::{collections::BTreeSet, fs, path::Path};

use wwproxy_server::store::{Limits, SqliteStore, Store};

use crate::{
    fixture::{TestLog, copy, event, larger, typed},
    sample::{EVENTS, done, execute, failed, files, sample, stopped, text, write_index},
};

/// Recovers a store, checks the result, and opens it. Also returns what was left out.
async fn recovered(from: &Path) -> (TestLog, String) {
    let folder = tempfile::tempdir().unwrap();
    let left_out = done(&["recover", text(from), text(folder.path())]);
    done(&["check", text(folder.path())]);
    let log = SqliteStore::open(folder.path(), Limits::default()).await.unwrap();
    (TestLog { folder, log: log.into(), app: "app-1".parse().unwrap() }, left_out)
}

/// The numbers of the events that `audit` and `default` have left, in order. Each event is byte-exact.
async fn rest(log: &TestLog) -> Vec<u32> {
    let mut rest = Vec::new();
    loop {
        let taken = log.take(100).await;
        if taken.is_empty() {
            return rest;
        }
        for (delivery, n) in taken.iter().zip(crate::fixture::numbers(&taken)) {
            let expected = match n {
                _ if n % 10 == 0 => larger(n, 5000),
                _ if n % 3 == 0 => typed(n, "push"),
                _ => typed(n, "ping"),
            };
            assert_eq!((&delivery.event.body, &delivery.event.headers), (&expected.body, &expected.headers));
            rest.push(n);
        }
        log.ack("default", &taken).await;
    }
}

/// The events in the list of what was left out.
fn listed(left_out: &str) -> BTreeSet<u32> {
    let ranges = left_out.lines().filter_map(|line| {
        let (range, _) = line.strip_prefix("event")?.split_once([':', '('])?;
        let range = range.trim_start_matches('s').trim();
        let (first, last) = range.split_once(" to ").unwrap_or((range, range));
        Some(first.split(' ').next()?.parse::<u32>().ok()?..=last.split(' ').next()?.parse().ok()?)
    });
    ranges.flatten().collect()
}

/// Fills the page with this text with zeros.
fn zero_page(folder: &Path, text: &str) {
    let file = folder.join("log.sqlite");
    let mut bytes = fs::read(&file).unwrap();
    let place = bytes.windows(text.len()).position(|window| window == text.as_bytes()).unwrap();
    let page = place / 4096 * 4096;
    bytes[page..page + 4096].fill(0);
    fs::write(&file, bytes).unwrap();
}

#[tokio::test]
async fn a_backup_is_restored_with_all_that_it_has() {
    let log = sample().await;
    let status = log.status("default").await;
    let folder = stopped(log).await;
    let backup = folder.path().join("backup");
    execute(folder.path(), &format!("VACUUM INTO '{}'", text(&backup)));
    let (log, left_out) = recovered(&backup).await;
    assert_eq!(left_out, "");
    let restored = log.status("default").await;
    assert_eq!((restored.pending, restored.dead), (status.pending, 5));
    assert_eq!(restored.pending_bytes, status.pending_bytes);
    let registration = log.log.registration(&log.app).await.unwrap().unwrap();
    assert_eq!(registration.sources.len(), 2);
    assert_eq!(log.drain("audit").await.len(), 60);
    // Five wait for their retry.
    assert_eq!(rest(&log).await, (30..EVENTS).collect::<Vec<_>>());
    let next = log.append_to(&log.app, event(EVENTS)).await;
    let log = log.reopen().await;
    let taken = log.take(10).await;
    assert_eq!(taken[0].event.id, next);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(log.folder.path().join("log.sqlite")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[tokio::test]
async fn events_on_unreadable_pages_and_damaged_ones_are_listed_and_the_others_are_copied() {
    for is_indexed in [false, true] {
        let folder = stopped(sample().await).await;
        if is_indexed {
            write_index(folder.path());
        }
        execute(folder.path(), "UPDATE events SET head = head || ' ' WHERE seq = 102");
        for n in ["000079", "000151", "000199"] {
            zero_page(folder.path(), &format!(r#"{{"n":{n}}}"#));
        }
        let before = files(folder.path());
        let (log, left_out) = recovered(folder.path()).await;
        assert!(files(folder.path()) == before, "the damaged store is not changed");
        assert!(left_out.contains("event 102 (0"), "{left_out}");
        let listed = listed(&left_out);
        let copied: Vec<_> = rest(&log).await;
        let expected: Vec<_> = (30..EVENTS).filter(|n| !listed.contains(&(n + 1))).collect();
        assert_eq!(copied, expected, "{left_out}");
        assert!(listed.len() > 6 && listed.len() < 100 && copied.len() > 90, "{left_out}");
        assert_eq!(log.status("default").await.pending, Some(5));
    }
}

#[tokio::test]
async fn a_consumer_of_which_something_is_damaged_starts_again_from_the_oldest_event() {
    let folder = stopped(sample().await).await;
    for (damage, consumer) in [
        ("UPDATE consumers SET settings = '{}' WHERE name = 'audit'", "audit"),
        ("UPDATE consumers SET checksum = 1 WHERE name = 'default'", "default"),
        ("UPDATE open SET state = 'x' WHERE seq = 28", "default"),
        ("DELETE FROM consumers", "default"),
    ] {
        let damaged = tempfile::tempdir().unwrap();
        copy(folder.path(), damaged.path());
        execute(damaged.path(), damage);
        let (log, left_out) = recovered(damaged.path()).await;
        assert!(left_out.contains(&format!("consumer {consumer} of app app-1")), "{damage}: {left_out}");
        let status = log.status(consumer).await;
        assert_eq!((status.dead, status.pending), (0, Some(u64::from(EVENTS))), "{damage}");
        assert_eq!(log.drain(consumer).await, (0..EVENTS).collect::<Vec<_>>(), "{damage}");
    }
}

#[tokio::test]
async fn unreadable_apps_and_consumers_are_found_through_their_index() {
    let folder = stopped(sample().await).await;
    // Their tables begin with these pages.
    let db = rusqlite::Connection::open(folder.path().join("log.sqlite")).unwrap();
    let roots = ["apps", "consumers"].map(|table| {
        let sql = "SELECT rootpage FROM sqlite_schema WHERE name = ?";
        db.query_row(sql, [table], |row| row.get::<_, u32>(0)).unwrap() as usize
    });
    drop(db);
    let file = folder.path().join("log.sqlite");
    let mut bytes = fs::read(&file).unwrap();
    for root in roots {
        bytes[(root - 1) * 4096..root * 4096].fill(0);
    }
    fs::write(&file, bytes).unwrap();
    let (log, left_out) = recovered(folder.path()).await;
    assert!(left_out.contains("consumer audit of app app-1: it is damaged"), "{left_out}");
    assert_eq!(rest(&log).await, (0..EVENTS).collect::<Vec<_>>());
}

/// Whatever is damaged, what is recovered is whole, and what is not is listed.
#[tokio::test]
async fn bytes_that_are_changed_anywhere_leave_a_store_that_is_whole() {
    let folder = stopped(sample().await).await;
    write_index(folder.path());
    let whole = fs::read(folder.path().join("log.sqlite")).unwrap();
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random >> 16).unwrap() % below
    };
    for round in 0..20 {
        let mut bytes = whole.clone();
        let pages = bytes.len() / 4096;
        for _ in 0..=round % 4 {
            // Not the first page: without the schema nothing can be read.
            let page = (1 + next(pages - 1)) * 4096;
            match next(3) {
                0 => bytes[page..page + 4096].fill(0),
                1 => bytes[page + 2048..page + 4096].fill(0),
                _ => bytes[page + next(4096)] ^= 1 << next(8),
            }
        }
        let damaged = tempfile::tempdir().unwrap();
        copy(folder.path(), damaged.path());
        fs::write(damaged.path().join("log.sqlite"), bytes).unwrap();
        let (log, left_out) = recovered(damaged.path()).await;
        let (rest, listed) = (rest(&log).await, listed(&left_out));
        let lost: Vec<_> = (30..EVENTS).filter(|n| !rest.contains(n) && !listed.contains(&(n + 1))).collect();
        assert!(lost.is_empty(), "round {round}: {lost:?}: {left_out}");
    }
}

#[tokio::test]
async fn a_recovery_needs_a_stopped_store_and_an_empty_folder() {
    let log = sample().await;
    let to = tempfile::tempdir().unwrap();
    let refused = failed(&["recover", text(log.folder.path()), text(to.path())]);
    assert!(refused.contains("stop it first"), "{refused}");
    let folder = stopped(log).await;
    fs::write(to.path().join("file"), "").unwrap();
    let refused = failed(&["recover", text(folder.path()), text(to.path())]);
    assert!(refused.contains("not empty"), "{refused}");
    assert_eq!(files(to.path()).len(), 1);
}

#[tokio::test]
async fn the_wal_of_a_killed_server_is_recovered_too() {
    let log = sample().await;
    let killed = tempfile::tempdir().unwrap();
    copy(log.folder.path(), killed.path());
    let before = files(killed.path());
    let (recovered, _) = recovered(killed.path()).await;
    let mut after = files(killed.path());
    // SQLite's index of the WAL, which it makes anew at any time.
    after.remove("log.sqlite-shm");
    assert!(after == before);
    assert!(rest(&recovered).await.len() >= 170);
}
