//! The number of pending events of a consumer with a filter.

use wwproxy_protocol::{ConsumerSettings, Start};
use wwproxy_server::store::{Limits, Store};

use crate::fixture::{TestLog, consumer, eventually, now, typed};

fn pushes(start: Start) -> ConsumerSettings {
    ConsumerSettings { types: ["push".to_owned()].into(), start, ..ConsumerSettings::default() }
}

async fn append_mixed(store: &TestLog, numbers: std::ops::Range<u32>) {
    for n in numbers {
        store.append_to(&store.app, typed(n, if n % 3 == 0 { "push" } else { "pull" })).await;
    }
}

async fn counted(store: &TestLog, expected: u64) {
    eventually("the events are counted", async || store.status("pushes").await.pending.is_some()).await;
    let status = store.status("pushes").await;
    assert_eq!(status.pending, Some(expected));
    assert_eq!(status.pending_bytes == Some(0), expected == 0);
}

#[tokio::test]
async fn a_new_consumer_counts_from_its_creation_on() {
    let store = TestLog::new().await;
    append_mixed(&store, 0..6).await;
    store.put("pushes", pushes(Start::New)).await;
    assert_eq!(store.status("pushes").await.pending, Some(0));
    append_mixed(&store, 0..9).await;
    assert_eq!(store.status("pushes").await.pending, Some(3));
    let taken = store.lease("pushes", now(2)).await;
    assert_eq!(store.status("pushes").await.pending, Some(3), "a leased event is pending");
    store.ack("pushes", &taken[..1]).await;
    assert_eq!(store.status("pushes").await.pending, Some(2));
}

#[tokio::test]
async fn a_count_is_unknown_until_the_log_was_read() {
    let store = TestLog::new().await;
    append_mixed(&store, 0..30).await;
    store.put("pushes", pushes(Start::All)).await;
    assert_eq!(store.status("pushes").await.pending, None);
    counted(&store, 10).await;
    append_mixed(&store, 0..3).await;
    counted(&store, 11).await;
    let taken = store.lease("pushes", now(4)).await;
    store.ack("pushes", &taken[..3]).await;
    counted(&store, 8).await;
    eventually("the acknowledgements are durable", async || {
        let crashed = store.crash().await;
        crashed.status("pushes").await;
        eventually("counted", async || crashed.status("pushes").await.pending.is_some()).await;
        crashed.status("pushes").await.pending == Some(8)
    })
    .await;
    store.log.seek(&store.app, &consumer("pushes"), Start::All).await.unwrap();
    counted(&store, 11).await;
    store.drain("pushes").await;
    counted(&store, 0).await;
}

/// More events than a run of the index and than a slice have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_counted_while_others_arrive_and_are_settled() {
    let store = TestLog::limited(Limits { max_pending_events: 1_000_000, ..Limits::default() }).await;
    for _ in 0..27 {
        store.append_many(&store.app, 0..1000).await;
    }
    store.put("pushes", pushes(Start::All)).await;
    store
        .put("plain", ConsumerSettings { sources: ["default".parse().unwrap()].into(), ..starting_all() })
        .await;
    store.status("pushes").await;
    store.status("plain").await;
    let appended = async {
        for _ in 0..5 {
            append_mixed(&store, 0..30).await;
        }
    };
    let settled = async {
        for _ in 0..5 {
            let taken = store.lease("plain", now(100)).await;
            store.ack("plain", &taken).await;
        }
    };
    tokio::join!(appended, settled);
    counted(&store, 50).await;
    eventually("counted", async || store.status("plain").await.pending.is_some()).await;
    assert_eq!(store.status("plain").await.pending, Some(27_150 - 500));
}

fn starting_all() -> ConsumerSettings {
    ConsumerSettings { start: Start::All, ..ConsumerSettings::default() }
}
