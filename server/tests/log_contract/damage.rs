//! Damaged records: never delivered as if they were whole, and never in the way of others.

use std::{fs, os::unix::fs::FileExt, path::Path, sync::Arc};

use wwproxy_protocol::ConsumerSettings;
use wwproxy_server::store::{Limits, SqliteStore, Store};

use crate::fixture::{TestLog, copy, larger, now, numbers, typed};

/// Changes one byte of the database, at the place of this text.
fn flip(folder: &Path, text: &str) {
    let file = folder.join("log.sqlite");
    let bytes = fs::read(&file).unwrap();
    let place = bytes.windows(text.len()).position(|window| window == text.as_bytes()).unwrap();
    let file = fs::OpenOptions::new().write(true).open(file).unwrap();
    file.write_all_at(b"X", u64::try_from(place + 2).unwrap()).unwrap();
}

#[tokio::test]
async fn a_flipped_byte_quarantines_its_event_and_the_others_are_delivered() {
    let store = TestLog::new().await;
    store.append_all(0..5).await;
    // In a row of its own.
    store.append_to(&store.app, larger(5, 5000)).await;
    store.append(6).await;
    store.log.close().await.unwrap();
    flip(store.folder.path(), r#"{"n":000003}"#);
    flip(store.folder.path(), r#"{"n":000005}"#);
    let store = store.open_again().await;
    let taken = store.take(10).await;
    assert_eq!(numbers(&taken), [0, 1, 2, 4, 6]);
    let status = store.status("default").await;
    assert_eq!((status.dead, status.leased), (2, 5));
    store.ack("default", &taken).await;
    let store = store.reopen().await;
    assert_eq!(store.status("default").await.dead, 2, "the quarantine is durable");
    assert_eq!(store.take(10).await, []);
}

/// A store with the events 0 to 5, of which even ones are pushes. `default` has acknowledged four of them, `pushes` one. The app
/// `other` has the event 9.
async fn with_consumers() -> TestLog {
    let store = TestLog::new().await;
    let pushes = ConsumerSettings { types: ["push".to_owned()].into(), ..ConsumerSettings::default() };
    store.put("pushes", pushes).await;
    for n in 0..6 {
        store.append_to(&store.app, typed(n, if n % 2 == 0 { "push" } else { "pull" })).await;
    }
    store.ack("default", &store.take(4).await).await;
    let pushes = store.lease("pushes", now(1)).await;
    store.ack("pushes", &pushes).await;
    store.register("other").await;
    other(&store).append(9).await;
    store
}

fn other(store: &TestLog) -> TestLog {
    store.of_app("other".parse().unwrap())
}

/// Checks what each consumer has left, twice: damage is repaired when the store is opened.
async fn check(store: TestLog, default: &[u32], pushes: &[u32], what: &str) {
    assert_eq!(other(&store).drain("default").await, [9], "{what}");
    assert_eq!(store.drain("default").await, default, "{what}");
    assert_eq!(store.drain("pushes").await, pushes, "{what}");
    assert_eq!(store.status("default").await.pending, Some(0), "{what}");
    let store = store.reopen().await;
    assert_eq!(store.drain("default").await, [0; 0], "{what}");
    assert_eq!(store.drain("pushes").await, [0; 0], "{what}");
}

#[tokio::test]
async fn a_damaged_default_consumer_begins_at_the_oldest_stored_event() {
    for damage in [
        "settings = '{'",
        "settings = CAST(x'ff' AS TEXT)",
        "checksum = checksum + 1",
        "checksum = -checksum",
        "checksum = 'x'",
        "position_seq = position_seq + 1",
        "position_seq = -1",
        "position_seq = 1 << 60",
        "position_seq = 'x'",
        "position_count = 7",
        "position_bytes = x'00'",
        "dropped = 1",
        "name = 'defaulu'",
        "name = CAST(x'ff' AS TEXT)",
        "app_id = 70",
    ] {
        let statement = format!("UPDATE consumers SET {damage} WHERE name = 'default' AND app_id = 1");
        let store = with_consumers().await.reopen_after(&statement).await;
        check(store, &[0, 1, 2, 3, 4, 5], &[2, 4], damage).await;
    }
}

#[tokio::test]
async fn a_damaged_consumer_keeps_its_name_and_if_they_are_whole_its_settings() {
    for (damage, left) in [
        ("position_seq = position_seq + 1", vec![0, 2, 4]),
        ("dropped = 'x'", vec![0, 2, 4]),
        ("settings = replace(settings, 'push', 'pusi')", vec![0, 1, 2, 3, 4, 5]),
        ("settings = x'00'", vec![0, 1, 2, 3, 4, 5]),
    ] {
        let statement = format!("UPDATE consumers SET {damage} WHERE name = 'pushes'");
        let store = with_consumers().await.reopen_after(&statement).await;
        check(store, &[4, 5], &left, damage).await;
    }
}

#[tokio::test]
async fn a_consumer_whose_name_or_app_is_damaged_hinders_no_other() {
    for damage in ["name = CAST(x'ff' AS TEXT)", "name = 'default'", "app_id = 70"] {
        let statement = format!("UPDATE consumers SET {damage} WHERE name = 'pushes'");
        let store = with_consumers().await.reopen_after(&statement).await;
        assert_eq!(store.log.consumers(&store.app).await.unwrap().len(), 1, "{damage}");
        assert_eq!(store.drain("default").await, [4, 5], "{damage}");
        assert_eq!(other(&store).drain("default").await, [9], "{damage}");
    }
}

#[tokio::test]
async fn an_open_event_whose_row_is_damaged_is_redelivered() {
    for (damage, redelivered) in [
        ("state = 'leased'", vec![2]),
        ("state = 'x'", vec![2]),
        ("attempt = attempt + 1", vec![2]),
        ("attempt = 'x'", vec![2]),
        ("not_before = 1 << 60", vec![2]),
        ("size = 'x'", vec![2]),
        ("reason = 'y'", vec![2]),
        ("checksum = checksum + 1", vec![2]),
        ("seq = 4", vec![0, 1, 2, 3]),
        ("seq = seq + 100", vec![0, 1, 2, 3]),
        ("checksum = -checksum", vec![0, 1, 2, 3]),
    ] {
        let store = TestLog::new().await;
        store.append_all(0..4).await;
        let taken = store.take(4).await;
        store.reject(&taken[2..3]).await;
        store.ack("default", &[&taken[..2], &taken[3..]].concat()).await;
        let store = store.reopen_after(&format!("UPDATE open SET {damage}")).await;
        let status = store.status("default").await;
        assert_eq!((status.pending, status.dead), (Some(redelivered.len() as u64), 0), "{damage}");
        let again = store.take(10).await;
        assert_eq!(numbers(&again), redelivered, "{damage}");
        if redelivered.len() == 1 {
            assert_eq!(again[0].attempt, 2, "{damage}");
        }
        store.ack("default", &again).await;
        assert_eq!(store.reopen().await.take(10).await, [], "{damage}");
    }
}

#[tokio::test]
async fn an_app_whose_name_is_damaged_keeps_its_events_until_it_is_repaired() {
    for damage in ["name = 'app-2'", "name = CAST(x'ff' AS TEXT)", "removed = 1"] {
        let store = with_consumers().await;
        let store = store.reopen_after(&format!("UPDATE apps SET {damage} WHERE app_id = 1")).await;
        assert!(store.log.registration(&store.app).await.unwrap().is_none());
        assert!(store.log.registration(&"app-2".parse().unwrap()).await.unwrap().is_none());
        other(&store).append(10).await;
        let repair = "UPDATE apps SET name = 'app-1', removed = 0 WHERE app_id = 1";
        let store = store.reopen_after(repair).await;
        assert_eq!(other(&store).drain("default").await, [9, 10]);
        assert_eq!(store.drain("default").await, [4, 5], "{damage}");
        assert_eq!(store.drain("pushes").await, [2, 4], "{damage}");
    }
}

/// Each byte of the rows of a consumer and of an open event: either the store does not open, or no event is missing.
#[tokio::test]
async fn a_flipped_byte_in_a_row_of_a_consumer_loses_no_event() {
    let store = TestLog::new().await;
    store.append_all(0..4).await;
    let taken = store.take(3).await;
    store.reject(&taken[1..2]).await;
    store.ack("default", &[&taken[..1], &taken[2..]].concat()).await;
    store.log.close().await.unwrap();
    let bytes = fs::read(store.folder.path().join("log.sqlite")).unwrap();
    let place = |text: &str| bytes.windows(text.len()).position(|window| window == text.as_bytes()).unwrap();
    // The header of a row is before its first text.
    let rows = [place("default{\"types\""), place("dead")]
        .map(|text| text - 24..(text + 240).min(text.next_multiple_of(4096)));
    let mut opened = 0;
    for place in rows.into_iter().flatten() {
        let folder = tempfile::tempdir().unwrap();
        copy(store.folder.path(), folder.path());
        let file = fs::OpenOptions::new().write(true).open(folder.path().join("log.sqlite")).unwrap();
        file.write_all_at(&[bytes[place] ^ 0x10], u64::try_from(place).unwrap()).unwrap();
        drop(file);
        let Ok(log) = SqliteStore::open(folder.path(), Limits::default()).await else { continue };

        opened += 1;
        let damaged = TestLog { folder, log: Arc::new(log), app: store.app.clone() };
        let dead = damaged.status("default").await.dead;
        let left = damaged.drain("default").await;
        assert!(left.ends_with(&[3]), "byte {place}: {left:?}");
        assert!(dead == 1 || left.contains(&1), "byte {place}: {left:?} and {dead} dead");
    }
    assert!(opened > 100, "{opened}");
}
