//! The newest events in memory, so that live consumers read nothing from the database.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::RwLock;
use wwproxy_protocol::Event;

use super::Seq;

/// The size of the ring: heads and bodies, in bytes.
const RING_BYTES: u64 = 4 << 20;

/// The newest committed events, oldest first.
#[derive(Debug, Default)]
pub(super) struct Ring(RwLock<Events>);

#[derive(Debug, Default)]
struct Events {
    events: VecDeque<(Seq, u32, Arc<Event>)>,
    bytes: u64,
}

impl Ring {
    /// Adds committed events, in ascending order, and evicts the oldest.
    pub(super) fn extend(&self, events: impl IntoIterator<Item = (Seq, u32, Arc<Event>)>) {
        let mut evicted = Vec::new();
        let mut ring = self.0.write();
        for (seq, size, event) in events {
            ring.bytes += u64::from(size);
            ring.events.push_back((seq, size, event));
        }
        while ring.bytes > RING_BYTES
            && let Some((_, size, event)) = ring.events.pop_front()
        {
            ring.bytes -= u64::from(size);
            evicted.push(event);
        }
        drop(ring);
        // The memory of the evicted events is freed without the lock.
        drop(evicted);
    }

    /// Removes an event that was deleted.
    pub(super) fn remove(&self, seq: Seq) {
        let mut ring = self.0.write();
        if let Ok(place) = ring.events.binary_search_by_key(&seq, |(seq, ..)| *seq)
            && let Some((_, size, _)) = ring.events.remove(place)
        {
            ring.bytes -= u64::from(size);
        }
    }

    /// Finds events by their seqs; `None` for those that are not in the ring.
    pub(super) fn get(&self, seqs: impl Iterator<Item = Seq>) -> Vec<Option<Arc<Event>>> {
        let ring = self.0.read();
        seqs.map(|seq| {
            let place = ring.events.binary_search_by_key(&seq, |(seq, ..)| *seq).ok()?;
            Some(Arc::clone(&ring.events[place].2))
        })
        .collect()
    }
}
