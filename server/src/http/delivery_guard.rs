//! Settles the deliveries of an answer when the answer was written to the socket.
//!
//! A handler attaches a [`DeliveryGuard`] to its response. The deliveries are settled as delivered once the connection has
//! taken the whole body *and* written it to the socket. They are released however else the answer ends: the client
//! disconnected, the connection broke, or the task was dropped.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context as TaskContext, Poll},
};

use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;
use warp::{
    http::{Response as HttpResponse, StatusCode},
    reply::Response,
};

use super::{Context, connections::Serving};
use crate::proxy::Unsettled;

impl Context {
    /// Guards deliveries while their answer is built, which takes a while and may be cancelled.
    pub(super) fn guard(&self, deliveries: Unsettled) -> DeliveryGuard {
        DeliveryGuard { deliveries: Mutex::new(Some(deliveries)), tasks: self.tasks.clone() }
    }
}

/// Releases its deliveries when it is dropped, unless their answer was delivered before.
pub(super) struct DeliveryGuard {
    deliveries: Mutex<Option<Unsettled>>,
    tasks: TaskTracker,
}

impl DeliveryGuard {
    /// Settles the deliveries when it is known whether this response was delivered.
    pub(super) fn attach_to(self, response: &mut Response) {
        response.extensions_mut().insert(Arc::new(self));
    }

    fn take(&self) -> Option<Unsettled> {
        self.deliveries.lock().take()
    }
}

impl Drop for DeliveryGuard {
    fn drop(&mut self) {
        if let Some(deliveries) = self.take() {
            self.tasks.spawn(deliveries.settle(false));
        }
    }
}

/// Counts the flushes of one connection's output.
#[derive(Debug, Default)]
pub(super) struct Flushes {
    /// How often all output so far had been written to the socket.
    count: AtomicU64,
    closed: AtomicBool,
    changed: Notify,
}

impl Flushes {
    /// Records that all output so far was written to the socket.
    pub(super) fn record(&self) {
        self.count.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    /// Records that there will be no more flushes.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// Waits for a flush after the given count. Returns `false` if the connection closes before.
    async fn next_after(&self, count: u64) -> bool {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            // A flush just before the close counts.
            if self.count() > count {
                return true;
            }
            if self.closed.load(Ordering::Acquire) {
                return false;
            }
            changed.await;
        }
    }
}

/// The body of a response, with the guard of its deliveries, if any.
pub(super) struct GuardedBody<B> {
    body: B,
    guard: Option<Arc<DeliveryGuard>>,
    flushes: Arc<Flushes>,
    complete: bool,
    /// The request is served until the connection has taken the body; `None` once it is a websocket.
    _serving: Option<Serving>,
}

/// Moves the guard from the response's extensions into its body.
pub(super) fn guard_body<B>(
    mut response: HttpResponse<B>,
    flushes: &Arc<Flushes>,
    serving: Serving,
) -> HttpResponse<GuardedBody<B>> {
    let guard = response.extensions_mut().remove();
    let serving = if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        serving.upgraded();
        None
    } else {
        Some(serving)
    };
    let flushes = Arc::clone(flushes);
    response.map(|body| GuardedBody { body, guard, flushes, complete: false, _serving: serving })
}

impl<B: Body + Unpin> Body for GuardedBody<B> {
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

impl<B> Drop for GuardedBody<B> {
    fn drop(&mut self) {
        let Some(guard) = self.guard.take() else { return };
        // Dropping the guard of an incomplete body releases its deliveries.
        if !self.complete {
            return;
        }
        let Some(deliveries) = guard.take() else { return };
        // The connection has taken the end of the body: the next flush is the one that writes it to the socket.
        let (flushes, count) = (Arc::clone(&self.flushes), self.flushes.count());
        guard.tasks.spawn(async move { deliveries.settle(flushes.next_after(count).await).await });
    }
}
