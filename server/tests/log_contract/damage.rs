//! Damaged records: never delivered as if they were whole, and never in the way of others.

use std::{fs, os::unix::fs::FileExt, path::Path};

use wwproxy_server::store::log::Store;

use crate::fixture::{TestLog, larger, numbers};

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
