//! Settling in the model.

use wwproxy_protocol::api::Receipt;
use wwproxy_server::store::Settled;

use crate::{
    consumer::{Cursor, State},
    steps::Delay,
};

/// What to settle, in this order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settling {
    pub(crate) acks: Vec<Receipt>,
    pub(crate) rejects: Vec<Receipt>,
    pub(crate) releases: Vec<(Receipt, Delay)>,
    /// Whether the lease ends at once.
    pub(crate) extends: Vec<(Receipt, bool)>,
}

impl Cursor {
    /// Settles, and returns the expected outcome. `now` orders the nacked events.
    pub(crate) fn settle(&mut self, settling: &Settling, max_attempts: u32, now: u64) -> Settled {
        let mut settled = Settled::default();
        for receipt in &settling.acks {
            let place = self.current(receipt, &mut settled);
            settled.acked += self.end(place, State::Settled);
        }
        for receipt in &settling.rejects {
            let place = self.current(receipt, &mut settled);
            settled.rejected += self.end(place, State::Dead);
        }
        for (receipt, delay) in &settling.releases {
            let Some(place) = self.current(receipt, &mut settled) else { continue };
            let state = match delay {
                Delay::Returned => State::Returned,
                Delay::Zero => State::Nacked(Some(2 * now)),
                Delay::Short => State::Nacked(Some(2 * now + 1)),
                Delay::Long => State::Nacked(None),
            };
            self.retry(place, state, max_attempts);
            settled.released += 1;
        }
        for (receipt, ends) in &settling.extends {
            let Some(place) = self.current(receipt, &mut settled) else { continue };
            if *ends {
                self.retry(place, State::Returned, max_attempts);
            }
            settled.extended += 1;
        }
        settled
    }

    fn current(&self, receipt: &Receipt, settled: &mut Settled) -> Option<usize> {
        let place = self.leased_under(receipt);
        if place.is_none() {
            settled.stale.push(receipt.clone());
        }
        place
    }

    fn end(&mut self, place: Option<usize>, state: State) -> usize {
        let Some(place) = place else { return 0 };
        self.set(place, state);
        1
    }
}
