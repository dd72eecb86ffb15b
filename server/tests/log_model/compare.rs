//! The other operations, and what is compared after every step.

use std::time::{Duration, Instant, SystemTime};

use proptest::{prop_assert, prop_assert_eq, sample::Index, test_runner::TestCaseError};
use wwproxy_protocol::{ConsumerSettings, EventId, Start, api::Receipt};
use wwproxy_server::store::{
    ConsumerStatus, PutConsumer, Reject, Release, Replayed, Settlement, Sought, Store, StoreError,
};

use crate::{
    Outcome,
    consumer::{Cursor, Request, State},
    harness::{DEADLINE, Harness, LONG, consumer},
    model::{self, Filter},
    settle::Settling,
    steps::{APPS, CONSUMERS, Delay, Pick, Place, SHORT, StartStep},
};

/// Receipts of a consumer that are settled most often: its newest ones.
const NEWEST: usize = 6;

impl Harness {
    pub(crate) async fn put_consumer(
        &mut self,
        place: Place,
        filter: Filter,
        start: &StartStep,
        max_attempts: u32,
    ) -> Outcome<()> {
        let (start, first) = self.start(place.app, start);
        let settings = ConsumerSettings { start: start.clone(), max_attempts, ..filter.settings() };
        let name = consumer(place.consumer);
        let put = self.store.put_consumer(&self.names[place.app], &name, settings).await.unwrap();
        let app = &mut self.apps[place.app];
        let expected = match (app.consumers.get_mut(&place.consumer), first) {
            _ if !app.is_registered => PutConsumer::Unregistered,
            (Some(known), _) if (known.filter, &known.start) != (filter, &start) => PutConsumer::Conflict,
            (Some(known), _) => {
                known.max_attempts = max_attempts;
                PutConsumer::Updated
            }
            (None, None) => PutConsumer::NoSuchEvent,
            (None, Some(first)) => {
                app.create(place.consumer, filter, start, max_attempts, first);
                PutConsumer::Created
            }
        };
        prop_assert_eq!(put, expected);
        Ok(())
    }

    /// A start, and the place of its first event in the log of the app.
    fn start(&self, app: usize, step: &StartStep) -> (Start, Option<usize>) {
        match step {
            StartStep::New => (Start::New, Some(self.apps[app].log.len())),
            StartStep::All => (Start::All, Some(0)),
            StartStep::After(other, index) => {
                let log = &self.apps[*other].log;
                let id = if log.is_empty() { "none".parse().unwrap() } else { index.get(log).id.clone() };
                let first = self.apps[app].find(&id).map(|place| place + 1);
                (Start::After(id), first)
            }
            StartStep::At(other, index) => {
                let log = &self.apps[*other].log;
                let millis = if log.is_empty() { 0 } else { index.get(log).millis() };
                let time = SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
                (Start::At(time), Some(self.apps[app].first_at(millis)))
            }
        }
    }

    pub(crate) async fn seek(&mut self, place: Place, to: &StartStep) -> Outcome<()> {
        let (to, first) = self.start(place.app, to);
        let name = consumer(place.consumer);
        let sought = match self.store.seek(&self.names[place.app], &name, to).await {
            Err(StoreError::NoConsumer(missing)) => {
                prop_assert_eq!(missing, name);
                prop_assert!(!self.apps[place.app].consumers.contains_key(&place.consumer), "there is one");
                return Ok(());
            }
            sought => sought.unwrap(),
        };
        prop_assert_eq!(sought, if first.is_some() { Sought::Moved } else { Sought::NoSuchEvent });
        let app = &mut self.apps[place.app];
        if let (Some(first), Some(known)) = (first, app.consumers.get_mut(&place.consumer)) {
            known.worlds.flush();
            known.worlds.change(|cursor| cursor.seek(first, &app.log, known.filter));
        }
        Ok(())
    }

    /// The id of an event of an app, or of the other one.
    pub(crate) fn id(&self, app: usize, event: Index, of_other: bool) -> EventId {
        let log = &self.apps[if of_other { 1 - app } else { app }].log;
        if log.is_empty() { "none".parse().unwrap() } else { event.get(log).id.clone() }
    }

    pub(crate) async fn replay(&mut self, place: Place, event: Index, of_other: bool) -> Outcome<()> {
        let id = self.id(place.app, event, of_other);
        let name = consumer(place.consumer);
        let replayed = match self.store.replay(&self.names[place.app], &name, &id).await {
            Err(StoreError::NoConsumer(missing)) => {
                prop_assert_eq!(missing, name);
                prop_assert!(!self.apps[place.app].consumers.contains_key(&place.consumer), "there is one");
                return Ok(());
            }
            replayed => replayed.unwrap(),
        };
        let app = &mut self.apps[place.app];
        let event = app.find(&id);
        let Some(known) = app.consumers.get_mut(&place.consumer) else {
            return Err(TestCaseError::fail("the consumer does not exist"));
        };
        let Some(event) = event else {
            prop_assert_eq!(replayed, Replayed::NoSuchEvent);
            return Ok(());
        };
        let number = known.replays.get(&event).map_or(1, |number| number + 1);
        known.worlds.observe(|cursor| {
            let is_full = place.consumer == 0 && model::is_full(cursor, &app.log, app.log[event].size);
            let expected = match is_full {
                _ if cursor.is_pending(event) => Replayed::Pending,
                true => Replayed::Full,
                false => Replayed::Queued(number),
            };
            if replayed != expected {
                return Err(format!("{replayed:?}, the model {expected:?}"));
            }
            if let Replayed::Queued(number) = replayed {
                cursor.replay(event, number);
            }
            Ok(())
        })?;
        if matches!(replayed, Replayed::Queued(_)) {
            known.worlds.flush();
            known.replays.insert(event, number);
        }
        Ok(())
    }

    pub(crate) async fn delete_consumer(&mut self, place: Place) -> Outcome<()> {
        let name = consumer(place.consumer);
        let deleted = self.store.delete_consumer(&self.names[place.app], &name).await.unwrap();
        let known = place.consumer != 0 && self.apps[place.app].consumers.remove(&place.consumer).is_some();
        prop_assert_eq!(deleted, known);
        Ok(())
    }

    /// The receipts to settle.
    pub(crate) fn picked(
        &self,
        place: Place,
        acks: &[Pick],
        rejects: &[Pick],
        releases: &[(Pick, Delay)],
        extends: &[(Pick, bool)],
    ) -> Settling {
        let of_place = |(at, _): &&(Place, Receipt)| (at.app, at.consumer) == (place.app, place.consumer);
        let newest: Vec<_> = self.receipts.iter().rev().filter(of_place).take(NEWEST).collect();
        let any: Vec<_> = self.receipts.iter().collect();
        let receipt = |pick: &Pick| {
            let from = if pick.of_any { &any } else { &newest };
            if from.is_empty() { Receipt::new("1-1-1") } else { pick.index.get(from).1.clone() }
        };
        Settling {
            acks: acks.iter().map(receipt).collect(),
            rejects: rejects.iter().map(receipt).collect(),
            releases: releases.iter().map(|(pick, delay)| (receipt(pick), *delay)).collect(),
            extends: extends.iter().map(|(pick, ends)| (receipt(pick), *ends)).collect(),
        }
    }

    pub(crate) async fn settle(&mut self, place: Place, settling: Settling) -> Outcome<()> {
        let name = consumer(place.consumer);
        let settlement = settlement(&settling);
        let settled = match self.store.settle(&self.names[place.app], &name, settlement).await {
            Err(StoreError::NoConsumer(missing)) => {
                prop_assert_eq!(missing, name);
                prop_assert!(!self.apps[place.app].consumers.contains_key(&place.consumer), "there is one");
                return Ok(());
            }
            settled => settled.unwrap(),
        };
        // Short delays are over before the next step.
        Self::wait_for(Instant::now() + SHORT).await;
        let Some(known) = self.apps[place.app].consumers.get_mut(&place.consumer) else {
            // The app is not registered: nothing is leased.
            let expected = Cursor::new(0).settle(&settling, 0, self.now);
            prop_assert_eq!((place.consumer, settled), (0, expected));
            return Ok(());
        };
        let (now, max_attempts) = (self.now, known.max_attempts);
        known.worlds.observe(|cursor| {
            let expected = cursor.settle(&settling, max_attempts, now);
            if settled == expected {
                Ok(())
            } else {
                Err(format!("settled {settled:?}, the model {expected:?}"))
            }
        })
    }

    /// Compares the registrations and the states of the consumers.
    pub(crate) async fn compare(&mut self) -> Outcome<()> {
        for (number, name) in APPS.iter().enumerate() {
            let statuses = self.store.consumers(&self.names[number]).await.unwrap();
            let is_registered = self.store.registration(&self.names[number]).await.unwrap().is_some();
            let app = &mut self.apps[number];
            prop_assert_eq!(is_registered, app.is_registered);
            let mut expected: Vec<_> = app.consumers.keys().map(|number| CONSUMERS[*number]).collect();
            expected.sort_unstable();
            let names: Vec<_> = statuses.iter().map(|status| status.name.as_str()).collect();
            prop_assert_eq!(names, expected, "consumers of {}", name);
            for status in statuses {
                compare_status(app, &status)?;
            }
        }
        Ok(())
    }

    /// Delivers and acknowledges everything that is not delayed: nothing is lost.
    pub(crate) async fn drain(mut self) -> Outcome<()> {
        self.reopen(false).await?;
        for app in 0..APPS.len() {
            let consumers: Vec<_> = self.apps[app].consumers.keys().copied().collect();
            for consumer in consumers {
                let place = Place { app, consumer };
                self.catch_up(place).await?;
                let worlds = &self.apps[app].consumers[&consumer].worlds;
                let is_drained = worlds.all(|cursor| {
                    cursor.count(State::is_pending)
                        == cursor.count(|state| matches!(state, State::Nacked(None)))
                });
                prop_assert!(is_drained, "an event was not delivered");
            }
        }
        let deadline = Instant::now() + DEADLINE;
        while !self.is_counted().await {
            prop_assert!(Instant::now() < deadline, "the pending events of a filter were not counted");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.compare_history().await?;
        self.compare().await
    }

    /// Leases and acknowledges everything that is not delayed.
    pub(crate) async fn catch_up(&mut self, place: Place) -> Outcome<()> {
        let request = Request { max_events: 7, max_bytes: u64::MAX };
        loop {
            let leased = self.lease(place, request, false).await?;
            if leased == 0 {
                return Ok(());
            }
            let newest = self.receipts.iter().rev().take(leased);
            let acks = newest.map(|(_, receipt)| receipt.clone()).collect();
            self.settle(place, Settling { acks, ..Settling::default() }).await?;
        }
    }

    /// Whether the pending events of all consumers are known.
    async fn is_counted(&self) -> bool {
        let mut is_counted = true;
        for name in &self.names {
            let statuses = self.store.consumers(name).await.unwrap();
            is_counted &= statuses.iter().all(|status| status.pending.is_some());
        }
        is_counted
    }
}

fn settlement(settling: &Settling) -> Settlement {
    let Settling { acks, rejects, releases, extends } = settling.clone();
    let reason = Some("bad".to_owned());
    let release = |(receipt, delay)| {
        let delay = match delay {
            Delay::Returned => None,
            Delay::Zero => Some(Duration::ZERO),
            Delay::Short => Some(SHORT),
            Delay::Long => Some(LONG),
        };
        Release { receipt, delay, reason: None }
    };
    let extend = |(receipt, ends)| (receipt, if ends { Duration::ZERO } else { LONG });
    Settlement {
        acks,
        rejects: rejects.into_iter().map(|receipt| Reject { receipt, reason: reason.clone() }).collect(),
        releases: releases.into_iter().map(release).collect(),
        extends: extends.into_iter().map(extend).collect(),
    }
}

fn compare_status(app: &mut model::App, status: &ConsumerStatus) -> Outcome<()> {
    let number = CONSUMERS.iter().position(|name| *name == status.name.as_str()).unwrap();
    let known = app.consumers.get_mut(&number).unwrap();
    let has_filter = !known.filter.is_none();
    prop_assert_eq!(&status.settings, &known.settings());
    let log = &app.log;
    let of_state = |cursor: &Cursor| {
        let leased = cursor.count(|state| matches!(state, State::Leased(_)));
        let dead = cursor.count(|state| *state == State::Dead);
        (cursor.count(State::is_pending), cursor.pending_bytes(log), [leased, dead, cursor.dropped])
    };
    known.worlds.observe(|cursor| {
        let (pending, bytes, others) = of_state(cursor);
        let is_counted = status.pending.is_some() || !has_filter;
        let expected = is_counted.then_some((pending, bytes));
        let shown = status.pending.zip(status.pending_bytes);
        if (shown, [status.leased, status.dead, status.dropped]) == (expected, others) {
            Ok(())
        } else {
            Err(format!("{status:?}, the model {:?}", (pending, bytes, others)))
        }
    })
}
