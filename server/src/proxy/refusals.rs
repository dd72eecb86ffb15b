//! The activity of each source since the server started: the times of its last webhooks, and the last refused ones.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::SystemTime,
};

use http::{HeaderMap, HeaderName};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use wwproxy_protocol::{
    AppId, SourceName,
    api::{MAX_SOURCES, Refusal},
    hex,
};

use super::{Proxy, sources::rfc3339, webhook::in_pieces};

/// The most refusals of an app.
const MAX_PER_APP: usize = 100;
/// The most of them for sources that the app does not have: anyone can make up names.
const MAX_UNKNOWN: usize = 10;
/// The most bytes of refusals over all apps.
const MAX_BYTES: usize = 4 << 20;
/// The largest body whose hash is kept, in bytes.
const MAX_HASHED: usize = 64 << 10;
/// The most header names of a refusal.
const MAX_NAMED_HEADERS: usize = 32;
/// The most bytes of a header name that are kept.
const MAX_NAME: usize = 64;

/// The check that a webhook for a source failed that the app does not have.
pub(crate) const UNKNOWN_SOURCE: &str = "source";

/// The times of a source's last webhooks: of the last event that was stored, and of the last webhook that was refused.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Times {
    pub(super) accepted: Option<SystemTime>,
    pub(super) refused: Option<SystemTime>,
}

impl Times {
    fn last(&self) -> Option<SystemTime> {
        self.accepted.max(self.refused)
    }
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
#[derive(Debug, Clone)]
pub(crate) struct Refused {
    source: SourceName,
    check: &'static str,
    detail: String,
    status: u16,
    bytes: u64,
    headers: Vec<String>,
    sha256: Option<String>,
}

/// The names of a webhook's headers that a refusal shows. Cheap: they are copied to text only for a refusal.
pub(crate) fn header_names(headers: &HeaderMap) -> Vec<HeaderName> {
    headers.keys().take(MAX_NAMED_HEADERS).cloned().collect()
}

/// The hex SHA-256 of a body that is not too large.
fn body_hash(body: &[u8]) -> Option<String> {
    (body.len() <= MAX_HASHED).then(|| {
        let mut hash = Sha256::new();
        in_pieces(body, |piece| hash.update(piece));
        hex(&hash.finalize())
    })
}

impl Refused {
    /// A refused webhook with this answer. `body` is `None` if it was not read.
    pub(crate) fn new(
        source: &SourceName,
        (check, detail): (&'static str, String),
        status: u16,
        headers: &[HeaderName],
        body: Option<&[u8]>,
    ) -> Self {
        let cut = |name: &HeaderName| name.as_str().chars().take(MAX_NAME).collect();
        Self {
            source: source.clone(),
            check,
            detail,
            status,
            bytes: body.map_or(0, <[u8]>::len) as u64,
            headers: headers.iter().map(cut).collect(),
            sha256: body.and_then(body_hash),
        }
    }

    /// The source, if the app has it.
    fn known_source(&self) -> Option<&SourceName> {
        (self.check != UNKNOWN_SOURCE).then_some(&self.source)
    }

    /// Whether it is the same webhook, refused for the same reason. The detail is not compared, as it may contain the age of a
    /// timestamp. What differs most often is compared first: a sender can cause 100 comparisons.
    fn repeats(&self, other: &Self) -> bool {
        (self.bytes, self.status, self.check) == (other.bytes, other.status, other.check)
            && self.sha256 == other.sha256
            && self.source == other.source
            && self.headers == other.headers
    }

    /// The size in memory, in bytes.
    fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|name| name.len() + size_of::<String>()).sum();
        size_of::<Entry>() + self.detail.len() + headers + self.sha256.as_ref().map_or(0, String::len) + 128
    }
}

impl Activity {
    pub(super) fn times(&self, app: &AppId, source: &SourceName) -> Times {
        let state = self.0.lock();
        state.times.get(app).and_then(|sources| sources.get(source)).copied().unwrap_or_default()
    }

    fn accepted(&self, app: &AppId, source: &SourceName) {
        let now = SystemTime::now();
        self.0.lock().times(app, source).accepted = Some(now);
    }

    fn refused(&self, app: &AppId, refused: Refused) {
        let now = SystemTime::now();
        let mut state = self.0.lock();
        // A source that does not exist has no times: anyone can make up names, and they would replace those of real sources.
        if refused.known_source().is_some() {
            state.times(app, &refused.source).refused = Some(now);
        }
        let earlier = state.apps.get(app).and_then(|numbers| {
            numbers.iter().rev().copied().find(|number| state.refusals[number].refused.repeats(&refused))
        });
        let count = earlier.and_then(|number| state.remove(number)).map_or(1, |entry| entry.count + 1);
        state.insert(Entry { app: app.clone(), at: now, count, refused });
    }

    fn refusals(&self, app: &AppId) -> Vec<Refusal> {
        let state = self.0.lock();
        let numbers = state.apps.get(app).into_iter().flatten().rev();
        numbers.map(|number| state.refusals[number].show()).collect()
    }

    /// Forgets the times of a source, or everything of an app.
    pub(super) fn forget(&self, app: &AppId, source: Option<&SourceName>) {
        let mut state = self.0.lock();
        if let Some(source) = source {
            if let Some(sources) = state.times.get_mut(app) {
                sources.remove(source);
            }
            return;
        }
        state.times.remove(app);
        for number in state.apps.remove(app).unwrap_or_default() {
            state.remove(number);
        }
    }
}

impl State {
    /// The times of a source. A webhook that is still being stored when its source is deleted would be listed forever, so
    /// the source that was used least recently is removed for a new one.
    fn times(&mut self, app: &AppId, source: &SourceName) -> &mut Times {
        let sources = self.times.entry(app.clone()).or_default();
        if !sources.contains_key(source) && sources.len() >= MAX_SOURCES {
            let oldest = sources.iter().min_by_key(|(_, times)| times.last()).map(|(name, _)| name.clone());
            oldest.and_then(|name| sources.remove(&name));
        }
        sources.entry(source.clone()).or_default()
    }

    fn insert(&mut self, entry: Entry) {
        let (app, number) = (entry.app.clone(), self.next);
        self.next += 1;
        self.bytes += entry.refused.size();
        self.refusals.insert(number, entry);
        self.apps.entry(app.clone()).or_default().push_back(number);
        if let Some(number) = self.to_evict(&app) {
            self.remove(number);
        }
        while self.bytes > MAX_BYTES {
            let Some((&oldest, _)) = self.refusals.first_key_value() else { break };
            self.remove(oldest);
        }
    }

    /// The refusal that exceeds a limit of the app, if one does: the oldest for an unknown source, or the oldest of the source that has
    /// the most. So a sender that floods one source keeps the refusals of the others.
    fn to_evict(&self, app: &AppId) -> Option<u64> {
        let numbers = self.apps.get(app)?;
        // The oldest refusal of each known source, and the number of its refusals. `None`: all unknown sources.
        let mut sources: HashMap<Option<&SourceName>, (u64, usize)> = HashMap::new();
        for number in numbers {
            let source = self.refusals[number].refused.known_source();
            sources.entry(source).or_insert((*number, 0)).1 += 1;
        }
        match sources.get(&None) {
            Some((oldest, count)) if *count > MAX_UNKNOWN => Some(*oldest),
            _ if numbers.len() <= MAX_PER_APP => None,
            _ => sources.into_values().max_by_key(|(_, count)| *count).map(|(oldest, _)| oldest),
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
mod tests;
