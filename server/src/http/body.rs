//! Reading a request's body: all of it, up to a limit, within a time.

use std::{pin::Pin, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use tokio::time::timeout;
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

    /// The whole body, where it has at most `limit` bytes.
    pub(super) async fn collect(mut self, limit: u64) -> Result<Bytes, ApiError> {
        match timeout(BODY_TIMEOUT, self.read(limit)).await {
            Ok(Ok(Some(body))) => Ok(body),
            Ok(Ok(None)) => {
                self.discard().await;
                Err(ApiError::too_large(limit))
            }
            Ok(Err(_)) => Err(ApiError::bad_request("The body ended before it was complete: send it again.")),
            Err(_) => {
                let detail =
                    format!("The body took longer than {} s: send it again.", BODY_TIMEOUT.as_secs());
                Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, detail))
            }
        }
    }

    async fn read(&mut self, limit: u64) -> Result<Option<Bytes>, warp::Error> {
        if self.declared.is_some_and(|length| length > limit) {
            return Ok(None);
        }
        let reserved = self.declared.unwrap_or(0).min(MAX_RESERVED);
        let mut body = BytesMut::with_capacity(usize::try_from(reserved).unwrap_or(0));
        while let Some(piece) = self.pieces.next().await {
            let piece = piece?;
            if body.len() as u64 + piece.len() as u64 > limit {
                return Ok(None);
            }
            body.extend_from_slice(&piece);
        }
        Ok(Some(body.freeze()))
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
