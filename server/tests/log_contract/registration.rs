//! Registrations: which appends they admit, and sources that cannot be read.

use std::sync::Arc;

use wwproxy_protocol::{Secret, Source, SourceName};
use wwproxy_server::store::{Appended, NewEvent, Registration, Store};

use crate::fixture::{TestLog, event, registration};

async fn current(store: &TestLog) -> Arc<Registration> {
    store.log.registration(&store.app).await.unwrap().unwrap()
}

fn name(name: &str) -> SourceName {
    name.parse().unwrap()
}

fn of_source(n: u32, source: &str) -> NewEvent {
    let mut event = event(n);
    event.origin.source = name(source);
    event
}

#[tokio::test]
async fn an_append_of_a_replaced_source_is_rejected() {
    let store = TestLog::new().await;
    let default = async || Arc::clone(current(&store).await.source(&SourceName::default()).unwrap());
    let append = async |source: &Arc<Source>, n| {
        store.log.append(&store.app, Arc::clone(source), event(n), None).await.unwrap()
    };
    let first = default().await;
    // Equal settings are another source.
    store.register("app-1").await;
    assert_eq!(append(&first, 0).await, Appended::SourceChanged);
    let second = default().await;
    assert!(matches!(append(&second, 1).await, Appended::Stored(_)));
    let other_source =
        store.log.append(&store.app, Arc::clone(&second), of_source(2, "shop"), None).await.unwrap();
    assert_eq!(other_source, Appended::SourceChanged);
    assert_eq!(store.drain("default").await, [1]);
    store.log.remove_registration(&store.app).await.unwrap();
    assert_eq!(append(&second, 3).await, Appended::SourceChanged);
    store.register("app-1").await;
    assert_eq!(append(&second, 4).await, Appended::SourceChanged);
    assert!(store.drain("default").await.is_empty());
}

#[tokio::test]
async fn replacing_a_source_rejects_no_append_of_another() {
    let store = TestLog::new().await;
    let verified = current(&store).await;
    let mut more = Registration::clone(&verified);
    more.sources.insert(name("shop"), Ok(Arc::new(Source::watson_work(Secret::new("another")))));
    store.log.put_registration(&store.app, more).await.unwrap();
    let source = |name: &SourceName| Arc::clone(verified.source(name).unwrap());
    let default = store.log.append(&store.app, source(&SourceName::default()), event(1), None).await.unwrap();
    assert!(matches!(default, Appended::Stored(_)), "{default:?}");
    let shop = store.log.append(&store.app, source(&name("shop")), of_source(2, "shop"), None).await.unwrap();
    assert_eq!(shop, Appended::SourceChanged);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_append_of_a_replaced_source_is_stored_after_the_replacement() {
    let store = Arc::new(TestLog::new().await);
    for round in 0..20 {
        let source = Arc::clone(current(&store).await.source(&SourceName::default()).unwrap());
        let senders: Vec<_> = (0..200)
            .map(|n| {
                let (store, source) = (Arc::clone(&store), Arc::clone(&source));
                tokio::spawn(
                    async move { store.log.append(&store.app, source, event(n), None).await.unwrap() },
                )
            })
            .collect();
        if round % 2 == 0 {
            tokio::task::yield_now().await;
        }
        store.register("app-1").await;
        let pending = store.status("default").await.pending;
        let mut stored = 0;
        for sender in senders {
            match sender.await.unwrap() {
                Appended::Stored(_) => stored += 1,
                outcome => assert_eq!(outcome, Appended::SourceChanged),
            }
        }
        assert_eq!(store.status("default").await.pending, pending, "round {round}");
        assert_eq!(store.drain("default").await.len(), stored, "round {round}");
    }
}

#[tokio::test]
async fn a_damaged_source_stops_nothing_but_itself_until_it_is_replaced() {
    for damage in [
        "UPDATE sources SET settings = replace(settings, 'secret\"', 'secreu\"') WHERE name = 'shop'",
        "UPDATE sources SET settings = 'x' WHERE name = 'shop'",
        "UPDATE sources SET settings = CAST(x'ff' AS TEXT) WHERE name = 'shop'",
        "UPDATE sources SET checksum = checksum + 1 WHERE name = 'shop'",
    ] {
        let store = TestLog::new().await.reopen_after(damage).await;
        let damaged = current(&store).await;
        let error = damaged.sources[&name("shop")].as_ref().unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(shown.contains("damaged") && !shown.contains("secre"), "{shown}");
        assert_eq!(store.try_append(of_source(1, "shop")).await, Appended::SourceChanged);
        store.append(2).await;

        // A change of another source gives the damaged one no valid checksum.
        let mut more = Registration::clone(&damaged);
        more.sources.insert(name("more"), Ok(Arc::new(Source::watson_work(Secret::new("more")))));
        store.log.put_registration(&store.app, more).await.unwrap();
        let store = store.reopen().await;
        let still = current(&store).await;
        assert!(still.sources[&name("shop")].is_err(), "{damage}");
        assert!(still.source(&name("more")).is_some());

        store.log.put_registration(&store.app, registration()).await.unwrap();
        let store = store.reopen().await;
        assert_eq!(*current(&store).await, registration());
        store.append_to(&store.app, of_source(3, "shop")).await;
        assert_eq!(store.drain("default").await, [2, 3]);
    }
}

#[tokio::test]
async fn a_source_whose_name_is_damaged_is_left_out() {
    let damage = "UPDATE sources SET name = CAST(x'ff' AS TEXT) WHERE name = 'shop'";
    let store = TestLog::new().await.reopen_after(damage).await;
    assert_eq!(current(&store).await.sources.len(), 1);
    store.append(1).await;
    store.log.put_registration(&store.app, registration()).await.unwrap();
    let store = store.reopen().await;
    assert_eq!(*current(&store).await, registration());
}
