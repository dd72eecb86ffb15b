//! Registering and unregistering.

use std::{sync::Arc, time::Duration};

use wwproxy_protocol::{Secret, Source, SourceName, SourceSettings};
use wwproxy_server::store::{Appended, Limits, Registration, Stats};

use crate::fixture::{Open, TestQueue, event, key, registration};

pub(crate) async fn an_append_for_an_unregistered_app_is_rejected(open: Open<'_>) {
    let queue = TestQueue { store: open(Limits::default()), app: "app-1".parse().unwrap() };
    assert_eq!(queue.store.registration(&queue.app).await.unwrap(), None);
    assert_eq!(queue.try_append(event(1), key(1)).await, Appended::SourceChanged);
    assert_eq!(queue.stats().await, Stats::default());
    queue.unregister().await;
    queue.register_with("secret").await;
    assert!(matches!(queue.try_append(event(1), key(1)).await, Appended::Stored(_)));
}

pub(crate) async fn a_registration_is_returned_unchanged(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    let found = async || queue.store.registration(&queue.app).await.unwrap().as_deref().cloned();
    assert_eq!(found().await, Some(registration("secret")));
    let github = SourceSettings {
        scheme: "github".into(),
        secrets: vec![Secret::new("one \"é\" \0"), Secret::new("two")],
        ..SourceSettings::default()
    };
    let mut two = registration("another");
    two.sources.insert("repo".parse().unwrap(), Ok(Arc::new(Source::new(github).unwrap())));
    queue.store.put_registration(&queue.app, two.clone()).await.unwrap();
    assert_eq!(found().await, Some(two));
    queue.unregister().await;
    assert_eq!(found().await, None);
}

pub(crate) async fn replacing_a_registration_keeps_the_events(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    queue.append_all(0..2).await;
    let taken = queue.take(1).await;
    queue.register_with("another").await;
    assert_eq!(queue.stats().await.stored, 2);
    assert_eq!(queue.ack(&taken).await.acked, 1, "the lease is still valid");
    assert_eq!(queue.drain().await, [1]);
}

pub(crate) async fn unregistering_purges_the_queue(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    queue.append_all(0..4).await;
    let taken = queue.take(3).await;
    queue.release(&taken[..1]).await;
    queue.nack(&taken[1..2], Duration::from_secs(600)).await;
    queue.unregister().await;
    assert_eq!(queue.stats().await, Stats::default());
    assert_eq!(queue.take(10).await, []);
    assert_eq!(queue.try_append(event(5), None).await, Appended::SourceChanged);
    queue.register_with("secret").await;
    assert_eq!(queue.ack(&taken[2..]).await.stale.len(), 1, "a receipt of a deleted event");
    queue.append(6).await;
    assert_eq!(queue.ack(&taken).await.acked, 0);
    assert_eq!(queue.drain().await, [6]);
    queue.unregister().await;
    queue.unregister().await;
}

pub(crate) async fn unregistering_does_not_affect_other_apps(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    let other = queue.other("app-2").await;
    other.append(1).await;
    queue.append(2).await;
    queue.unregister().await;
    assert!(other.store.registration(&other.app).await.unwrap().is_some());
    assert_eq!(other.drain().await, [1]);
}

pub(crate) async fn an_append_concurrent_with_unregistering_leaves_no_event(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    for round in 0..10 {
        let senders: Vec<_> = (0..20)
            .map(|n| {
                let queue = queue.clone();
                tokio::spawn(async move { queue.try_append(event(n), None).await })
            })
            .collect();
        if round % 2 == 0 {
            tokio::task::yield_now().await;
        }
        queue.unregister().await;
        for sender in senders {
            let appended = sender.await.unwrap();
            assert!(matches!(appended, Appended::Stored(_) | Appended::SourceChanged), "{appended:?}");
        }
        assert_eq!(queue.stats().await, Stats::default());
        queue.register_with("secret").await;
        assert_eq!(queue.take(100).await, []);
    }
}

pub(crate) async fn an_append_of_a_replaced_source_is_rejected(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    let current = async || {
        let registration = queue.store.registration(&queue.app).await.unwrap().unwrap();
        Arc::clone(registration.source(&SourceName::default()).unwrap())
    };
    let append = async |source: &Arc<Source>| {
        queue.store.append(&queue.app, Arc::clone(source), event(1), key(1)).await.unwrap()
    };
    let first = current().await;
    // Equal settings are another source.
    queue.register_with("secret").await;
    assert_eq!(append(&first).await, Appended::SourceChanged);
    let second = current().await;
    assert!(matches!(append(&second).await, Appended::Stored(_)));
    assert_eq!(append(&first).await, Appended::SourceChanged, "not a duplicate");
    queue.unregister().await;
    assert_eq!(append(&second).await, Appended::SourceChanged);
    queue.register_with("secret").await;
    assert_eq!(append(&second).await, Appended::SourceChanged);
    assert_eq!(queue.stats().await, Stats::default());
}

pub(crate) async fn replacing_a_source_rejects_no_append_of_another(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    let registration = queue.store.registration(&queue.app).await.unwrap().unwrap();
    let mut more = Registration::clone(&registration);
    more.sources.insert("repo".parse().unwrap(), Ok(Arc::new(Source::watson_work(Secret::new("s")))));
    queue.store.put_registration(&queue.app, more).await.unwrap();
    let source = Arc::clone(registration.source(&SourceName::default()).unwrap());
    let appended = queue.store.append(&queue.app, source, event(1), None).await.unwrap();
    assert!(matches!(appended, Appended::Stored(_)));
}

/// The race is between the queue of commands and the commit: only `RedbStore` can lose it, as `MemoryStore` compares and
/// stores under one lock.
pub(crate) async fn no_append_of_a_replaced_source_is_stored_after_the_replacement(open: Open<'_>) {
    let queue = TestQueue::open(open).await;
    for round in 0..20 {
        let registration = queue.store.registration(&queue.app).await.unwrap().unwrap();
        let source = registration.source(&SourceName::default()).unwrap();
        let senders: Vec<_> = (0..200)
            .map(|n| {
                let (queue, source) = (queue.clone(), Arc::clone(source));
                tokio::spawn(async move { queue.store.append(&queue.app, source, event(n), None).await })
            })
            .collect();
        if round % 2 == 0 {
            tokio::task::yield_now().await;
        }
        queue.register_with("another").await;
        let stored = queue.stats().await.stored;
        for sender in senders {
            let appended = sender.await.unwrap().unwrap();
            assert!(matches!(appended, Appended::Stored(_) | Appended::SourceChanged), "{appended:?}");
        }
        assert_eq!(queue.stats().await.stored, stored, "{round}");
    }
}
