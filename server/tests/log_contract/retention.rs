//! Retention: which events are removed, what consumers lose by it, and that what is left is delivered.

use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use wwproxy_protocol::{ConsumerSettings, Start};
use wwproxy_server::store::{Appended, Lease, Limits, Settlement, Store};

use crate::fixture::{
    LONG, SHORT, TestLog, consumer, event, eventually, larger, now, numbers, receipts, typed,
};

/// A retention or a history that the test waits for.
const AGE: Duration = Duration::from_millis(600);

/// The rows of a table.
pub(crate) fn rows(store: &TestLog, table: &str) -> u64 {
    let file = store.folder.path().join("log.sqlite");
    let db = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    db.busy_timeout(Duration::from_secs(5)).unwrap();
    db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0))
        .unwrap()
        .try_into()
        .unwrap()
}

async fn has_events(store: &TestLog, count: u64) {
    eventually("the events are removed", async || rows(store, "events") == count).await;
}

fn filtered(event_type: &str) -> ConsumerSettings {
    ConsumerSettings { types: [event_type.to_owned()].into(), ..ConsumerSettings::default() }
}

#[tokio::test]
async fn an_event_is_removed_after_its_retention_and_every_consumer_counts_what_it_lost() {
    let store = TestLog::limited(Limits { retention: AGE, ..Limits::default() }).await;
    store.put("pushes", filtered("push")).await;
    store.put("done", ConsumerSettings::default()).await;
    for n in 0..6 {
        store.append_to(&store.app, typed(n, if n < 4 { "push" } else { "pull" })).await;
    }
    // Larger than a row, so that its body is a row of its own.
    store.append_to(&store.app, larger(6, 5000)).await;
    let taken = store.take(4).await;
    store.reject(&taken[..1]).await;
    store.ack("default", &taken[1..2]).await;
    store.release(&taken[2..3], LONG).await;
    assert_eq!(store.drain("done").await.len(), 7);
    has_events(&store, 0).await;
    for table in ["bodies", "by_app", "open"] {
        assert_eq!(rows(&store, table), 0, "{table}");
    }
    let check = async |store: &TestLog, when| {
        for (name, dropped) in [("default", 5), ("pushes", 4), ("done", 0)] {
            let status = store.status(name).await;
            assert_eq!((status.dropped, status.leased, status.dead), (dropped, 0, 0), "{name} {when}");
            if name != "pushes" {
                assert_eq!((status.pending, status.pending_bytes), (Some(0), Some(0)), "{name} {when}");
            }
        }
    };
    check(&store, "in memory").await;
    assert_eq!(store.ack("default", &taken[3..]).await.stale, receipts(&taken[3..]));
    let crashed = store.crash().await;
    check(&crashed, "after a crash").await;
    crashed.append_to(&store.app, typed(7, "push")).await;
    assert_eq!(crashed.status("default").await.pending, Some(1));
    for name in ["default", "pushes", "done"] {
        assert_eq!(crashed.drain(name).await, [7], "{name}");
    }
}

#[tokio::test]
async fn a_settled_event_is_removed_after_the_history_and_others_stay() {
    let store = TestLog::limited(Limits { history: AGE, ..Limits::default() }).await;
    store.put("pushes", filtered("push")).await;
    for n in 0..10 {
        store.append_to(&store.app, typed(n, "push")).await;
    }
    let (taken, pushes) = (store.take(8).await, store.lease("pushes", now(9)).await);
    store.reject(&taken[..1]).await;
    store.ack("default", &taken[2..]).await;
    store.ack("pushes", &[&pushes[..3], &pushes[4..]].concat()).await;
    // Left are: the dead one, the leased ones, and those that default has not received.
    has_events(&store, 5).await;
    let left = async |store: &TestLog| store.put("all", starting(Start::All)).await;
    let crashed = store.crash().await;
    left(&crashed).await;
    assert_eq!(crashed.status("all").await.pending, Some(5));
    assert_eq!(crashed.drain("all").await, [0, 1, 3, 8, 9]);
    assert_eq!(crashed.status("default").await.pending, Some(3));
    assert_eq!(crashed.drain("default").await, [1, 8, 9]);
    assert_eq!(crashed.drain("pushes").await, [3, 9]);

    // Older events that are settled only now are found, too.
    store.ack("default", &taken[1..2]).await;
    store.ack("pushes", &pushes[3..4]).await;
    has_events(&store, 3).await;
    assert_eq!(store.drain("default").await, [8, 9]);
    has_events(&store, 2).await;
    assert_eq!(store.status("default").await.pending, Some(0));
    assert_eq!(rows(&store, "deliveries WHERE outcome = 'rejected'"), 1);
}

fn starting(start: Start) -> ConsumerSettings {
    ConsumerSettings { start, ..ConsumerSettings::default() }
}

#[tokio::test]
async fn without_history_an_event_is_removed_when_the_last_consumer_settles_it() {
    let store = TestLog::limited(Limits { history: Duration::ZERO, ..Limits::default() }).await;
    store.put("slow", ConsumerSettings::default()).await;
    store.append_all(0..600).await;
    assert_eq!(store.drain("default").await.len(), 600);
    let taken = store.lease("slow", now(256)).await;
    store.ack("slow", &taken[..100]).await;
    has_events(&store, 500).await;
    store.log.delete_consumer(&store.app, &"slow".parse().unwrap()).await.unwrap();
    has_events(&store, 0).await;
    store.append(600).await;
    let crashed = store.crash().await;
    assert_eq!(crashed.status("default").await.pending, Some(1));
    assert_eq!(crashed.drain("default").await, [600]);
    assert_eq!(store.drain("default").await, [600]);
}

#[tokio::test]
async fn over_its_size_the_store_removes_settled_events_of_the_largest_app() {
    let max_history_bytes = 200_000;
    let store = TestLog::limited(Limits { max_history_bytes, ..Limits::default() }).await;
    let small = store.of_app(store.register("small").await);
    store.append(0).await;
    let dead = store.take(1).await;
    store.reject(&dead).await;
    for n in 1..30 {
        store.append_to(&store.app, larger(n, 10_000)).await;
        store.drain("default").await;
    }
    for n in 0..5 {
        small.append_to(&small.app, larger(n, 10_000)).await;
    }
    assert_eq!(small.drain("default").await.len(), 5);
    // About 200,000 bytes are left: 14 of this app, the five of the small one, and the dead one.
    let mut left = 0;
    eventually("the store has its size", async || {
        left = rows(&store, "events");
        left <= 20
    })
    .await;
    assert!(left >= 19, "{left}");
    let crashed = store.crash().await;
    crashed.put("all", starting(Start::All)).await;
    let kept = crashed.drain("all").await;
    assert_eq!((kept[0], kept.last()), (0, Some(&29)), "{kept:?}");
    assert!(kept[1..].is_sorted() && kept[1] > 10, "{kept:?}");
    let crashed = crashed.of_app(small.app.clone());
    crashed.put("all", starting(Start::All)).await;
    assert_eq!(crashed.drain("all").await, [0, 1, 2, 3, 4]);
    // Events that are not settled stay, over the size as well.
    for n in 30..60 {
        assert!(matches!(store.try_append(larger(n, 10_000)).await, Appended::Stored(_)));
    }
    eventually("the history is gone", async || rows(&store, "events") == 31).await;
    assert_eq!(store.drain("default").await, (30..60).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_disk_gets_the_space_of_removed_events_back() {
    let store = TestLog::limited(Limits { history: Duration::ZERO, ..Limits::default() }).await;
    let pages = || {
        let db = Connection::open(store.folder.path().join("log.sqlite")).unwrap();
        db.pragma_query_value(None, "page_count", |row| row.get::<_, i64>(0)).unwrap()
    };
    for n in 0..8 {
        store.append_to(&store.app, larger(n, 1 << 20)).await;
    }
    assert!(pages() > 2048);
    store.drain("default").await;
    eventually("the database is small", async || pages() < 600).await;
}

/// Removals while the index is being written: nothing that is left is missing in it, and nothing removed comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removals_and_the_late_index_agree() {
    let limits = Limits { history: Duration::ZERO, max_pending_events: 1_000_000, ..Limits::default() };
    let store = TestLog::limited(limits).await;
    store.put("slow", filtered("push")).await;
    let kept = store.append_to(&store.app, typed(0, "push")).await;
    let mut appended = 1;
    while appended < 28_000 {
        store.append_many(&store.app, appended..appended + 1000).await;
        appended += 1000;
        store.drain("default").await;
        store.lease("slow", now(1)).await;
    }
    has_events(&store, 1).await;
    store.append_many(&store.app, appended..appended + 10).await;
    let crashed = store.crash().await;
    assert_eq!(rows(&crashed, "by_app"), rows(&crashed, "by_app WHERE seq IN (SELECT seq FROM events)"));
    assert_eq!(crashed.drain("default").await.len(), 10);
    let slow = crashed.lease("slow", Lease { time: SHORT, ..now(10) }).await;
    assert_eq!((numbers(&slow), &slow[0].event.id), (vec![0], &kept));
    assert!(matches!(store.try_append(event(1)).await, Appended::Stored(_)));
}

#[tokio::test]
async fn events_are_removed_while_consumers_of_another_app_come_and_go() {
    let store = TestLog::limited(Limits { history: Duration::ZERO, ..Limits::default() }).await;
    let other = store.of_app(store.register("other").await);
    let come_and_go = async {
        loop {
            other.put("short", ConsumerSettings::default()).await;
            assert!(other.log.delete_consumer(&other.app, &consumer("short")).await.unwrap());
        }
    };
    let removed = async {
        store.append_all(0..10).await;
        assert_eq!(store.drain("default").await.len(), 10);
        has_events(&store, 0).await;
    };
    tokio::select! {
        () = removed => {}
        () = come_and_go => {}
    }
}

#[tokio::test]
async fn what_only_an_ended_ephemeral_consumer_had_not_settled_is_removed() {
    let store = TestLog::limited(Limits { history: Duration::ZERO, ..Limits::default() }).await;
    let ephemeral = store.log.open_ephemeral(&store.app, Start::New).await.unwrap().unwrap();
    store.append_all(0..10).await;
    let taken = store.log.lease(&store.app, &ephemeral.name, now(10)).await.unwrap();
    let acks = receipts(&taken[5..]);
    store
        .log
        .settle(&store.app, &ephemeral.name, Settlement { acks, ..Settlement::default() })
        .await
        .unwrap();
    assert_eq!(store.drain("default").await.len(), 10);
    has_events(&store, 5).await;
    drop(ephemeral);
    has_events(&store, 0).await;
}

#[tokio::test]
async fn an_app_with_many_kept_events_does_not_take_the_time_of_others() {
    const KEPT: u32 = 20_000;
    let store = TestLog::limited(Limits { history: Duration::ZERO, ..Limits::default() }).await;
    store.put("slow", ConsumerSettings::default()).await;
    store.append_many(&store.app, 0..KEPT).await;
    let _leased = store.lease("slow", now(KEPT as usize)).await;
    let taken = store.take(KEPT as usize).await;
    store.ack("default", &taken).await;
    // What is settled anew makes the search begin again at the oldest event.
    let settle_again = async {
        loop {
            store.log.replay(&store.app, &consumer("default"), &taken[0].event.id).await.unwrap();
            store.drain("default").await;
        }
    };
    let removed = async {
        for app in ["b", "c", "d", "e", "f"] {
            let other = store.of_app(store.register(app).await);
            other.append(0).await;
            assert_eq!(other.drain("default").await, [0]);
        }
        has_events(&store, KEPT.into()).await;
    };
    tokio::select! {
        () = removed => {}
        () = settle_again => {}
    }
}

/// Waits until 19 events of 10,000 bytes are left.
async fn is_small(store: &TestLog) {
    eventually("the store has its size", async || rows(store, "events") <= 19).await;
}

#[tokio::test]
async fn over_its_size_the_store_drops_what_only_other_consumers_than_default_have_not_settled() {
    let store = TestLog::limited(Limits { max_history_bytes: 200_000, ..Limits::default() }).await;
    let small = store.of_app(store.register("small").await);
    for n in 0..5 {
        small.append_to(&small.app, larger(n, 10_000)).await;
    }
    assert_eq!(small.drain("default").await.len(), 5);
    store.put("lagging", ConsumerSettings::default()).await;
    let ephemeral = store.log.open_ephemeral(&store.app, Start::New).await.unwrap().unwrap();
    for n in 0..3 {
        store.append_to(&store.app, larger(n, 10_000)).await;
    }
    let (pending, leased) = (store.take(3).await, store.lease("lagging", now(2)).await);
    let unread = store.log.lease(&store.app, &ephemeral.name, now(2)).await.unwrap();
    for n in 3..60 {
        store.append_to(&store.app, larger(n, 10_000)).await;
        assert_eq!(store.drain("default").await, [n]);
    }
    is_small(&store).await;
    small.put("all", starting(Start::All)).await;
    assert_eq!(small.status("all").await.pending, Some(0), "settled events go first");
    let left = rows(&store, "events");
    assert!(left >= 18, "{left}");
    let check = async |store: &TestLog| {
        let (default, lagging) = (store.status("default").await, store.status("lagging").await);
        assert_eq!((default.pending, default.dropped), (Some(3), 0));
        assert_eq!((lagging.pending, lagging.dropped), (Some(left), 60 - left));
    };
    check(&store).await;
    let crashed = store.crash().await;
    check(&crashed).await;
    let kept: Vec<_> = (0..3).chain(63 - u32::try_from(left).unwrap()..60).collect();
    assert_eq!(crashed.drain("lagging").await, kept);
    // What `default` has pending stays for all.
    assert_eq!(store.ack("lagging", &leased).await.acked, 2);
    assert_eq!(unread.len(), 2);
    assert_eq!(store.ack("default", &pending).await.acked, 3);
    assert_eq!(store.drain("lagging").await, kept[2..]);
    assert_eq!(store.status("lagging").await.pending, Some(0));
}

#[tokio::test]
async fn over_its_size_the_store_drops_what_other_consumers_have_leased_and_what_is_dead() {
    let store = TestLog::limited(Limits { max_history_bytes: 200_000, ..Limits::default() }).await;
    store.put("slow", ConsumerSettings::default()).await;
    let mut slow = Vec::new();
    for n in 0..60 {
        store.append_to(&store.app, larger(n, 10_000)).await;
        let taken = store.take(1).await;
        assert_eq!(store.reject(&taken).await.rejected, 1);
        slow.extend(store.lease("slow", now(1)).await);
    }
    is_small(&store).await;
    let left = rows(&store, "events");
    let check = async |store: &TestLog| {
        let (default, slow) = (store.status("default").await, store.status("slow").await);
        assert_eq!((default.pending, default.dead, default.dropped), (Some(0), left, 0));
        assert_eq!((slow.pending, slow.dropped), (Some(left), 60 - left));
    };
    check(&store).await;
    check(&store.crash().await).await;
    let stale = store.ack("slow", &slow).await.stale;
    assert_eq!(stale, receipts(&slow[..slow.len() - usize::try_from(left).unwrap()]));
    eventually("the rows are gone", async || rows(&store, "open") == left).await;
    assert_eq!(rows(&store, "open WHERE reason = 'bad' AND state = 'dead'"), left);
}

#[tokio::test]
async fn seeks_keep_no_settled_event_from_being_removed() {
    let store = TestLog::limited(Limits { history: Duration::ZERO, ..Limits::default() }).await;
    let other = store.of_app(store.register("other").await);
    let default = "default".parse().unwrap();
    let seeks = async {
        loop {
            store.log.seek(&store.app, &default, Start::All).await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let removal = async {
        other.append_all(0..50).await;
        assert_eq!(other.drain("default").await.len(), 50);
        has_events(&store, 0).await;
    };
    tokio::select! { () = seeks => {}, () = removal => {} }
}

#[tokio::test]
async fn old_events_that_belong_to_no_app_or_are_damaged_are_removed() {
    let store = TestLog::new().await;
    store.append_all(0..4).await;
    let store = store.reopen_after("UPDATE events SET app_id = 99, received_at = 1 WHERE seq = 1").await;
    let store = store.reopen_after("UPDATE events SET app_id = 'x', received_at = 1 WHERE seq = 2").await;
    let store = store.reopen_after("UPDATE events SET size = 'x', received_at = 1 WHERE seq = 3").await;
    has_events(&store, 1).await;
    assert_eq!(store.drain("default").await, [3]);
}
