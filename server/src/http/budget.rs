//! Memory budget for request bodies, shared fairly: no app gets more than its share.
//!
//! A body can be evicted until it is verified. If a new body needs room, the oldest unverified one is evicted, so that slow,
//! numerous or unauthenticated senders never block it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;
use wwproxy_protocol::AppId;

use crate::log_limit::LogLimit;

/// How often evictions are logged in a minute.
const LOGGED: u32 = 10;

/// The app that a body counts for. Requests without a token count for `None`.
type Owner = Option<AppId>;
/// The number of a body, in order of arrival.
type Id = u64;

#[derive(Debug)]
pub(crate) struct Budget {
    state: Mutex<State>,
    /// The most bytes of all bodies together.
    total: usize,
    /// The most bytes of one owner's bodies.
    share: usize,
    evictions: LogLimit,
}

#[derive(Debug, Default)]
struct State {
    next: Id,
    bodies: BTreeMap<Id, Body>,
    all: Usage,
    owners: HashMap<Owner, Usage>,
}

#[derive(Debug)]
struct Body {
    owner: Owner,
    bytes: usize,
    /// Signals the eviction to the body's reader.
    evict: oneshot::Sender<()>,
    /// Whether the body is protected from eviction.
    kept: bool,
}

/// The memory of some bodies.
#[derive(Debug, Default)]
struct Usage {
    bytes: usize,
    /// How many of these bytes are protected from eviction.
    kept: usize,
    evictable: BTreeSet<Id>,
}

/// The budget has no room for the body, or the body was evicted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoRoom;

/// The memory that one body has reserved, until this is dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    budget: Arc<Budget>,
    id: Id,
    evicted: oneshot::Receiver<()>,
}

impl Budget {
    pub(crate) fn new(total: u64, share: u64) -> Arc<Self> {
        let bytes = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
        let (total, share) = (bytes(total), bytes(share.min(total)));
        Arc::new(Self { state: Mutex::default(), total, share, evictions: LogLimit::per_minute(LOGGED) })
    }

    /// Opens the reservation of a new body, with 0 bytes.
    pub(super) fn reserve(self: &Arc<Self>, owner: Owner) -> Reservation {
        let (evict, evicted) = oneshot::channel();
        let id = self.state.lock().open(owner, evict);
        Reservation { budget: Arc::clone(self), id, evicted }
    }
}

impl Reservation {
    /// Reserves more bytes, and evicts older bodies if necessary. Never waits: bodies that wait for each other's memory would
    /// deadlock.
    pub(super) fn grow(&self, bytes: usize) -> Result<(), NoRoom> {
        let Budget { total, share, evictions, .. } = &*self.budget;
        let (grown, evicted) = self.budget.state.lock().grow(self.id, bytes, *total, *share);
        if evicted > 0
            && let Some(bodies) = evictions.add(evicted)
        {
            tracing::warn!(bodies, "incomplete or unverified bodies were evicted to make room for others");
        }
        grown
    }

    /// Returns the future's output, unless the body is evicted before.
    pub(super) async fn unless_evicted<T>(&mut self, future: impl Future<Output = T>) -> Result<T, NoRoom> {
        tokio::select! {
            biased;
            _ = &mut self.evicted => Err(NoRoom),
            done = future => Ok(done),
        }
    }

    /// Protects the body from eviction: it is complete, and about to be verified.
    pub(super) fn keep(&self) -> Result<(), NoRoom> {
        self.budget.state.lock().keep(self.id)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        drop(self.budget.state.lock().close(self.id));
    }
}

impl State {
    fn open(&mut self, owner: Owner, evict: oneshot::Sender<()>) -> Id {
        let id = self.next;
        self.next += 1;
        self.bodies.insert(id, Body { owner, bytes: 0, evict, kept: false });
        id
    }

    /// Also returns how many bodies were evicted.
    fn grow(&mut self, id: Id, bytes: usize, total: usize, share: usize) -> (Result<(), NoRoom>, u64) {
        let Some(body) = self.bodies.get(&id) else { return (Err(NoRoom), 0) };
        let (owner, wanted) = (body.owner.clone(), body.bytes.saturating_add(bytes));
        let kept = self.owners.get(&owner).map_or(0, |usage| usage.kept);
        if kept.saturating_add(wanted) > share || self.all.kept.saturating_add(wanted) > total {
            // Evicting all other bodies would not be enough.
            return (Err(NoRoom), 0);
        }
        let mut evicted = 0;
        while let Some(oldest) = self.to_evict(&owner, bytes, total, share) {
            let body = self.close(oldest);
            if oldest == id {
                return (Err(NoRoom), evicted);
            }
            evicted += 1;
            if let Some(body) = body {
                // If the receiver is dropped, the reader has ended already.
                let _ = body.evict.send(());
            }
        }
        for usage in [&mut self.all, self.owners.entry(owner).or_default()] {
            usage.bytes += bytes;
            usage.evictable.insert(id);
        }
        if let Some(body) = self.bodies.get_mut(&id) {
            body.bytes = wanted;
        }
        (Ok(()), evicted)
    }

    /// The body that must be evicted before the owner may reserve this many bytes.
    fn to_evict(&self, owner: &Owner, bytes: usize, total: usize, share: usize) -> Option<Id> {
        let full = |usage: &Usage, most| usage.bytes + bytes > most;
        let own = self.owners.get(owner).filter(|usage| full(usage, share));
        let usage = own.or_else(|| Some(&self.all).filter(|usage| full(usage, total)))?;
        usage.evictable.first().copied()
    }

    fn keep(&mut self, id: Id) -> Result<(), NoRoom> {
        let body = self.bodies.get_mut(&id).ok_or(NoRoom)?;
        body.kept = true;
        for usage in [Some(&mut self.all), self.owners.get_mut(&body.owner)].into_iter().flatten() {
            usage.evictable.remove(&id);
            usage.kept += body.bytes;
        }
        Ok(())
    }

    fn close(&mut self, id: Id) -> Option<Body> {
        let body = self.bodies.remove(&id)?;
        let kept = if body.kept { body.bytes } else { 0 };
        for usage in [Some(&mut self.all), self.owners.get_mut(&body.owner)].into_iter().flatten() {
            usage.evictable.remove(&id);
            usage.bytes -= body.bytes;
            usage.kept -= kept;
        }
        if self.owners.get(&body.owner).is_some_and(|usage| usage.bytes == 0) {
            self.owners.remove(&body.owner);
        }
        Some(body)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    /// A body of this app.
    fn open(budget: &Arc<Budget>, app: &str) -> Reservation {
        budget.reserve(Some(app.parse().unwrap()))
    }

    fn is_evicted(body: &mut Reservation) -> bool {
        body.unless_evicted(std::future::pending::<()>()).now_or_never().is_some()
    }

    #[test]
    fn an_app_evicts_its_own_oldest_body_and_no_other_apps() {
        let budget = Budget::new(100, 40);
        let mut other = open(&budget, "b");
        other.grow(40).unwrap();
        let mut bodies: Vec<_> = (0..3).map(|_| open(&budget, "a")).collect();
        for body in &bodies {
            body.grow(20).unwrap();
        }
        assert_eq!(bodies.iter_mut().map(is_evicted).collect::<Vec<_>>(), [true, false, false]);
        assert_eq!(bodies[0].grow(1), Err(NoRoom), "it was evicted");
        assert_eq!(bodies[1].grow(10), Err(NoRoom), "it is the oldest one itself");
        assert!(!is_evicted(&mut other));
        bodies[2].grow(20).unwrap();
        drop((bodies, other));
        let state = budget.state.lock();
        assert!(state.owners.is_empty() && state.bodies.is_empty());
        assert_eq!((state.all.bytes, state.all.kept), (0, 0));
    }

    #[test]
    fn a_full_budget_evicts_the_oldest_body_of_any_app() {
        let budget = Budget::new(100, 50);
        let mut bodies: Vec<_> = ["a", "b", "c"].map(|id| open(&budget, id)).into();
        for body in &bodies {
            body.grow(40).unwrap();
        }
        assert_eq!(bodies.iter_mut().map(is_evicted).collect::<Vec<_>>(), [true, false, false]);
    }

    #[test]
    fn a_kept_body_is_not_evicted_and_no_body_is_evicted_in_vain() {
        let budget = Budget::new(100, 60);
        let (mut kept, mut begun) = (open(&budget, "a"), open(&budget, "a"));
        kept.grow(40).unwrap();
        kept.keep().unwrap();
        begun.grow(20).unwrap();
        assert_eq!(open(&budget, "a").grow(21), Err(NoRoom));
        assert!(!is_evicted(&mut kept) && !is_evicted(&mut begun));
        open(&budget, "a").grow(20).unwrap();
        assert!(!is_evicted(&mut kept) && is_evicted(&mut begun));
        assert_eq!(begun.keep(), Err(NoRoom));
        drop(kept);
        open(&budget, "a").grow(60).unwrap();
        assert_eq!(open(&budget, "b").grow(61), Err(NoRoom), "more than a share");
    }
}
