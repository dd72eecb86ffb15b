//! Checksums of consumers' rows and of their open events, in two halves: one over what the row belongs to, one over all columns. A
//! row that is damaged elsewhere still says to which consumer and event it belongs.

use rusqlite::Row;
use twox_hash::xxhash3_64::Hasher;

use super::{
    Seq,
    app_log::Total,
    changes::{StoredOpen, StoredState},
};

/// The checksum of a consumer's row. `identity` is the checksum of its app, name and settings.
pub(super) fn consumer(id: i64, identity: i64, position: Seq, passed: Total, dropped: u64) -> i64 {
    let rest = [id.cast_unsigned(), position, passed.count, passed.bytes, dropped];
    combine(identity, rest.map(u64::to_le_bytes).as_flattened())
}

/// The checksum of an open event's row.
pub(super) fn open(consumer: i64, row: &StoredOpen, not_before: i64) -> i64 {
    let rest = (row.state.name(), row.attempt, row.replay, not_before, row.size, &row.reason);
    combine(open_identity(consumer, row.seq), format!("{rest:?}").as_bytes())
}

/// Reads a row of the table `open`, and when the event is due. `None`: the row is damaged.
pub(super) fn read_open(row: &Row<'_>) -> Option<(StoredOpen, i64)> {
    let number = |column| row.get::<_, i64>(column).ok();
    let not_before = number("not_before")?;
    let open = StoredOpen {
        seq: number("seq")?.cast_unsigned(),
        size: row.get("size").ok()?,
        attempt: row.get("attempt").ok()?,
        replay: row.get("replay").ok()?,
        state: StoredState::parse(&row.get::<_, String>("state").ok()?)?,
        nacked_until: None,
        reason: row.get("reason").ok()?,
    };
    (self::open(number("consumer_id")?, &open, not_before) == number("checksum")?)
        .then_some((open, not_before))
}

/// A checksum of which event of which consumer is open.
pub(super) fn open_identity(consumer: i64, seq: Seq) -> i64 {
    Hasher::oneshot([consumer.to_le_bytes(), seq.to_le_bytes()].as_flattened()).cast_signed()
}

/// Whether two checksums are of rows that belong to the same.
pub(super) fn is_same_identity(one: i64, other: i64) -> bool {
    one >> 32 == other >> 32
}

fn combine(identity: i64, rest: &[u8]) -> i64 {
    let all = Hasher::oneshot_with_seed(identity.cast_unsigned(), rest);
    (identity.cast_unsigned() >> 32 << 32 | all >> 32).cast_signed()
}
