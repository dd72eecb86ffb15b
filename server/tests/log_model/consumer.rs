//! The reference model of one consumer: the state of every event that it receives.

use std::collections::BTreeMap;

use wwproxy_protocol::api::Receipt;
use wwproxy_server::store::Delivery;

use crate::model::{Filter, Logged};

/// A number in the app's log, from 0.
pub(crate) type Place = usize;

/// What one consumer has done with its events. Equal values behave alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) events: BTreeMap<Place, Received>,
    /// Events that retention removed before they were settled.
    pub(crate) dropped: u64,
    /// The position is before this event.
    ahead: Place,
    /// The events of the log before this one are in `events`, if the consumer receives them.
    known: Place,
    /// The last leased event was a nacked one: a fresh one is next.
    leased_nacked: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) state: State,
    pub(crate) attempts: u32,
    /// The number of the replay.
    pub(crate) replay: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// Never leased.
    Fresh,
    Leased(Receipt),
    /// Redelivered first, in order of arrival.
    Returned,
    /// As returned, but the lease ended with the process. Each opening of the store decides anew whether the event has attempts left.
    Interrupted,
    /// Redelivered in turn with fresh events, in this order. `None`: the delay does not end.
    Nacked(Option<u64>),
    Settled,
    Dead,
}

impl State {
    pub(crate) fn is_pending(&self) -> bool {
        !matches!(self, Self::Settled | Self::Dead)
    }
}

/// The limits of a lease.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request {
    pub(crate) max_events: usize,
    pub(crate) max_bytes: u64,
}

impl Cursor {
    /// A consumer whose first event is this one.
    pub(crate) fn new(first: Place) -> Self {
        Self { events: BTreeMap::new(), dropped: 0, ahead: first, known: first, leased_nacked: false }
    }

    /// Learns the events that were appended.
    pub(crate) fn learn(&mut self, log: &[Logged], filter: Filter) {
        for (place, event) in log.iter().enumerate().skip(self.known) {
            if !event.is_removed && filter.matches(event) {
                self.events.entry(place).or_insert(Received { state: State::Fresh, attempts: 0, replay: 0 });
            }
        }
        self.known = log.len();
    }

    /// Leases events. Their receipts are not known yet.
    pub(crate) fn lease(&mut self, log: &[Logged], request: Request) -> Vec<Place> {
        let (mut leased, mut bytes) = (Vec::new(), 0);
        while leased.len() < request.max_events
            && let Some(place) = self.next()
        {
            bytes += log[place].size;
            if bytes > request.max_bytes && !leased.is_empty() {
                break;
            }
            let event = self.events.get_mut(&place).expect("it is next");
            match event.state {
                State::Nacked(_) => self.leased_nacked = true,
                State::Fresh => (self.leased_nacked, self.ahead) = (false, place + 1),
                _ => {}
            }
            event.state = State::Leased(Receipt::new(""));
            event.attempts += 1;
            leased.push(place);
        }
        leased
    }

    /// The event that is leased next.
    pub(crate) fn next(&self) -> Option<Place> {
        let first = |states: &[State]| {
            let mut events = self.events.iter();
            events.find(|(_, event)| states.contains(&event.state)).map(|(place, _)| *place)
        };
        let nacked = self.events.iter().filter_map(|(place, event)| match event.state {
            State::Nacked(Some(due)) => Some((due, *place)),
            _ => None,
        });
        let nacked = nacked.min().map(|(_, place)| place);
        let fresh = first(&[State::Fresh]);
        let in_turn = if self.leased_nacked { fresh.or(nacked) } else { nacked.or(fresh) };
        first(&[State::Returned, State::Interrupted]).or(in_turn)
    }

    /// Compares leased events with what was delivered, and takes over the receipts.
    pub(crate) fn delivered(
        &mut self,
        log: &[Logged],
        leased: &[Place],
        deliveries: &[Delivery],
    ) -> Result<(), String> {
        let expected = leased.iter().map(|place| {
            let Received { attempts, replay, .. } = self.events[place];
            (Some(*place), attempts, replay)
        });
        let got = deliveries.iter().map(|Delivery { event, attempt, replay, .. }| {
            (log.iter().position(|logged| logged.id == event.id), *attempt, *replay)
        });
        let (expected, got): (Vec<_>, Vec<_>) = (expected.collect(), got.collect());
        if got != expected {
            return Err(format!(
                "leased {got:?}, the model {expected:?} (place in the log, attempt, replay)"
            ));
        }
        for (place, delivery) in leased.iter().zip(deliveries) {
            self.set(*place, State::Leased(delivery.receipt.clone()));
        }
        Ok(())
    }

    pub(crate) fn set(&mut self, place: Place, state: State) {
        self.events.get_mut(&place).expect("the consumer receives it").state = state;
    }

    /// The event that is leased under this receipt.
    pub(crate) fn leased_under(&self, receipt: &Receipt) -> Option<Place> {
        let mut events = self.events.iter();
        events
            .find(|(_, event)| matches!(&event.state, State::Leased(lease) if lease == receipt))
            .map(|(place, _)| *place)
    }

    /// Ends a lease: the event gets this state, or is dead if it has no attempts left.
    pub(crate) fn retry(&mut self, place: Place, state: State, max_attempts: u32) {
        let is_exhausted = max_attempts > 0 && self.events[&place].attempts >= max_attempts;
        self.set(place, if is_exhausted { State::Dead } else { state });
    }

    /// Takes leases back whose events did not reach a client.
    pub(crate) fn undo(&mut self, leased: &[Place]) {
        for place in leased {
            let event = self.events.get_mut(place).expect("it is leased");
            (event.state, event.attempts) = (State::Returned, event.attempts - 1);
        }
    }

    /// The store was opened again: leases ended with the process that held them. Nacked events that are due are in order of arrival.
    pub(crate) fn restart(&mut self, max_attempts: u32) {
        for event in self.events.values_mut() {
            if let State::Nacked(Some(due)) = &mut event.state {
                *due = 0;
            }
        }
        let is_cut_off = |state: &State| matches!(state, State::Leased(_) | State::Interrupted);
        let leased = self.events.iter().filter(|(_, event)| is_cut_off(&event.state));
        let leased: Vec<_> = leased.map(|(place, _)| *place).collect();
        for place in leased {
            self.retry(place, State::Interrupted, max_attempts);
        }
        self.leased_nacked = false;
    }

    /// Moves to before this event: only dead events stay as they are.
    pub(crate) fn seek(&mut self, first: Place, log: &[Logged], filter: Filter) {
        self.events.retain(|_, event| event.state == State::Dead);
        (self.ahead, self.known) = (first, first);
        self.learn(log, filter);
    }

    /// A client deleted an event, which is not dropped.
    pub(crate) fn delete(&mut self, place: Place) {
        self.events.remove(&place);
    }

    /// Every event left the log. A dead one was not dropped.
    pub(crate) fn remove_all(&mut self) {
        self.dropped += self.count(State::is_pending);
        self.events.clear();
        self.ahead = self.known;
    }

    /// Whether the position has passed an event, and the consumer needs it no more.
    pub(crate) fn has_settled(&self, place: Place) -> bool {
        place < self.ahead && !self.needs(place)
    }

    /// Whether the event is not settled. A dead one is not.
    pub(crate) fn needs(&self, place: Place) -> bool {
        self.events.get(&place).is_some_and(|event| event.state != State::Settled)
    }

    /// Delivers an event once more, whether the filter lets it pass or not.
    pub(crate) fn replay(&mut self, place: Place, replay: u32) {
        self.events.insert(place, Received { state: State::Returned, attempts: 0, replay });
    }

    /// Whether the event is delivered anyway.
    pub(crate) fn is_pending(&self, place: Place) -> bool {
        self.events.get(&place).is_some_and(|event| event.state.is_pending())
    }

    pub(crate) fn count(&self, is_counted: impl Fn(&State) -> bool) -> u64 {
        self.events.values().filter(|event| is_counted(&event.state)).count() as u64
    }

    pub(crate) fn pending_bytes(&self, log: &[Logged]) -> u64 {
        let pending = self.events.iter().filter(|(_, event)| event.state.is_pending());
        pending.map(|(place, _)| log[*place].size).sum()
    }
}
