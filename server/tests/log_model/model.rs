//! The reference model of an app: its log and its consumers.

use std::collections::{BTreeMap, HashMap, HashSet};

use wwproxy_protocol::{ConsumerSettings, EventId, Start};

use crate::{
    Outcome,
    consumer::{Cursor, State},
    worlds::Worlds,
};

/// The number of filters.
pub(crate) const FILTERS: usize = 5;
/// Bytes that an event counts for beside its texts and its body.
const FRAMING: usize = 64;

/// Limits of the consumer `default`, in events and in bytes.
pub(crate) const CAPACITY: (u64, u64) = (8, 5 << 20);

/// A filter of a consumer, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Filter(pub(crate) usize);

/// An event in the log.
#[derive(Debug, Clone)]
pub(crate) struct Logged {
    pub(crate) id: EventId,
    pub(crate) body: Vec<u8>,
    pub(crate) event_type: Option<&'static str>,
    pub(crate) source: &'static str,
    pub(crate) size: u64,
    pub(crate) is_removed: bool,
}

#[derive(Debug)]
pub(crate) struct Consumer {
    pub(crate) filter: Filter,
    pub(crate) start: Start,
    pub(crate) max_attempts: u32,
    /// How often events were replayed.
    pub(crate) replays: HashMap<usize, u32>,
    pub(crate) worlds: Worlds,
}

/// Whether the consumer `default` has no room for another event of this size.
pub(crate) fn is_full(default: &Cursor, log: &[Logged], size: u64) -> bool {
    default.count(State::is_pending) + 1 > CAPACITY.0 || default.pending_bytes(log) + size > CAPACITY.1
}

/// An app in one epoch.
#[derive(Debug, Default)]
pub(crate) struct App {
    pub(crate) is_registered: bool,
    pub(crate) log: Vec<Logged>,
    /// The dedupe keys of its events.
    pub(crate) keys: HashSet<u8>,
    /// The consumers by their numbers.
    pub(crate) consumers: BTreeMap<usize, Consumer>,
}

impl Filter {
    const NONE: Self = Self(0);

    pub(crate) fn settings(self) -> ConsumerSettings {
        let (types, sources): (&[&str], &[&str]) = match self.0 {
            0 => (&[], &[]),
            1 => (&["push"], &[]),
            2 => (&["issues.*", "none"], &[]),
            3 => (&[], &["shop"]),
            _ => (&["*"], &["default"]),
        };
        ConsumerSettings {
            types: types.iter().map(|glob| (*glob).to_owned()).collect(),
            sources: sources.iter().map(|source| source.parse().unwrap()).collect(),
            ..ConsumerSettings::default()
        }
    }

    pub(crate) fn is_none(self) -> bool {
        self == Self::NONE
    }

    pub(crate) fn matches(self, event: &Logged) -> bool {
        match self.0 {
            0 => true,
            1 => event.event_type == Some("push"),
            2 => event.event_type == Some("issues.opened"),
            3 => event.source == "shop",
            _ => event.event_type.is_some() && event.source == "default",
        }
    }
}

impl Logged {
    pub(crate) fn new(
        id: EventId,
        body: Vec<u8>,
        event_type: Option<&'static str>,
        source: &'static str,
    ) -> Self {
        let size = (body.len() + event_type.map_or(0, str::len) + source.len() + FRAMING) as u64;
        Self { id, body, event_type, source, size, is_removed: false }
    }

    /// When it was received, in milliseconds since 1970, as its id has it.
    pub(crate) fn millis(&self) -> u64 {
        u64::from_str_radix(&self.digits()[..12], 16).unwrap()
    }

    /// The hexadecimal digits of the id.
    fn digits(&self) -> String {
        self.id.as_str().replace('-', "")
    }
}

impl Consumer {
    /// The settings as the store shows them.
    pub(crate) fn settings(&self) -> ConsumerSettings {
        let Self { start, max_attempts, .. } = self;
        ConsumerSettings { start: start.clone(), max_attempts: *max_attempts, ..self.filter.settings() }
    }
}

impl App {
    pub(crate) fn register(&mut self) {
        if !self.is_registered {
            self.is_registered = true;
            self.create(0, Filter::NONE, Start::New, 0, 0);
        }
    }

    /// Creates a consumer whose first event is this one.
    pub(crate) fn create(
        &mut self,
        number: usize,
        filter: Filter,
        start: Start,
        max_attempts: u32,
        first: usize,
    ) {
        let worlds = Worlds::new(Cursor::new(first));
        let mut consumer = Consumer { filter, start, max_attempts, replays: HashMap::new(), worlds };
        consumer.worlds.change(|cursor| cursor.learn(&self.log, filter));
        self.consumers.insert(number, consumer);
    }

    pub(crate) fn push(&mut self, event: Logged) {
        self.log.push(event);
        for consumer in self.consumers.values_mut() {
            consumer.worlds.change(|cursor| cursor.learn(&self.log, consumer.filter));
        }
    }

    /// The store was closed or has crashed, and was opened again.
    pub(crate) fn reopen(&mut self, is_crash: bool) {
        for consumer in self.consumers.values_mut() {
            let max_attempts = consumer.max_attempts;
            let restart = |cursor: &mut Cursor| cursor.restart(max_attempts);
            if is_crash { consumer.worlds.crash(restart) } else { consumer.worlds.restart(restart) }
        }
    }

    /// Retention removed every event.
    pub(crate) fn remove_all(&mut self) {
        self.log.iter_mut().for_each(|event| event.is_removed = true);
        for consumer in self.consumers.values_mut() {
            consumer.worlds.change(Cursor::remove_all);
        }
    }

    /// The ids of the events that no consumer needs, as hexadecimal digits.
    pub(crate) fn settled(&self) -> Vec<String> {
        let is_settled = |place: usize| {
            let mut consumers = self.consumers.values();
            consumers.all(|consumer| consumer.worlds.all(|cursor| cursor.has_settled(place)))
        };
        let settled = self.log.iter().enumerate().filter(|(place, _)| is_settled(*place));
        settled.map(|(_, event)| event.digits()).collect()
    }

    /// Retention removed the events that are not stored. No consumer may need one of them.
    pub(crate) fn remove_others(&mut self, stored: &HashSet<String>) -> Outcome<()> {
        for (place, event) in self.log.iter_mut().enumerate() {
            if !event.is_removed && !stored.contains(&event.digits()) {
                event.is_removed = true;
                for consumer in self.consumers.values_mut() {
                    consumer.worlds.observe(|cursor| {
                        let is_lost = cursor.needs(place);
                        if is_lost { Err(format!("event {place} was removed unsettled")) } else { Ok(()) }
                    })?;
                }
            }
        }
        Ok(())
    }

    /// The place of a stored event in the log.
    pub(crate) fn find(&self, id: &EventId) -> Option<usize> {
        self.log.iter().position(|event| event.id == *id && !event.is_removed)
    }

    /// The place of the first event that was received in this millisecond or later.
    pub(crate) fn first_at(&self, millis: u64) -> usize {
        self.log.partition_point(|event| event.millis() < millis)
    }
}
