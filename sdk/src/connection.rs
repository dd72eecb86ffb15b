//! One websocket, from its first frame to its end.

use std::{
    future::poll_fn,
    mem,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Sink, Stream};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    select,
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, Message, error::CapacityError},
};
use wwproxy_protocol::{ClientMessage, EventId, ServerMessage};

use self::clock::Clock;
pub(crate) use self::handshake::connect;
use crate::{
    Error, ErrorKind,
    delivery::{Order, Verdict},
    feed::Feed,
    prefetch::{PrefetchSender, Slot},
};

mod clock;
mod handshake;

/// How long a goodbye may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// How many acks go into one message at most: some 10 KiB.
const MAX_ACK_BATCH: usize = 256;
/// While pongs of more bytes than this are waiting to be sent, nothing is read: a server that sends pings and reads nothing
/// would fill the memory with them.
const MAX_PONG_BYTES: usize = 16 * 1024;
/// A frame's header and mask, in bytes.
const FRAME_OVERHEAD: usize = 6;

/// How a connection ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// Nobody wants its events any more.
    Unsubscribed,
    /// It broke, or the server closed it.
    Lost {
        error: Error,
        /// Whether it was of use before, so that a new one may be tried at once.
        worked: bool,
    },
}

/// One websocket that feeds a stream and carries the acks of what it yields.
pub(crate) struct Connection<'a, S, F: Feed> {
    socket: WebSocketStream<S>,
    /// Whether the server speaks `wwproxy.v2`: many acks a message, and nacks.
    v2: bool,
    items: &'a PrefetchSender<F::Item>,
    feed: F,
    /// Called once, when the server is ready.
    tell: Option<&'a (dyn Fn(bool) + Sync)>,
    orders: mpsc::Receiver<Order>,
    /// Keeps the orders open where the feed gives none.
    _orders: mpsc::Sender<Order>,
    /// Reserved for the next item. Nothing is read without it, which is the backpressure to the server.
    slot: Option<Slot<'a, F::Item>>,
    /// Orders that are written and not flushed yet, and since when.
    unflushed: Vec<oneshot::Sender<()>>,
    flushing: Option<Instant>,
    /// The bytes of pongs that are written and not flushed yet.
    pongs: usize,
    clock: Clock,
    delivered: bool,
}

enum Io {
    Flushed(Result<(), tungstenite::Error>),
    Received(Option<Result<Message, tungstenite::Error>>),
}

/// A connection that lasted so long has worked, even if no event came.
const WORKED_AFTER: Duration = Duration::from_secs(5);

impl<'a, S: AsyncRead + AsyncWrite + Unpin, F: Feed> Connection<'a, S, F> {
    pub(crate) fn new(
        socket: WebSocketStream<S>,
        v2: bool,
        idle_timeout: Duration,
        items: &'a PrefetchSender<F::Item>,
        feed: impl FnOnce(mpsc::Sender<Order>) -> F,
        tell: &'a (dyn Fn(bool) + Sync),
    ) -> Self {
        // As many as can be outstanding: an ack waits for the socket, not for a place in the channel.
        let (sender, orders) = mpsc::channel(items.max_items());
        Self {
            socket,
            v2,
            items,
            feed: feed(sender.clone()),
            tell: Some(tell),
            orders,
            _orders: sender,
            slot: None,
            unflushed: Vec::new(),
            flushing: None,
            pongs: 0,
            clock: Clock::new(idle_timeout),
            delivered: false,
        }
    }

    /// Runs the connection.
    ///
    /// Its inputs: a free slot of the prefetch buffer, which lets it read on; acks and nacks, taken together while nothing is
    /// being flushed; the socket, read and flushed side by side so that neither waits for the other, unless the output
    /// consists of too many pongs; the clock, for pings and deadlines. Output that is not flushed within 30 s ends it. It ends when the subscription is gone (with the pending acks and a goodbye sent), when the server
    /// closes or breaks the connection, or when a deadline passes.
    pub(crate) async fn run(mut self) -> Ended {
        if let Err(error) = self.feed.opened(self.v2) {
            return Ended::Lost { error, worked: false };
        }
        if !self.v2 {
            self.ready();
        }
        let mut orders = Vec::new();
        let error = loop {
            let has_slot = self.slot.is_some();
            let (reading, flushing) = (has_slot && self.pongs <= MAX_PONG_BYTES, self.flushing.is_some());
            let step = select! {
                () = self.items.closed() => return self.close().await,
                slot = self.items.reserve(), if !has_slot => {
                    self.slot = slot;
                    // What came while nothing was read was not heard.
                    self.clock.heard();
                    Ok(())
                }
                _ = self.orders.recv_many(&mut orders, MAX_ACK_BATCH), if !flushing => self.carry_out(&mut orders),
                io = poll_fn(|cx| poll_io(&mut self.socket, cx, reading, flushing)) => match io {
                    Io::Flushed(result) => self.flushed(result),
                    Io::Received(message) => self.receive(message).await,
                },
                () = sleep_until(self.clock.next(reading, self.flushing)) => self.tick(reading),
            };
            if let Err(error) = step {
                break error;
            }
        };
        Ended::Lost { error, worked: self.delivered || self.clock.opened.elapsed() >= WORKED_AFTER }
    }

    /// Writes acks and nacks. Their senders are answered once they are flushed.
    fn carry_out(&mut self, orders: &mut Vec<Order>) -> Result<(), Error> {
        let acked: Vec<EventId> = orders
            .iter()
            .filter(|order| order.verdict == Verdict::Ack)
            .map(|order| order.id.clone())
            .collect();
        let at_once = if self.v2 { MAX_ACK_BATCH } else { 1 };
        for ids in acked.chunks(at_once) {
            self.write(Message::text(ClientMessage::ack(ids)))?;
        }
        for order in orders.drain(..) {
            match order.verdict {
                Verdict::Nack(delay) if self.v2 => {
                    self.write(Message::text(ClientMessage::nack(&order.id, delay)))?;
                }
                Verdict::Nack(_) | Verdict::Ack => {}
            }
            self.unflushed.push(order.written);
        }
        self.flushing.get_or_insert_with(Instant::now);
        Ok(())
    }

    fn write(&mut self, message: Message) -> Result<(), Error> {
        self.flushing.get_or_insert_with(Instant::now);
        // tungstenite takes every message into its buffer, so no readiness is to be awaited. A batch is written only once the
        // one before is flushed, and fits into the buffer's limit.
        Pin::new(&mut self.socket).start_send(message).map_err(lost)
    }

    fn flushed(&mut self, result: Result<(), tungstenite::Error>) -> Result<(), Error> {
        result.map_err(lost)?;
        self.flushing = None;
        if mem::take(&mut self.pongs) > MAX_PONG_BYTES {
            // Nothing was read meanwhile, so the silence is not the server's.
            self.clock.heard();
        }
        for written in self.unflushed.drain(..) {
            // Who gave up waiting has been served all the same.
            let _ = written.send(());
        }
        Ok(())
    }

    async fn receive(&mut self, message: Option<Result<Message, tungstenite::Error>>) -> Result<(), Error> {
        self.clock.heard();
        match message {
            Some(Ok(Message::Text(text))) => self.take(&text),
            Some(Ok(Message::Close(frame))) => {
                // The answer to a close frame is courtesy: the connection is over either way.
                let _ = timeout(CLOSE_TIMEOUT, poll_fn(|cx| Pin::new(&mut self.socket).poll_flush(cx))).await;
                let why = frame.map_or_else(String::new, |frame| format!(" ({})", u16::from(frame.code)));
                Err(Error::new(ErrorKind::Disconnected, format!("the server closed the connection{why}")))
            }
            Some(Ok(Message::Ping(data))) => {
                // The codec has queued a pong.
                self.pongs += data.len() + FRAME_OVERHEAD;
                self.flushing.get_or_insert_with(Instant::now);
                Ok(())
            }
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(lost(error)),
            None => Err(Error::new(ErrorKind::Disconnected, "the connection ended without a goodbye")),
        }
    }

    fn take(&mut self, text: &str) -> Result<(), Error> {
        let message = ServerMessage::parse(text).map_err(|error| {
            // A new connection may meet a server that is well again, so this ends no subscription.
            Error::new(ErrorKind::Disconnected, "the server sent a message that cannot be read")
                .because(error)
        })?;
        let item = match message {
            ServerMessage::Hello(hello) => {
                self.clock.hurry(Duration::from_millis(hello.idle_ms));
                tracing::debug!(window = hello.window, lease_ms = hello.lease_ms, "the server said hello");
                let item = self.feed.hello(&hello)?;
                self.ready();
                item
            }
            ServerMessage::Event(event) => {
                let id = event.id.clone();
                let item = self.feed.event(*event)?;
                self.delivered = true;
                self.ready();
                if item.is_none() {
                    tracing::debug!(%id, "came again while its first copy is still in hand");
                }
                item
            }
            ServerMessage::Gap { missed } => self.feed.gap(missed),
            ServerMessage::Unknown => {
                tracing::debug!("ignored a message that means nothing here");
                None
            }
        };
        if let Some(item) = item {
            let slot = self.slot.take().expect("nothing is read without a slot");
            slot.send(item, text.len());
        }
        Ok(())
    }

    fn ready(&mut self) {
        if let Some(tell) = self.tell.take() {
            tell(self.v2);
        }
    }

    fn tick(&mut self, reading: bool) -> Result<(), Error> {
        if self.clock.is_over(reading, self.flushing) {
            return Err(Error::new(
                ErrorKind::Disconnected,
                "the connection is dead: nothing comes or goes any more",
            ));
        }
        if self.flushing.is_none() && self.clock.is_ping_due() {
            self.clock.pinged();
            self.write(Message::Ping(bytes::Bytes::new()))?;
        }
        Ok(())
    }

    /// Sends what was decided before the end, and a close frame, so that the server hands the rest to others at once.
    async fn close(mut self) -> Ended {
        self.orders.close();
        let goodbye = async {
            let mut orders = Vec::new();
            while self.orders.recv_many(&mut orders, MAX_ACK_BATCH).await > 0 {
                self.carry_out(&mut orders)?;
            }
            self.write(Message::Close(None))?;
            let result = poll_fn(|cx| Pin::new(&mut self.socket).poll_flush(cx)).await;
            self.flushed(result)?;
            // Until the server has closed too: events that were never read would make the system reset the
            // connection, and with it the acks that are still on their way.
            while let Some(Ok(_)) = poll_fn(|cx| Pin::new(&mut self.socket).poll_next(cx)).await {}
            Ok::<_, Error>(())
        };
        match timeout(CLOSE_TIMEOUT, goodbye).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "no goodbye"),
            Err(_) => tracing::debug!("no goodbye in time"),
        }
        Ended::Unsubscribed
    }
}

fn poll_io<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
    cx: &mut Context<'_>,
    reading: bool,
    flushing: bool,
) -> Poll<Io> {
    if flushing && let Poll::Ready(result) = Pin::new(&mut *socket).poll_flush(cx) {
        return Poll::Ready(Io::Flushed(result));
    }
    if reading && let Poll::Ready(message) = Pin::new(socket).poll_next(cx) {
        return Poll::Ready(Io::Received(message));
    }
    Poll::Pending
}

fn lost(error: tungstenite::Error) -> Error {
    let error_kind = match &error {
        // It would come again over every new connection.
        tungstenite::Error::Capacity(CapacityError::MessageTooLong { size, max_size }) => {
            let message = format!(
                "an event is larger ({size} bytes) than a message may be; raise max_message_bytes ({max_size})"
            );
            Error::new(ErrorKind::Protocol, message)
        }
        _ => Error::new(ErrorKind::Disconnected, "the connection broke"),
    };
    error_kind.because(error)
}

#[cfg(test)]
mod tests;
