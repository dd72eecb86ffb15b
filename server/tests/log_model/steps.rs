//! The steps of a case, and how they are generated.

use proptest::{prelude::*, sample::Index};

/// The consumers of an app, by number. The first always exists.
pub(crate) const CONSUMERS: [&str; 3] = ["default", "a", "b"];
/// The apps, by number.
pub(crate) const APPS: [&str; 2] = ["app-0", "app-1"];
/// The delay of [`Delay::Short`].
pub(crate) const SHORT: std::time::Duration = std::time::Duration::from_millis(1);
/// Sizes of bodies: within the row of the event, in a row of its own, and so large that few fit into the memory for live events.
const BODIES: [usize; 3] = [20, 3000, 1 << 21];

#[derive(Debug, Clone)]
pub(crate) enum Step {
    Register {
        app: usize,
    },
    Unregister {
        app: usize,
    },
    /// Appends at once, so that they may share a commit.
    Append {
        app: usize,
        events: Vec<NewStep>,
    },
    /// Appends an event while a lease waits for it, if the consumer has no other.
    AppendToWaiter {
        place: Place,
        event: NewStep,
    },
    PutConsumer {
        place: Place,
        filter: usize,
        start: StartStep,
        max_attempts: u32,
    },
    DeleteConsumer {
        place: Place,
    },
    Replay {
        place: Place,
        event: Index,
        /// An event of the other app.
        of_other: bool,
    },
    /// Lists the stored events, which makes the outcomes of settled ones durable.
    History,
    DeleteEvent {
        app: usize,
        event: Index,
        /// An event of the other app.
        of_other: bool,
    },
    Seek {
        place: Place,
        to: StartStep,
    },
    Lease {
        place: Place,
        max_events: usize,
        max_bytes: Option<u64>,
        /// The lease ends at once.
        expires: bool,
    },
    /// A lease whose future is polled once and dropped.
    DropLease {
        place: Place,
        max_events: usize,
    },
    Settle {
        place: Place,
        acks: Vec<Pick>,
        rejects: Vec<Pick>,
        releases: Vec<(Pick, Delay)>,
        /// Whether the lease is extended to now, so that it ends, or to a later time.
        extends: Vec<(Pick, bool)>,
    },
    /// Closes the store and opens it again.
    Restart,
    /// As a restart, but meanwhile retention removes every event.
    Expire,
    /// All consumers but one catch up. Then as a restart, but meanwhile retention removes what every consumer has settled.
    RemoveSettled {
        lagging: usize,
    },
    /// Opens a copy of the files.
    Crash,
}

/// A consumer of an app, by their numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) app: usize,
    pub(crate) consumer: usize,
}

/// An event to append.
#[derive(Debug, Clone)]
pub(crate) struct NewStep {
    pub(crate) event_type: Option<&'static str>,
    pub(crate) source: &'static str,
    pub(crate) body: usize,
    /// The dedupe key.
    pub(crate) key: Option<u8>,
}

/// A receipt: one of the newest of the consumer, or any that was ever returned.
#[derive(Debug, Clone)]
pub(crate) struct Pick {
    pub(crate) index: Index,
    pub(crate) of_any: bool,
}

#[derive(Debug, Clone)]
pub(crate) enum StartStep {
    New,
    All,
    /// After an event of this app, or of another one.
    After(usize, Index),
    /// At the time of an event of this app, or of another one.
    At(usize, Index),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Delay {
    /// The event returns to its place.
    Returned,
    Zero,
    /// Its end is waited for.
    Short,
    /// Longer than the test.
    Long,
}

fn app() -> impl Strategy<Value = usize> {
    prop_oneof![3 => Just(0), 1 => Just(1)]
}

fn place() -> impl Strategy<Value = Place> {
    (app(), 0..CONSUMERS.len()).prop_map(|(app, consumer)| Place { app, consumer })
}

fn new_event() -> impl Strategy<Value = NewStep> {
    let event_type = prop_oneof![Just(None), Just(Some("push")), Just(Some("issues.opened"))];
    let source = prop_oneof![2 => Just("default"), 1 => Just("shop")];
    let body = prop_oneof![20 => Just(BODIES[0]), 4 => Just(BODIES[1]), 1 => Just(BODIES[2])];
    let key = prop::option::weighted(0.3, 0..8u8);
    (event_type, source, body, key).prop_map(|(event_type, source, body, key)| NewStep {
        event_type,
        source,
        body,
        key,
    })
}

fn start() -> impl Strategy<Value = StartStep> {
    let after = (app(), any::<Index>()).prop_map(|(app, index)| StartStep::After(app, index));
    let at = (app(), any::<Index>()).prop_map(|(app, index)| StartStep::At(app, index));
    prop_oneof![2 => Just(StartStep::New), 2 => Just(StartStep::All), 2 => after, 1 => at]
}

fn pick() -> impl Strategy<Value = Pick> {
    (any::<Index>(), prop::bool::weighted(0.1)).prop_map(|(index, of_any)| Pick { index, of_any })
}

fn settle() -> impl Strategy<Value = Step> {
    let picks = |max| prop::collection::vec(pick(), 0..max);
    let delay = prop_oneof![
        2 => Just(Delay::Returned),
        2 => Just(Delay::Zero),
        1 => Just(Delay::Short),
        1 => Just(Delay::Long),
    ];
    let releases = prop::collection::vec((pick(), delay), 0..3);
    let extends = prop::collection::vec((pick(), any::<bool>()), 0..2);
    (place(), picks(4), picks(2), releases, extends).prop_map(|(place, acks, rejects, releases, extends)| {
        Step::Settle { place, acks, rejects, releases, extends }
    })
}

fn step() -> impl Strategy<Value = Step> {
    let lease = (place(), 1..5usize, prop::option::weighted(0.3, 0..400u64), prop::bool::weighted(0.1));
    let put = (place(), 0..crate::model::FILTERS, start(), 0..3u32);
    prop_oneof![
        1 => app().prop_map(|app| Step::Register { app }),
        1 => app().prop_map(|app| Step::Unregister { app }),
        14 => (app(), prop::collection::vec(new_event(), 1..4)).prop_map(|(app, events)| Step::Append { app, events }),
        3 => (place(), new_event()).prop_map(|(place, event)| Step::AppendToWaiter { place, event }),
        5 => put.prop_map(|(place, filter, start, max_attempts)| {
            Step::PutConsumer { place, filter, start, max_attempts }
        }),
        1 => place().prop_map(|place| Step::DeleteConsumer { place }),
        4 => (place(), any::<Index>(), prop::bool::weighted(0.1))
            .prop_map(|(place, event, of_other)| Step::Replay { place, event, of_other }),
        2 => Just(Step::History),
        2 => (app(), any::<Index>(), prop::bool::weighted(0.1))
            .prop_map(|(app, event, of_other)| Step::DeleteEvent { app, event, of_other }),
        2 => (place(), start()).prop_map(|(place, to)| Step::Seek { place, to }),
        14 => lease.prop_map(|(place, max_events, max_bytes, expires)| {
            Step::Lease { place, max_events, max_bytes, expires }
        }),
        2 => (place(), 1..5usize).prop_map(|(place, max_events)| Step::DropLease { place, max_events }),
        14 => settle(),
        1 => Just(Step::Restart),
        1 => Just(Step::Expire),
        1 => (0..CONSUMERS.len()).prop_map(|lagging| Step::RemoveSettled { lagging }),
        2 => Just(Step::Crash),
    ]
}

pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 60)
}
