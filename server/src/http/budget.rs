//! Memory for request bodies: one budget for many apps, none of which gets more than its share.
//!
//! A body can be evicted until it is verified. When room is needed the oldest one goes, so that senders which are slow,
//! or many, or unknown, never block the next body.

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

/// Whose body it is. Callers without a token share one.
type Owner = Option<AppId>;
/// Ascends in the order in which bodies begin.
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
    /// Ends its reader.
    evict: oneshot::Sender<()>,
    /// Whether it is safe from eviction.
    kept: bool,
}

/// What some bodies take.
#[derive(Debug, Default)]
struct Usage {
    bytes: usize,
    /// How many of these bytes belong to bodies that are kept.
    kept: usize,
    evictable: BTreeSet<Id>,
}

/// There is no room for more, or the body was evicted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoRoom;

/// The room of one body, free again once this is dropped.
#[derive(Debug)]
pub(super) struct Room {
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

    /// Room for a body that begins: nothing so far.
    pub(super) fn open(self: &Arc<Self>, owner: Owner) -> Room {
        let (evict, evicted) = oneshot::channel();
        let id = self.state.lock().open(owner, evict);
        Room { budget: Arc::clone(self), id, evicted }
    }
}

impl Room {
    /// Takes so many bytes more, and evicts older bodies if need be. Never waits: bodies that waited for each
    /// other's room would wait forever.
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

    /// What this future yields, unless the body is evicted before.
    pub(super) async fn unless_evicted<T>(&mut self, future: impl Future<Output = T>) -> Result<T, NoRoom> {
        tokio::select! {
            biased;
            _ = &mut self.evicted => Err(NoRoom),
            done = future => Ok(done),
        }
    }

    /// From now on the body is not evicted: it is complete, and about to be verified.
    pub(super) fn keep(&self) -> Result<(), NoRoom> {
        self.budget.state.lock().keep(self.id)
    }
}

impl Drop for Room {
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

    /// Returns how many bodies were evicted as well.
    fn grow(&mut self, id: Id, bytes: usize, total: usize, share: usize) -> (Result<(), NoRoom>, u64) {
        let Some(body) = self.bodies.get(&id) else { return (Err(NoRoom), 0) };
        let (owner, wanted) = (body.owner.clone(), body.bytes.saturating_add(bytes));
        let kept = self.owners.get(&owner).map_or(0, |usage| usage.kept);
        if kept.saturating_add(wanted) > share || self.all.kept.saturating_add(wanted) > total {
            // Evicting would not be enough.
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
                // A reader that is gone needs no signal.
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

    /// The body that has to go before so many bytes of this owner have room.
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
    fn open(budget: &Arc<Budget>, app: &str) -> Room {
        budget.open(Some(app.parse().unwrap()))
    }

    fn is_evicted(room: &mut Room) -> bool {
        room.unless_evicted(std::future::pending::<()>()).now_or_never().is_some()
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
        assert_eq!(bodies[0].grow(1), Err(NoRoom), "it is gone");
        assert_eq!(bodies[1].grow(10), Err(NoRoom), "the oldest one goes itself");
        assert!(!is_evicted(&mut other));
        bodies[2].grow(20).unwrap();
        drop((bodies, other));
        let state = budget.state.lock();
        assert!(state.owners.is_empty() && state.bodies.is_empty());
        assert_eq!((state.all.bytes, state.all.kept), (0, 0));
    }

    #[test]
    fn when_all_is_full_the_oldest_goes_whose_ever_it_is() {
        let budget = Budget::new(100, 50);
        let mut bodies: Vec<_> = ["a", "b", "c"].map(|id| open(&budget, id)).into();
        for body in &bodies {
            body.grow(40).unwrap();
        }
        assert_eq!(bodies.iter_mut().map(is_evicted).collect::<Vec<_>>(), [true, false, false]);
    }

    #[test]
    fn what_is_kept_is_not_evicted_and_nothing_is_evicted_in_vain() {
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
