//! A websocket that is read and written at the same time: acknowledgements are read also while output is
//! unsent, and no message is lost when another branch of a `select!` wins.
//!
//! Output is bounded: events are queued only when all earlier output was sent, pings are not read while too many
//! pongs are unsent, and unsent output has a deadline.

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

/// How long a client has to take its close frame.
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

pub(super) struct Connection<S> {
    socket: WebSocketStream<S>,
    outbox: VecDeque<Message>,
    /// Set while output is queued or stands in a buffer.
    unsent: Option<Unsent>,
    /// When the client was last heard, not counting the time in which output was unsent.
    heard: Instant,
}

/// Output that the client has not taken.
struct Unsent {
    since: Instant,
    /// When all of it must be sent.
    deadline: Instant,
    pongs: u32,
}

/// What a client said, or what became of the connection.
#[derive(Debug)]
pub(super) enum Said {
    Text(Utf8Bytes),
    Binary,
    /// A ping or a pong.
    Alive,
    /// Nothing: but all that was to be sent is on its way.
    Drained,
    /// The client closed, or the connection broke.
    Gone,
    /// The client broke the websocket protocol.
    Broken(CloseCode, &'static str),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(super) fn new(socket: WebSocketStream<S>) -> Self {
        Self { socket, outbox: VecDeque::new(), unsent: None, heard: Instant::now() }
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

    /// When the client was last heard, not counting the time in which output was unsent: a client cannot answer a
    /// ping that has not reached it.
    pub(super) fn heard(&self) -> Instant {
        self.heard
    }

    /// Notes that this many more bytes have to be sent.
    fn expect_sending(&mut self, bytes: usize) -> &mut Unsent {
        let unsent = self.unsent.get_or_insert_with(|| {
            let since = Instant::now();
            Unsent { since, deadline: since + OUTPUT_GRACE, pongs: 0 }
        });
        unsent.deadline += Duration::from_millis(bytes as u64 * 1000 / MIN_OUTPUT_RATE);
        unsent
    }

    fn all_sent(&mut self) {
        if let Some(Unsent { since, .. }) = self.unsent.take() {
            let now = Instant::now();
            self.heard = now.min(self.heard + (now - since));
        }
    }

    /// Whether more pings may be read, which are answered as they are read.
    fn has_room_for_pongs(&self) -> bool {
        self.unsent.as_ref().is_none_or(|unsent| unsent.pongs < MAX_UNSENT_PONGS)
    }

    /// The next thing that the client says; sends what is queued meanwhile. Can be dropped at any time.
    pub(super) async fn next(&mut self) -> Said {
        loop {
            if let Some(said) = poll_fn(|context| self.poll_next(context)).await {
                return said;
            }
            yield_now().await;
        }
    }

    /// What the client has said already.
    pub(super) fn next_now(&mut self) -> Option<Said> {
        self.next().now_or_never()
    }

    /// Says goodbye, to a client that listens.
    pub(super) async fn close(&mut self, code: CloseCode, reason: &'static str) {
        let frame = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
        let goodbye = async {
            self.socket.send(Message::Close(Some(frame))).await?;
            // Until the client's own close frame has come: else its unread words would reset the
            // connection, and with it what was just sent.
            while poll_fn(|context| Pin::new(&mut self.socket).poll_next(context))
                .await
                .is_some_and(|said| said.is_ok())
            {}
            // So would words that are no messages, as those of one that is too long.
            let stream = self.socket.get_mut();
            stream.shutdown().await?;
            copy(stream, &mut sink()).await?;
            Ok::<_, Error>(())
        };
        // A client that does not take its goodbye has gone without it.
        let _ = timeout(CLOSE_TIMEOUT, goodbye).await;
    }

    /// Answers a client's close frame, where there was one.
    pub(super) async fn finish(&mut self) {
        // A connection that broke takes no answer, and misses none.
        let _ = timeout(CLOSE_TIMEOUT, self.socket.flush()).await;
    }

    /// None where other tasks are to have their turn.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Said>> {
        let was_busy = !self.is_drained();
        let turn_is_over = match self.poll_send(context) {
            Ok(turn_is_over) => turn_is_over,
            Err(error) => return Poll::Ready(Some(ended(&error))),
        };
        let read = if self.has_room_for_pongs() {
            Pin::new(&mut self.socket).poll_next(context)
        } else {
            // Sending wakes this task.
            Poll::Pending
        };
        let said = match read {
            Poll::Pending if turn_is_over => return Poll::Ready(None),
            Poll::Pending if was_busy && self.is_drained() => return Poll::Ready(Some(Said::Drained)),
            Poll::Pending => return Poll::Pending,
            Poll::Ready(None) => Said::Gone,
            Poll::Ready(Some(Err(error))) => ended(&error),
            Poll::Ready(Some(Ok(message))) => {
                self.heard = Instant::now();
                // The answer to a ping or a close frame goes out with the next flush.
                let unsent = self.expect_sending(0);
                if matches!(message, Message::Ping(_)) {
                    unsent.pongs += 1;
                }
                match message {
                    Message::Text(text) => Said::Text(text),
                    Message::Binary(_) => Said::Binary,
                    Message::Close(_) => Said::Gone,
                    Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Said::Alive,
                }
            }
        };
        Poll::Ready(Some(said))
    }

    /// Sends as much as the client takes now. Returns whether there is more, but this task has had its turn.
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

fn ended(error: &Error) -> Said {
    match error {
        Error::Utf8(_) => Said::Broken(CloseCode::Invalid, "a text message must be UTF-8"),
        Error::Capacity(_) => Said::Broken(CloseCode::Size, "the message is too long"),
        Error::Protocol(_) => Said::Broken(CloseCode::Protocol, "the message breaks the websocket protocol"),
        _ => Said::Gone,
    }
}
