//! One app that performs random operations over HTTP, and the state that the store must have for it.
//!
//! After each restart the state is compared with what each consumer receives. An operation that was not answered was performed
//! or not; the comparison finds out.

mod check;
mod event;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use wwproxy_protocol::api::{self, LeasedEvent};

use self::event::{body, has_index, number};
use crate::{common::App, fence::Fence, random::Random};

/// The consumers that an app may have, in addition to `default`.
const CONSUMERS: [&str; 2] = ["audit", "mirror"];
const DEFAULT: &str = "default";
/// Longer than the test.
const LONG: Duration = Duration::from_secs(24 * 3600);
/// A lease that lasts longer than the test, in milliseconds.
const LEASE_MS: u64 = 3_600_000;

/// What the test knows of an event, for one consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Its append was not answered: stored or not.
    Unanswered,
    /// Stored and not settled.
    Pending,
    /// Acknowledged, and answered at this time: durable later.
    Acked(Instant),
    /// Rejected, and answered at this time: durable later.
    Rejected(Instant),
    /// Pending or settled: the server ended before this was answered or durable.
    PendingOrSettled,
    /// Pending or dead, likewise.
    PendingOrDead,
    /// Settled, durably.
    Settled,
    /// Rejected, durably.
    Dead,
}

/// The events of one consumer.
#[derive(Debug, Default)]
struct View {
    events: BTreeMap<u32, State>,
    /// Events that were delivered before. The others are delivered in order of their ids.
    delivered: BTreeSet<u32>,
    last_first_delivery: String,
}

/// An app, and the expected state of its log and its consumers.
pub(crate) struct Model {
    app: App,
    fence: Arc<Fence>,
    random: Random,
    /// The possible secrets of the registration, if it exists: the last one answered, and those that were not answered.
    registrations: Vec<Option<u32>>,
    views: BTreeMap<String, View>,
    /// Consumers whose creation or deletion was not answered.
    uncertain: BTreeSet<String>,
    /// Events that were neither answered nor stored: their sender retries.
    unstored: Vec<u32>,
    /// The next number, for events and secrets.
    next_number: u32,
}

/// The server was killed, or answered that its disk fails.
pub(crate) struct Lost;

impl Model {
    pub(crate) fn new(app: App, fence: Arc<Fence>, random: Random) -> Self {
        Self {
            app,
            fence,
            random,
            registrations: vec![None],
            views: BTreeMap::new(),
            uncertain: BTreeSet::new(),
            unstored: Vec::new(),
            next_number: 0,
        }
    }

    pub(crate) fn numbers_used(&self) -> u32 {
        self.next_number
    }

    /// The events that some consumer has not settled.
    pub(crate) fn pending(&self) -> usize {
        let pending = |view: &View| view.events.values().filter(|state| **state == State::Pending).count();
        self.views.values().map(pending).sum()
    }

    /// Compares the state with that of a restarted server, then performs random operations until the server fails.
    pub(crate) async fn check_and_run(&mut self, address: &str) -> Result<(), Lost> {
        address.clone_into(&mut self.app.address);
        self.check().await?;
        loop {
            self.retry_appends().await?;
            match self.random.below(40) {
                0 => {
                    self.unregister().await?;
                    self.register().await?;
                }
                1 => self.register().await?,
                2..=3 => self.change_consumers().await?,
                4..13 => self.receive().await?,
                _ => self.append().await?,
            }
        }
    }

    /// The server ended: what was durable stays, and the rest is found out by the next check.
    pub(crate) fn end_server(&mut self) {
        for state in self.views.values_mut().flat_map(|view| view.events.values_mut()) {
            *state = match *state {
                State::Acked(at) if self.fence.is_durable(at) => State::Settled,
                State::Acked(_) => State::PendingOrSettled,
                State::Rejected(at) if self.fence.is_durable(at) => State::Dead,
                State::Rejected(_) => State::PendingOrDead,
                known => known,
            };
        }
    }

    async fn register(&mut self) -> Result<(), Lost> {
        let secret = self.number();
        self.registrations.push(Some(secret));
        let request = self.app.request(Method::PUT, "").json(&json!({"secret": secret.to_string()}));
        success(request).await?;
        self.registrations = vec![Some(secret)];
        self.app.secret = secret.to_string();
        self.views.entry(DEFAULT.into()).or_default();
        Ok(())
    }

    async fn unregister(&mut self) -> Result<(), Lost> {
        self.registrations.push(None);
        success(self.app.request(Method::DELETE, "")).await?;
        self.forget();
        Ok(())
    }

    /// The app is not registered any more.
    fn forget(&mut self) {
        self.registrations = vec![None];
        self.views.clear();
        self.uncertain.clear();
        self.unstored.clear();
    }

    /// Creates, moves or deletes a consumer.
    async fn change_consumers(&mut self) -> Result<(), Lost> {
        let name = *self.random.pick(&CONSUMERS);
        let path = format!("/consumers/{name}");
        let Some(view) = self.views.get_mut(name) else {
            let start = if self.random.one_in(2) { "new" } else { "all" };
            self.uncertain.insert(name.into());
            // `default` was never created anew since the registration, so it knows all events.
            let events = self.views[DEFAULT].events.keys().filter(|_| start == "all");
            let events = events.map(|n| (*n, State::Pending)).collect();
            self.views.insert(name.into(), View { events, ..View::default() });
            success(self.app.request(Method::PUT, &path).json(&json!({"start": start}))).await?;
            self.uncertain.remove(name);
            return Ok(());
        };
        if self.random.one_in(3) {
            self.uncertain.insert(name.into());
            success(self.app.request(Method::DELETE, &path)).await?;
            self.uncertain.remove(name);
            self.views.remove(name);
            return Ok(());
        }
        let to = if self.random.one_in(3) { "new" } else { "all" };
        // Events that exist but were never a part of the view belong to it after a seek.
        view.last_first_delivery.clear();
        let known: Vec<_> = self.views[DEFAULT].events.keys().copied().collect();
        let view = self.views.get_mut(name).expect("found above");
        for n in known {
            view.events.entry(n).or_insert(State::Settled);
        }
        let settled = if to == "all" { State::Pending } else { State::Settled };
        let sought = |state: State| match state {
            State::Rejected(_) | State::Dead => state,
            _ => settled,
        };
        let before = view.events.clone();
        for state in view.events.values_mut() {
            *state = if sought(*state) == *state { *state } else { State::PendingOrSettled };
        }
        success(self.app.request(Method::POST, &format!("{path}/seek")).json(&json!({"to": to}))).await?;
        let view = self.views.get_mut(name).expect("found above");
        view.events = before.into_iter().map(|(n, state)| (n, sought(state))).collect();
        Ok(())
    }

    /// Posts events from a few concurrent senders.
    async fn append(&mut self) -> Result<(), Lost> {
        let numbers: Vec<_> = (0..=self.random.below(8)).map(|_| self.number()).collect();
        for &n in &numbers {
            self.set_all(n, State::Unanswered);
        }
        let outcomes = join_all(numbers.iter().map(|&n| self.post(n))).await;
        let mut all_answered = Ok(());
        for (n, outcome) in numbers.into_iter().zip(outcomes) {
            match outcome {
                Ok(()) => self.set_all(n, State::Pending),
                Err(Lost) => all_answered = Err(Lost),
            }
        }
        all_answered
    }

    async fn post(&self, n: u32) -> Result<(), Lost> {
        let sent = Instant::now();
        let response = success(self.hook(n)).await?;
        assert_eq!(response.status(), StatusCode::CREATED);
        self.fence.appended(sent);
        Ok(())
    }

    fn hook(&self, n: u32) -> RequestBuilder {
        if has_index(n) { self.app.indexed(n, &body(n)) } else { self.app.hook(body(n)) }
    }

    fn set_all(&mut self, n: u32, state: State) {
        for view in self.views.values_mut() {
            view.events.insert(n, state);
        }
    }

    /// Retries the events that were not stored, and repeats stored events now and then.
    async fn retry_appends(&mut self) -> Result<(), Lost> {
        for n in std::mem::take(&mut self.unstored) {
            self.set_all(n, State::Unanswered);
            self.post(n).await?;
            self.set_all(n, State::Pending);
        }
        let Some(view) = self.views.get(DEFAULT) else { return self.register().await };
        let known: Vec<_> = view.events.keys().copied().filter(|&n| has_index(n)).collect();
        if known.is_empty() || !self.random.one_in(4) {
            return Ok(());
        }
        // A repetition is answered, and not stored again: each check counts the events.
        let n = *self.random.pick(&known);
        self.post(n).await
    }

    /// Leases some events of a consumer, and acknowledges, rejects or releases each of them.
    async fn receive(&mut self) -> Result<(), Lost> {
        let names: Vec<_> = self.views.keys().cloned().collect();
        let (name, max) = (self.random.pick(&names), 1 + self.random.below(60));
        let leased = self.lease(name, max).await?;
        let (mut acks, mut rejects, mut releases) = (Vec::new(), Vec::new(), Vec::new());
        let (mut acked, mut rejected) = (Vec::new(), Vec::new());
        // Until the answer it is not known that the store has handled it.
        let unanswered = Instant::now() + LONG;
        for event in leased {
            let n = number(&event);
            let view = self.views.get_mut(name).expect("leased from");
            let state = view.events.get_mut(&n);
            assert!(
                state.as_deref() == Some(&State::Pending),
                "{} {name} {n} was delivered, and is {state:?}",
                self.app.id
            );
            let state = state.expect("checked above");
            match self.random.below(12) {
                0 => {
                    *state = State::Rejected(unanswered);
                    rejects.push(json!({"receipt": event.receipt, "reason": "bad"}));
                    rejected.push(n);
                }
                1..4 => releases.push(event.receipt),
                _ => {
                    *state = State::Acked(unanswered);
                    acks.push(event.receipt);
                    acked.push(n);
                }
            }
        }
        let count = acks.len();
        let settlement = json!({"consumer": name, "ack": acks, "reject": rejects, "release": releases});
        let settled = success(self.app.request(Method::POST, "/ack").json(&settlement)).await?;
        let settled: Value = settled.json().await.map_err(|_| Lost)?;
        assert_eq!((&settled["stale"], &settled["acked"]), (&json!([]), &json!(count)), "{settled}");
        let view = self.views.get_mut(name).expect("leased from");
        view.events.extend(acked.into_iter().map(|n| (n, State::Acked(Instant::now()))));
        view.events.extend(rejected.into_iter().map(|n| (n, State::Rejected(Instant::now()))));
        Ok(())
    }

    /// Leases events for longer than the test.
    async fn lease(&mut self, name: &str, max: u64) -> Result<Vec<LeasedEvent>, Lost> {
        let wanted = json!({"consumer": name, "max": max, "leaseMs": LEASE_MS});
        let response = success(self.app.request(Method::POST, "/lease").json(&wanted)).await?;
        let leased = api::decode_lease(&response.text().await.map_err(|_| Lost)?).unwrap();
        assert_eq!(leased.undecodable, []);
        let view = self.views.get_mut(name).expect("the caller knows the consumer");
        for event in &leased.events {
            if view.delivered.insert(number(event)) {
                let id = event.id.as_str();
                assert!(
                    *id > *view.last_first_delivery,
                    "{} {name}: {} was delivered after a later event",
                    self.app.id,
                    number(event)
                );
                id.clone_into(&mut view.last_first_delivery);
            }
        }
        Ok(leased.events)
    }

    fn number(&mut self) -> u32 {
        self.next_number += 1;
        self.next_number
    }
}

/// Sends a request. A server that was killed, or whose disk fails, does not answer with success.
async fn success(request: RequestBuilder) -> Result<Response, Lost> {
    let response = request.send().await.map_err(|_| Lost)?;
    let status = response.status();
    if status.is_server_error() {
        return Err(Lost);
    }
    if status.is_success() {
        return Ok(response);
    }
    panic!("{status}: {:?}", response.text().await)
}
