//! Property test without a model: what a store says is pending is what it delivers, whatever was moved, removed or dropped before.
//!
//! Settled events are removed at any time meanwhile.

use std::{collections::HashSet, path::Path, sync::Arc, time::Duration};

use proptest::{prelude::*, prop_assert, prop_assert_eq, sample::Index};
use tempfile::TempDir;
use wwproxy_protocol::{AppId, ConsumerName, ConsumerSettings, EventId, Overflow, Secret, Source, Start};
use wwproxy_server::store::{
    Appended, ConsumerStatus, Delivery, Lease, Limits, NewEvent, Registration, Reject, Release, Settlement,
    SqliteStore, Store, StoreError,
};

use crate::{
    Outcome,
    harness::{DEADLINE, LONG},
    restart::copy,
};

#[derive(Debug, Clone)]
pub(crate) enum Step {
    Append {
        is_push: bool,
        size: usize,
    },
    Lease {
        consumer: usize,
        max_events: usize,
    },
    Settle {
        consumer: usize,
        event: Index,
        how: How,
    },
    Seek {
        consumer: usize,
        after: Option<Index>,
    },
    /// A replay of an event, or of the last dead one.
    Replay {
        consumer: usize,
        event: Option<Index>,
    },
    Delete {
        event: Index,
    },
    Overflow(Option<Overflow>),
    Check,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum How {
    Ack,
    Reject,
    Release,
}

/// Events that are moved to, replayed and deleted: the newest ones, which consumers hold most often.
const NEWEST: usize = 12;
const CONSUMERS: [&str; 3] = ["default", "all", "pushes"];

pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let consumer = || 0..CONSUMERS.len();
    let how = prop_oneof![2 => Just(How::Ack), 1 => Just(How::Reject), 1 => Just(How::Release)];
    let overflow = prop_oneof![Just(None), Just(Some(Overflow::DropOldest)), Just(Some(Overflow::Off))];
    let step = prop_oneof![
        14 => (any::<bool>(), 20..3000usize).prop_map(|(is_push, size)| Step::Append { is_push, size }),
        8 => (consumer(), 1..4usize).prop_map(|(consumer, max_events)| Step::Lease { consumer, max_events }),
        14 => (consumer(), any::<Index>(), how)
            .prop_map(|(consumer, event, how)| Step::Settle { consumer, event, how }),
        5 => (consumer(), prop::option::of(any::<Index>()))
            .prop_map(|(consumer, after)| Step::Seek { consumer, after }),
        6 => (consumer(), prop::option::of(any::<Index>())).prop_map(|(consumer, event)| Step::Replay { consumer, event }),
        2 => any::<Index>().prop_map(|event| Step::Delete { event }),
        1 => overflow.prop_map(Step::Overflow),
        2 => Just(Step::Check),
    ];
    prop::collection::vec(step, 100)
}

struct Log {
    folder: TempDir,
    store: SqliteStore,
    app: AppId,
    ids: Vec<EventId>,
    leased: [Vec<Delivery>; 3],
    /// The last event that was rejected.
    dead: Option<EventId>,
}

fn consumer(number: usize) -> ConsumerName {
    CONSUMERS[number].parse().unwrap()
}

async fn open(folder: &Path, history: Duration) -> SqliteStore {
    let limits = Limits { max_pending_events: 30, history, ..Limits::default() };
    SqliteStore::open(folder, limits).await.unwrap()
}

pub(crate) async fn run(steps: Vec<Step>) -> Outcome<()> {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), Duration::ZERO).await;
    let app: AppId = "app".parse().unwrap();
    store.put_registration(&app, Registration::watson_work(Secret::new("secret"))).await.unwrap();
    let pushes = ConsumerSettings { types: ["push".to_owned()].into(), ..ConsumerSettings::default() };
    store.put_consumer(&app, &consumer(1), ConsumerSettings::default()).await.unwrap();
    store.put_consumer(&app, &consumer(2), pushes).await.unwrap();
    let mut log = Log { folder, store, app, ids: Vec::new(), leased: Default::default(), dead: None };
    for step in steps.into_iter().chain([Step::Check]) {
        log.apply(step).await?;
    }
    Ok(())
}

impl Log {
    async fn apply(&mut self, step: Step) -> Outcome<()> {
        let Self { store, app, ids, leased, dead, .. } = self;
        let newest = &ids[ids.len().saturating_sub(NEWEST)..];
        let id = |event: Index| {
            if newest.is_empty() { "none".parse().unwrap() } else { event.get(newest).clone() }
        };
        match step {
            Step::Append { is_push, size } => {
                let mut event = NewEvent::new(Vec::new(), None, vec![b'.'; size].into());
                event.origin.event_type = is_push.then(|| "push".to_owned());
                let registration = store.registration(app).await.unwrap().unwrap();
                let source = registration.source(&event.origin.source);
                let source: Arc<Source> = Arc::clone(source.unwrap());
                if let Appended::Stored(id) = store.append(app, source, event, None).await.unwrap() {
                    ids.push(id);
                }
            }
            Step::Lease { consumer: number, max_events } => {
                leased[number].extend(lease(store, app, &consumer(number), max_events).await);
            }
            Step::Settle { consumer: number, event, how } => {
                let leased = &mut leased[number];
                if !leased.is_empty() {
                    let Delivery { receipt, event, .. } = leased.remove(event.index(leased.len()));
                    let mut settlement = Settlement::default();
                    match how {
                        How::Ack => settlement.acks.push(receipt),
                        How::Reject => {
                            *dead = Some(event.id.clone());
                            settlement.rejects.push(Reject { receipt, reason: None });
                        }
                        How::Release => {
                            settlement.releases.push(Release { receipt, delay: None, reason: None });
                        }
                    }
                    store.settle(app, &consumer(number), settlement).await.unwrap();
                }
            }
            Step::Seek { consumer: number, after } => {
                let to = after.map_or(Start::All, |event| Start::After(id(event)));
                store.seek(app, &consumer(number), to).await.unwrap();
                leased[number].clear();
            }
            Step::Replay { consumer: number, event } => {
                let id = event.map_or_else(|| dead.clone(), |event| Some(id(event)));
                let Some(id) = id else { return Ok(()) };
                let replayed = store.replay(app, &consumer(number), &id).await;
                prop_assert!(matches!(replayed, Ok(_) | Err(StoreError::DefaultOff)));
            }
            Step::Delete { event } => drop(store.delete_event(app, &id(event)).await.unwrap()),
            Step::Overflow(overflow) => {
                let settings = ConsumerSettings { overflow, ..ConsumerSettings::default() };
                store.put_consumer(app, &consumer(0), settings).await.unwrap();
            }
            Step::Check => self.check().await?,
        }
        Ok(())
    }

    /// Compares what is pending before and after a restart with what a copy of the store delivers.
    async fn check(&mut self) -> Outcome<()> {
        let before = counted(&self.store, &self.app).await;
        self.store.close().await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        copy(self.folder.path(), folder.path());
        self.store = open(self.folder.path(), Duration::ZERO).await;
        self.leased = Default::default();
        let copied = open(folder.path(), LONG).await;
        let after = counted(&copied, &self.app).await;
        for (before, after) in before.iter().zip(&after) {
            prop_assert_eq!((before.pending, before.pending_bytes), (after.pending, after.pending_bytes));
            let (mut events, mut bytes) = (HashSet::new(), 0);
            for delivery in lease(&copied, &self.app, &after.name, 1000).await {
                let event = &delivery.event;
                let texts = event.origin.source.as_str().len()
                    + event.origin.event_type.as_ref().map_or(0, String::len);
                bytes += (event.body.len() + texts + 64) as u64;
                prop_assert!(events.insert(event.id.clone()), "an event was delivered twice");
            }
            let delivered = (Some(events.len() as u64), Some(bytes));
            prop_assert_eq!((after.pending, after.pending_bytes), delivered, "{}", after.name);
        }
        Ok(())
    }
}

async fn lease(store: &SqliteStore, app: &AppId, name: &ConsumerName, max_events: usize) -> Vec<Delivery> {
    let lease = Lease { max_events, max_bytes: u64::MAX, wait: Duration::ZERO, time: LONG };
    match store.lease(app, name, lease).await {
        Err(StoreError::DefaultOff) => Vec::new(),
        leased => leased.unwrap(),
    }
}

/// The consumers, once their pending events are counted.
async fn counted(store: &SqliteStore, app: &AppId) -> Vec<ConsumerStatus> {
    let deadline = std::time::Instant::now() + DEADLINE;
    loop {
        let statuses = store.consumers(app).await.unwrap();
        if statuses.iter().all(|status| status.pending.is_some()) || std::time::Instant::now() > deadline {
            return statuses;
        }
        tokio::task::yield_now().await;
    }
}
