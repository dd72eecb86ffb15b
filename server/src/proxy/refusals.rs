//! The activity of each source since the server started: the times of its last webhooks, and the last refused ones.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use sha2::{Digest, Sha256};
use wwproxy_protocol::{AppId, SourceName, api::Refusal, hex};

use super::{Proxy, sources::rfc3339};

/// The most refusals of an app.
const MAX_PER_APP: usize = 100;
/// The most bytes of refusals over all apps.
const MAX_BYTES: usize = 4 << 20;
/// The largest body whose hash is kept, in bytes.
const MAX_HASHED: usize = 64 << 10;
/// The most header names of a refusal.
const MAX_HEADERS: usize = 32;
/// The most bytes of a header name that are kept.
const MAX_NAME: usize = 64;

/// The times of a source's last webhooks.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Times {
    pub(super) accepted: Option<SystemTime>,
    pub(super) refused: Option<SystemTime>,
}

/// The activity of all sources, in memory.
#[derive(Debug, Default)]
pub(super) struct Activity(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    times: HashMap<AppId, HashMap<SourceName, Times>>,
    /// All refusals by number, oldest first.
    refusals: BTreeMap<u64, Entry>,
    /// The numbers of each app's refusals, oldest first.
    apps: HashMap<AppId, VecDeque<u64>>,
    next: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    app: AppId,
    at: SystemTime,
    count: u64,
    refused: Refused,
}

/// A refused webhook, without its body and the values of its headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) source: SourceName,
    pub(crate) check: &'static str,
    pub(crate) detail: String,
    pub(crate) status: u16,
    pub(crate) bytes: u64,
    pub(crate) headers: Vec<String>,
    pub(crate) sha256: Option<String>,
}

/// What is kept of a webhook in case it is refused.
pub(crate) fn header_names(headers: &http::HeaderMap) -> Vec<String> {
    let name = |name: &http::HeaderName| name.as_str().chars().take(MAX_NAME).collect();
    headers.keys().take(MAX_HEADERS).map(name).collect()
}

/// The hex SHA-256 of a body that is not too large.
pub(crate) fn body_hash(body: &[u8]) -> Option<String> {
    (body.len() <= MAX_HASHED).then(|| hex(&Sha256::digest(body)))
}

impl Refused {
    /// The size in memory, in bytes.
    fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|name| name.len() + size_of::<String>()).sum();
        size_of::<Entry>() + self.detail.len() + headers + self.sha256.as_ref().map_or(0, String::len) + 128
    }
}

impl Activity {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn times(&self, app: &AppId, source: &SourceName) -> Times {
        let state = self.state();
        state.times.get(app).and_then(|sources| sources.get(source)).copied().unwrap_or_default()
    }

    fn accepted(&self, app: &AppId, source: &SourceName) {
        let now = SystemTime::now();
        self.state().times(app, source).accepted = Some(now);
    }

    fn refused(&self, app: &AppId, refused: Refused) {
        let now = SystemTime::now();
        let mut state = self.state();
        state.times(app, &refused.source).refused = Some(now);
        let equal = state.apps.get(app).and_then(|numbers| {
            numbers.iter().copied().find(|number| state.refusals[number].refused == refused)
        });
        let count = equal.and_then(|number| state.remove(number)).map_or(1, |entry| entry.count + 1);
        state.insert(Entry { app: app.clone(), at: now, count, refused });
    }

    fn refusals(&self, app: &AppId) -> Vec<Refusal> {
        let state = self.state();
        let numbers = state.apps.get(app).into_iter().flatten().rev();
        numbers.map(|number| state.refusals[number].show()).collect()
    }

    /// Forgets the times of a source, or everything of an app.
    pub(super) fn forget(&self, app: &AppId, source: Option<&SourceName>) {
        let mut state = self.state();
        if let Some(source) = source {
            state.times.entry(app.clone()).or_default().remove(source);
            return;
        }
        state.times.remove(app);
        for number in state.apps.remove(app).unwrap_or_default() {
            state.remove(number);
        }
    }
}

impl State {
    fn times(&mut self, app: &AppId, source: &SourceName) -> &mut Times {
        if !self.times.contains_key(app) {
            self.times.insert(app.clone(), HashMap::new());
        }
        let sources = self.times.get_mut(app).expect("it was inserted");
        if !sources.contains_key(source) {
            sources.insert(source.clone(), Times::default());
        }
        sources.get_mut(source).expect("it was inserted")
    }

    fn insert(&mut self, entry: Entry) {
        let (app, number) = (entry.app.clone(), self.next);
        self.next += 1;
        self.bytes += entry.refused.size();
        self.refusals.insert(number, entry);
        let numbers = self.apps.entry(app).or_default();
        numbers.push_back(number);
        if numbers.len() > MAX_PER_APP {
            let oldest = numbers[0];
            self.remove(oldest);
        }
        while self.bytes > MAX_BYTES {
            let Some((&oldest, _)) = self.refusals.first_key_value() else { break };
            self.remove(oldest);
        }
    }

    fn remove(&mut self, number: u64) -> Option<Entry> {
        let entry = self.refusals.remove(&number)?;
        self.bytes -= entry.refused.size();
        if let Some(numbers) = self.apps.get_mut(&entry.app) {
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                self.apps.remove(&entry.app);
            }
        }
        Some(entry)
    }
}

impl Entry {
    fn show(&self) -> Refusal {
        let refused = self.refused.clone();
        Refusal {
            at: rfc3339(self.at),
            count: self.count,
            source: refused.source,
            check: refused.check.to_owned(),
            detail: refused.detail,
            status: refused.status,
            bytes: refused.bytes,
            headers: refused.headers,
            sha256: refused.sha256,
        }
    }
}

impl Proxy {
    /// Records that a source accepted a webhook.
    pub(crate) fn record_accepted(&self, app: &AppId, source: &SourceName) {
        self.activity.accepted(app, source);
    }

    /// Records that a source refused a webhook.
    pub(crate) fn record_refused(&self, app: &AppId, refused: Refused) {
        self.activity.refused(app, refused);
    }

    /// The app's last refused webhooks, newest first.
    pub(crate) fn refusals(&self, app: &AppId) -> Vec<Refusal> {
        self.activity.refusals(app)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(n: usize) -> Refused {
        Refused {
            source: SourceName::default(),
            check: "signature",
            detail: format!("wrong {n}"),
            status: 401,
            bytes: 2,
            headers: vec!["host".into()],
            sha256: body_hash(b"{}"),
        }
    }

    #[test]
    fn equal_refusals_are_counted_and_the_newest_come_first() {
        let (activity, app): (_, AppId) = (Activity::default(), "bot".parse().unwrap());
        for n in [1, 2, 1, 1] {
            activity.refused(&app, refused(n));
        }
        let found: Vec<_> =
            activity.refusals(&app).into_iter().map(|refusal| (refusal.detail, refusal.count)).collect();
        assert_eq!(found, [("wrong 1".to_owned(), 3), ("wrong 2".to_owned(), 1)]);
    }

    #[test]
    fn refusals_are_bounded_per_app_and_in_all_and_forgotten_with_their_app() {
        let activity = Activity::default();
        let apps: Vec<AppId> = (0..600).map(|n| format!("app-{n}").parse().unwrap()).collect();
        for app in &apps {
            for n in 0..MAX_PER_APP + 5 {
                activity.refused(app, refused(n));
            }
        }
        let last = activity.refusals(&apps[599]);
        assert_eq!((last.len(), last[0].detail.as_str()), (MAX_PER_APP, "wrong 104"));
        assert!(activity.refusals(&apps[0]).is_empty(), "evicted for the others");
        assert!(activity.state().bytes <= MAX_BYTES);
        for app in &apps {
            activity.forget(app, None);
        }
        let state = activity.state();
        assert_eq!((state.bytes, state.refusals.len(), state.apps.len(), state.times.len()), (0, 0, 0, 0));
    }
}
