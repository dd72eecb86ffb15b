//! Reads a table in the order of its key, around pages that cannot be read.

use std::collections::HashSet;

use rusqlite::{Connection, Error, ErrorCode, Row};

use super::super::Seq;

/// After a failure each of this many keys is tried, then ever larger steps are made.
const SINGLE_STEPS: u64 = 1 << 20;
/// The number of keys that are tried after the last known key: the late index lacks at most this number of events.
const BEHIND: u64 = 50_000;

/// Visits the rows of a query, and goes on behind pages that cannot be read.
///
/// The query is sorted by its column `key`; its only parameter is the first key. `visit` returns whether the row is whole: the key of
/// a damaged row may be wrong, so reading does not go on behind it. `skipped` gets the first and the last key of a gap. `last` is the last key
/// that is known: behind it the keys of one run of the index are tried, too.
pub(super) fn scan<E: From<Error>>(
    db: &Connection,
    sql: &str,
    last: Seq,
    mut visit: impl FnMut(Seq, &Row<'_>) -> Result<bool, E>,
    mut skipped: impl FnMut(Seq, Seq),
) -> Result<(), E> {
    let mut statement = db.prepare(sql)?;
    let (mut next, mut gap, mut damaged): (Seq, Option<Seq>, _) = (0, None, HashSet::new());
    loop {
        let start = next;
        let mut rows = statement.query([start.cast_signed()])?;
        loop {
            let row = match rows.next() {
                Ok(Some(row)) => row,
                Ok(None) => {
                    if let Some(first) = gap {
                        skipped(first, start - 1);
                    }
                    return Ok(());
                }
                Err(error) if is_damage(&error) => break,
                Err(error) => return Err(error.into()),
            };
            let key = row.get("key").map_or(0, i64::cast_unsigned);
            if damaged.contains(&key) {
                continue;
            }
            if visit(key, row)? {
                damaged.clear();
                if let Some(first) = gap.take() {
                    skipped(first, key.saturating_sub(1));
                }
                next = next.max(key + 1);
            } else {
                damaged.insert(key);
            }
        }
        if next == start {
            next += 1 + (start - *gap.get_or_insert(start)) / SINGLE_STEPS;
        }
        if next > last + BEHIND {
            let first = gap.unwrap_or(next);
            skipped(first, last.max(first));
            return Ok(());
        }
    }
}

/// Whether the database or the disk is damaged, rather than the access to it.
pub(super) fn is_damage(error: &Error) -> bool {
    let code = error.sqlite_error_code();
    matches!(code, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::SystemIoFailure))
        || is_wrong_kind(error)
}

/// Whether a value is not of the kind that its column has.
pub(super) fn is_wrong_kind(error: &Error) -> bool {
    matches!(
        error,
        Error::FromSqlConversionFailure(..)
            | Error::InvalidColumnType(..)
            | Error::IntegralValueOutOfRange(..)
    )
}
