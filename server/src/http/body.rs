//! Reading a request's body: all of it, up to a limit, within a time.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use warp::http::{HeaderMap, StatusCode, header};

use super::error::ApiError;

/// How long a sender has for its body. The platform itself gives up after 3 s.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// How much of a refused body is read and thrown away: a sender that is still sending would see a
/// reset instead of the answer.
const MAX_DISCARDED: u64 = 8 << 20;
/// How long that may take.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);
/// The most memory set aside on the word of a `Content-Length` alone.
const MAX_RESERVED: u64 = 64 << 10;

pub(super) type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes, warp::Error>> + Send + Sync>>;

/// A body that was read, and the room that it takes for as long as it is kept.
pub(super) struct Collected {
    pub(super) bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

/// Why a body was not read.
enum Unread {
    TooLarge,
    NoRoom,
    Broken,
}

/// Never waits: bodies that waited for each other's room would all wait for ever.
fn take_room(buffer: &Arc<Semaphore>, bytes: usize) -> Result<OwnedSemaphorePermit, Unread> {
    let bytes = u32::try_from(bytes).map_err(|_| Unread::NoRoom)?;
    Arc::clone(buffer).try_acquire_many_owned(bytes).map_err(|_| Unread::NoRoom)
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

    /// The whole body, where it has at most `limit` bytes and there is room for it in the buffer.
    pub(super) async fn collect(
        mut self,
        limit: u64,
        buffer: &Arc<Semaphore>,
    ) -> Result<Collected, ApiError> {
        match timeout(BODY_TIMEOUT, self.read(limit, buffer)).await {
            Ok(Ok(body)) => Ok(body),
            Ok(Err(Unread::TooLarge)) => {
                self.discard().await;
                Err(ApiError::too_large(limit))
            }
            Ok(Err(Unread::NoRoom)) => {
                self.discard().await;
                Err(ApiError::unavailable(
                    "Too many bodies are on their way just now: send this again later.",
                ))
            }
            Ok(Err(Unread::Broken)) => {
                Err(ApiError::bad_request("The body ended before it was complete: send it again."))
            }
            Err(_) => {
                let detail =
                    format!("The body took longer than {} s: send it again.", BODY_TIMEOUT.as_secs());
                Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, detail))
            }
        }
    }

    async fn read(&mut self, limit: u64, buffer: &Arc<Semaphore>) -> Result<Collected, Unread> {
        if self.declared.is_some_and(|length| length > limit) {
            return Err(Unread::TooLarge);
        }
        let mut room = take_room(buffer, 0)?;
        let reserved = self.declared.unwrap_or(0).min(MAX_RESERVED);
        let mut body = BytesMut::with_capacity(usize::try_from(reserved).unwrap_or(0));
        while let Some(piece) = self.pieces.next().await {
            let piece = piece.map_err(|_| Unread::Broken)?;
            if body.len() as u64 + piece.len() as u64 > limit {
                return Err(Unread::TooLarge);
            }
            room.merge(take_room(buffer, piece.len())?);
            body.extend_from_slice(&piece);
        }
        Ok(Collected { bytes: body.freeze(), _room: room })
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
