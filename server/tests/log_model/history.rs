//! The history: which events are stored, and their states.

use proptest::{prop_assert_eq, sample::Index};
use wwproxy_server::store::{EventQuery, EventState, EventSummary, Store};

use crate::{
    Outcome,
    consumer::{Cursor, State},
    harness::Harness,
    model,
    steps::CONSUMERS,
};

impl Harness {
    pub(crate) async fn delete_event(&mut self, app: usize, event: Index, of_other: bool) -> Outcome<()> {
        let id = self.id(app, event, of_other);
        let deleted = self.store.delete_event(&self.names[app], &id).await.unwrap();
        let model = &mut self.apps[app];
        let place = model.find(&id);
        prop_assert_eq!(deleted, place.is_some());
        if let Some(place) = place {
            model.log[place].is_removed = true;
            for consumer in model.consumers.values_mut() {
                consumer.worlds.change(|cursor| cursor.delete(place));
            }
        }
        Ok(())
    }

    /// Compares the lists of stored events.
    pub(crate) async fn compare_history(&mut self) -> Outcome<()> {
        for (name, app) in self.names.iter().zip(&mut self.apps) {
            let query = EventQuery { limit: 1000, ..EventQuery::default() };
            let page = self.store.events(name, query).await.unwrap();
            let stored = app.log.iter().rev().filter(|event| !event.is_removed);
            let ids: Vec<_> = page.events.iter().map(|event| &event.id).collect();
            prop_assert_eq!(ids, stored.map(|event| &event.id).collect::<Vec<_>>(), "events of {}", name);
            prop_assert_eq!(page.next, None);
            for event in &page.events {
                compare_states(app, event)?;
            }
        }
        Ok(())
    }
}

/// Compares the states of an event.
fn compare_states(app: &mut model::App, event: &EventSummary) -> Outcome<()> {
    let place = app.find(&event.id).unwrap();
    for (number, consumer) in &mut app.consumers {
        let listed = event.consumers.iter().find(|state| state.consumer.as_str() == CONSUMERS[*number]);
        let listed = listed.map(|listed| (listed.state, listed.attempts));
        let matches = consumer.filter.matches(&app.log[place]);
        consumer.worlds.observe(|cursor| {
            // The filter hides a replayed event again once it is settled.
            let expected =
                state(cursor, place).filter(|(state, _)| matches || *state != EventState::Delivered);
            // What a consumer has passed without an acknowledgement is listed or not, depending on where the consumer started.
            let listed = listed.filter(|(state, _)| *state != EventState::Dropped);
            let is_passed =
                expected.is_none() && listed.is_none_or(|(state, _)| state == EventState::Delivered);
            let problem = || format!("event {place} is {listed:?} for {number}, the model {expected:?}");
            if listed == expected || is_passed { Ok(()) } else { Err(problem()) }
        })?;
    }
    Ok(())
}

/// The state and the attempts of an event, if the position has not passed it by a seek.
fn state(cursor: &Cursor, place: usize) -> Option<(EventState, u32)> {
    let event = cursor.events.get(&place)?;
    let state = match event.state {
        State::Settled => EventState::Delivered,
        State::Leased(_) => EventState::Leased,
        State::Dead => EventState::Dead,
        State::Fresh | State::Returned | State::Interrupted | State::Nacked(_) => EventState::Pending,
    };
    Some((state, event.attempts))
}
