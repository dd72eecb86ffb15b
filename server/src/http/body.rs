//! Reads a request body within limits of size, memory and time.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::time::{Instant, timeout, timeout_at};
use warp::http::{HeaderMap, StatusCode, header};
use wwproxy_protocol::AppId;

use super::{
    budget::{Budget, NoRoom, Reservation},
    error::ApiError,
};
use crate::coop::yield_task_if_due;

/// How long a body may take. The platform itself gives up after 3 s.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// The minimum rate of a body, in bytes a second, on average after [`BODY_GRACE`].
const MIN_BODY_RATE: u32 = 16 << 10;
/// How much longer a body may take than at [`MIN_BODY_RATE`].
const BODY_GRACE: Duration = Duration::from_secs(5);
/// How much of a rejected body is read and discarded, in bytes: a sender that is still sending would see a reset instead of
/// the answer.
const MAX_DISCARDED: u64 = 8 << 20;
/// How long discarding a body may take.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);
/// The size of a body's first block, in bytes: the most memory that a `Content-Length` alone reserves.
const FIRST_BLOCK: usize = 64 << 10;
/// The size of each further block, in bytes. Blocks do not grow: the earlier allocations of a growing buffer would stay in the
/// allocator, as much memory as the body itself. Blocks of this size are returned to the system when they are freed.
const BLOCK: usize = 1 << 20;

pub(super) type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes, warp::Error>> + Send + Sync>>;

/// A body that was read, with its reservation in the memory budget.
pub(super) struct Collected {
    pub(super) bytes: Bytes,
    reservation: Reservation,
}

impl Collected {
    /// Returns the future's output, unless the unverified body is evicted before, to make room for other bodies.
    pub(super) async fn unless_evicted<T>(&mut self, future: impl Future<Output = T>) -> Result<T, ApiError> {
        self.reservation.unless_evicted(future).await.map_err(|NoRoom| no_room())
    }

    /// Protects the body from eviction.
    pub(super) fn keep(&self) -> Result<(), ApiError> {
        self.reservation.keep().map_err(|NoRoom| no_room())
    }
}

/// Why reading a body failed.
enum ReadError {
    TooLarge,
    NoRoom,
    TooSlow,
    Broken,
}

impl From<NoRoom> for ReadError {
    fn from(_: NoRoom) -> Self {
        Self::NoRoom
    }
}

fn no_room() -> ApiError {
    ApiError::unavailable("The server is reading too many bodies just now: send this again later.")
}

/// A body that has not been read.
pub(super) struct Body {
    pieces: Pieces,
    declared: Option<u64>,
    /// The sender waits for `100 Continue` before it sends the body, so there is nothing to discard.
    expects_continue: bool,
}

impl Body {
    pub(super) fn new(pieces: Pieces, headers: &HeaderMap) -> Self {
        let declared =
            headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        Self { pieces, declared, expects_continue: headers.contains_key(header::EXPECT) }
    }

    /// Reads the whole body, up to `limit` bytes, within the owner's share of the memory budget.
    pub(super) async fn collect(
        mut self,
        limit: u64,
        budget: &Arc<Budget>,
        owner: Option<AppId>,
    ) -> Result<Collected, ApiError> {
        let mut reservation = budget.reserve(owner);
        let error = match self.read(limit, &mut reservation).await {
            Ok(blocks) => return Ok(Collected { bytes: join(blocks).await, reservation }),
            Err(error) => error,
        };
        drop(reservation);
        match error {
            ReadError::TooLarge => {
                self.discard().await;
                Err(ApiError::too_large(limit))
            }
            ReadError::NoRoom => {
                self.discard().await;
                Err(no_room())
            }
            ReadError::Broken => {
                Err(ApiError::bad_request("The body ended before it was complete: send it again."))
            }
            ReadError::TooSlow => {
                let detail = format!(
                    "The body was sent too slowly: send it again within {} s, and with at least {} KiB/s after the first {} s.",
                    BODY_TIMEOUT.as_secs(),
                    MIN_BODY_RATE >> 10,
                    BODY_GRACE.as_secs()
                );
                Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, detail))
            }
        }
    }

    async fn read(&mut self, limit: u64, reservation: &mut Reservation) -> Result<Vec<Vec<u8>>, ReadError> {
        if self.declared.is_some_and(|length| length > limit) {
            return Err(ReadError::TooLarge);
        }
        let began = Instant::now();
        let mut blocks = Vec::new();
        let mut received = 0;
        loop {
            let next = timeout_at(began + time_for(received), self.pieces.next());
            let piece = match reservation.unless_evicted(next).await? {
                Ok(Some(piece)) => piece.map_err(|_| ReadError::Broken)?,
                Ok(None) => return Ok(blocks),
                Err(_) => return Err(ReadError::TooSlow),
            };
            let left = limit - received;
            if piece.len() as u64 > left {
                return Err(ReadError::TooLarge);
            }
            reservation.grow(piece.len())?;
            let expected = self.declared.map_or(left, |declared| declared.saturating_sub(received));
            append(&mut blocks, &piece, usize::try_from(expected).unwrap_or(BLOCK));
            received += piece.len() as u64;
        }
    }

    /// Reads and discards the body, up to [`MAX_DISCARDED`].
    pub(super) async fn discard(mut self) {
        if self.expects_continue {
            return;
        }
        let read = async {
            let mut left = MAX_DISCARDED;
            while let Some(Ok(piece)) = self.pieces.next().await {
                match left.checked_sub(piece.len() as u64) {
                    Some(rest) => left = rest,
                    None => break,
                }
            }
        };
        // After the timeout a slow sender is answered, although it may see a reset instead.
        let _ = timeout(DISCARD_TIMEOUT, read).await;
    }
}

/// How long a body may have taken when this many bytes were received.
fn time_for(received: u64) -> Duration {
    (BODY_GRACE + Duration::from_secs(received) / MIN_BODY_RATE).min(BODY_TIMEOUT)
}

/// Appends a piece to the last block, and to new blocks as needed. `expected` is the number of bytes still to come.
fn append(blocks: &mut Vec<Vec<u8>>, piece: &[u8], expected: usize) {
    let room = blocks.last().map_or(0, |block| block.capacity() - block.len());
    let (here, rest) = piece.split_at(room.min(piece.len()));
    if let Some(block) = blocks.last_mut() {
        block.extend_from_slice(here);
    }
    if rest.is_empty() {
        return;
    }
    let most = if blocks.is_empty() { FIRST_BLOCK } else { BLOCK };
    let mut block =
        Vec::with_capacity(expected.saturating_sub(here.len()).clamp(rest.len(), most.max(rest.len())));
    block.extend_from_slice(rest);
    blocks.push(block);
}

/// Joins the blocks into one body, and frees each block once it is copied.
async fn join(mut blocks: Vec<Vec<u8>>) -> Bytes {
    if blocks.len() <= 1 {
        return blocks.pop().unwrap_or_default().into();
    }
    let mut body = Vec::with_capacity(blocks.iter().map(Vec::len).sum());
    for block in blocks {
        body.extend_from_slice(&block);
        drop(block);
        yield_task_if_due().await;
    }
    body.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_has_a_grace_a_minimum_rate_and_a_timeout() {
        assert_eq!(time_for(0), BODY_GRACE);
        assert_eq!(time_for(3 * u64::from(MIN_BODY_RATE)), BODY_GRACE + Duration::from_secs(3));
        assert_eq!(time_for(u64::MAX), BODY_TIMEOUT);
    }

    #[tokio::test]
    async fn a_body_is_its_pieces_whatever_their_size() {
        for (length, piece) in [
            (0, 1),
            (1, 1),
            (FIRST_BLOCK, 7000),
            (FIRST_BLOCK + 1, FIRST_BLOCK),
            (3 * BLOCK + 3, 9000),
            (9, 100),
        ] {
            let body: Vec<u8> = (0..=250).cycle().take(length).collect();
            for declared in [true, false] {
                let (mut blocks, mut received) = (Vec::new(), 0);
                for piece in body.chunks(piece) {
                    let expected = if declared { length - received } else { 8 << 20 };
                    append(&mut blocks, piece, expected);
                    received += piece.len();
                }
                assert!(blocks.iter().all(|block| block.capacity() <= BLOCK.max(piece)));
                assert!(join(blocks).await == body, "{length} bytes in pieces of {piece}");
            }
        }
    }
}
