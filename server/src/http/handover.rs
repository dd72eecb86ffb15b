//! Tells whether an answer with events in it was handed to its connection in full.
//!
//! A handler puts the [`Handover`] beside its answer. It is finished as delivered once the whole body
//! has been taken by the connection *and* written to the socket, and as not delivered however else
//! the answer ends: the client went, the connection broke, the task was dropped.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context as TaskContext, Poll},
};

use http_body::{Body, Frame, SizeHint};
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;
use warp::{
    http::{Response as HttpResponse, StatusCode},
    reply::Response,
};

use super::{Context, connections::Serving};
use crate::proxy::Handover;

impl Context {
    /// Holds a handover while its answer is made, which takes a while and may be given up.
    pub(super) fn hold(&self, handover: Handover) -> Pending {
        Pending { handover: Mutex::new(Some(handover)), tasks: self.tasks.clone() }
    }
}

/// A handover on its way. Dropped with it still in hand, it was not delivered.
pub(super) struct Pending {
    handover: Mutex<Option<Handover>>,
    tasks: TaskTracker,
}

impl Pending {
    /// Finishes it when it is known whether this response was delivered.
    pub(super) fn go_with(self, response: &mut Response) {
        response.extensions_mut().insert(Arc::new(self));
    }

    fn take(&self) -> Option<Handover> {
        self.handover.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(handover) = self.take() {
            self.tasks.spawn(handover.finish(false));
        }
    }
}

/// What is known of one connection's output.
#[derive(Debug, Default)]
pub(super) struct Wire {
    /// How often all output so far had been written to the socket.
    flushes: AtomicU64,
    closed: AtomicBool,
    changed: Notify,
}

impl Wire {
    /// All that was written so far has gone to the socket.
    pub(super) fn flushed(&self) {
        self.flushes.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    /// Nothing more goes to the socket.
    pub(super) fn closed(&self) {
        self.closed.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::Acquire)
    }

    /// Whether there comes another flush after this many.
    async fn flushes_again(&self, since: u64) -> bool {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            // A flush that came just before the end counts.
            if self.flushes() > since {
                return true;
            }
            if self.closed.load(Ordering::Acquire) {
                return false;
            }
            changed.await;
        }
    }
}

/// The body of a response, which may have a handover with it.
pub(super) struct Tracked<B> {
    body: B,
    pending: Option<Arc<Pending>>,
    wire: Arc<Wire>,
    complete: bool,
    /// The request is served until the connection has taken the body; `None` once it is a websocket.
    _serving: Option<Serving>,
}

/// Takes the handover from beside the response into its body.
pub(super) fn track<B>(
    mut response: HttpResponse<B>,
    wire: &Arc<Wire>,
    serving: Serving,
) -> HttpResponse<Tracked<B>> {
    let pending = response.extensions_mut().remove();
    let serving = if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        serving.upgraded();
        None
    } else {
        Some(serving)
    };
    response.map(|body| Tracked { body, pending, wire: Arc::clone(wire), complete: false, _serving: serving })
}

impl<B: Body + Unpin> Body for Tracked<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        self.complete = match &frame {
            Poll::Ready(Some(Ok(_))) => self.body.is_end_stream(),
            Poll::Ready(None) => true,
            Poll::Ready(Some(Err(_))) | Poll::Pending => false,
        };
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for Tracked<B> {
    fn drop(&mut self) {
        let Some(pending) = self.pending.take() else { return };
        // What is not complete is dropped with `pending`.
        if !self.complete {
            return;
        }
        let Some(handover) = pending.take() else { return };
        // The connection has taken the last of the body: the next flush is the one that sent it.
        let (wire, flushes) = (Arc::clone(&self.wire), self.wire.flushes());
        pending.tasks.spawn(async move { handover.finish(wire.flushes_again(flushes).await).await });
    }
}
