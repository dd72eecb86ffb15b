//! After a restart: compares the store with what the test knows, and resolves what was unknown.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use wwproxy_protocol::api::{self, MAX_RECEIPTS};

use super::{
    DEFAULT, Lost, Model, State, View,
    event::{has_index, number},
    success,
};

impl Model {
    /// Compares the state of the store with the expected state, and resolves what was unknown.
    pub(super) async fn check(&mut self) -> Result<(), Lost> {
        let Some(consumers) = self.consumers().await? else {
            assert!(self.registrations.contains(&None), "{}: the registration is lost", self.app.id);
            self.forget();
            return Ok(());
        };
        let was_registered = self.registrations[0].is_some();
        assert!(self.registrations.iter().any(Option::is_some), "{}: it is registered", self.app.id);
        if !was_registered {
            self.views = [(DEFAULT.to_owned(), View::default())].into();
        }
        for name in std::mem::take(&mut self.uncertain) {
            if !consumers.contains(&name) {
                self.views.remove(&name);
            }
        }
        assert!(self.views.keys().eq(&consumers), "{}: {consumers:?}", self.app.id);
        let mut found = BTreeMap::new();
        for name in consumers {
            let numbers = self.lease_all(&name).await?;
            found.insert(name, numbers);
        }
        self.resolve(&found);
        self.check_secret().await
    }

    /// The names of the consumers, or `None` if the app is not registered.
    async fn consumers(&self) -> Result<Option<BTreeSet<String>>, Lost> {
        let status = success(self.app.request(Method::GET, "/status")).await?;
        let status: Value = status.json().await.map_err(|_| Lost)?;
        if status["registration"].is_null() {
            return Ok(None);
        }
        let consumers = status["consumers"].as_array().expect("a registered app has consumers");
        let name = |consumer: &Value| consumer["name"].as_str().expect("a consumer has a name").to_owned();
        Ok(Some(consumers.iter().map(name).collect()))
    }

    /// Leases all events of a consumer and releases them. Returns their numbers.
    async fn lease_all(&mut self, name: &str) -> Result<Vec<u32>, Lost> {
        let (mut numbers, mut receipts) = (Vec::new(), Vec::new());
        loop {
            let leased = self.lease(name, u64::from(api::MAX_LEASE_EVENTS)).await?;
            if leased.is_empty() {
                break;
            }
            numbers.extend(leased.iter().map(number));
            receipts.extend(leased.into_iter().map(|event| event.receipt));
        }
        for receipts in receipts.chunks(MAX_RECEIPTS) {
            let release = json!({"consumer": name, "release": receipts});
            success(self.app.request(Method::POST, "/ack").json(&release)).await?;
        }
        Ok(numbers)
    }

    fn resolve(&mut self, found: &BTreeMap<String, Vec<u32>>) {
        let stored: BTreeSet<_> = found.values().flatten().copied().collect();
        let mut unstored = BTreeSet::new();
        for (name, view) in &mut self.views {
            let found = &found[name];
            for (n, state) in std::mem::take(&mut view.events) {
                let count = found.iter().filter(|&&found| found == n).count();
                let now = match (state, count) {
                    (State::Unanswered, 0) if !stored.contains(&n) => {
                        unstored.insert(n);
                        continue;
                    }
                    (State::Settled | State::PendingOrSettled, 0) => State::Settled,
                    (State::Dead | State::PendingOrDead, 0) => State::Dead,
                    (
                        State::Unanswered | State::Pending | State::PendingOrSettled | State::PendingOrDead,
                        1,
                    ) => State::Pending,
                    _ => panic!("{} {name} {n} ({state:?}) is pending {count} times", self.app.id),
                };
                view.events.insert(n, now);
            }
            let unknown: Vec<_> = found.iter().filter(|n| !view.events.contains_key(n)).collect();
            assert!(
                unknown.is_empty(),
                "{} {name} has events that it must not have: {unknown:?}",
                self.app.id
            );
        }
        self.unstored.extend(unstored.into_iter().filter(|&n| has_index(n)));
    }

    /// Finds the secret of the registration among the possible ones.
    async fn check_secret(&mut self) -> Result<(), Lost> {
        for secret in self.registrations.clone().into_iter().flatten() {
            self.app.secret = secret.to_string();
            let n = self.number();
            self.set_all(n, State::Unanswered);
            let sent = Instant::now();
            let response = self.hook(n).send().await.map_err(|_| Lost)?;
            match response.status() {
                StatusCode::CREATED => {
                    self.fence.appended(sent);
                    self.set_all(n, State::Pending);
                    self.registrations = vec![Some(secret)];
                    return Ok(());
                }
                StatusCode::UNAUTHORIZED => {
                    for view in self.views.values_mut() {
                        view.events.remove(&n);
                    }
                }
                status if status.is_server_error() => return Err(Lost),
                status => panic!("{status}"),
            }
        }
        panic!("{}: the secret is none of {:?}", self.app.id, self.registrations)
    }
}
