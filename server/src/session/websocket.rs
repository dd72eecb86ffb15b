//! A websocket that reads and writes concurrently: acknowledgements are read while output is unsent, and cancelling loses
//! no message.
//!
//! Output is bounded (backpressure): events are queued only when all earlier output was sent, pings are not read while too
//! many pongs are unsent, and unsent output has a deadline.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, Sink, SinkExt, Stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy, sink},
    task::yield_now,
    time::{Instant, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message, Utf8Bytes,
        protocol::{
            CloseFrame,
            frame::{
                Frame,
                coding::{CloseCode, Data, OpCode},
            },
        },
    },
};

use crate::coop::yield_if_due;

/// How long sending the close frame may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest frame, in bytes. A longer message is sent in fragments (RFC 6455, section 5.4), so that the write
/// buffer has a bound whatever `--max-body` is.
pub(crate) const MAX_FRAME: usize = 16 << 20;
/// The rate at which a client must take output, in bytes a second.
const MIN_OUTPUT_RATE: u64 = 16 << 10;
/// How much longer a client may take than at the minimum rate.
const OUTPUT_GRACE: Duration = Duration::from_secs(30);
/// How many pings are read and answered while output is unsent. A client that needs more does not read the answers.
const MAX_UNSENT_PONGS: u32 = 16;

pub(super) struct Websocket<S> {
    socket: WebSocketStream<S>,
    outbox: VecDeque<Message>,
    /// Set while output is queued or buffered.
    unsent: Option<UnsentOutput>,
    /// When the client last sent something, not counting the time in which output was unsent.
    last_input: Instant,
}

/// Output that the client has not taken.
struct UnsentOutput {
    since: Instant,
    /// When all of it must be sent.
    deadline: Instant,
    pongs: u32,
}

/// Input of the client, or a change of the connection.
#[derive(Debug)]
pub(super) enum Input {
    Text(Utf8Bytes),
    Binary,
    PingPong,
    /// No input, but all queued output was sent.
    Drained,
    /// The client closed the websocket, or the connection broke.
    Disconnected,
    /// The client violated the websocket protocol: the code and reason to close with.
    Violation(CloseCode, &'static str),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Websocket<S> {
    pub(super) fn new(socket: WebSocketStream<S>) -> Self {
        Self { socket, outbox: VecDeque::new(), unsent: None, last_input: Instant::now() }
    }

    /// Queues a message; [`next`](Self::next) sends it.
    pub(super) fn push(&mut self, text: String) {
        self.expect_sending(text.len());
        let mut rest = Bytes::from(text);
        let mut kind = Data::Text;
        loop {
            let payload = rest.split_to(rest.len().min(MAX_FRAME));
            let frame = Frame::message(payload, OpCode::Data(kind), rest.is_empty());
            self.outbox.push_back(Message::Frame(frame));
            if rest.is_empty() {
                return;
            }
            kind = Data::Continue;
        }
    }

    pub(super) fn ping(&mut self) {
        self.expect_sending(0);
        self.outbox.push_back(Message::Ping(Bytes::new()));
    }

    /// Whether all output has been sent.
    pub(super) fn is_drained(&self) -> bool {
        self.unsent.is_none()
    }

    /// When the client must have taken all output, if any is unsent.
    pub(super) fn output_deadline(&self) -> Option<Instant> {
        self.unsent.as_ref().map(|unsent| unsent.deadline)
    }

    /// When the client last sent something, not counting the time in which output was unsent: a client cannot answer a
    /// ping that has not reached it.
    pub(super) fn last_input(&self) -> Instant {
        self.last_input
    }

    /// Extends the deadline of unsent output by the time for this many more bytes.
    fn expect_sending(&mut self, bytes: usize) -> &mut UnsentOutput {
        let unsent = self.unsent.get_or_insert_with(|| {
            let since = Instant::now();
            UnsentOutput { since, deadline: since + OUTPUT_GRACE, pongs: 0 }
        });
        unsent.deadline += Duration::from_millis(bytes as u64 * 1000 / MIN_OUTPUT_RATE);
        unsent
    }

    fn all_sent(&mut self) {
        if let Some(UnsentOutput { since, .. }) = self.unsent.take() {
            let now = Instant::now();
            self.last_input = now.min(self.last_input + (now - since));
        }
    }

    /// Whether more pings may be read; each is answered when it is read.
    fn has_room_for_pongs(&self) -> bool {
        self.unsent.as_ref().is_none_or(|unsent| unsent.pongs < MAX_UNSENT_PONGS)
    }

    /// Returns the client's next input, and sends queued output meanwhile. Cancel safe.
    pub(super) async fn next(&mut self) -> Input {
        loop {
            if let Some(input) = poll_fn(|context| self.poll_next(context)).await {
                return input;
            }
            yield_now().await;
        }
    }

    /// Returns input that has already arrived, if any.
    pub(super) fn next_now(&mut self) -> Option<Input> {
        self.next().now_or_never()
    }

    /// Sends a close frame and waits for the client to close the connection.
    pub(super) async fn close(&mut self, code: CloseCode, reason: &'static str) {
        let frame = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
        let closing = async {
            self.socket.send(Message::Close(Some(frame))).await?;
            // Read until the client's own close frame: unread input would reset the connection, and the client would lose
            // what was just sent.
            while poll_fn(|context| Pin::new(&mut self.socket).poll_next(context))
                .await
                .is_some_and(|message| message.is_ok())
            {}
            // The same holds for bytes that form no message, such as the rest of one that is too long.
            let stream = self.socket.get_mut();
            stream.shutdown().await?;
            copy(stream, &mut sink()).await?;
            Ok::<_, Error>(())
        };
        // A failure or a timeout means that the client has disconnected.
        let _ = timeout(CLOSE_TIMEOUT, closing).await;
    }

    /// Sends the answer to a client's close frame, if it sent one.
    pub(super) async fn flush(&mut self) {
        // It fails if the connection broke, which needs no answer.
        let _ = timeout(CLOSE_TIMEOUT, self.socket.flush()).await;
    }

    /// `None` asks the caller to yield to other tasks.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Input>> {
        let was_busy = !self.is_drained();
        let must_yield = match self.poll_send(context) {
            Ok(must_yield) => must_yield,
            Err(error) => return Poll::Ready(Some(disconnected(&error))),
        };
        let read = if self.has_room_for_pongs() {
            Pin::new(&mut self.socket).poll_next(context)
        } else {
            // Sending wakes this task.
            Poll::Pending
        };
        let input = match read {
            Poll::Pending if must_yield => return Poll::Ready(None),
            Poll::Pending if was_busy && self.is_drained() => return Poll::Ready(Some(Input::Drained)),
            Poll::Pending => return Poll::Pending,
            Poll::Ready(None) => Input::Disconnected,
            Poll::Ready(Some(Err(error))) => disconnected(&error),
            Poll::Ready(Some(Ok(message))) => {
                self.last_input = Instant::now();
                // The answer to a ping or a close frame goes out with the next flush.
                let unsent = self.expect_sending(0);
                if matches!(message, Message::Ping(_)) {
                    unsent.pongs += 1;
                }
                match message {
                    Message::Text(text) => Input::Text(text),
                    Message::Binary(_) => Input::Binary,
                    Message::Close(_) => Input::Disconnected,
                    Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Input::PingPong,
                }
            }
        };
        Poll::Ready(Some(input))
    }

    /// Sends as much as the socket accepts now. Returns whether there is more, but this task must yield first.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Result<bool, Error> {
        let mut socket = Pin::new(&mut self.socket);
        while !self.outbox.is_empty() {
            match socket.as_mut().poll_ready(context) {
                Poll::Pending => return Ok(false),
                Poll::Ready(ready) => ready?,
            }
            if yield_if_due() {
                return Ok(true);
            }
            if let Some(message) = self.outbox.pop_front() {
                socket.as_mut().start_send(message)?;
            }
        }
        if self.unsent.is_some()
            && let Poll::Ready(flushed) = socket.poll_flush(context)
        {
            flushed?;
            self.all_sent();
        }
        Ok(false)
    }
}

fn disconnected(error: &Error) -> Input {
    match error {
        Error::Utf8(_) => Input::Violation(CloseCode::Invalid, "a text message must be UTF-8"),
        Error::Capacity(_) => Input::Violation(CloseCode::Size, "the message is too long"),
        Error::Protocol(_) => {
            Input::Violation(CloseCode::Protocol, "the message breaks the websocket protocol")
        }
        _ => Input::Disconnected,
    }
}
