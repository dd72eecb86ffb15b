//! Reading a request's body: all of it, up to a limit, within a time.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::time::{Instant, timeout, timeout_at};
use warp::http::{HeaderMap, StatusCode, header};
use wwproxy_protocol::AppId;

use super::{
    budget::{Budget, NoRoom, Room},
    error::ApiError,
};
use crate::coop::yield_task_if_due;

/// How long a sender has for its body. The platform itself gives up after 3 s.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// How many bytes of a body must come in a second, on average after [`BODY_GRACE`].
const MIN_BODY_RATE: u32 = 16 << 10;
/// How long a body may be slower than [`MIN_BODY_RATE`].
const BODY_GRACE: Duration = Duration::from_secs(5);
/// How much of a refused body is read and thrown away: a sender that is still sending would see a
/// reset instead of the answer.
const MAX_DISCARDED: u64 = 8 << 20;
/// How long that may take.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);
/// The bytes of the first block of a body: the most memory set aside on the word of a `Content-Length` alone.
const FIRST_BLOCK: usize = 64 << 10;
/// The bytes of each further block. Blocks do not grow: a buffer that grows leaves its former selves in the allocator,
/// as much memory as the body itself. Larger ones go back to the system when they are freed.
const BLOCK: usize = 1 << 20;

pub(super) type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes, warp::Error>> + Send + Sync>>;

/// A body that was read, and the room that it takes for as long as it is kept.
pub(super) struct Collected {
    pub(super) bytes: Bytes,
    room: Room,
}

impl Collected {
    /// What this future yields, unless the body is evicted before: others need its room, and it is not verified yet.
    pub(super) async fn unless_evicted<T>(&mut self, future: impl Future<Output = T>) -> Result<T, ApiError> {
        self.room.unless_evicted(future).await.map_err(|NoRoom| no_room())
    }

    /// From now on the body is not evicted.
    pub(super) fn keep(&self) -> Result<(), ApiError> {
        self.room.keep().map_err(|NoRoom| no_room())
    }
}

/// Why a body was not read.
enum Unread {
    TooLarge,
    NoRoom,
    TooSlow,
    Broken,
}

impl From<NoRoom> for Unread {
    fn from(_: NoRoom) -> Self {
        Self::NoRoom
    }
}

fn no_room() -> ApiError {
    ApiError::unavailable("Too many bodies are on their way just now: send this again later.")
}

/// A body that has not been read.
pub(super) struct Body {
    pieces: Pieces,
    declared: Option<u64>,
    /// The sender waits for leave before it sends (`Expect: 100-continue`), so there is nothing to discard.
    waits: bool,
}

impl Body {
    pub(super) fn new(pieces: Pieces, headers: &HeaderMap) -> Self {
        let declared =
            headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        Self { pieces, declared, waits: headers.contains_key(header::EXPECT) }
    }

    /// The whole body, where it has at most `limit` bytes and there is room for it in the owner's share of the budget.
    pub(super) async fn collect(
        mut self,
        limit: u64,
        budget: &Arc<Budget>,
        owner: Option<AppId>,
    ) -> Result<Collected, ApiError> {
        let mut room = budget.open(owner);
        let unread = match self.read(limit, &mut room).await {
            Ok(blocks) => return Ok(Collected { bytes: join(blocks).await, room }),
            Err(unread) => unread,
        };
        drop(room);
        match unread {
            Unread::TooLarge => {
                self.discard().await;
                Err(ApiError::too_large(limit))
            }
            Unread::NoRoom => {
                self.discard().await;
                Err(no_room())
            }
            Unread::Broken => {
                Err(ApiError::bad_request("The body ended before it was complete: send it again."))
            }
            Unread::TooSlow => {
                let detail = format!(
                    "The body came too slowly: send it again within {} s, and with at least {} KiB/s after the first {} s.",
                    BODY_TIMEOUT.as_secs(),
                    MIN_BODY_RATE >> 10,
                    BODY_GRACE.as_secs()
                );
                Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, detail))
            }
        }
    }

    async fn read(&mut self, limit: u64, room: &mut Room) -> Result<Vec<Vec<u8>>, Unread> {
        if self.declared.is_some_and(|length| length > limit) {
            return Err(Unread::TooLarge);
        }
        let began = Instant::now();
        let mut blocks = Vec::new();
        let mut received = 0;
        loop {
            let next = timeout_at(began + time_for(received), self.pieces.next());
            let piece = match room.unless_evicted(next).await? {
                Ok(Some(piece)) => piece.map_err(|_| Unread::Broken)?,
                Ok(None) => return Ok(blocks),
                Err(_) => return Err(Unread::TooSlow),
            };
            let left = limit - received;
            if piece.len() as u64 > left {
                return Err(Unread::TooLarge);
            }
            room.grow(piece.len())?;
            let expected = self.declared.map_or(left, |declared| declared.saturating_sub(received));
            append(&mut blocks, &piece, usize::try_from(expected).unwrap_or(BLOCK));
            received += piece.len() as u64;
        }
    }

    /// Reads the body and throws it away, as far as that is reasonable.
    pub(super) async fn discard(mut self) {
        if self.waits {
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
        // A slow sender gets its answer now, and maybe does not see it.
        let _ = timeout(DISCARD_TIMEOUT, read).await;
    }
}

/// How long a body may take of which so much has come.
fn time_for(received: u64) -> Duration {
    (BODY_GRACE + Duration::from_secs(received) / MIN_BODY_RATE).min(BODY_TIMEOUT)
}

/// Appends a piece to the last block, and to new ones as needed; so many bytes are expected from here on.
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

/// One body from its blocks, each of which is freed once it is copied.
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
    fn a_body_has_a_grace_a_rate_and_an_end() {
        assert_eq!(time_for(0), BODY_GRACE);
        assert_eq!(time_for(3 * u64::from(MIN_BODY_RATE)), BODY_GRACE + Duration::from_secs(3));
        assert_eq!(time_for(u64::MAX), BODY_TIMEOUT);
    }

    #[tokio::test]
    async fn a_body_is_its_pieces_however_they_are_cut() {
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
