//! The number of an event: its place in the order of arrival, and its time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use uuid::{Builder, Uuid};
use wwproxy_protocol::EventId;

/// An event's place in the order of arrival: microseconds since 1970, or one more than the event
/// before it where that is later.
pub(super) type Seq = u64;

/// Gives ascending numbers.
#[derive(Debug)]
pub(super) struct Sequence {
    last: Seq,
}

impl Sequence {
    /// Goes on after `last`, whatever the clock says.
    pub(super) fn after(last: Seq) -> Self {
        Self { last }
    }

    pub(super) fn next(&mut self) -> Seq {
        self.last = at(SystemTime::now()).max(self.last + 1);
        self.last
    }
}

/// The number that an event at `time` would have.
pub(super) fn at(time: SystemTime) -> Seq {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Seq::try_from(since.as_micros()).unwrap_or(Seq::MAX)
}

/// The time that a number stands for.
pub(super) fn time(seq: Seq) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(seq)
}

/// How long ago the event of this number came.
pub(super) fn age(seq: Seq) -> Duration {
    SystemTime::now().duration_since(time(seq)).unwrap_or_default()
}

/// A name for the event of this number: a `UUIDv7` whose order is that of the numbers (RFC 9562,
/// section 6.2, method 3: the sub-millisecond part stands in `rand_a`), random in the rest, so that
/// no two stores and no two runs of a store that lost its clock give the same name.
pub(super) fn new_uuid(seq: Seq) -> Uuid {
    let mut random = [0; 8];
    // Without randomness the number alone still makes the name unique within this store.
    let _ = getrandom::fill(&mut random);
    let mut rest = [0; 10];
    let sub_millisecond = u16::try_from(seq % 1000).expect("a remainder of 1000 is below 1000");
    rest[..2].copy_from_slice(&sub_millisecond.to_be_bytes());
    rest[2..].copy_from_slice(&random);
    Builder::from_unix_timestamp_millis(seq / 1000, &rest).into_uuid()
}

pub(super) fn event_id(uuid: Uuid) -> EventId {
    uuid.to_string().parse().expect("a UUID is printable ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_ascend_together() {
        let mut sequence = Sequence::after(0);
        let mut names = Vec::new();
        for _ in 0..5000 {
            names.push(event_id(new_uuid(sequence.next())));
        }
        assert!(names.is_sorted_by(|a, b| a < b));
        assert!(age(sequence.next()) < Duration::from_secs(60));
    }

    #[test]
    fn a_clock_that_went_back_does_not_bring_the_order_down() {
        let future = at(SystemTime::now() + Duration::from_secs(3600));
        assert_eq!(Sequence::after(future).next(), future + 1);
    }
}
