//! History: stored events, their states, and their timelines. Lists read no bodies.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rusqlite::{Connection, OptionalExtension, Row};
use serde::Deserialize;
use uuid::Uuid;
use wwproxy_protocol::{AppId, ConsumerName, ConsumerSettings, EventId};

use super::{
    Seq,
    app_log::Entry,
    commands::{Commands, Control},
    cursor::Place,
    filter::Filter,
    reader::{Read, entry},
    record::{decode_id, event_id, from_micros, id_of_seq, micros},
    state::{App, Consumer, Shared},
    timeline::{self, ACKED, Outcome},
};
use crate::store::{
    EventPage, EventQuery, EventState, EventSummary, StateAt, StoreError, StoredEvent, TimelineEntry,
};

/// Events of a page, at most.
const MAX_PAGE: usize = 1000;
/// Rows of the index that one read transaction reads, at most.
const SLICE: usize = 256;
/// Rows of the index that one call reads, at most.
const MAX_ROWS: usize = 10_000;
/// A call reads no further after this time.
const MAX_TIME: Duration = Duration::from_millis(200);

/// Stored events with what the index says about them.
type Found = Vec<(Entry, EventSummary)>;

/// Reads the history. The writer flushes what consumers did last before their timeline is read.
#[derive(Clone, Copy)]
pub(super) struct History<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) commands: &'a Commands,
}

impl History<'_> {
    /// Lists events, the newest first.
    pub(super) async fn events(self, app: &AppId, query: EventQuery) -> Result<EventPage, StoreError> {
        let mut page = EventPage::default();
        let Some(app) = self.shared.app(app) else { return Ok(page) };
        if let Some(name) = query.consumer.as_ref().filter(|name| !app.consumers.read().contains_key(name)) {
            return Err(StoreError::NoConsumer(name.clone()));
        }
        let (limit, started) = (query.limit.min(MAX_PAGE), Instant::now());
        let filter = Arc::new(Filter::new(&ConsumerSettings {
            types: query.event_type.iter().cloned().collect(),
            sources: query.source.iter().cloned().collect(),
            ..ConsumerSettings::default()
        }));
        let (after, mut before) = self.blocking(&query, Shared::range).await?;
        for _ in 0..MAX_ROWS / SLICE {
            let (of_slice, filter) = ((Arc::clone(&app), before), Arc::clone(&filter));
            let slice = self
                .blocking(&of_slice, move |shared, (app, before)| shared.slice(app, after, *before, &filter));
            let (found, next) = slice.await?;
            for (seq, event) in self.with_states(&app, found).await? {
                if is_wanted(&event, &query) {
                    if page.events.len() >= limit {
                        page.next = Some(event_id(id_of_seq(seq + 1)));
                        return Ok(page);
                    }
                    page.events.push(event);
                }
            }
            let Some(next) = next else { return Ok(page) };
            before = next;
            if started.elapsed() > MAX_TIME {
                break;
            }
        }
        page.next = Some(event_id(id_of_seq(before)));
        Ok(page)
    }

    /// Reads an event with its timeline.
    pub(super) async fn event(self, app: &AppId, id: &EventId) -> Result<Option<StoredEvent>, StoreError> {
        let Some(app) = self.shared.app(app) else { return Ok(None) };
        let wanted = (Arc::clone(&app), id.clone());
        let read = self.blocking(&wanted, |shared, (app, id)| {
            let Some(entry) = shared.find_event(app.id, id)? else { return Ok(None) };
            let found = shared.checked(shared.readers.read(|db| summary(db, app.id, entry.seq)))?;
            let read = shared.read_events(app.id, &[entry.seq])?.pop();
            Ok(found.zip(read).map(|(summary, read)| (entry, summary, read)))
        });
        let Some((entry, summary, read)) = read.await? else { return Ok(None) };
        let event = match read {
            Read::Event(event) => event,
            Read::Missing => return Ok(None),
            Read::Damaged(damaged) => return Err(StoreError::engine(damaged)),
            Read::Failed(error) => return Err(StoreError::engine(error)),
        };
        let seq = entry.seq;
        let Some((_, summary)) = self.with_states(&app, vec![(entry, summary)]).await?.pop() else {
            return Ok(None);
        };
        let outcomes = self.blocking(&(consumers(&app), seq), Shared::timelines).await?;
        let mut timeline: Vec<_> = outcomes
            .into_iter()
            .flat_map(|(name, outcomes)| outcomes.into_iter().map(move |outcome| (name.clone(), outcome)))
            .map(|(consumer, outcome)| TimelineEntry {
                consumer,
                attempt: outcome.attempt,
                at: from_micros(outcome.at),
                outcome: outcome.what,
                reason: outcome.reason,
                took: Duration::from_millis(outcome.took.into()),
            })
            .collect();
        timeline.sort_by_key(|entry| entry.at);
        Ok(Some(StoredEvent { event, summary, timeline }))
    }

    /// Adds the states of events for each consumer.
    async fn with_states(self, app: &App, found: Found) -> Result<Vec<(Seq, EventSummary)>, StoreError> {
        let (Some((newest, _)), Some((oldest, _))) = (found.first(), found.last()) else {
            return Ok(Vec::new());
        };
        let (oldest, newest) = (oldest.seq, newest.seq);
        let mut places = Vec::new();
        let mut settled = Vec::new();
        for (name, consumer) in consumers(app) {
            let cursor = consumer.cursor();
            let of_consumer: Vec<_> = found
                .iter()
                .map(|(entry, _)| cursor.place(entry.seq, consumer.filter.matches(entry)))
                .collect();
            drop(cursor);
            if of_consumer.contains(&Place::Settled) {
                settled.push((name.clone(), Arc::clone(&consumer)));
            }
            places.push((name, consumer.started, of_consumer));
        }
        let mut outcomes = Vec::new();
        if !settled.is_empty() {
            // What was settled above is in the database then. On a full disk the timeline is older.
            let _ = self.commands.control(|reply| Control::Flush { reply }).await;
            let range = (settled, (oldest, newest));
            outcomes =
                self.blocking(&range, |shared, (settled, range)| shared.outcomes(settled, *range)).await?;
        }
        let with_states = |(number, (entry, mut event)): (usize, (Entry, EventSummary))| {
            for (name, started, of_consumer) in &places {
                let outcomes = outcomes.iter().find(|(other, _)| other == name);
                let of_event = outcomes.iter().flat_map(|(_, outcomes)| outcomes);
                let of_event = of_event.filter(|outcome| outcome.seq == entry.seq && outcome.is_delivery());
                let state = match of_consumer[number] {
                    Place::At(state, attempts) => Some((state, attempts)),
                    Place::Settled => settled_state(of_event, entry.seq > *started),
                    Place::Elsewhere => None,
                };
                if let Some((state, attempts)) = state {
                    event.consumers.push(StateAt { consumer: name.clone(), state, attempts });
                }
            }
            (entry.seq, event)
        };
        Ok(found.into_iter().enumerate().map(with_states).collect())
    }

    /// Runs a read on a thread that may block.
    async fn blocking<A: Clone + Send + 'static, T: Send + 'static>(
        self,
        argument: &A,
        read: impl FnOnce(&Shared, &A) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (shared, argument) = (Arc::clone(self.shared), argument.clone());
        tokio::task::spawn_blocking(move || read(&shared, &argument)).await.map_err(StoreError::engine)?
    }
}

type Named = Vec<(ConsumerName, Arc<Consumer>)>;
type Outcomes = Vec<(ConsumerName, Vec<Outcome>)>;

fn consumers(app: &App) -> Named {
    app.consumers.read().iter().map(|(name, consumer)| (name.clone(), Arc::clone(consumer))).collect()
}

/// The state of a settled event, from its deliveries. `None` if the consumer started after it.
fn settled_state<'a>(
    outcomes: impl Iterator<Item = &'a Outcome>,
    is_after_start: bool,
) -> Option<(EventState, u32)> {
    let (mut last, mut is_acked) = (None, false);
    for outcome in outcomes {
        is_acked |= outcome.what == ACKED;
        last = Some(outcome.attempt);
    }
    let state = if is_acked { EventState::Delivered } else { EventState::Dropped };
    (is_after_start || last.is_some()).then_some((state, last.unwrap_or(0)))
}

fn is_wanted(event: &EventSummary, query: &EventQuery) -> bool {
    let is_meant = |at: &StateAt| {
        query.consumer.as_ref().is_none_or(|name| *name == at.consumer)
            && query.state.is_none_or(|state| state == at.state)
    };
    query.state.is_none() && query.consumer.is_none() || event.consumers.iter().any(is_meant)
}

impl Shared {
    /// The seqs between which the events of a query are. Times are those in the ids, which never go back.
    fn range(&self, query: &EventQuery) -> Result<(Seq, Seq), StoreError> {
        let seq = |id: &Option<EventId>| id.as_ref().and_then(decode_id).map(|(seq, _)| seq);
        let at = |time| self.position_at(micros(time)).map(|position| position.unwrap_or(Seq::MAX >> 1));
        let since = query.since.map(at).transpose()?.unwrap_or(0);
        let until =
            query.until.map(at).transpose()?.map_or(Seq::MAX >> 1, |position| position.saturating_add(1));
        Ok((seq(&query.after).unwrap_or(0).max(since), seq(&query.before).unwrap_or(until).min(until)))
    }

    /// Reads the next rows of the index, the newest first, and those events of them that pass the filter. Returns before which event the
    /// next slice is, unless there is none.
    fn slice(
        &self,
        app: &App,
        after: Seq,
        before: Seq,
        filter: &Filter,
    ) -> Result<(Found, Option<Seq>), StoreError> {
        let (mut entries, indexed) = app.log.lock().before(before, after, SLICE);
        let rest = SLICE - entries.len();
        let up_to = before.min(indexed.saturating_add(1));
        let read = self.readers.read(|db| {
            let mut rows = db.prepare_cached(
                "SELECT seq, size, source, type FROM by_app WHERE app_id = ? AND seq > ? AND seq < ? \
                 ORDER BY seq DESC LIMIT ?",
            )?;
            let range = (app.id, after.cast_signed(), up_to.cast_signed(), rest.cast_signed() as i64);
            for row in rows.query_map(range, entry)? {
                entries.push(row?);
            }
            let next = (entries.len() == SLICE).then(|| entries.last().map_or(0, |entry| entry.seq));
            let mut found = Vec::new();
            for entry in entries.into_iter().filter(|entry| filter.matches(entry)) {
                if let Some(event) = summary(db, app.id, entry.seq)? {
                    found.push((entry, event));
                }
            }
            Ok((found, next))
        });
        self.checked(read)
    }

    fn outcomes(&self, consumers: &Named, (first, last): (Seq, Seq)) -> Result<Outcomes, StoreError> {
        let read = |(name, consumer): &(ConsumerName, Arc<Consumer>)| {
            let read = self.readers.read(|db| timeline::outcomes(db, consumer.id, first, last));
            Ok((name.clone(), self.checked(read)?))
        };
        consumers.iter().map(read).collect()
    }

    fn timelines(&self, (consumers, seq): &(Named, Seq)) -> Result<Outcomes, StoreError> {
        self.outcomes(consumers, (*seq, *seq))
    }
}

/// Reads what a list says about an event. `None`: it is not stored any more, or a column is damaged.
fn summary(db: &Connection, app_id: i64, seq: Seq) -> rusqlite::Result<Option<EventSummary>> {
    // The length of a body is read without the body.
    let found = db
        .prepare_cached(
            "SELECT id, received_at, source, type, delivery_id, duplicates, head, \
             ifnull(length(body), (SELECT length(body) FROM bodies WHERE bodies.seq = events.seq)) \
             FROM events WHERE seq = ? AND app_id = ?",
        )?
        .query_row((seq.cast_signed(), app_id), |row| Ok(decode(row).ok()))
        .optional()?;
    Ok(found.flatten())
}

fn decode(row: &Row<'_>) -> rusqlite::Result<EventSummary> {
    #[derive(Deserialize)]
    struct Head {
        #[serde(default)]
        verification: Option<serde::de::IgnoredAny>,
    }
    let head: Option<Head> = serde_json::from_str(row.get_ref(6)?.as_str()?).ok();
    Ok(EventSummary {
        id: event_id(Uuid::from_bytes(row.get(0)?)),
        received_at: from_micros(row.get(1)?),
        source: row.get::<_, String>(2)?.parse().unwrap_or_default(),
        event_type: row.get(3)?,
        delivery_id: row.get(4)?,
        body_bytes: row.get::<_, i64>(7)?.cast_unsigned(),
        verified: head.is_some_and(|head| head.verification.is_some()),
        duplicates: row.get::<_, i64>(5)?.cast_unsigned(),
        consumers: Vec::new(),
    })
}
