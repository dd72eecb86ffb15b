//! The timeline: the outcomes of deliveries, as rows of the database.
//!
//! Acknowledged first attempts are packed, many in a row, since they are most of all outcomes. Any other outcome is a row of its own.

use rusqlite::Connection;

use super::Seq;

/// The outcome of an acknowledged delivery.
pub(super) const ACKED: &str = "acked";
/// The outcome of a row of the timeline that counts a replay: its attempt is the number of the replay.
pub(super) const REPLAYED: &str = "replayed";
/// The seqs of a packed row differ by this at most, so that the rows with an event are found in a small range.
const MAX_SPAN: Seq = 4096;

/// The outcome of one delivery of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) seq: Seq,
    /// In microseconds since 1970.
    pub(super) at: i64,
    /// The attempt; of a replay its number.
    pub(super) attempt: u32,
    pub(super) what: String,
    pub(super) reason: Option<String>,
    /// How long the event was leased, in milliseconds.
    pub(super) took: u32,
}

/// Splits acknowledged first attempts into rows, and packs each: for each event the difference of its seq to the one before, and its
/// time, as LEB128 numbers. Returns the first and the last seq of each row with its numbers.
pub(super) fn pack(acked: &mut [(Seq, u32)]) -> Vec<(Seq, Seq, Vec<u8>)> {
    acked.sort_unstable();
    let mut rows: Vec<(Seq, Seq, Vec<u8>)> = Vec::new();
    for &(seq, took) in &*acked {
        if rows.last().is_none_or(|(first, ..)| seq - first > MAX_SPAN) {
            rows.push((seq, seq, Vec::new()));
        }
        if let Some((_, last, packed)) = rows.last_mut() {
            push_number(packed, seq - *last);
            push_number(packed, u64::from(took));
            *last = seq;
        }
    }
    rows
}

fn push_number(packed: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        packed.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    packed.push((number & 0x7f) as u8);
}

fn unpack(first: Seq, packed: &[u8]) -> Vec<(Seq, u32)> {
    let mut bytes = packed.iter();
    let mut number = || {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = *bytes.next()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        Some(number)
    };
    let (mut seq, mut unpacked) = (first, Vec::new());
    while let (Some(step), Some(took)) = (number(), number()) {
        seq = seq.saturating_add(step);
        unpacked.push((seq, u32::try_from(took).unwrap_or(u32::MAX)));
    }
    unpacked
}

/// Reads what a consumer did with the events from `first` to `last`, the oldest outcome first.
pub(super) fn outcomes(
    db: &Connection,
    consumer: i64,
    first: Seq,
    last: Seq,
) -> rusqlite::Result<Vec<Outcome>> {
    let mut rows = db.prepare_cached(
        "SELECT at, first_seq, attempt, outcome, reason, packed FROM deliveries \
         WHERE consumer_id = ? AND last_seq BETWEEN ? AND ? AND first_seq <= ?",
    )?;
    let (low, high) = (first.cast_signed(), (last + MAX_SPAN).cast_signed());
    let mut rows = rows.query((consumer, low, high, last.cast_signed()))?;
    let mut outcomes = Vec::new();
    while let Some(row) = rows.next()? {
        let (at, seq, attempt): (_, i64, _) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let (what, reason): (String, _) = (row.get(3)?, row.get(4)?);
        let (seq, packed) = (seq.cast_unsigned(), row.get::<_, Option<Vec<u8>>>(5)?.unwrap_or_default());
        if what == ACKED && attempt == 1 {
            let unpacked = unpack(seq, &packed).into_iter();
            let wanted = unpacked.filter(|(seq, _)| (first..=last).contains(seq));
            outcomes.extend(wanted.map(|(seq, took)| {
                let what = ACKED.to_owned();
                Outcome { seq, at, attempt, what, reason: None, took }
            }));
        } else {
            let took = packed.try_into().map_or(0, u32::from_le_bytes);
            outcomes.push(Outcome { seq, at, attempt, what, reason, took });
        }
    }
    outcomes.sort_by_key(|outcome| outcome.at);
    Ok(outcomes)
}

impl Outcome {
    /// Whether a delivery ended. Otherwise the event was replayed.
    pub(super) fn is_delivery(&self) -> bool {
        self.what != REPLAYED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_rows_are_read_again_and_none_is_too_wide() {
        let mut acked =
            vec![(70_000, 5), (7, 1 << 20), (8, 0), (9, u32::MAX), (7 + MAX_SPAN, 2), (70_200, 128)];
        let rows = pack(&mut acked);
        let bounds: Vec<_> = rows.iter().map(|(first, last, _)| (*first, *last)).collect();
        assert_eq!(bounds, [(7, 7 + MAX_SPAN), (70_000, 70_200)]);
        let unpacked: Vec<_> = rows.iter().flat_map(|(first, _, packed)| unpack(*first, packed)).collect();
        assert_eq!(unpacked, acked);
        assert_eq!(pack(&mut []), []);
        assert_eq!(unpack(1, &[0x80, 0xff]), []);
    }
}
