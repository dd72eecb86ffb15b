//! History: lists, single events, states and timelines.

use std::time::{Duration, SystemTime};

use wwproxy_protocol::{ConsumerSettings, EventId, Start};
use wwproxy_server::store::{
    EventPage, EventQuery, EventState, Limits, Replayed, Store, StoreError, StoredEvent,
};

use crate::fixture::{LONG, TestLog, consumer, event, larger, now, typed};

use EventState::{Dead, Delivered, Dropped, Leased, Pending};

async fn list(store: &TestLog, query: EventQuery) -> EventPage {
    store.log.events(&store.app, EventQuery { limit: query.limit.max(1), ..query }).await.unwrap()
}

fn all() -> EventQuery {
    EventQuery { limit: 1000, ..EventQuery::default() }
}

fn ids(page: &EventPage) -> Vec<EventId> {
    page.events.iter().map(|event| event.id.clone()).collect()
}

async fn get(store: &TestLog, id: &EventId) -> StoredEvent {
    store.log.event(&store.app, id).await.unwrap().unwrap()
}

/// The states of all events for a consumer, the oldest first.
async fn states(store: &TestLog, name: &str) -> Vec<Option<(EventState, u32)>> {
    let page = list(store, all()).await;
    let state = |event: &wwproxy_server::store::EventSummary| {
        let at = event.consumers.iter().find(|at| at.consumer.as_str() == name)?;
        Some((at.state, at.attempts))
    };
    page.events.iter().rev().map(state).collect()
}

async fn append_ids(store: &TestLog, numbers: std::ops::Range<u32>) -> Vec<EventId> {
    let mut ids = Vec::new();
    for n in numbers {
        ids.push(store.append(n).await);
    }
    ids
}

#[tokio::test]
async fn events_are_listed_page_by_page_the_newest_first() {
    let store = TestLog::new().await;
    let mut expected = append_ids(&store, 0..10).await;
    store.append_to(&store.register("other").await, event(99)).await;
    expected.reverse();
    let mut query = EventQuery { limit: 4, ..EventQuery::default() };
    let mut pages = Vec::new();
    loop {
        let page = list(&store, query.clone()).await;
        pages.push(ids(&page));
        query.before = page.next;
        if query.before.is_none() {
            break;
        }
    }
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 2]);
    assert_eq!(pages.concat(), expected);
    let between = EventQuery { after: Some(expected[6].clone()), before: Some(expected[3].clone()), ..all() };
    assert_eq!(ids(&list(&store, between).await), expected[4..6]);
    let unknown = store.log.events(&"unknown".parse().unwrap(), all()).await.unwrap();
    assert_eq!(unknown, EventPage::default());
}

#[tokio::test]
async fn a_list_is_limited_by_type_source_and_time() {
    let store = TestLog::new().await;
    let push = store.append_to(&store.app, typed(0, "push")).await;
    let mut shop = typed(1, "issues.opened");
    shop.origin.source = "shop".parse().unwrap();
    shop.origin.delivery_id = Some("d-1".into());
    let body_bytes = shop.body.len() as u64;
    let shop = store.append_to(&store.app, shop).await;
    let plain = store.append_to(&store.app, larger(2, 5000)).await;
    let by_type = |glob: &str| EventQuery { event_type: Some(glob.to_owned()), ..all() };
    assert_eq!(ids(&list(&store, by_type("issues.*")).await), std::slice::from_ref(&shop));
    assert_eq!(ids(&list(&store, by_type("*")).await), [shop.clone(), push.clone()]);
    let page = list(&store, EventQuery { source: Some("shop".parse().unwrap()), ..all() }).await;
    let summary = &page.events[0];
    assert_eq!((page.events.len(), &summary.id, summary.verified), (1, &shop, false));
    assert_eq!((summary.delivery_id.as_deref(), summary.body_bytes), (Some("d-1"), body_bytes));
    assert_eq!(summary.received_at, get(&store, &shop).await.event.received_at);
    let large = &list(&store, all()).await.events[0];
    assert_eq!((&large.id, large.body_bytes), (&plain, get(&store, &plain).await.event.body.len() as u64));
    let now = SystemTime::now() + Duration::from_secs(1);
    let times = |since, until| EventQuery { since, until, ..all() };
    assert_eq!(list(&store, times(Some(now), None)).await.events, []);
    assert_eq!(list(&store, times(None, Some(SystemTime::UNIX_EPOCH))).await.events, []);
    let between = times(Some(SystemTime::UNIX_EPOCH), Some(now));
    assert_eq!(ids(&list(&store, between).await), [plain, shop, push]);
}

#[tokio::test]
async fn an_event_has_a_state_for_each_consumer_that_receives_it() {
    let store = TestLog::new().await;
    store.append(0).await;
    store.put("late", ConsumerSettings::default()).await;
    store
        .put("pushes", ConsumerSettings { types: ["push".to_owned()].into(), ..ConsumerSettings::default() })
        .await;
    store.append_all(1..5).await;
    let taken = store.take(4).await;
    store.ack("default", &taken[..1]).await;
    store.reject(&taken[1..2]).await;
    store.release(&taken[2..3], LONG).await;
    let expected = [(Delivered, 1), (Dead, 1), (Pending, 1), (Leased, 1), (Pending, 0)].map(Some);
    assert_eq!(states(&store, "default").await, expected);
    assert_eq!(
        states(&store, "late").await,
        [None, Some((Pending, 0)), Some((Pending, 0)), Some((Pending, 0)), Some((Pending, 0))]
    );
    assert_eq!(states(&store, "pushes").await, [None; 5]);
    store.log.seek(&store.app, &consumer("late"), Start::New).await.unwrap();
    let in_state =
        |state, name: Option<&str>| EventQuery { state: Some(state), consumer: name.map(consumer), ..all() };
    assert_eq!(list(&store, in_state(Dead, None)).await.events.len(), 1);
    assert_eq!(list(&store, in_state(Pending, Some("default"))).await.events.len(), 2);
    assert_eq!(list(&store, in_state(Dropped, Some("late"))).await.events.len(), 4);
    assert_eq!(list(&store, in_state(Delivered, Some("late"))).await.events, []);
    let error = store.log.events(&store.app, in_state(Dead, Some("no"))).await.unwrap_err();
    assert!(matches!(error, StoreError::NoConsumer(_)));
    let store = store.crash().await;
    let expected = [(Delivered, 1), (Dead, 1), (Pending, 1), (Pending, 1), (Pending, 0)].map(Some);
    assert_eq!(states(&store, "default").await, expected, "after a crash");
    assert_eq!(states(&store, "late").await[0], None, "after a crash");
}

#[tokio::test]
async fn a_stored_event_has_its_headers_its_body_and_its_timeline() {
    let store = TestLog::new().await;
    store.put("audit", ConsumerSettings::default()).await;
    let all = append_ids(&store, 0..3).await;
    let taken = store.take(3).await;
    store.release(&taken[1..2], Duration::ZERO).await;
    store.ack("default", &[taken[0].clone(), taken[2].clone()]).await;
    store.drain("default").await;
    store.drain("audit").await;
    let replayed = store.log.replay(&store.app, &consumer("audit"), &all[1]).await.unwrap();
    assert_eq!(replayed, Replayed::Queued(1));
    let again = store.lease("audit", now(1)).await;
    store.ack("audit", &again).await;
    for store in [store.crash().await, store.reopen().await] {
        let found = get(&store, &all[1]).await;
        assert_eq!(found.event.body, event(1).body);
        assert_eq!(found.event.headers, event(1).headers);
        let timeline = |name: &str| -> Vec<_> {
            let of = found.timeline.iter().filter(|entry| entry.consumer.as_str() == name);
            of.map(|entry| (entry.attempt, entry.outcome.as_str(), entry.reason.as_deref())).collect()
        };
        assert_eq!(timeline("default"), [(1, "released", Some("try later")), (2, "acked", None)]);
        let is_acked = timeline("audit").len() == 3;
        assert_eq!(timeline("audit")[..2], [(1, "acked", None), (1, "replayed", None)]);
        let states: Vec<_> = found.summary.consumers.iter().map(|at| (at.state, at.attempts)).collect();
        // The last acknowledgement may be lost in a crash.
        let audit = if is_acked { Delivered } else { Pending };
        assert_eq!((states[0].0, states[1]), (audit, (Delivered, 2)));
        assert_eq!(get(&store, &all[0]).await.timeline.len(), 2);
        let foreign = store.append_to(&store.register("other").await, event(9)).await;
        assert_eq!(store.log.event(&store.app, &foreign).await.unwrap(), None);
        assert_eq!(store.log.event(&store.app, &"no-id".parse().unwrap()).await.unwrap(), None);
    }
}

#[tokio::test]
async fn an_event_whose_attempts_are_used_up_has_a_reason() {
    let store = TestLog::new().await;
    store.put("audit", ConsumerSettings { max_attempts: 2, ..ConsumerSettings::default() }).await;
    let id = append_ids(&store, 0..1).await.remove(0);
    for _ in 0..2 {
        let leased = store.lease("audit", now(1)).await;
        let release =
            |receipt| wwproxy_server::store::Release { receipt, delay: Some(Duration::ZERO), reason: None };
        let releases = leased.into_iter().map(|taken| release(taken.receipt)).collect();
        let settlement = wwproxy_server::store::Settlement { releases, ..Default::default() };
        store.log.settle(&store.app, &consumer("audit"), settlement).await.unwrap();
    }
    let timeline = get(&store.reopen().await, &id).await.timeline;
    let reasons: Vec<_> = timeline.iter().filter_map(|entry| entry.reason.as_deref()).collect();
    assert_eq!(reasons, ["2 attempts failed"]);
}

/// More events than a page and a slice have, in the index and in memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_history_is_listed_in_bounded_calls() {
    let store = TestLog::limited(Limits { max_pending_events: 1_000_000, ..Limits::default() }).await;
    let first = store.append_to(&store.app, typed(0, "first")).await;
    for _ in 0..27 {
        store.append_many(&store.app, 0..1000).await;
    }
    let mut query = EventQuery { limit: 5000, ..EventQuery::default() };
    let (mut listed, mut calls) = (Vec::new(), 0);
    loop {
        let page = list(&store, query.clone()).await;
        assert!(page.events.len() <= 1000);
        listed.extend(ids(&page));
        calls += 1;
        query.before = page.next;
        if query.before.is_none() {
            break;
        }
    }
    assert!(listed.len() == 27_001 && listed.is_sorted_by(|one, other| one > other), "{}", listed.len());
    assert!(calls >= 28);
    let mut query = EventQuery { event_type: Some("first".to_owned()), ..all() };
    let page = list(&store, query.clone()).await;
    assert!(page.events.is_empty() && page.next.is_some(), "it stops early");
    query.before = page.next;
    let mut found = Vec::new();
    while query.before.is_some() {
        let page = list(&store, query.clone()).await;
        found.extend(ids(&page));
        query.before = page.next;
    }
    assert_eq!(found, [first]);
}

#[tokio::test]
async fn the_timeline_of_an_event_that_is_nacked_without_end_is_bounded() {
    let store = TestLog::new().await;
    let id = store.append(0).await;
    for _ in 0..150 {
        let taken = store.wait(1).await;
        store.release(&taken, Duration::ZERO).await;
    }
    let taken = store.wait(1).await;
    assert_eq!(taken[0].attempt, 151);
    store.ack("default", &taken).await;
    let outcomes: Vec<_> = get(&store, &id).await.timeline.into_iter().map(|entry| entry.outcome).collect();
    assert_eq!(outcomes.len(), 101);
    assert_eq!((outcomes[99].as_str(), outcomes[100].as_str()), ("released", "acked"));
    assert_eq!(states(&store, "default").await, [Some((Delivered, 151))]);
}
