//! The prefetch buffer: a channel from the websocket to the consumer, limited in items and in bytes.

use std::task::{Context, Poll};

use tokio::sync::{mpsc, watch};

use crate::Error;

/// Creates a buffer of at most `items` items. No item is added while the buffered ones came in `bytes` bytes of messages or
/// more, so the buffer exceeds this limit by one message at most, and an empty buffer accepts a message of any size.
pub(crate) fn buffer<T>(items: usize, bytes: usize) -> (PrefetchSender<T>, PrefetchReceiver<T>) {
    let (sender, receiver) = mpsc::channel(items);
    let sender = PrefetchSender { items: sender, buffered_bytes: watch::Sender::new(0), max_bytes: bytes };
    (sender, PrefetchReceiver(receiver))
}

pub(crate) struct PrefetchSender<T> {
    items: mpsc::Sender<Result<Prefetched<T>, Error>>,
    buffered_bytes: watch::Sender<usize>,
    max_bytes: usize,
}

impl<T> PrefetchSender<T> {
    /// Waits until the buffer accepts another item. `None` if the receiver is gone.
    pub(crate) async fn reserve(&self) -> Option<Slot<'_, T>> {
        let mut buffered = self.buffered_bytes.subscribe();
        // Fails only without a sender, and `self` has one.
        buffered.wait_for(|bytes| *bytes < self.max_bytes).await.ok()?;
        let permit = self.items.reserve().await.ok()?;
        Some(Slot { permit, buffered_bytes: &self.buffered_bytes })
    }

    /// Sends the last item, an error.
    pub(crate) async fn fail(&self, error: Error) {
        // The receiver is gone; ignore.
        let _ = self.items.send(Err(error)).await;
    }

    /// Waits until the receiver is gone.
    pub(crate) async fn closed(&self) {
        self.items.closed().await;
    }

    pub(crate) fn max_items(&self) -> usize {
        self.items.max_capacity()
    }
}

/// A reserved slot of the buffer.
pub(crate) struct Slot<'a, T> {
    permit: mpsc::Permit<'a, Result<Prefetched<T>, Error>>,
    buffered_bytes: &'a watch::Sender<usize>,
}

impl<T> Slot<'_, T> {
    /// Adds an item that came in a message of `bytes` bytes.
    pub(crate) fn send(self, item: T, bytes: usize) {
        self.buffered_bytes.send_modify(|buffered| *buffered += bytes);
        let reservation = Reservation { bytes, buffered_bytes: self.buffered_bytes.clone() };
        self.permit.send(Ok(Prefetched { item, _reservation: reservation }));
    }
}

#[derive(Debug)]
pub(crate) struct PrefetchReceiver<T>(mpsc::Receiver<Result<Prefetched<T>, Error>>);

impl<T> PrefetchReceiver<T> {
    pub(crate) fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Prefetched<T>, Error>>> {
        self.0.poll_recv(cx)
    }
}

/// An item whose bytes count as buffered until it is taken or dropped.
#[derive(Debug)]
pub(crate) struct Prefetched<T> {
    item: T,
    _reservation: Reservation,
}

impl<T> Prefetched<T> {
    pub(crate) fn get(&self) -> &T {
        &self.item
    }

    /// Hands the item to the consumer.
    pub(crate) fn take(self) -> T {
        self.item
    }
}

#[derive(Debug)]
struct Reservation {
    bytes: usize,
    buffered_bytes: watch::Sender<usize>,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.buffered_bytes.send_modify(|buffered| *buffered -= self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn the_buffer_is_limited_in_items_and_bytes() {
        let (sender, mut receiver) = buffer(3, 10);
        let add = |bytes| match sender.reserve().now_or_never() {
            Some(slot) => {
                slot.unwrap().send((), bytes);
                true
            }
            None => false,
        };
        let mut receive = || poll_fn(|cx| receiver.poll_recv(cx)).now_or_never().unwrap().unwrap().unwrap();
        assert!(add(9) && add(1), "below the limit");
        assert!(!add(1), "at the byte limit");
        let held = receive();
        assert!(!add(1), "an item that was received but not taken still counts");
        held.take();
        assert!(add(1) && add(1));
        assert!(!add(1), "at the item limit");
        for _ in 0..3 {
            receive().take();
        }
        assert!(add(1000), "an empty buffer accepts a message of any size");
        assert!(!add(1));
    }

    #[tokio::test]
    async fn a_waiting_reservation_ends_with_the_receiver() {
        let (sender, receiver) = buffer(1, 10);
        sender.reserve().await.unwrap().send((), 10);
        drop(receiver);
        assert!(sender.reserve().await.is_none());
        sender.closed().await;
    }
}
