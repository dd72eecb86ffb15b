//! A request body that is sent in chunks, so that an early response is not lost.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use http_body::{Frame, SizeHint};
use tokio::{task::yield_now, time::sleep};
use wwproxy_sdk::Bytes;

/// How many bytes are written before the connection is read again.
pub(super) const CHUNK_BYTES: usize = 64 * 1024;
/// How long a careful body waits for a response to the head, as curl does with `Expect: 100-continue`.
const HEAD_WAIT: Duration = Duration::from_secs(1);

/// A body in chunks. A server may respond to the head and close the connection without reading the body. hyper drops that response if
/// its write fails first, so it gets a chance to read between two chunks.
pub(super) struct Chunked {
    rest: Bytes,
    /// Set when the connection asks for the body: the request is being written.
    started: Arc<AtomicBool>,
    pause: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
}

impl Chunked {
    pub(super) fn new(body: Bytes) -> Self {
        // An empty body is never asked for.
        let started = Arc::new(AtomicBool::new(body.is_empty()));
        Self { rest: body, started, pause: None }
    }

    /// If the body has more than one chunk, it first waits for a response to the head.
    pub(super) fn careful(body: Bytes) -> Self {
        let waits = body.len() > CHUNK_BYTES;
        Self { pause: waits.then(|| Box::pin(sleep(HEAD_WAIT)) as _), ..Self::new(body) }
    }

    /// Whether the connection has asked for the body, and so may have written the request.
    pub(super) fn started(&self) -> Arc<AtomicBool> {
        self.started.clone()
    }
}

impl http_body::Body for Chunked {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.started.store(true, Ordering::Relaxed);
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
        }
        let length = self.rest.len().min(CHUNK_BYTES);
        let chunk = self.rest.split_to(length);
        // Yields, so that the runtime polls the socket for reading.
        self.pause = Some(Box::pin(yield_now()));
        Poll::Ready((!chunk.is_empty()).then(|| Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}
