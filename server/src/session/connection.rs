//! A websocket that is read and written at the same time: a peer that does not read does not stop
//! the server from reading, and none of it is lost when another branch of a `select!` wins.

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
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

use crate::give_way::give_way;

/// How long a client has to take its close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) struct Connection<S> {
    socket: WebSocketStream<S>,
    outbox: VecDeque<Message>,
    /// Whether something written may still stand in a buffer.
    unflushed: bool,
    heard: Instant,
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
        Self { socket, outbox: VecDeque::new(), unflushed: false, heard: Instant::now() }
    }

    /// Queues a message; [`next`](Self::next) sends it.
    pub(super) fn push(&mut self, text: String) {
        self.outbox.push_back(Message::text(text));
    }

    pub(super) fn ping(&mut self) {
        self.outbox.push_back(Message::Ping(Bytes::new()));
    }

    /// Whether everything queued has been sent.
    pub(super) fn is_drained(&self) -> bool {
        self.outbox.is_empty() && !self.unflushed
    }

    /// When the client was last heard.
    pub(super) fn heard(&self) -> Instant {
        self.heard
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
        let said = match Pin::new(&mut self.socket).poll_next(context) {
            Poll::Pending if turn_is_over => return Poll::Ready(None),
            Poll::Pending if was_busy && self.is_drained() => return Poll::Ready(Some(Said::Drained)),
            Poll::Pending => return Poll::Pending,
            Poll::Ready(None) => Said::Gone,
            Poll::Ready(Some(Err(error))) => ended(&error),
            Poll::Ready(Some(Ok(message))) => {
                self.heard = Instant::now();
                // The answer to a ping goes out with the next flush.
                self.unflushed = true;
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
            if give_way() {
                return Ok(true);
            }
            if let Some(message) = self.outbox.pop_front() {
                self.unflushed = true;
                socket.as_mut().start_send(message)?;
            }
        }
        if self.unflushed
            && let Poll::Ready(flushed) = socket.poll_flush(context)
        {
            flushed?;
            self.unflushed = false;
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
